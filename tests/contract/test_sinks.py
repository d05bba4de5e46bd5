"""The first-party sinks that need no server, held to the contract that every sink is."""

from __future__ import annotations

import errno
import gzip
import io
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import zstandard

from jetsocket_ingest.sink import Record, Sink, SinkContext
from jetsocket_ingest.testing.sink_contract import SinkContract
from jetsocket_ingest.testing.sink_support import Envelope
from jetsocket_sinks.discard import DiscardOptions, DiscardSink
from jetsocket_sinks.file import FileOptions, FileSink
from jetsocket_sinks.file.disk import Disk
from jetsocket_sinks.stdout import StdoutOptions, StdoutSink


class TestDiscard(SinkContract):
    keeps_records = False

    def make_sink(self, place: Path, context: SinkContext) -> DiscardSink:
        return DiscardSink(DiscardOptions(type="discard"), context)

    def count_back(self, sink: Sink[Any], place: Path) -> int:
        assert isinstance(sink, DiscardSink)
        return sink.records + sink.markers


class TestStdoutEnvelope(SinkContract):
    """Standard output redirected to a file; the descriptor is the test's, since pytest holds the real one."""

    def make_sink(self, place: Path, context: SinkContext) -> StdoutSink:
        fd = os.open(place / "out", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        sink = _ClosingStdout(StdoutOptions(type="stdout", encoding=self.encoding), context, fd=fd)
        sink.fd = fd
        return sink

    def read_back(self, place: Path) -> list[bytes]:
        return _lines(place.joinpath("out").read_bytes())

    @contextmanager
    def broken(self, sink: Sink[Any], place: Path) -> Iterator[None]:
        assert isinstance(sink, _ClosingStdout)
        saved, full = os.dup(sink.fd), os.open("/dev/full", os.O_WRONLY)
        try:
            os.dup2(full, sink.fd)
            yield
        finally:
            os.dup2(saved, sink.fd)
            os.close(saved)
            os.close(full)


class TestStdoutRaw(TestStdoutEnvelope):
    encoding = "raw"

    def rejects(self, record: Record) -> bool:
        return b"\n" in record.payload


class _ClosingStdout(StdoutSink):
    """Closes the test's descriptor with the sink."""

    fd = -1

    async def close(self) -> None:
        await super().close()
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


class BreakableDisk(Disk):
    """A disk that can become full."""

    is_full = False

    def write(self, fd: int, data: bytes, offset: int) -> None:
        if self.is_full:
            super().write(fd, data[: len(data) // 2], offset)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        super().write(fd, data, offset)


class TestFileEnvelope(SinkContract):
    extension = ".jsonl"
    options: ClassVar[dict[str, Any]] = {}

    def make_sink(self, place: Path, context: SinkContext) -> FileSink:
        path = f"{place}/<subscription>/ticks{self.extension}"
        options = FileOptions.model_validate(
            {
                "type": "file",
                "path": path,
                "encoding": self.encoding,
                "checkpoint": {"every": "1h"},
                **self.options,
            }
        )
        return FileSink(options, context, disk=BreakableDisk())

    def read_back(self, place: Path) -> list[bytes]:
        assert list(place.rglob("*.open")) == []
        found = sorted(path for path in place.rglob("ticks*") if not path.name.endswith(".gaps.jsonl"))
        return [record for path in found for record in self.split(self.unpack(path.read_bytes()))]

    def unpack(self, data: bytes) -> bytes:
        return data

    def split(self, data: bytes) -> list[bytes]:
        return _lines(data)

    @contextmanager
    def broken(self, sink: Sink[Any], place: Path) -> Iterator[None]:
        assert isinstance(sink, FileSink)
        disk = sink._writer._disk
        assert isinstance(disk, BreakableDisk)
        disk.is_full = True
        try:
            yield
        finally:
            disk.is_full = False


class TestFileEnvelopeRotatedByCount(TestFileEnvelope):
    options: ClassVar[dict[str, Any]] = {"rotate": {"records": 97}, "max_open_files": 8}


class TestFileEnvelopeGzip(TestFileEnvelope):
    extension = ".jsonl.gz"

    def unpack(self, data: bytes) -> bytes:
        return gzip.decompress(data)


class TestFileEnvelopeZstd(TestFileEnvelope):
    extension = ".jsonl.zst"

    def unpack(self, data: bytes) -> bytes:
        return _unzstd(data)


class TestFileRawLines(TestFileEnvelope):
    encoding = "raw"
    extension = ".txt"

    def rejects(self, record: Record) -> bool:
        return b"\n" in record.payload

    def read_markers(self, place: Path) -> list[bytes]:
        lines = [line for path in sorted(place.rglob("*.gaps.jsonl")) for line in _lines(path.read_bytes())]
        return [bytes(msgspec.json.decode(line, type=Envelope).payload) for line in lines]


class TestFileRawLinesZstd(TestFileRawLines):
    options: ClassVar[dict[str, Any]] = {"compression": "zstd", "level": 1}

    def unpack(self, data: bytes) -> bytes:
        return _unzstd(data)


class TestFileLengthPrefixed(TestFileRawLines):
    extension = ".bin"
    options: ClassVar[dict[str, Any]] = {"framing": "length_prefixed"}

    def rejects(self, record: Record) -> bool:
        return False

    def split(self, data: bytes) -> list[bytes]:
        records = []
        offset = 0
        while offset < len(data):
            (length,) = struct.unpack_from(">I", data, offset)
            offset += 4 + length
            records.append(data[offset - length : offset])
        assert offset == len(data)
        return records


class TestFileLengthPrefixedGzip(TestFileLengthPrefixed):
    extension = ".bin.gz"

    def unpack(self, data: bytes) -> bytes:
        return gzip.decompress(data)


def _lines(data: bytes) -> list[bytes]:
    assert data == b"" or data.endswith(b"\n")
    return data.split(b"\n")[:-1]


def _unzstd(data: bytes) -> bytes:
    with zstandard.ZstdDecompressor().stream_reader(io.BytesIO(data), read_across_frames=True) as reader:
        return reader.read()
