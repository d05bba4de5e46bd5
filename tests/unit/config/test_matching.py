"""Paths into JSON values, and conditions on what stands there."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jetsocket_ingest.config.matching import Match
from jetsocket_ingest.config.paths import EVERY, MISSING, Path

VALUE: Any = {"a": {"b": [{"x y": 1}, 2]}, "n": None, "é": 3, "l": [[1, 2], [3]]}


@pytest.mark.parametrize(
    ("text", "parts", "found"),
    [
        ("$", (), VALUE),
        ("$.a.b[0]['x y']", ("a", "b", 0, "x y"), 1),
        ('$["a"].b[-1]', ("a", "b", -1), 2),
        ("$[ 'a' ]", ("a",), VALUE["a"]),
        ("$.é", ("é",), 3),
        ("$['\\u00e9']", ("é",), 3),
        ("$.n", ("n",), None),
        ("$.a.c", ("a", "c"), MISSING),
        ("$.a.b[2]", ("a", "b", 2), MISSING),
        ("$.a.b[-3]", ("a", "b", -3), MISSING),
        ("$.a[0]", ("a", 0), MISSING),
        ("$.a.b.x", ("a", "b", "x"), MISSING),
        ("$['it\\'s \\ud83d\\ude00']", ("it's 😀",), MISSING),
    ],
)
def test_a_path_finds_what_stands_there(text: str, parts: tuple[object, ...], found: object) -> None:
    path = Path.parse(text)
    assert path.parts == parts
    assert path.find(VALUE) is found or path.find(VALUE) == found


@pytest.mark.parametrize(
    ("text", "column", "expected"),
    [
        ("$a", 2, r"expected \. or \["),
        ("$.", 3, "expected a name"),
        ("$.a-b", 4, r"expected \. or \["),
        ("$.1", 3, "expected a name"),
        ("$..a", 3, "expected a name"),
        ("$[", 3, "expected an index"),
        ("$[a]", 3, "expected an index"),
        ("$[01]", 4, "expected ]"),
        ("$[-0]", 3, "expected an index"),
        ("$['a", 3, "expected a name that ends with '"),
        ("$['a'", 6, "expected ]"),
        ("$['\\x']", 4, "escapes of JSON"),
        ("$['\\ud800']", 3, "valid pairs"),
        ("$.a[*]", 4, "one value is needed here"),
        ("$.a[?@.b]", 5, "expected an index"),
        ("$.a[0:2]", 6, "expected ]"),
    ],
)
def test_a_wrong_path_is_refused_with_its_column(text: str, column: int, expected: str) -> None:
    with pytest.raises(ValueError, match=f"{expected}.* at column {column} of"):
        Path.parse(text)


def test_a_path_begins_with_a_dollar_sign() -> None:
    with pytest.raises(ValueError, match=r"begins with \$.*found 'a.b'"):
        Path.parse("a.b")


def test_a_wildcard_finds_all_where_it_is_asked_for() -> None:
    path = Path.parse("$.l[*][*]", wildcard=True)
    assert path.parts == ("l", EVERY, EVERY)
    assert path.find_all(VALUE) == [1, 2, 3]
    assert Path.parse("$.a.*", wildcard=True).find_all(VALUE) == [VALUE["a"]["b"]]
    assert Path.parse("$.n[*]", wildcard=True).find_all(VALUE) == []
    with pytest.raises(ValueError, match="find_all"):
        path.find(VALUE)


@given(st.text(max_size=30))
def test_any_text_is_a_path_or_a_value_error(text: str) -> None:
    try:
        path = Path.parse("$" + text, wildcard=True)
    except ValueError:
        return
    path.find_all(VALUE)


@pytest.mark.parametrize(
    ("match", "value", "result"),
    [
        ({"$.op": "subscribe"}, {"op": "subscribe", "id": 1}, True),
        ({"$.op": "subscribe"}, {"op": "other"}, False),
        ({"$.op": "subscribe"}, {}, False),
        ({"$.op": "subscribe"}, "text", False),
        ({"$": "pong"}, "pong", True),
        ({"$": {"regex": "^po"}}, "pong", True),
        ({"$.x": True}, {"x": 1}, False),
        ({"$.x": 1}, {"x": True}, False),
        ({"$.x": 1}, {"x": 1.0}, True),
        ({"$.x": 0}, {"x": False}, False),
        ({"$.x": "1"}, {"x": 1}, False),
        ({"$.x": None}, {"x": None}, True),
        ({"$.x": None}, {}, False),
        ({"$.x": {"exists": True}}, {"x": None}, True),
        ({"$.x": {"exists": True}}, {}, False),
        ({"$.x": {"exists": False}}, {}, True),
        ({"$.x": {"exists": False}}, {"x": 1}, False),
        ({"$.x": {"regex": "b+"}}, {"x": "abbc"}, True),
        ({"$.x": {"regex": "1"}}, {"x": 1}, False),
        ({"$.x": {"in": [1, "a", None]}}, {"x": "a"}, True),
        ({"$.x": {"in": [1, "a", None]}}, {"x": None}, True),
        ({"$.x": {"in": [1, "a"]}}, {"x": True}, False),
        ({"$.x": {"in": ["ab", "ac"], "regex": "c$"}}, {"x": "ab"}, False),
        ({"$.x": {"in": ["ab", "ac"], "regex": "c$"}}, {"x": "ac"}, True),
        ({"$.x": 1, "$.y": 2}, {"x": 1, "y": 2}, True),
        ({"$.x": 1, "$.y": 2}, {"x": 1, "y": 3}, False),
    ],
)
def test_a_match_holds_when_all_its_conditions_do(match: dict[str, object], value: Any, result: bool) -> None:
    assert Match.parse(match).matches(value) is result


@pytest.mark.parametrize(
    "match",
    [
        {},
        {"op": 1},
        {"$.x": []},
        {"$.x": {}},
        {"$.x": {"exist": True}},
        {"$.x": {"exists": "yes"}},
        {"$.x": {"regex": "("}},
        {"$.x": {"regex": 5}},
        {"$.x": {"in": []}},
        {"$.x": {"in": "abc"}},
        {"$.x": {"in": [[1]]}},
    ],
)
def test_a_wrong_match_is_refused(match: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="expected"):
        Match.parse(match)


def test_matches_tell_true_from_one() -> None:
    assert Match.parse({"$.x": 1}) != Match.parse({"$.x": True})
    assert Match.parse({"$.x": 1}) == Match.parse({"$.x": 1})
