"""Delivery: one task for each sink, in order, with retries; the sink's own backlog is all it shares with the rest."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from jetsocket_ingest.clock import Clock
from jetsocket_ingest.errors import InternalError, OutputClosed, SinkFailed, SinkUnavailable
from jetsocket_ingest.net.backoff import Backoff
from jetsocket_ingest.pipeline.buffer import Backlog
from jetsocket_ingest.sink.interface import Sink
from jetsocket_ingest.sink.record import Batch
from jetsocket_ingest.telemetry.log import get_logger
from jetsocket_ingest.telemetry.tracing import NO_SPAN, Span


class DeliveryState(StrEnum):
    OPENING = "opening"
    RUNNING = "running"
    RETRYING = "retrying"
    FAILED = "failed"
    CLOSED = "closed"


@dataclass(slots=True)
class DeliveryCounters:
    """What one sink's delivery did."""

    records: Counter[str] = field(default_factory=Counter)
    """Delivered, by subscription."""
    bytes: Counter[str] = field(default_factory=Counter)
    rejected: Counter[str] = field(default_factory=Counter)
    """Records that the sink can never take, by subscription."""
    errors: Counter[str] = field(default_factory=Counter)
    """Failed calls, by type of error."""
    retries: int = 0
    """Batches written again."""
    undelivered: int = 0
    """Records given up: the sink failed for good, or time ran out at the end."""


@dataclass(slots=True)
class DeliveryHooks:
    """Where telemetry looks in, once for each batch."""

    delivered: Callable[[Batch], None] = field(default=lambda batch: None)
    begin: Callable[[Batch], Span] = field(default=lambda batch: NO_SPAN)


@dataclass(slots=True)
class _Flight:
    batch: Batch
    span: Span
    receipt: asyncio.Future[None] | None = None
    written: bool = False
    """The sink's `write` has returned; before that, no receipt says nothing."""

    @property
    def landed(self) -> bool:
        return self.written and (self.receipt is None or self.receipt.done())

    @property
    def trouble(self) -> Exception | None:
        """Why it landed undelivered."""
        if self.receipt is None:
            return None
        if self.receipt.cancelled():
            return InternalError(
                "expected the sink to confirm a batch or to raise, but it cancelled the receipt"
            )
        error = self.receipt.exception()
        assert error is None or isinstance(error, Exception)
        return error


