"""Parts of a pipeline under test: chunks, and a sink that does what a test tells it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Sequence
from typing import Any

from jetsocket_ingest.sink import Batch, Chunk, Kind, Record, Sink, SinkContext, SinkOptions
from jetsocket_ingest.telemetry.log import get_logger
from jetsocket_ingest.testing.clock import LoopClock


def chunk(*payloads: bytes, subscription: str = "sub", kind: Kind = Kind.DATA, received_ns: int = 0) -> Chunk:
    return Chunk(
        kind,
        subscription,
        "feed-1",
        received_ns,
        False,
        list(payloads),
        ["s"] * len(payloads),
        sum(map(len, payloads)),
    )


def numbered(first: int, count: int, **facts: Any) -> Chunk:
    return chunk(*(b"%d" % number for number in range(first, first + count)), **facts)


def payloads(batches: Sequence[Batch]) -> list[bytes]:
    return [record.payload for batch in batches for record in batch.records()]


class ScriptedSink(Sink[SinkOptions]):
    """Takes what it is given, unless the script has an error for the call.

    Attributes:
        script: method → errors that its next calls raise; None lets one call pass.
        written: batches taken, as `write` was called, those that failed included.
        taken: batches that ended well.
        receipts: `by_receipt` makes `write` return futures, kept here for the test to settle.
        hold: while set, `write` waits.
    """

    def __init__(self, *, by_receipt: bool = False, **options: Any) -> None:
        settings = {"type": "test", "batch": {"max_age": "0ms"}, **options}
        context = SinkContext("pipe", "out", LoopClock(), get_logger(), self._reject)
        super().__init__(SinkOptions.model_validate(settings), context)
        self.script: dict[str, deque[Exception | None]] = {}
        self.written: list[Batch] = []
        self.taken: list[Batch] = []
        self.calls: list[str] = []
        self.receipts: list[asyncio.Future[None]] = []
        self.hold: asyncio.Event | None = None
        self._by_receipt = by_receipt

    def fail(self, method: str, *errors: Exception | None) -> None:
        self.script.setdefault(method, deque()).extend(errors)

    def _reject(self, record: Record, reason: str) -> None:
        raise AssertionError(f"nothing is rejected here: {reason}")

    def _called(self, method: str) -> None:
        self.calls.append(method)
        errors = self.script.get(method)
        if errors and (error := errors.popleft()) is not None:
            raise error

    async def open(self) -> None:
        self._called("open")

    async def write(self, batch: Batch) -> Awaitable[None] | None:
        self.written.append(batch)
        if self.hold is not None:
            await self.hold.wait()
        self._called("write")
        if self._by_receipt:
            self.receipts.append(asyncio.get_running_loop().create_future())
            return self.receipts[-1]
        self.taken.append(batch)
        return None

    async def flush(self) -> None:
        self._called("flush")
        for receipt in self.receipts:
            if not receipt.done():
                receipt.set_result(None)

    async def close(self) -> None:
        self._called("close")
