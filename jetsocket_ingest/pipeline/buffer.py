"""The memory buffer: numbers records and keeps them for each sink until they are delivered, bounded in bytes."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from jetsocket_ingest.clock import Clock
from jetsocket_ingest.sink.record import Batch, Chunk, Kind

RESUME_FRACTION = 0.5
"""A full backlog must fall to this part of its limit before reading resumes; the distance keeps sockets from being
paused and resumed at every batch."""


class Backlog:
    """What waits for one sink, and what the sink has been given and not yet delivered.

    Args:
        limit: bytes above which it is full.
        on_full: called with True when it fills, with False when it has room again.
    """

    def __init__(self, limit: int, clock: Clock, on_full: Callable[[bool], None]) -> None:
        self._limit = limit
        self._clock = clock
        self._on_full = on_full
        self._waiting: deque[Chunk] = deque()
        self._in_flight: deque[Batch] = deque()
        self._waiting_since = 0.0
        self._waiter: asyncio.Future[None] | None = None
        self._wanted_bytes = self._wanted_records = 0
        self._closed = False
        self.full = False
        self.bytes = 0
        """Payload bytes waiting or in flight."""
        self.records = 0
        """Records waiting or in flight."""
        self.waiting_bytes = 0
        self.waiting_records = 0
        self.missed = 0
        """Records that came after it was closed, and went nowhere."""

    def put(self, chunk: Chunk) -> None:
        """Add; never refused: it is for the sockets to stop when it is full."""
        if self._closed:
            self.missed += len(chunk.payloads)
            return
        if not self._waiting:
            self._waiting_since = self._clock.monotonic()
        self._waiting.append(chunk)
        count, size = len(chunk.payloads), chunk.size
        self.records += count
        self.bytes += size
        self.waiting_records += count
        self.waiting_bytes += size
        if self._waiter is not None and self._enough():
            self.wake()
        if self.bytes > self._limit and not self.full:
            self.full = True
            self._on_full(True)

    async def wait(self, records: int, size: int, timeout: float | None) -> None:
        """Return when so many records or bytes wait, after `timeout` seconds, or when woken."""
        self._wanted_records, self._wanted_bytes = records, size
        if self._enough() or (timeout is not None and timeout <= 0):
            return
        loop = asyncio.get_running_loop()
        waiter = self._waiter = loop.create_future()
        timer = None if timeout is None else loop.call_later(timeout, self.wake)
        try:
            await waiter
        finally:
            self._waiter = None
            if timer is not None:
                timer.cancel()

    def wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def waited(self) -> float:
        """Seconds the oldest waiting chunk has waited."""
        return self._clock.monotonic() - self._waiting_since if self._waiting else 0.0

    def take(self, records: int, size: int) -> Batch | None:
        """The next batch, at most so large (but at least one chunk), now in flight; None where nothing waits."""
        waiting = self._waiting
        if not waiting:
            return None
        chunks = [waiting.popleft()]
        count, total = len(chunks[0]), chunks[0].size
        while waiting and count + len(waiting[0]) <= records and total + waiting[0].size <= size:
            chunk = waiting.popleft()
            chunks.append(chunk)
            count += len(chunk)
            total += chunk.size
        self._waiting_since = self._clock.monotonic()
        self.waiting_records -= count
        self.waiting_bytes -= total
        batch = Batch(chunks)
        self._in_flight.append(batch)
        return batch

    def delivered(self, batch: Batch) -> None:
        """The oldest batch in flight is done with."""
        assert self._in_flight[0] is batch
        self._in_flight.popleft()
        self.records -= batch.count
        self.bytes -= batch.size
        if self.full and self.bytes <= self._limit * RESUME_FRACTION:
            self.full = False
            self._on_full(False)

    def rewind(self) -> int:
        """Everything in flight waits again, in order; the records concerned."""
        moved = 0
        while self._in_flight:
            batch = self._in_flight.pop()
            self._waiting.extendleft(reversed(batch.chunks))
            self.waiting_records += batch.count
            self.waiting_bytes += batch.size
            moved += batch.count
        return moved

    def close(self) -> int:
        """Let go of everything and take nothing more; the records that were not delivered."""
        left = self.records
        self._closed = True
        self._waiting.clear()
        self._in_flight.clear()
        self.records = self.bytes = self.waiting_records = self.waiting_bytes = 0
        if self.full:
            self.full = False
            self._on_full(False)
        return left

    def oldest_ns(self) -> int | None:
        """Receive time of the oldest record that is not delivered."""
        if self._in_flight:
            return self._in_flight[0].chunks[0].received_ns
        return self._waiting[0].received_ns if self._waiting else None

    def _enough(self) -> bool:
        return self.waiting_bytes >= self._wanted_bytes or self.waiting_records >= self._wanted_records


@dataclass(slots=True, frozen=True)
class Route:
    """Which sinks take a subscription's data, and which its markers."""

    data: Sequence[str]
    markers: Sequence[str]


class MemoryBuffer:
    """Gives every record its position and passes it to the backlogs of its subscription's sinks.

    What is in memory when the process dies is lost; that is the guarantee this buffer has.

    Args:
        routes: subscription → sinks.
        limits: sink → bytes its backlog may hold.
        on_pressure: called with (subscription, True) when a sink of it is full, (subscription, False) when none is.
    """

    def __init__(
        self,
        routes: Mapping[str, Route],
        limits: Mapping[str, int],
        clock: Clock,
        on_pressure: Callable[[str, bool], None],
    ) -> None:
        self._on_pressure = on_pressure
        self._pressed: dict[str, set[str]] = {name: set() for name in routes}
        self._fed_by = {
            sink: [name for name, route in routes.items() if sink in route.data] for sink in limits
        }
        self.backlogs = {sink: Backlog(limit, clock, self._full(sink)) for sink, limit in limits.items()}
        self._data = {name: self._pick(route.data) for name, route in routes.items()}
        self._markers = {name: self._pick(route.markers) for name, route in routes.items()}
        self._position = 0

    def accept(self, chunk: Chunk) -> None:
        """Take a chunk: from here on it is the buffer's to keep."""
        chunk.first_position = self._position
        self._position += len(chunk.payloads)
        for backlog in (self._data if chunk.kind is Kind.DATA else self._markers)[chunk.subscription]:
            backlog.put(chunk)

    @property
    def position(self) -> int:
        """The position that the next record gets."""
        return self._position

    def pressed(self, subscriptions: Iterable[str]) -> bool:
        """Whether any of them has a full sink."""
        return any(self._pressed[name] for name in subscriptions)

    def _pick(self, sinks: Sequence[str]) -> tuple[Backlog, ...]:
        return tuple(self.backlogs[sink] for sink in sinks)

    def _full(self, sink: str) -> Callable[[bool], None]:
        def changed(full: bool) -> None:
            for subscription in self._fed_by[sink]:
                pressed = self._pressed[subscription]
                before = bool(pressed)
                (pressed.add if full else pressed.discard)(sink)
                if bool(pressed) != before:
                    self._on_pressure(subscription, full)

        return changed
