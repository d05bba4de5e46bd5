"""What tests of the file sink share: a disk that fails on demand, a clock that is moved, and reading back."""

from __future__ import annotations

import gzip
import io
import json
import os
from pathlib import Path
from typing import Any

import zstandard

from jetsocket_ingest.sink import Batch, Record, SinkContext
from jetsocket_ingest.testing.sink_support import Chunks
from jetsocket_sinks.file import FileOptions, FileSink
from jetsocket_sinks.file.disk import Disk
from jetsocket_sinks.file.writer import FileWriter

START_NS = 1_795_420_223_000_000_000  # 2026-11-23T07:50:23Z


class Crash(BaseException):
    """Stands for the end of the process."""


class FaultyDisk(Disk):
    """Real, but its call number `fail_at` (and the `times - 1` calls after it) raises; writes first do half of it.

    Syncs are counted but not done: no test pulls the plug, and they take most of the time.
    """

    def __init__(self, fail_at: int, error: int | type[Crash], times: int = 1) -> None:
        super().__init__()
        self.calls = 0
        self._failing = range(fail_at, fail_at + times)
        self._error = error

    def _call(self) -> None:
        self.calls += 1
        if self.calls in self._failing:
            if isinstance(self._error, int):
                raise OSError(self._error, os.strerror(self._error))
            raise self._error

    def create(self, name: str, folder: int) -> int:
        self._call()
        return super().create(name, folder)

    def open_folder(self, name: str, parent: int) -> int:
        self._call()
        return super().open_folder(name, parent)

    def write(self, fd: int, data: bytes, offset: int) -> None:
        if self.calls + 1 in self._failing:
            super().write(fd, data[: len(data) // 2], offset)
        self._call()
        super().write(fd, data, offset)

    def sync(self, fd: int) -> None:
        self._call()

    def truncate(self, fd: int, size: int) -> None:
        self._call()
        super().truncate(fd, size)

    def remove(self, name: str, folder: int) -> None:
        self._call()
        super().remove(name, folder)

    def publish(self, temporary: str, final: str, folder: int) -> None:
        self._call()
        if isinstance(self._error, int):
            super().publish(temporary, final, folder)
            return
        os.link(temporary, final, src_dir_fd=folder, dst_dir_fd=folder)
        self._call()  # a crash between the two names
        os.unlink(temporary, dir_fd=folder)


class HandClock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def monotonic(self) -> float:
        return self.seconds

    def wall_ns(self) -> int:
        return START_NS + int(self.seconds * 1e9)


class LogBook:
    """A logger that remembers: (level, event, facts)."""

    def __init__(self) -> None:
        self.entries: list[tuple[str, str, dict[str, Any]]] = []

    def __getattr__(self, level: str) -> Any:
        return lambda event, **facts: self.entries.append((level, event, facts))

    def events(self, name: str) -> list[dict[str, Any]]:
        return [facts for _, event, facts in self.entries if event == name]


class Surroundings:
    """A sink's context, open to inspection."""

    def __init__(self) -> None:
        self.clock = HandClock()
        self.log = LogBook()
        self.rejected: list[tuple[Record, str]] = []

    def context(self) -> SinkContext:
        return SinkContext("ticks", "lake", self.clock, self.log, lambda *args: self.rejected.append(args))

    def options(self, path: Path | str, **options: Any) -> FileOptions:
        return FileOptions.model_validate(
            {"type": "file", "path": str(path), "checkpoint": {"every": "1h"}, **options}
        )

    def writer(self, path: Path | str, disk: Disk | None = None, **options: Any) -> FileWriter:
        return FileWriter(self.options(path, **options), self.context(), disk or Disk())

    def sink(self, path: Path | str, disk: Disk | None = None, **options: Any) -> FileSink:
        return FileSink(self.options(path, **options), self.context(), disk=disk)


def batch_of(chunks: Chunks, *payloads: bytes, **how: Any) -> Batch:
    """One chunk in a batch."""
    return Batch([chunks.make(payloads, **how)])


def numbers(root: Path, pattern: str = "*") -> list[int]:
    """The field n of every envelope in every finished file, file by file."""
    return [json.loads(line)["payload"]["n"] for path in finished(root, pattern) for line in lines(path)]


def finished(root: Path, pattern: str = "*") -> list[Path]:
    """Files under their final names, in the order of these."""
    return sorted(path for path in root.rglob(pattern) if path.is_file() and not path.name.startswith("."))


def unfinished(root: Path) -> list[Path]:
    return sorted(root.rglob(".*.open"))


def lines(path: Path) -> list[bytes]:
    """Its lines, unpacked; fails where the file is torn."""
    data = unpacked(path)
    assert data.endswith(b"\n")
    return data.split(b"\n")[:-1]


def unpacked(path: Path) -> bytes:
    data = path.read_bytes()
    if path.suffix == ".gz":
        return gzip.decompress(data)
    if path.suffix == ".zst":
        with zstandard.ZstdDecompressor().stream_reader(io.BytesIO(data), read_across_frames=True) as reader:
            return reader.read()
    return data
