"""Topic, key, partition, headers and timestamp of records."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jetsocket_ingest.sink import Kind
from jetsocket_sinks.kafka import KafkaOptions, routing
from jetsocket_sinks.kafka.routing import Router, escape_topic, iso_time, unescape_topic
from tests.support.kafka_sink import chunk


def router(**keys: Any) -> Router:
    least = {"type": "kafka", "bootstrap_servers": ["h:1"], "topic": "ticks"}
    return Router(KafkaOptions.model_validate(least | keys), "pipe")


@given(st.text(st.characters(exclude_categories=("Cs",))) | st.text("_-.@ab0f4"))
def test_an_escaped_name_is_legal_and_gives_the_name_back(name: str) -> None:
    escaped = escape_topic(name)
    assert re.fullmatch(r"[a-zA-Z0-9._-]*", escaped)
    assert unescape_topic(escaped) == name


@pytest.mark.parametrize(
    ("name", "topic"),
    [
        ("BTC-USD", "BTC-USD"),
        ("order_book", "order_book"),
        ("btc@trade", "btc__40trade"),
        ("a__b", "a__5f_b"),
        ("é", "__c3__a9"),
    ],
)
def test_only_what_kafka_forbids_is_escaped(name: str, topic: str) -> None:
    assert escape_topic(name) == topic


def test_a_topic_is_static_only_if_it_is_one_for_all_records() -> None:
    assert router().static_topics() == {"ticks"}
    assert router(topic="<pipeline>.ticks").static_topics() == {"pipe.ticks"}
    assert router(topic="ticks.<subscription>").static_topics() == set()


def test_topics_wait_for_a_check_from_their_first_record_on() -> None:
    routes = router(topic="t.<stream>")
    routes.note(chunk([b"1", b"2", b"3"], streams=["a", "b", "a"]))
    assert routes.unchecked == {"t.a", "t.b"}
    routes.unchecked.clear()
    routes.note(chunk([b"4"], streams=["a"]))
    assert routes.unchecked == set()


@pytest.mark.parametrize("stream", ["", "..", "x" * 250, "@" * 80])
def test_a_name_that_no_topic_can_have_is_a_problem_of_its_records(stream: str) -> None:
    routes = router(topic="<stream>")
    [bad, good] = routes.rows(chunk([b"1", b"2"], streams=[stream, "a"]), 0).routes
    assert "expected a topic of 1 to 249 characters" in (bad.problem or "")
    assert (good.problem, routes.has_problems) == (None, True)


def test_a_feed_cannot_fill_the_cluster_with_topics(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routing, "MAX_TOPICS", 3)
    routes = router(topic="<stream>").rows(chunk([b""] * 6, streams=[*"abcdab"]), 0).routes
    assert [route.problem is None for route in routes] == [True, True, True, False, True, True]


def test_a_key_is_the_stream_or_else_the_subscription() -> None:
    routes = router().rows(chunk([b"1", b"2"], streams=["BTC", None]), 0).routes
    assert [route.key for route in routes] == [b"BTC", b"trades"]
    assert router(key=None).rows(chunk([b"1"]), 0).routes[0].key is None
    assert router(key="<subscription>/<connection>").rows(chunk([b"1"]), 0).routes[0].key == b"trades/feed-1"


@pytest.mark.parametrize(
    ("stream", "partition"), [("0", 0), ("17", 17), ("-1", None), ("x", None), ("", None), ("٣", 3)]
)
def test_a_partition_must_come_out_as_a_number(stream: str, partition: int | None) -> None:
    route = router(partition="<stream>").rows(chunk([b"1"], streams=[stream]), 0).routes[0]
    assert (route.partition if route.problem is None else None) == partition


def test_a_header_of_one_placeholder_is_left_out_where_there_is_no_value() -> None:
    rows = router().rows(
        chunk([b"1", b"2"], streams=["a", None], event_times_ns=[None, 5], sequences=None), 0
    )
    assert rows.headers is not None
    first, second = map(dict, rows.headers)
    assert ("stream" in first, "event_time" in first, "sequence" in first) == (True, False, False)
    assert ("stream" in second, second["event_time"]) == (False, b"1970-01-01T00:00:00.000000005Z")


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"kind": "<kind>"}, [{"kind": b"gap"}, {"kind": b"gap"}]),
        ({"kind": "<kind>", "n": "<sequence>"}, [{"kind": b"gap"}, {"kind": b"gap"}]),
        (
            {"kind": "<kind>", "at": "<received>"},
            [{"kind": b"gap", "at": b"1970-01-01T00:00:01.000000000Z"}] * 2,
        ),
        ({"k": "<kind>:<position>/<sequence>"}, [{"k": b"gap:8/"}, {"k": b"gap:9/"}]),
    ],
)
def test_headers_of_ones_own(headers: dict[str, str], expected: list[dict[str, bytes]]) -> None:
    records = chunk([b"1", b"2"], kind=Kind.GAP, first_position=8, received_ns=10**9)
    rows = router(headers=headers).rows(records, 0)
    assert rows.headers is not None
    assert [dict(each) for each in rows.headers] == expected


@pytest.mark.parametrize(
    ("source", "expected"), [("received", [2000, 2000, 2000]), ("event", [1000, 2000, 2000]), ("none", None)]
)
def test_the_timestamp_is_what_the_config_says(source: str, expected: list[int] | None) -> None:
    records = chunk([b""] * 3, received_ns=2 * 10**9, event_times_ns=[10**9, None, -5])
    assert router(timestamp=source).rows(records, 0).timestamps == expected


def test_a_time_that_no_calendar_has_is_left_out() -> None:
    assert iso_time(253_402_300_800 * 10**9) is None
    assert iso_time(None) is None
    assert iso_time(-1) == b"1969-12-31T23:59:59.999999999Z"


def test_half_a_surrogate_pair_in_a_streams_name_is_survived() -> None:
    route = router(topic="t.<stream>").rows(chunk([b"1"], streams=["\ud800"]), 0).routes[0]
    assert (route.topic, route.key) == ("t.__3f", b"?")
