"""Records as bytes of a file: encoding and framing of chunks, compression of blocks, and where a torn file is whole."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable, Sequence
from typing import Protocol

import zstandard

from jetsocket_ingest.sink import Chunk, EnvelopeEncoder
from jetsocket_sinks.file.options import Compression, Framing

_GZIP = 31  # zlib's window bits for a gzip member with the largest window
_READ = 64 * 1024  # small, since every frame that ends in it copies what follows
_LENGTH = struct.Struct(">I")

HAS_NEWLINE = (
    "expected a payload without a line feed, since raw files hold a record a line; found one. "
    "Set framing: length_prefixed, or encoding: envelope."
)


class Form(Protocol):
    """How a chunk becomes bytes."""

    def whole(self, chunk: Chunk) -> bytes | None:
        """All records of the chunk, framed; None where one of them cannot be expressed."""
        ...

    def pieces(self, chunk: Chunk) -> Sequence[bytes | None]:
        """Each record by itself, not framed; None for one that cannot be expressed."""
        ...

    def framed(self, pieces: Sequence[bytes]) -> bytes: ...


class EnvelopeLines:
    """A JSON object a line."""

    def __init__(self, encoder: EnvelopeEncoder) -> None:
        self.whole = encoder.encode_lines
        self.pieces = encoder.encode

    def framed(self, pieces: Sequence[bytes]) -> bytes:
        return b"\n".join((*pieces, b""))


class RawLines:
    """A payload a line; a payload with a line feed has no place in it."""

    def whole(self, chunk: Chunk) -> bytes | None:
        # Joined once more just to search it: counting line feeds takes three times as long.
        return None if b"\n" in b"".join(chunk.payloads) else self.framed(chunk.payloads)

    def pieces(self, chunk: Chunk) -> Sequence[bytes | None]:
        return [None if b"\n" in payload else payload for payload in chunk.payloads]

    def framed(self, pieces: Sequence[bytes]) -> bytes:
        return b"\n".join((*pieces, b""))


class RawLengthPrefixed:
    """Each payload after its length: 4 bytes, big-endian."""

    def whole(self, chunk: Chunk) -> bytes:
        return self.framed(chunk.payloads)

    def pieces(self, chunk: Chunk) -> Sequence[bytes]:
        return chunk.payloads

    def framed(self, pieces: Sequence[bytes]) -> bytes:
        parts = [b""] * (2 * len(pieces))
        parts[0::2] = map(_LENGTH.pack, map(len, pieces))
        parts[1::2] = pieces
        return b"".join(parts)


def compressor(codec: Compression, level: int) -> Callable[[bytes], bytes]:
    """Compresses a block to one complete frame. A file is a row of frames, as every gzip and zstd reader expects.

    Whole frames need no state between blocks, so that many open files cost no more memory than one.
    """
    if codec == "zstd":
        return zstandard.ZstdCompressor(level=level, write_checksum=True).compress
    if codec == "gzip":

        def gzip_member(block: bytes) -> bytes:
            member = zlib.compressobj(level, zlib.DEFLATED, _GZIP)
            return member.compress(block) + member.flush()

        return gzip_member
    return lambda block: block


def whole_length(fd: int, codec: Compression, framing: Framing) -> int:
    """How many bytes of a file that was cut off anywhere are whole: up to the last complete frame, line or record."""
    if codec != "none":
        return _whole_frames(fd, codec)
    return _whole_lines(fd) if framing == "lines" else _whole_records(fd)


def _whole_lines(fd: int) -> int:
    end = os.fstat(fd).st_size
    while end > 0:
        start = max(0, end - _READ)
        found = os.pread(fd, end - start, start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0


def _whole_records(fd: int) -> int:
    size = os.fstat(fd).st_size
    whole = 0
    while len(head := os.pread(fd, _LENGTH.size, whole)) == _LENGTH.size:
        following = whole + _LENGTH.size + _LENGTH.unpack(head)[0]
        if following > size:
            break
        whole = following
    return whole


def _whole_frames(fd: int, codec: Compression) -> int:
    """Decompresses frame by frame, since only a checksum at its end tells that a frame is complete."""
    whole = position = 0
    frame = _decompressor(codec)
    while data := os.pread(fd, _READ, position):
        position += len(data)
        try:
            while data:
                frame.decompress(data)
                if not frame.eof:
                    break
                data = frame.unused_data
                whole = position - len(data)
                frame = _decompressor(codec)
        except (zlib.error, zstandard.ZstdError):
            break
    return whole


class _Decompressor(Protocol):
    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, /) -> bytes: ...


def _decompressor(codec: Compression) -> _Decompressor:
    return zstandard.ZstdDecompressor().decompressobj() if codec == "zstd" else zlib.decompressobj(_GZIP)
