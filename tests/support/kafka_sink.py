"""Kafka sinks for tests: built from config keys, with what they rejected and logged kept."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from jetsocket_ingest.clock import SystemClock
from jetsocket_ingest.sink import Batch, Chunk, Kind, Record, SinkContext, SinkUnavailable
from jetsocket_sinks.kafka import KafkaSink


class Log:
    """A logger that keeps its events."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, dict[str, Any]]] = []

    def _take(self, event: str, **facts: object) -> None:
        self.lines.append((event, facts))

    debug = info = warning = error = _take

    def events(self) -> list[str]:
        return [event for event, _ in self.lines]


class Bench:
    """A sink, and what it told."""

    def __init__(self, **keys: object) -> None:
        self.log = Log()
        self.rejected: list[tuple[Record, str]] = []
        context = SinkContext(
            "pipe", "bus", SystemClock(), self.log, lambda *what: self.rejected.append(what)
        )
        self.sink = KafkaSink(KafkaSink.Options.model_validate({"type": "kafka", **keys}), context)

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[KafkaSink]:
        try:
            await self.sink.open()
            yield self.sink
        finally:
            await self.sink.close()


def chunk(
    payloads: Sequence[bytes],
    *,
    streams: Sequence[str | None] | None = None,
    first_position: int = 0,
    kind: Kind = Kind.DATA,
    **columns: Any,
) -> Chunk:
    """A chunk of records; without `streams`, all are of the stream `BTC-USD`."""
    facts: dict[str, Any] = {
        "subscription": "trades",
        "connection": "feed-1",
        "received_ns": time.time_ns(),
        "binary": False,
    }
    return Chunk(
        kind=kind,
        payloads=list(payloads),
        streams=list(streams) if streams is not None else ["BTC-USD"] * len(payloads),
        size=sum(map(len, payloads)),
        first_position=first_position,
        **facts | columns,
    )


def numbered(count: int, streams: Sequence[str], *, first_position: int = 0, per_chunk: int = 100) -> Batch:
    """A batch of records that say `<stream> <position>`, streams taking turns."""
    chunks = []
    for start in range(first_position, first_position + count, per_chunk):
        positions = range(start, min(start + per_chunk, first_position + count))
        names = [streams[position % len(streams)] for position in positions]
        payloads = [f"{name} {position}".encode() for name, position in zip(names, positions, strict=True)]
        chunks.append(chunk(payloads, streams=names, first_position=start))
    return Batch(chunks)


async def deliver(sink: KafkaSink, batches: Sequence[Batch], attempts: int = 5) -> int:
    """Write batches as delivery does: all at once, and again from the first that failed. How often it wrote again."""
    waiting = list(batches)
    for again in range(attempts):
        started: list[Awaitable[None]] = []
        try:
            for batch in waiting:
                started.append(await sink.write(batch))  # noqa: PERF401  (kept also where a later one raises)
        except SinkUnavailable:
            pass
        done, failed = 0, len(started) < len(waiting)
        for each in started:
            try:
                await each
            except SinkUnavailable:
                failed = True
            else:
                done += not failed
        if not failed:
            return again
        waiting = waiting[done:]
    raise AssertionError(f"not delivered in {attempts} attempts")