class Delivery:
    """Takes batches from a backlog and sees them into a sink.

    A sink that is away is tried again for as long as it takes, with back-off; one that refuses for good is marked
    failed, its backlog is let go and counted, and `on_end` is called with the error.
    """

    def __init__(
        self,
        name: str,
        sink: Sink[Any],
        backlog: Backlog,
        clock: Clock,
        random: Callable[[], float],
        on_end: Callable[[Delivery, Exception], None],
        hooks: DeliveryHooks | None = None,
    ) -> None:
        self.name = name
        self.sink = sink
        self.backlog = backlog
        self.state = DeliveryState.OPENING
        self.error: Exception | None = None
        self.counters = DeliveryCounters()
        self._clock = clock
        self._trouble_since = 0.0
        self._on_end = on_end
        self._hooks = hooks or DeliveryHooks()
        self._log = get_logger(sink=name)
        options = sink.options
        self._batch = options.batch
        self._backoff = Backoff(options.retry.initial, options.retry.maximum, random)
        self._flights: deque[_Flight] = deque()
        self._trouble: Exception | None = None
        self._landed = asyncio.Event()
        self._stopping = asyncio.Event()

    async def run(self) -> None:
        """Open, deliver until `stop`, flush. Cancelled, it gives up what is left. The sink is closed in any case."""
        try:
            if not await self._attempt(self.sink.open):
                return
            self._log.info("sink.opened", type=self.sink.options.type, target=self.sink.describe())
            self.state = DeliveryState.RUNNING
            await self._deliver()
        except asyncio.CancelledError:
            self._give_up()
            raise
        except (OutputClosed, SinkFailed) as error:
            self._end(error)
        except Exception as error:  # noqa: BLE001  (a bug in a sink must not take the others down; told with its trace)
            self._log.exception("sink.crashed")
            self._end(error)
        finally:
            await self._close()

    @property
    def undelivered(self) -> int:
        """Records given up, and those that came after the sink had failed."""
        reader_left = isinstance(self.error, OutputClosed)
        return self.counters.undelivered + (0 if reader_left else self.backlog.missed)

    def stop(self) -> None:
        """Deliver what is there, then end."""
        self._stopping.set()
        self.backlog.wake()

    # Delivering -----------------------------------------------------------------------------------------------------

    async def _deliver(self) -> None:
        while True:
            if self._trouble is not None:
                await self._recover()
            batch = await self._next()
            if batch is not None:
                await self._write(batch)
            elif self._trouble is None:
                await self._attempt(self.sink.flush)
                await self._land()
                if self._trouble is None and not self.backlog.waiting_records:
                    return

    async def _next(self) -> Batch | None:
        """The next batch, when it is full or old enough; None where there is trouble, or nothing left at the end."""
        backlog, batch = self.backlog, self._batch
        while not (self._trouble or self._stopping.is_set()):
            if not backlog.waiting_records:
                await backlog.wait(1, 1, None)
            elif (left := batch.max_age - backlog.waited()) > 0:
                await backlog.wait(batch.max_records, batch.max_bytes, left)
                if backlog.waiting_records >= batch.max_records or backlog.waiting_bytes >= batch.max_bytes:
                    break
            else:
                break
        return None if self._trouble else backlog.take(batch.max_records, batch.max_bytes)

    async def _write(self, batch: Batch) -> None:
        flight = _Flight(batch, self._hooks.begin(batch))
        self._flights.append(flight)
        try:
            receipt = await self.sink.write(batch)
        except (SinkUnavailable, SinkFailed) as error:
            # What is in the air may land nevertheless, so the error waits its turn.
            flight.receipt = asyncio.get_running_loop().create_future()
            flight.receipt.set_exception(error)
        else:
            if receipt is not None:
                flight.receipt = asyncio.ensure_future(_as_coroutine(receipt))
                flight.receipt.add_done_callback(lambda _: self._settle())
        flight.written = True
        self._settle()

    def _settle(self) -> None:
        """Account for what has landed, oldest first."""
        flights = self._flights
        while flights and flights[0].landed and self._trouble is None:
            flight = flights[0]
            if (error := flight.trouble) is not None:
                self._trouble = error
                self.backlog.wake()
                break
            flights.popleft()
            flight.span.end()
            self.backlog.delivered(flight.batch)
            for chunk in flight.batch.chunks:
                self.counters.records[chunk.subscription] += len(chunk)
                self.counters.bytes[chunk.subscription] += chunk.size
            self._hooks.delivered(flight.batch)
            self._recovered()
        if all(flight.landed for flight in flights):
            self._landed.set()
        else:
            self._landed.clear()

    async def _land(self) -> None:
        """Wait until nothing is in the air."""
        self._settle()
        await self._landed.wait()

    async def _recover(self) -> None:
        """After trouble: let everything land, take back what was not delivered, wait, and go on."""
        await self._land()
        trouble = self._trouble
        assert trouble is not None
        for flight in self._flights:
            flight.span.end(flight.trouble)  # which marks it as seen: each repeats what the first said
        if not isinstance(trouble, SinkUnavailable):
            raise trouble
        self.counters.retries += len(self._flights)
        self._flights.clear()
        self.backlog.rewind()
        self._trouble = None
        await self._pause(trouble)

    async def _attempt(self, call: Callable[[], Awaitable[None]]) -> bool:
        """Call, and call again after back-off for as long as the sink is unavailable. False where it is time to stop
        and nothing is left to deliver."""
        while True:
            try:
                await call()
            except SinkUnavailable as error:
                if not self._is_done():
                    await self._pause(error)
                if self._is_done():
                    return False
            else:
                self._recovered()
                return True

    def _is_done(self) -> bool:
        return self._stopping.is_set() and not self.backlog.records

    async def _pause(self, error: Exception) -> None:
        self.counters.errors[type(error).__name__] += 1
        delay = self._backoff.next()
        if self.error is None:
            self._trouble_since = self._clock.monotonic()
            self._log.warning("sink.unavailable", reason=str(error), delay_s=round(delay, 3))
        self.error = error
        if self.state is DeliveryState.RUNNING:
            self.state = DeliveryState.RETRYING
        if self._stopping.is_set():
            await asyncio.sleep(delay)
            return
        try:
            async with asyncio.timeout(delay):
                await self._stopping.wait()
        except TimeoutError:
            return
        # The time that is left at the end is for trying, not for waiting.
        self._backoff.reset()

    def _recovered(self) -> None:
        if self.error is not None:
            self._log.info("sink.recovered", after_s=round(self._clock.monotonic() - self._trouble_since, 3))
            self.error = None
            if self.state is DeliveryState.RETRYING:
                self.state = DeliveryState.RUNNING
        self._backoff.reset()

    # Ending ---------------------------------------------------------------------------------------------------------

    def _end(self, error: Exception) -> None:
        self.error = error
        if not isinstance(error, OutputClosed):
            self.counters.errors[type(error).__name__] += 1
        self.state = DeliveryState.CLOSED if isinstance(error, OutputClosed) else DeliveryState.FAILED
        self._give_up()
        if self.state is DeliveryState.FAILED:
            self._log.error("sink.failed", reason=str(error), undelivered=self.counters.undelivered)
        self._on_end(self, error)

    def _give_up(self) -> None:
        for flight in self._flights:
            flight.span.end(self.error)
            if flight.receipt is not None and not flight.receipt.cancel():
                _ = flight.trouble  # which marks it as seen: the batch is counted below
        self._flights.clear()
        left = self.backlog.close()
        if not isinstance(self.error, OutputClosed):  # nobody is there to miss them
            self.counters.undelivered += left

    async def _close(self) -> None:
        try:
            await self.sink.close()
        except (SinkUnavailable, SinkFailed) as error:
            self._log.error("sink.close_failed", reason=str(error))
        except Exception:  # noqa: BLE001  (told with its trace; closing the others goes on)
            self._log.exception("sink.crashed")
        if self.state is not DeliveryState.FAILED:
            self.state = DeliveryState.CLOSED
        counted = self.counters
        self._log.info(
            "sink.closed",
            records=counted.records.total(),
            bytes=counted.bytes.total(),
            undelivered=counted.undelivered,
        )


async def _as_coroutine(receipt: Awaitable[None]) -> None:
    await receipt
