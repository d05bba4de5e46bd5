"""Delivery: whatever a sink does, nothing is lost unaccounted, nothing reordered, and stopping ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from structlog.testing import capture_logs

from jetsocket_ingest.errors import OutputClosed, SinkFailed, SinkUnavailable
from jetsocket_ingest.pipeline.buffer import Backlog
from jetsocket_ingest.pipeline.delivery import Delivery, DeliveryState
from jetsocket_ingest.testing.clock import LoopClock, run_virtual
from tests.unit.pipeline.parts import ScriptedSink, numbered, payloads

AWAY = SinkUnavailable("away")
REFUSED = SinkFailed("no such topic")


class Rig:
    """A delivery on its way, in virtual time."""

    def __init__(self, sink: ScriptedSink, random: float = 1.0) -> None:
        self.sink = sink
        self.ended: list[Exception] = []
        self.backlog = Backlog(10**6, LoopClock(), lambda full: None)
        self.delivery = Delivery(
            "out", sink, self.backlog, LoopClock(), lambda: random, lambda _, error: self.ended.append(error)
        )
        self.task = asyncio.get_running_loop().create_task(self.delivery.run())

    def put(self, first: int, count: int = 1) -> None:
        self.backlog.put(numbered(first, count))

    async def finish(self) -> None:
        self.delivery.stop()
        await self.task

    async def until(self, condition: Callable[[], object], timeout: float = 1000) -> None:
        async with asyncio.timeout(timeout):
            while not condition():
                await asyncio.sleep(0.001)

    @property
    def delivered(self) -> int:
        return self.delivery.counters.records.total()

    @property
    def now(self) -> float:
        return asyncio.get_running_loop().time()


@asynccontextmanager
async def rig(sink: ScriptedSink | None = None, **options: Any) -> AsyncIterator[Rig]:
    bench = Rig(sink or ScriptedSink(), **options)
    try:
        yield bench
    finally:
        bench.task.cancel()
        await asyncio.wait([bench.task])


def digits(count: int) -> list[bytes]:
    return [b"%d" % number for number in range(count)]


# The ordinary way


def test_everything_is_delivered_in_order_and_the_sink_flushed_and_closed() -> None:
    async def main() -> None:
        async with rig() as bench:
            for number in range(10):
                bench.put(number)
                await asyncio.sleep(0.01 * (number % 3))
            await bench.finish()
            assert payloads(bench.sink.taken) == digits(10)
            assert bench.sink.calls[0] == "open"
            assert bench.sink.calls[-2:] == ["flush", "close"]
            assert (bench.delivered, bench.delivery.undelivered) == (10, 0)
            assert bench.delivery.counters.bytes == {"sub": 10}
            assert bench.delivery.state is DeliveryState.CLOSED
            assert bench.ended == []

    run_virtual(main())


@pytest.mark.parametrize(
    ("options", "at"),
    [({"max_records": 3}, 3.0), ({"max_bytes": 1024}, 103.0), ({"max_age": "2s"}, 3.0)],
)
def test_a_batch_goes_out_when_it_is_full_or_old_enough(options: dict[str, Any], at: float) -> None:
    async def main() -> None:
        sink = ScriptedSink(batch={"max_records": 1000, "max_age": "1h", **options})
        async with rig(sink) as bench:
            loop = asyncio.get_running_loop()
            for second in range(1, 1001):
                loop.call_later(second, bench.backlog.put, numbered(second + 10**9, 1))
            await bench.until(lambda: sink.taken)
            assert at <= bench.now < at + 0.1

    run_virtual(main())


def test_a_batch_counts_as_delivered_when_its_receipt_is_in() -> None:
    async def main() -> None:
        async with rig(ScriptedSink(by_receipt=True)) as bench:
            bench.put(0)
            await bench.until(lambda: len(bench.sink.receipts) == 1)
            bench.put(1)
            await bench.until(lambda: len(bench.sink.receipts) == 2)
            assert (bench.delivered, bench.backlog.records) == (0, 2)
            bench.sink.receipts[0].set_result(None)
            await bench.until(lambda: bench.delivered == 1)
            await bench.finish()
            assert bench.delivered == 2

    run_virtual(main())


# Away


def test_a_sink_that_is_away_at_first_is_opened_as_soon_as_it_is_back() -> None:
    async def main() -> None:
        sink = ScriptedSink()
        sink.fail("open", AWAY, AWAY, AWAY)
        with capture_logs() as log:
            async with rig(sink) as bench:
                bench.put(0)
                await bench.until(lambda: bench.delivered)
                # Upper bounds of the waits are 0.5, 1 and 2 s, and the dice say 1.
                assert 3.5 <= bench.now < 3.6
                await bench.finish()
        assert bench.delivery.counters.errors == {"SinkUnavailable": 3}
        assert [line["event"] for line in log] == [
            "sink.unavailable",
            "sink.recovered",
            "sink.opened",
            "sink.closed",
        ]

    run_virtual(main())


def test_a_write_that_fails_is_repeated_from_the_first_batch_that_was_not_delivered() -> None:
    async def main() -> None:
        sink = ScriptedSink()
        sink.fail("write", None, AWAY, AWAY)
        async with rig(sink) as bench:
            for number in range(4):
                bench.put(number)
                await asyncio.sleep(0.01)
            await bench.until(lambda: bench.delivered == 4)
            assert bench.delivery.state is DeliveryState.RUNNING
            assert bench.delivery.error is None
            assert bench.delivery.counters.retries == 2
            await bench.finish()
        assert payloads(sink.taken) == digits(4)

    run_virtual(main())


def test_while_a_sink_is_away_the_state_and_the_error_say_so() -> None:
    async def main() -> None:
        sink = ScriptedSink()
        sink.fail("write", AWAY)
        async with rig(sink) as bench:
            bench.put(0)
            await bench.until(lambda: bench.delivery.state is DeliveryState.RETRYING)
            assert bench.delivery.error is AWAY
            await bench.until(lambda: bench.delivered == 1)

    run_virtual(main())


def test_a_failed_receipt_brings_back_its_batch_and_all_later_ones_once_they_have_landed() -> None:
    async def main() -> None:
        sink = ScriptedSink(by_receipt=True)
        async with rig(sink) as bench:
            for number in range(3):
                bench.put(number)
                await bench.until(lambda number=number: len(sink.receipts) == number + 1)
            sink.receipts[0].set_result(None)
            sink.receipts[1].set_exception(AWAY)
            await asyncio.sleep(5)
            assert len(sink.written) == 3  # the third is still in the air
            sink.receipts[2].set_result(None)
            await bench.until(lambda: len(sink.receipts) > 3)
            assert bench.delivery.counters.retries == 2
            await bench.finish()
            assert bench.delivered == 3
        assert payloads(sink.written) == [b"0", b"1", b"2", b"1", b"2"]

    run_virtual(main())


def test_a_batch_that_is_still_being_written_is_not_delivered_because_an_earlier_one_is() -> None:
    async def main() -> None:
        sink = ScriptedSink(by_receipt=True)
        async with rig(sink) as bench:
            bench.put(0)
            await bench.until(lambda: sink.receipts)
            sink.hold = asyncio.Event()
            bench.put(1)
            await bench.until(lambda: len(sink.written) == 2)
            sink.receipts[0].set_result(None)
            await asyncio.sleep(1)
            assert (bench.delivered, bench.backlog.records) == (1, 1)
            sink.hold.set()
            await bench.until(lambda: len(sink.receipts) == 2)
            sink.receipts[1].set_exception(AWAY)
            await bench.until(lambda: len(sink.receipts) == 3)
            await bench.finish()
            assert bench.delivered == 2
        assert payloads(sink.written) == [b"0", b"1", b"1"]

    run_virtual(main())


def test_a_receipt_that_failed_and_was_not_looked_at_yet_leaves_no_trace_at_the_end() -> None:
    async def main() -> None:
        sink = ScriptedSink(by_receipt=True)
        async with rig(sink) as bench:
            for number in range(3):
                bench.put(number)
                await bench.until(lambda number=number: len(sink.receipts) == number + 1)
            sink.receipts[1].set_exception(AWAY)
            await asyncio.sleep(1)
            bench.task.cancel()
            await asyncio.wait([bench.task])
            assert bench.delivery.undelivered == 3

    run_virtual(main())


def test_each_further_receipt_that_fails_is_part_of_the_same_trouble() -> None:
    async def main() -> None:
        sink = ScriptedSink(by_receipt=True)
        async with rig(sink) as bench:
            for number in range(3):
                bench.put(number)
                await bench.until(lambda number=number: len(sink.receipts) == number + 1)
            for receipt in reversed(sink.receipts):
                receipt.set_exception(SinkUnavailable("gone"))
            await bench.until(lambda: len(sink.receipts) > 3)
            await bench.finish()
            assert bench.delivered == 3
            assert bench.delivery.counters.errors == {"SinkUnavailable": 1}

    run_virtual(main())


def test_back_off_grows_while_a_sink_is_away_and_begins_anew_after_a_success() -> None:
    async def main() -> None:
        sink = ScriptedSink(retry={"initial": "1s", "maximum": "4s"})
        sink.fail("write", AWAY, AWAY, AWAY, AWAY, None, AWAY)
        async with rig(sink) as bench:
            bench.put(0)
            await bench.until(lambda: bench.delivered == 1)
            assert 11 <= bench.now < 11.1
            bench.put(1)
            await bench.until(lambda: bench.delivered == 2)
            assert 12 <= bench.now < 12.2

    run_virtual(main())


def test_a_flush_that_fails_for_the_moment_is_repeated() -> None:
    async def main() -> None:
        sink = ScriptedSink(by_receipt=True)
        sink.fail("flush", AWAY, AWAY)
        async with rig(sink) as bench:
            bench.put(0)
            await bench.finish()
            assert (bench.delivered, bench.delivery.undelivered) == (1, 0)
            assert sink.calls.count("flush") == 3

    run_virtual(main())


# Failed for good


@pytest.mark.parametrize("error", [REFUSED, RuntimeError("a bug")])
@pytest.mark.parametrize("when", ["open", "write", "flush"])
def test_a_sink_that_fails_for_good_is_marked_told_and_closed_and_what_waits_is_counted(
    when: str, error: Exception
) -> None:
    async def main() -> None:
        sink = ScriptedSink(by_receipt=when == "flush")
        sink.fail(when, error)
        with capture_logs() as log:
            async with rig(sink) as bench:
                bench.put(0, 3)
                if when == "flush":
                    await bench.until(lambda: sink.receipts)
                    bench.delivery.stop()
                await bench.task
        bench.put(3, 2)
        assert bench.delivery.state is DeliveryState.FAILED
        assert bench.delivery.error is error
        assert bench.ended == [error]
        assert (bench.delivered, bench.delivery.undelivered) == (0, 5)
        assert bench.delivery.counters.errors == {type(error).__name__: 1}
        assert sink.calls[-1] == "close"
        (failed,) = [line for line in log if line["event"] == "sink.failed"]
        assert failed["reason"] == str(error)
        assert failed["undelivered"] == 3
        assert [line["event"] for line in log].count("sink.crashed") == (error is not REFUSED)

    run_virtual(main())


def test_what_is_in_the_air_when_a_sink_refuses_counts_where_it_lands() -> None:
    async def main() -> None:
        sink = ScriptedSink(by_receipt=True)
        sink.fail("write", None, None, REFUSED)
        async with rig(sink) as bench:
            for number in range(3):
                bench.put(number)
                await bench.until(lambda number=number: len(sink.written) == number + 1)
            sink.receipts[0].set_result(None)
            sink.receipts[1].set_result(None)
            await bench.task
            assert (bench.delivered, bench.delivery.undelivered) == (2, 1)
            assert bench.ended == [REFUSED]

    run_virtual(main())


@pytest.mark.parametrize("error", [REFUSED, ValueError("a bug")])
def test_a_receipt_may_tell_that_the_sink_failed_for_good(error: Exception) -> None:
    async def main() -> None:
        sink = ScriptedSink(by_receipt=True)
        async with rig(sink) as bench:
            bench.put(0)
            await bench.until(lambda: sink.receipts)
            sink.receipts[0].set_exception(error)
            await bench.task
            assert bench.delivery.state is DeliveryState.FAILED
            assert (bench.delivered, bench.delivery.undelivered) == (0, 1)

    run_virtual(main())


def test_a_receipt_that_the_sink_cancels_is_a_bug_of_the_sink() -> None:
    async def main() -> None:
        sink = ScriptedSink(by_receipt=True)
        async with rig(sink) as bench:
            bench.put(0)
            await bench.until(lambda: sink.receipts)
            sink.receipts[0].cancel()
            await bench.task
            assert bench.delivery.state is DeliveryState.FAILED
            assert bench.delivery.undelivered == 1
            assert "cancelled the receipt" in str(bench.ended[0])

    run_virtual(main())


def test_a_reader_that_leaves_is_no_failure_and_nothing_is_missed() -> None:
    async def main() -> None:
        sink = ScriptedSink()
        sink.fail("write", OutputClosed("nobody reads"))
        async with rig(sink) as bench:
            bench.put(0, 3)
            await bench.task
            bench.put(3)
            assert bench.delivery.state is DeliveryState.CLOSED
            assert bench.delivery.undelivered == 0
            assert [type(error) for error in bench.ended] == [OutputClosed]
            assert bench.delivery.counters.errors == {}

    run_virtual(main())


@pytest.mark.parametrize(
    ("error", "event"),
    [(REFUSED, "sink.close_failed"), (AWAY, "sink.close_failed"), (OSError(), "sink.crashed")],
)
def test_a_sink_that_cannot_close_in_good_order_is_told(error: Exception, event: str) -> None:
    async def main() -> None:
        sink = ScriptedSink()
        sink.fail("close", error)
        with capture_logs() as log:
            async with rig(sink) as bench:
                bench.put(0)
                await bench.finish()
        assert bench.delivered == 1
        assert bench.delivery.state is DeliveryState.CLOSED
        assert event in [line["event"] for line in log]

    run_virtual(main())


# Stopping, in each state


def test_stopping_delivers_what_waits_for_company_at_once() -> None:
    async def main() -> None:
        async with rig(ScriptedSink(batch={"max_age": "1h"})) as bench:
            bench.put(0, 5)
            await asyncio.sleep(1)
            assert bench.delivered == 0
            await bench.finish()
            assert bench.delivered == 5
            assert bench.now == 1

    run_virtual(main())


def test_stopping_ends_at_once_where_a_sink_never_opened_and_nothing_waits() -> None:
    async def main() -> None:
        sink = ScriptedSink()
        sink.fail("open", *[AWAY] * 1000)
        async with rig(sink) as bench:
            await asyncio.sleep(100)
            await bench.finish()
            assert bench.now == 100
            assert bench.delivery.undelivered == 0
            assert bench.delivery.state is DeliveryState.CLOSED

    run_virtual(main())


@pytest.mark.parametrize("when", ["open", "write"])
def test_stopping_cuts_the_wait_of_a_sink_that_is_away_and_tries_again(when: str) -> None:
    async def main() -> None:
        sink = ScriptedSink(retry={"initial": "1h", "maximum": "1h"})
        sink.fail(when, AWAY)
        async with rig(sink) as bench:
            bench.put(0)
            await asyncio.sleep(10)
            await bench.finish()
            assert bench.now == 10
            assert bench.delivered == 1

    run_virtual(main())


def test_a_sink_that_stays_away_while_stopping_is_not_tried_in_a_tight_loop() -> None:
    async def main() -> None:
        sink = ScriptedSink()
        sink.fail("write", *[AWAY] * 1000)
        async with rig(sink) as bench:
            bench.put(0)
            await asyncio.sleep(100)
            before = sink.calls.count("write")
            bench.delivery.stop()
            await asyncio.sleep(30)
            assert 5 <= sink.calls.count("write") - before <= 10

    run_virtual(main())


@pytest.mark.parametrize("state", ["opening", "writing", "waiting for a receipt", "backing off"])
def test_cancelled_it_counts_exactly_what_was_not_delivered_and_closes_the_sink(state: str) -> None:
    async def main() -> None:
        sink = ScriptedSink(by_receipt=state == "waiting for a receipt")
        async with rig(sink) as bench:
            if state == "opening":
                sink.fail("open", *[AWAY] * 1000)
            else:
                bench.put(0, 2)
                await bench.until(lambda: sink.written)
                if sink.receipts:
                    sink.receipts[0].set_result(None)
                await bench.until(lambda: bench.delivered == 2)
            if state == "writing":
                sink.hold = asyncio.Event()
            if state == "backing off":
                sink.fail("write", *[AWAY] * 1000)
            bench.put(2, 3)
            bench.put(5, 2)
            await asyncio.sleep(3)
            bench.task.cancel()
            await asyncio.wait([bench.task])
            done = 0 if state == "opening" else 2
            assert (bench.delivered, bench.delivery.undelivered) == (done, 5)
            assert sink.calls[-1] == "close"
            assert bench.delivery.state is DeliveryState.CLOSED

    run_virtual(main())
