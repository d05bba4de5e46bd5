"""What the sink contract is made of: chunks of test records, the program's part played, envelopes checked."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from jetsocket_ingest.clock import SystemClock
from jetsocket_ingest.sink import Batch, Chunk, Kind, Record, Sink, SinkContext
from jetsocket_ingest.telemetry.log import get_logger

RECEIVED_NS = 1_795_420_223_123_456_789  # 2026-11-23T07:50:23.123456789Z

AWKWARD: list[tuple[bool, bytes]] = [
    (False, b'{"price":12345678901234567890.123456789,"n":9007199254740993}'),
    (False, '{"emoji":"🚀","text":"Ζeus ﷽"}'.encode()),
    (False, b'{\n  "spread": [1,\r\n 2],\n  "text": "a\\nb"\n}'),
    (False, b'{"twice":1,"twice":2}'),
    (False, b"pong"),
    (False, b"two\nlines"),
    (False, b""),
    (False, b"   "),
    (False, b"NaN"),
    (False, b'{"open":'),
    (False, b"1 2"),
    (False, b'"half a pair: \\ud800"'),
    (False, b"[" * 5000 + b"]" * 5000),
    (False, "\x1b[2J\u202e\x85 moves the cursor".encode()),
    (True, bytes(range(256))),
    (True, b""),
    (True, b'{"looks":"like text"}'),
    (True, b"\n\r\n"),
]
"""Payloads, binary or text, that have broken sinks before."""


class Envelope(msgspec.Struct):
    """An envelope as a reader sees it, with the payload unparsed."""

    kind: str
    pipeline: str
    subscription: str
    stream: str | None
    connection: str
    received: str
    event_time: str | None
    sequence: int | None
    position: int
    payload: msgspec.Raw = msgspec.Raw()
    payload_base64: str | None = None


class Chunks:
    """Makes chunks with rising positions."""

    def __init__(self) -> None:
        self._position = 1

    def make(
        self,
        payloads: Iterable[bytes],
        *,
        kind: Kind = Kind.DATA,
        binary: bool = False,
        streams: Callable[[int], str | None] = lambda index: f"stream-{index % 3}",
        numbered: bool = False,
    ) -> Chunk:
        """A chunk of these payloads; `streams` gives the stream of each, by its index."""
        payloads = list(payloads)
        first, self._position = self._position, self._position + len(payloads)
        count = range(len(payloads))
        return Chunk(
            kind=kind,
            subscription="trades",
            connection="demo-1",
            received_ns=RECEIVED_NS + first,
            binary=binary,
            payloads=payloads,
            streams=[streams(index) for index in count],
            size=sum(map(len, payloads)),
            event_times_ns=[RECEIVED_NS - index if index % 4 else None for index in count]
            if numbered
            else None,
            sequences=[2**60 + index if index % 5 else None for index in count] if numbered else None,
            first_position=first,
        )


@dataclass
class Delivery:
    """Plays the program's part: one task, batches in order, each kept until it is delivered.

    Attributes:
        finished: indexes of batches, in the order in which they were delivered.
        rejected: what the sink gave to `context.reject`.
    """

    rejected: list[tuple[Record, str]] = field(default_factory=list)
    finished: list[int] = field(default_factory=list)

    def context(self) -> SinkContext:
        return SinkContext(
            pipeline="ticks",
            name="sink-under-test",
            clock=SystemClock(),
            log=get_logger(sink="sink-under-test"),
            reject=lambda record, reason: self.rejected.append((record, reason)),
        )

    async def write_all(self, sink: Sink[Any], batches: list[Batch]) -> None:
        """Write every batch before waiting for any, flush, and wait."""
        waiting = []
        for index, batch in enumerate(batches):
            awaitable = await sink.write(batch)
            if awaitable is None:
                self.finished.append(index)
            else:
                waiting.append(self._note(index, awaitable))
        tasks = [asyncio.ensure_future(waiter) for waiter in waiting]
        await asyncio.sleep(0)
        await sink.flush()
        await asyncio.gather(*tasks)

    async def _note(self, index: int, awaitable: Awaitable[None]) -> None:
        await awaitable
        self.finished.append(index)


def check_envelope(line: bytes, record: Record, pipeline: str = "ticks") -> None:
    """Fails unless the line is the envelope of exactly this record."""
    assert b"\n" not in line
    assert b"\r" not in line
    line.decode()
    got = msgspec.json.decode(line, type=Envelope)
    assert got.kind == record.kind
    assert got.pipeline == pipeline
    assert got.subscription == record.subscription
    assert got.stream == record.stream
    assert got.connection == record.connection
    assert got.received == _iso(record.received_ns)
    assert got.event_time == (None if record.event_time_ns is None else _iso(record.event_time_ns))
    assert got.sequence == record.sequence
    assert got.position == record.position
    if record.binary:
        assert bytes(got.payload) == b""
        assert got.payload_base64 is not None
        assert base64.b64decode(got.payload_base64, validate=True) == record.payload
        return
    assert got.payload_base64 is None
    payload = bytes(got.payload)
    if _is_json(record.payload):
        assert payload == record.payload.translate(None, b"\r\n").strip()
    else:
        assert json.loads(payload) == record.payload.decode()


def _is_json(payload: bytes) -> bool:
    try:
        json.loads(payload, parse_constant=_refuse)
        payload.decode()
        json.dumps(json.loads(payload), ensure_ascii=False).encode()  # half a surrogate pair is no text
    except (ValueError, RecursionError):
        return False
    return True


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def _iso(time_ns: int) -> str:
    seconds, fraction = divmod(time_ns, 1_000_000_000)
    return (
        f"{datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds):%Y-%m-%dT%H:%M:%S}.{fraction:09d}Z"
    )
