"""Batches on their way to the broker: what was reported of each, and in which order they are done."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from enum import Enum
from itertools import islice

from jetsocket_ingest.sink import Batch, Record, SinkFailed, SinkUnavailable


class Verdict(Enum):
    """What an error of the client means for the records it names."""

    REJECTED = "rejected"
    """This record can never be taken."""
    SUSPECT = "suspect"
    """One of the records that were sent together cannot be taken; sent singly, it will show which."""
    AWAY = "away"
    """The client gave up: what is not acknowledged must be written again by a new one."""
    REFUSED = "refused"
    """Credentials or rights are missing: somebody must act."""


@dataclass(slots=True, frozen=True)
class Failure:
    """What the client reported for a record; `index` is its number within the batch, where that is known."""

    verdict: Verdict
    reason: str
    index: int | None = None

    def error(self) -> SinkFailed | SinkUnavailable:
        """The failure as delivery understands it."""
        return SinkFailed(self.reason) if self.verdict is Verdict.REFUSED else SinkUnavailable(self.reason)


class Flight:
    """One batch on its way.

    `reported` and `failures` are changed by one thread of the client, `sent` by the one that hands records over.

    Attributes:
        done: completes when the batch is delivered, in the order of the batches.
        sent: records that the client has taken.
        closed: no more will be sent.
        reported: records that the client has reported about, well or badly.
        failures: what went badly and nobody has looked at yet.
        refused: number within the batch and reason of records that can never be taken.
    """

    __slots__ = ("batch", "closed", "done", "failures", "refused", "reported", "sent")

    def __init__(self, batch: Batch) -> None:
        self.batch = batch
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.sent = 0
        self.closed = False
        self.reported = 0
        self.failures: deque[Failure] = deque()
        self.refused: list[tuple[int, str]] = []

    @property
    def landed(self) -> bool:
        """Whether everything is reported."""
        return self.closed and self.reported == self.sent

    def position(self, index: int) -> int:
        """The position of the batch's record with this number."""
        return self.record(index).position

    def record(self, index: int) -> Record:
        """The batch's record with this number."""
        return next(islice(self.batch.records(), index, None))


class Flights:
    """Batches in the order in which they were written."""

    def __init__(self) -> None:
        self._queue: deque[Flight] = deque()
        self._empty = asyncio.Event()
        self._empty.set()

    def __len__(self) -> int:
        return len(self._queue)

    def last_position(self) -> int:
        """The position of the newest record on its way; -1 where there is none."""
        if not self._queue:
            return -1
        chunk = self._queue[-1].batch.chunks[-1]
        return chunk.first_position + len(chunk) - 1

    def begin(self, batch: Batch) -> Flight:
        flight = Flight(batch)
        self._queue.append(flight)
        self._empty.clear()
        return flight

    def land(self) -> list[Flight]:
        """Take the batches off that are delivered and have none before them that is not."""
        landed = []
        while self._queue and self._queue[0].landed:
            landed.append(self._queue.popleft())
        self._tell()
        return landed

    def abort(self, error: Exception) -> None:
        """None of the batches will land: their awaitables raise `error`."""
        while self._queue:
            flight = self._queue.popleft()
            if not flight.done.done():
                flight.done.set_exception(error)
        self._tell()

    def withdraw(self, flight: Flight) -> None:
        """Forget a batch that its writer gave up."""
        if flight in self._queue:
            self._queue.remove(flight)
        flight.done.cancel()
        self._tell()

    async def empty(self) -> None:
        """Wait until no batch is on its way."""
        await self._empty.wait()

    def _tell(self) -> None:
        if not self._queue:
            self._empty.set()
