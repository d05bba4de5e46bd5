"""Batches on their way, and outages."""

from __future__ import annotations

import asyncio

import pytest

from jetsocket_ingest.sink import Batch, SinkUnavailable
from jetsocket_sinks.kafka.flight import Flights
from jetsocket_sinks.kafka.outage import Outage
from tests.support.aio import run
from tests.support.kafka_sink import chunk


def batch(first_position: int = 0) -> Batch:
    return Batch([chunk([b"1", b"2"], first_position=first_position)])


def test_batches_land_in_the_order_of_their_writing() -> None:
    async def main() -> None:
        flights = Flights()
        first, second = flights.begin(batch()), flights.begin(batch(2))
        for flight in (first, second):
            flight.sent = 2
        second.closed, second.reported = True, 2
        assert flights.land() == []
        first.reported = 2
        assert flights.land() == []  # more of it may come
        first.closed = True
        assert flights.land() == [first, second]
        assert len(flights) == 0
        await flights.empty()

    run(main())


def test_an_abort_tells_every_writer_and_lets_waiters_go_on() -> None:
    async def main() -> None:
        flights = Flights()
        first, second = flights.begin(batch()), flights.begin(batch(2))
        assert flights.last_position() == 3
        waiter = asyncio.ensure_future(flights.empty())
        flights.abort(SinkUnavailable("away"))
        await waiter
        for flight in (first, second):
            with pytest.raises(SinkUnavailable, match="away"):
                await flight.done

    run(main())


def test_a_batch_that_its_writer_gave_up_holds_up_no_other() -> None:
    async def main() -> None:
        flights = Flights()
        first, second = flights.begin(batch()), flights.begin(batch(2))
        flights.withdraw(first)
        second.sent = second.reported = 2
        second.closed = True
        assert flights.land() == [second]

    run(main())


def test_an_outage_is_told_once_with_its_length() -> None:
    outage = Outage()
    looks = [  # time, reports, waiting
        (0.0, 0, True),
        (1.0, 5, True),
        (3.9, 5, True),
        (4.0, 5, True),
        (9.0, 5, True),
        (11.0, 6, True),
        (12.0, 9, False),
    ]
    told = [outage.look(now, reports, waiting=waiting) for now, reports, waiting in looks]
    assert told == [None, None, None, "unavailable", None, 10.0, None]


def test_nothing_waiting_is_no_outage() -> None:
    outage = Outage()
    assert [outage.look(now, 3, waiting=False) for now in (0.0, 10.0, 100.0)] == [None] * 3
    assert outage.look(101.0, 3, waiting=True) is None
    assert outage.look(103.0, 3, waiting=True) is None
    assert outage.look(104.0, 3, waiting=True) == "unavailable"
    assert outage.told
