"""What a sink receives: records held as columns, one chunk for each hand-over of a connection."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple


class Kind(StrEnum):
    """What a record tells: something the provider sent, or something that happened to the connection."""

    DATA = "data"
    CONNECT = "connect"
    DISCONNECT = "disconnect"
    GAP = "gap"


class Record(NamedTuple):
    """One record by itself, as `Batch.records` yields it: for sinks that work record by record.

    Attributes:
        kind: data, or which marker.
        subscription: the name in the config that asked for it.
        stream: the provider's unit of subscription; None where the feed does not tell.
        connection: id of the connection it came over, `<endpoint>-<number>`.
        received_ns: our clock when it was read, ns since 1970 UTC.
        event_time_ns: the provider's time, ns since 1970 UTC, where the config says where to find it.
        sequence: the provider's number, where the config says where to find it.
        position: its 64-bit number in the buffer, rising without holes.
        binary: it came as a binary message.
        payload: the bytes as they came; of a marker, a JSON object.
    """

    kind: Kind
    subscription: str
    stream: str | None
    connection: str
    received_ns: int
    event_time_ns: int | None
    sequence: int | None
    position: int
    binary: bool
    payload: bytes


@dataclass(slots=True, eq=False)
class Chunk:
    """Records of one hand-over: what one connection delivered in one read, or one marker.

    The columns `payloads`, `streams`, `event_times_ns` and `sequences` have one entry a record; the last two are None
    where the config declares no such field. The rest holds for every record of the chunk. Chunks are shared between
    sinks and must not be changed.
    """

    kind: Kind
    subscription: str
    connection: str
    received_ns: int
    binary: bool
    payloads: list[bytes]
    streams: Sequence[str | None]
    size: int
    """Bytes of all payloads."""
    event_times_ns: Sequence[int | None] | None = None
    sequences: Sequence[int | None] | None = None
    first_position: int = 0

    def __len__(self) -> int:
        return len(self.payloads)

    def records(self) -> Iterator[Record]:
        """The chunk, record by record: convenient, and several times slower than reading columns."""
        nothing: Sequence[None] = [None] * len(self.payloads)
        rows = zip(
            self.payloads,
            self.streams,
            self.event_times_ns or nothing,
            self.sequences or nothing,
            strict=True,
        )
        for position, (payload, stream, event_time_ns, sequence) in enumerate(rows, self.first_position):
            yield Record(
                self.kind,
                self.subscription,
                stream,
                self.connection,
                self.received_ns,
                event_time_ns,
                sequence,
                position,
                self.binary,
                payload,
            )


class Batch:
    """Chunks handed to a sink at once, in order. Never empty."""

    __slots__ = ("chunks", "count", "size")

    def __init__(self, chunks: list[Chunk]) -> None:
        self.chunks = chunks
        self.count = sum(map(len, chunks))
        """Records in all chunks."""
        self.size = sum(chunk.size for chunk in chunks)
        """Bytes of all payloads."""

    def __len__(self) -> int:
        return self.count

    def records(self) -> Iterator[Record]:
        for chunk in self.chunks:
            yield from chunk.records()

    def __repr__(self) -> str:
        return f"Batch(records={self.count}, chunks={len(self.chunks)}, bytes={self.size})"
