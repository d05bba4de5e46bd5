"""The memory buffer: positions, bounds, pressure, and what is taken comes back in order."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jetsocket_ingest.pipeline.buffer import Backlog, MemoryBuffer, Route
from jetsocket_ingest.sink import Kind
from jetsocket_ingest.testing.clock import LoopClock, run_virtual
from tests.unit.pipeline.parts import chunk, numbered, payloads

pytestmark = pytest.mark.filterwarnings("error")


class StillClock:
    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def wall_ns(self) -> int:
        return 0


def backlog(limit: int = 1000) -> tuple[Backlog, list[bool]]:
    told: list[bool] = []
    return Backlog(limit, StillClock(), told.append), told


def test_batches_hold_no_more_records_or_bytes_than_asked_for() -> None:
    waiting, _ = backlog()
    for first in range(0, 12, 3):
        waiting.put(numbered(first, 3))
    by_count = waiting.take(7, 10**6)
    by_bytes = waiting.take(10**6, 4)
    assert by_count is not None
    assert by_bytes is not None
    assert payloads([by_count]) == [b"0", b"1", b"2", b"3", b"4", b"5"]
    assert payloads([by_bytes]) == [b"6", b"7", b"8"]


def test_a_chunk_larger_than_a_batch_goes_out_by_itself() -> None:
    waiting, _ = backlog()
    waiting.put(numbered(0, 5))
    waiting.put(numbered(5, 1))
    batch = waiting.take(2, 2)
    assert batch is not None
    assert batch.count == 5


def test_taking_from_nothing_gives_nothing() -> None:
    assert backlog()[0].take(1, 1) is None


def test_it_is_full_above_its_limit_and_has_room_again_at_half_of_it() -> None:
    waiting, told = backlog(limit=100)
    for _ in range(10):
        waiting.put(chunk(b"x" * 10))
    assert told == []
    waiting.put(chunk(b"x" * 10))
    waiting.put(chunk(b"x" * 10))
    assert told == [True]
    batches = [waiting.take(1, 10) for _ in range(12)]
    assert told == [True]  # taken is not delivered
    for number, batch in enumerate(batches, 1):
        assert batch is not None
        waiting.delivered(batch)
        assert told == ([True, False] if number >= 7 else [True])
    assert (waiting.bytes, waiting.records) == (0, 0)


def test_what_is_in_flight_comes_back_in_order_before_what_waits() -> None:
    waiting, _ = backlog()
    for first in range(0, 9, 3):
        waiting.put(numbered(first, 3))
    waiting.take(3, 100)
    waiting.take(3, 100)
    assert waiting.rewind() == 6
    batch = waiting.take(100, 100)
    assert batch is not None
    assert payloads([batch]) == [b"%d" % number for number in range(9)]


@given(
    st.lists(st.tuples(st.sampled_from(["put", "take", "done", "rewind"]), st.integers(1, 5)), max_size=60)
)
def test_whatever_happens_every_record_comes_out_once_and_in_order(steps: list[tuple[str, int]]) -> None:
    waiting, told = backlog(limit=10)
    put, out, flying = 0, [], []
    for step, number in [*steps, ("drain", 0)]:
        if step == "put":
            waiting.put(numbered(put, number))
            put += number
        elif step == "take" and (batch := waiting.take(number, 100)) is not None:
            flying.append(batch)
        elif step == "done" and flying:
            batch = flying.pop(0)
            waiting.delivered(batch)
            out.append(batch)
        elif step == "rewind":
            assert waiting.rewind() == sum(batch.count for batch in flying)
            flying.clear()
        elif step == "drain":
            while (batch := waiting.take(3, 100)) is not None:
                flying.append(batch)
            for batch in flying:
                waiting.delivered(batch)
                out.append(batch)
        assert waiting.records == put - sum(batch.count for batch in out)
        assert waiting.full == (told[-1] if told else False)
    assert payloads(out) == [b"%d" % number for number in range(put)]
    assert (waiting.bytes, waiting.waiting_bytes, waiting.waiting_records) == (0, 0, 0)
    assert told == [True, False] * (len(told) // 2)


def test_closing_counts_what_was_left_takes_the_pressure_off_and_counts_what_still_comes() -> None:
    waiting, told = backlog(limit=3)
    waiting.put(numbered(0, 4))
    waiting.take(1, 1)
    waiting.put(numbered(4, 2))
    assert waiting.close() == 6
    assert told == [True, False]
    waiting.put(numbered(6, 3))
    assert (waiting.records, waiting.bytes, waiting.missed) == (0, 0, 3)


def test_the_oldest_undelivered_record_is_in_flight_before_it_waits() -> None:
    waiting, _ = backlog()
    assert waiting.oldest_ns() is None
    waiting.put(chunk(b"a", received_ns=1))
    waiting.put(chunk(b"b", received_ns=2))
    batch = waiting.take(1, 1)
    assert waiting.oldest_ns() == 1
    assert batch is not None
    waiting.delivered(batch)
    assert waiting.oldest_ns() == 2


@pytest.mark.parametrize(("records", "size"), [(3, 100), (100, 3)])
def test_waiting_ends_as_soon_as_enough_waits(records: int, size: int) -> None:
    async def main() -> float:
        waiting = Backlog(1000, LoopClock(), lambda full: None)
        loop = asyncio.get_running_loop()
        for second in range(1, 5):
            loop.call_later(second, waiting.put, chunk(b"x"))
        await waiting.wait(records, size, 60)
        return loop.time()

    assert run_virtual(main()) == 3


def test_waiting_ends_when_its_time_is_up() -> None:
    async def main() -> float:
        waiting = Backlog(1000, LoopClock(), lambda full: None)
        waiting.put(chunk(b"x"))
        await waiting.wait(2, 2, 5)
        return asyncio.get_running_loop().time()

    assert run_virtual(main()) == 5


# The buffer


def test_positions_rise_without_holes_over_all_subscriptions() -> None:
    buffer = MemoryBuffer(
        {"a": Route(["x"], ["x"]), "b": Route(["x"], [])}, {"x": 100}, StillClock(), lambda *_: None
    )
    chunks = [numbered(0, 3, subscription="a"), numbered(0, 2, subscription="b")]
    chunks.append(chunk(b"{}", subscription="b", kind=Kind.GAP))
    for each in [*chunks, last := numbered(3, 1, subscription="a")]:
        buffer.accept(each)
    assert [each.first_position for each in chunks] == [0, 3, 5]
    assert last.first_position == 6
    assert buffer.position == 7


def test_data_and_markers_go_where_their_routes_say() -> None:
    routes = {"a": Route(["x", "y"], ["log"])}
    buffer = MemoryBuffer(routes, {"x": 9, "y": 9, "log": 99}, StillClock(), lambda *_: None)
    buffer.accept(chunk(b"d", subscription="a"))
    buffer.accept(chunk(b"m", subscription="a", kind=Kind.DISCONNECT))
    found = {name: each.take(9, 9) for name, each in buffer.backlogs.items()}
    assert {name: payloads([batch]) for name, batch in found.items() if batch is not None} == {
        "x": [b"d"],
        "y": [b"d"],
        "log": [b"m"],
    }


def test_pressure_is_told_once_for_a_subscription_however_many_of_its_sinks_are_full() -> None:
    told: list[tuple[str, bool]] = []
    routes = {"a": Route(["x", "y"], []), "b": Route(["y"], []), "c": Route(["z"], [])}
    buffer = MemoryBuffer(routes, dict.fromkeys("xyz", 2), StillClock(), lambda *what: told.append(what))
    for name in "aab":
        buffer.accept(chunk(b"12", subscription=name))
    assert told == [("a", True), ("b", True)]
    assert buffer.pressed(["a"])
    assert not buffer.pressed(["c"])
    for sink in ("x", "y"):
        while (batch := buffer.backlogs[sink].take(1, 1)) is not None:
            buffer.backlogs[sink].delivered(batch)
    assert told[2:] == [("b", False), ("a", False)] or told[2:] == [("a", False), ("b", False)]
    assert not buffer.pressed(["a", "b", "c"])


def test_a_full_sink_for_markers_stops_no_subscription() -> None:
    told: list[tuple[str, bool]] = []
    routes = {"a": Route(["x"], ["log"])}
    buffer = MemoryBuffer(routes, {"x": 100, "log": 1}, StillClock(), lambda *what: told.append(what))
    buffer.accept(chunk(b"12345", subscription="a", kind=Kind.GAP))
    assert told == []
