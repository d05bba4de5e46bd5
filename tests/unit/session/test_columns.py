"""Sorting messages to columns: the two roads agree, and values are what they say."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from jetsocket_ingest.config.matching import Match
from jetsocket_ingest.config.paths import Path
from jetsocket_ingest.session.columns import Classifier, Columns, DataRule

ACK = Match.parse({"$.op": "subscribe"})
FULL = DataRule(
    match=Match.parse({"$.kind": {"in": ["trade", 1]}}),
    stream=Path.parse("$.data.stream"),
    event_time=Path.parse("$.ts"),
    sequence=Path.parse("$.seq"),
)
RULES = [
    DataRule(stream=Path.parse("$.stream")),
    DataRule(match=Match.parse({"$.kind": {"exists": True}})),
    DataRule(match=Match.parse({"$.data.ok": True}), stream=Path.parse("$.stream")),
    DataRule(event_time=Path.parse("$.ts"), sequence=Path.parse("$.seq")),
    FULL,
]
CONTROLS: list[list[Match]] = [[], [ACK], [Match.parse({"$.kind": True}), ACK], [Match.parse({"$": "pong"})]]

scalars = (
    st.none()
    | st.booleans()
    | st.sampled_from([0, 1, 1.0, "trade", "subscribe", "a", "12", ""])
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5)
)
names = st.sampled_from(["stream", "kind", "data", "op", "ts", "seq", "ok", "other"])
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=5),
    max_leaves=8,
)
objects = st.dictionaries(names, values, max_size=6)
json_bytes = st.builds(lambda value: json.dumps(value).encode(), objects | values)
raw = st.sampled_from(
    [
        b"",
        b" ",
        b"pong",
        b'{"stream":"a"} {"stream":"b"}',
        b'{"kind":1}{"kind":1}',
        b'{"stream":"a","stream":"b"}',
        b'{\n"stream":"a"}',
        b'{"stream":"a","other":1e999}',
        b'{"stream":"a","other":"\\ud800"}',
        b'{"kind":true,"stream":"x"}',
        b"[1]",
    ]
)


def rows(columns: Columns) -> list[tuple[Any, ...]]:
    nothing = [None] * len(columns.payloads)
    return list(
        zip(
            columns.payloads,
            columns.streams,
            columns.event_times_ns or nothing,
            columns.sequences or nothing,
            strict=True,
        )
    )


def sort(rule: DataRule, *messages: object, controls: Sequence[Match] = (), binary: bool = False) -> Columns:
    payloads = [each if isinstance(each, bytes) else json.dumps(each).encode() for each in messages]
    return Classifier(rule, controls, None).sort(payloads, binary)


@given(st.sampled_from(RULES), st.sampled_from(CONTROLS), st.lists(json_bytes | raw, min_size=1, max_size=6))
@example(RULES[0], CONTROLS[0], [b'{"stream":"a"} {"stream":"b"}', b""])
@example(RULES[0], CONTROLS[2], [b'{"kind":1,"stream":"a"}', b'{"kind":true,"stream":"b"}'])
@example(RULES[0], CONTROLS[1], [b'{"stream":"a","other":1e999}', b'{"op":"subscribe"}'])
def test_what_a_message_is_does_not_depend_on_the_messages_beside_it(
    rule: DataRule, controls: list[Match], payloads: list[bytes]
) -> None:
    together = Classifier(rule, controls, "own").sort(payloads, False)
    alone = [Classifier(rule, controls, "own").sort([payload], False) for payload in payloads]
    assert rows(together) == [row for columns in alone for row in rows(columns)]
    assert together.others == [other for columns in alone for other in columns.others]
    assert len(together.payloads) + len(together.others) == len(payloads)


@given(st.sampled_from(RULES), st.sampled_from(CONTROLS), st.lists(json_bytes, min_size=1, max_size=6))
def test_the_fast_road_and_the_slow_road_agree_on_json(
    rule: DataRule, controls: list[Match], payloads: list[bytes]
) -> None:
    fast = Classifier(rule, controls, "own")
    slow = Classifier(rule, controls, "own")
    slow._fast = None
    a, b = fast.sort(payloads, False), slow.sort(payloads, False)
    assert rows(a) == rows(b)
    assert a.others == b.others


def test_plain_data_takes_the_fast_road() -> None:
    classifier = Classifier(FULL, [ACK], None)
    assert classifier._fast is not None
    payloads = [b'{"kind":"trade","data":{"stream":"a"},"ts":5,"seq":%d}' % number for number in range(3)]
    columns = classifier._sort_fast(classifier._fast, payloads)
    assert columns is not None
    assert rows(columns) == [(payload, "a", 5_000_000, n) for n, payload in enumerate(payloads)]


def test_without_rules_every_message_is_data_of_the_connections_one_stream() -> None:
    columns = Classifier(DataRule(), [], "btc").sort([b"anything", b"\xff"], True)
    assert rows(columns) == [(b"anything", "btc", None, None), (b"\xff", "btc", None, None)]


def test_an_answer_is_never_data_even_where_it_names_a_stream() -> None:
    columns = sort(RULES[0], {"op": "subscribe", "stream": "a"}, {"stream": "a"}, controls=[ACK])
    assert columns.payloads == [b'{"stream": "a"}']
    assert [value for _, value in columns.others] == [{"op": "subscribe", "stream": "a"}]


@pytest.mark.parametrize(("value", "stream"), [("x", "x"), (7, "7"), (-3, "-3"), ("", "")])
def test_a_stream_is_named_by_a_text_or_a_number(value: object, stream: str) -> None:
    assert sort(RULES[0], {"stream": value}).streams == [stream]


@pytest.mark.parametrize("value", [None, True, 1.5, [], {}])
def test_what_names_no_stream_is_not_data(value: object) -> None:
    columns = sort(RULES[0], {"stream": value})
    assert columns.payloads == []
    assert len(columns.others) == 1


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (5, 5),
        ("5", 5),
        (2**70, 2**70),
        (-1, -1),
        ("-1", None),
        (1.0, None),
        (True, None),
        (None, None),
        ("x", None),
    ],
)
def test_a_sequence_is_a_whole_number_or_digits(value: object, number: int | None) -> None:
    assert sort(DataRule(sequence=Path.parse("$.seq")), {"seq": value}).sequences == [number]


def time_of(value: object, unit: str) -> int | None:
    columns = sort(DataRule(event_time=Path.parse("$.ts"), time_unit=unit), {"ts": value})
    assert columns.event_times_ns is not None
    return columns.event_times_ns[0]


@pytest.mark.parametrize(
    ("value", "unit", "ns"),
    [
        (1_700_000_000, "s", 1_700_000_000_000_000_000),
        (1_700_000_000.294474, "s", 1_700_000_000_294_474_000),
        ("1700000000.294474001", "s", 1_700_000_000_294_474_001),
        ("1700000000", "s", 1_700_000_000_000_000_000),
        (1_700_000_000_123, "ms", 1_700_000_000_123_000_000),
        (1_700_000_000_446.476, "ms", 1_700_000_000_446_476_000),
        ("1700000000446.4", "ms", 1_700_000_000_446_400_000),
        (1_700_000_000_123_456.5, "us", 1_700_000_000_123_456_500),
        (1_700_000_000_123_456_789, "ns", 1_700_000_000_123_456_789),
        ("1700000000123456789", "ns", 1_700_000_000_123_456_789),
        (-1.5, "s", -1_500_000_000),
        ("-1.5", "s", -1_500_000_000),
        ("2023-11-14T22:13:20Z", "iso", 1_700_000_000_000_000_000),
        ("2023-11-14T22:13:20", "iso", 1_700_000_000_000_000_000),
        ("2023-11-14 22:13:20.123456789Z", "iso", 1_700_000_000_123_456_789),
        ("2023-11-14T22:13:20,5Z", "iso", 1_700_000_000_500_000_000),
        ("2023-11-15T00:13:20.5+02:00", "iso", 1_700_000_000_500_000_000),
        ("1969-12-31T23:59:59.25Z", "iso", -750_000_000),
    ],
)
def test_an_event_time_is_exact_in_its_unit(value: object, unit: str, ns: int) -> None:
    assert time_of(value, unit) == ns


@given(
    st.datetimes(min_value=datetime(1900, 1, 1), max_value=datetime(2200, 1, 1)),  # noqa: DTZ001  (aware below)
    st.integers(-14 * 60, 14 * 60),
)
def test_iso_times_of_any_zone_are_exact(moment: datetime, minutes: int) -> None:
    zoned = moment.replace(tzinfo=timezone(timedelta(minutes=minutes)))
    since = zoned - datetime(1970, 1, 1, tzinfo=UTC)
    micros = since // timedelta(microseconds=1)
    assert time_of(zoned.isoformat(), "iso") == micros * 1000


@given(st.integers(1_000_000_000, 4_000_000_000), st.integers(0, 999_999))
def test_microseconds_survive_in_a_json_number_of_seconds(whole: int, micros: int) -> None:
    message = b'{"ts":%d.%06d}' % (whole, micros)
    rule = DataRule(event_time=Path.parse("$.ts"), time_unit="s")
    assert sort(rule, message).event_times_ns == [(whole * 1_000_000 + micros) * 1000]


@pytest.mark.parametrize("value", [None, True, "soon", "", [], {}, 1e300, "1e999", "nan", "9" * 5000])
@pytest.mark.parametrize("unit", ["ms", "iso"])
def test_an_unusable_event_time_is_none_and_the_message_still_data(value: object, unit: str) -> None:
    if value == 1e300 and unit == "ms":
        assert isinstance(time_of(value, unit), int)  # absurd, but a number
    else:
        assert time_of(value, unit) is None


def test_a_missing_time_or_number_costs_only_its_own_message() -> None:
    rule = DataRule(event_time=Path.parse("$.ts"), sequence=Path.parse("$.seq"))
    columns = sort(rule, {"ts": 1, "seq": 1}, {"seq": 2}, {"ts": 3})
    assert columns.event_times_ns == [1_000_000, None, 3_000_000]
    assert columns.sequences == [1, 2, None]


def test_binary_messages_that_are_json_are_read_like_text_ones() -> None:
    assert sort(RULES[0], {"stream": "a"}, binary=True).streams == ["a"]


def test_binary_messages_that_are_not_json_are_data_only_where_everything_is() -> None:
    everything = DataRule(event_time=Path.parse("$.ts"))
    assert rows(sort(everything, b"\x00\xff", binary=True)) == [(b"\x00\xff", None, None, None)]
    assert sort(RULES[0], b"\x00\xff", binary=True).payloads == []
