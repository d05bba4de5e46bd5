"""Lines of the log: whole, readable, and safe whatever a value holds."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jetsocket_ingest.config.types import Secret
from jetsocket_ingest.telemetry.render import (
    LONGEST_TEXT,
    LONGEST_TRACE,
    MOST_ITEMS,
    clean,
    console_line,
    exception_text,
    json_line,
)

hostile_text = st.text(st.characters(), max_size=40) | st.sampled_from(
    ["\n", "\r\x1b[2K", "\x1b]0;title\x07", "\x9b31m", "\u2028", "\u202e", "\ud800", 'a" b=c', "\x00", ""]
)
values = st.recursive(
    hostile_text | st.integers() | st.floats() | st.booleans() | st.none() | st.binary(max_size=40),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(hostile_text, inner, max_size=4) | st.tuples(inner)
    ),
    max_leaves=10,
)
facts = st.dictionaries(hostile_text, values, max_size=5)
COLOURS = re.compile("\x1b\\[[0-9;]*m")


@given(event=hostile_text, facts=facts)
def test_a_json_line_is_one_line_of_ascii_and_valid_whatever_is_in_it(
    event: str, facts: dict[str, object]
) -> None:
    line = json_line(0.0, "info", event, facts)
    assert line.isascii()
    assert line.isprintable() or "\x7f" in line  # DEL moves nothing, and JSON leaves it alone
    parsed = json.loads(line, parse_constant=lambda constant: pytest.fail(f"{constant} is not JSON"))
    assert list(parsed)[:3] == ["ts", "level", "event"]
    assert parsed["event"] == event


@given(event=hostile_text, facts=facts, colour=st.booleans())
def test_a_console_line_holds_nothing_unprintable_but_its_own_colours(
    event: str, facts: dict[str, object], colour: bool
) -> None:
    facts.pop("exception", None)
    line = console_line(0.0, "info", event, facts, colour=colour)
    assert (COLOURS.sub("", line) if colour else line).isprintable()


@given(message=hostile_text)
def test_an_exception_can_forge_no_console_line_of_its_own(message: str) -> None:
    trace = exception_text(ValueError(message))
    first, *rows = console_line(0.0, "error", "pool.task_failed", {"exception": trace}, colour=False).split(
        "\n"
    )
    assert first.endswith("pool.task_failed")
    assert all(row.startswith("    ") and row.isprintable() for row in rows)


def test_a_json_line_has_time_level_event_then_the_facts_in_order() -> None:
    line = json_line(
        1763884066.5, "warning", "connection.lost", {"endpoint": "desk", "code": 1006, "lasted_s": 2.5}
    )
    assert line == (
        '{"ts": "2025-11-23T07:47:46.500000Z", "level": "warning", "event": "connection.lost", '
        '"endpoint": "desk", "code": 1006, "lasted_s": 2.5}'
    )


def test_a_console_line_quotes_what_could_be_misread() -> None:
    line = console_line(
        0.0, "info", "a.b", {"plain": "x", "words": 'two "words"', "empty": "", "n": [1]}, colour=False
    )
    assert line == r'00:00:00.000 info    a.b plain=x words="two \"words\"" empty="" n=[1]'


def test_a_fact_named_like_a_column_keeps_both() -> None:
    parsed = json.loads(json_line(0.0, "info", "a.b", {"level": "high", "ts": 1}))
    assert (parsed["level"], parsed["level_"], parsed["ts_"]) == ("info", "high", 1)


def test_numbers_that_json_lacks_become_text() -> None:
    parsed = json.loads(
        json_line(0.0, "info", "a.b", {"a": float("nan"), "b": float("-inf"), "c": 10**10_000})
    )
    assert parsed["a"] == "nan"
    assert parsed["b"] == "-inf"
    assert parsed["c"].startswith("0x")


def test_long_values_are_cut_and_say_so() -> None:
    parsed = json.loads(
        json_line(0.0, "info", "a.b", {"text": "x" * 5000, "bytes": b"y" * 5000, "list": [0] * 500})
    )
    assert parsed["text"] == "x" * LONGEST_TEXT + "… (904 characters more)"
    assert parsed["bytes"].startswith("y" * LONGEST_TEXT + "…")
    assert len(parsed["list"]) == MOST_ITEMS + 1
    assert parsed["list"][-1] == "… 400 more"


def test_a_cycle_ends() -> None:
    cycle: dict[str, object] = {}
    cycle["self"] = cycle
    assert (
        "…"
        in json.loads(json_line(0.0, "info", "a.b", {"cycle": cycle}))["cycle"]["self"]["self"]["self"][
            "self"
        ]["self"].values()
    )


def test_a_value_that_cannot_be_printed_says_so_instead_of_raising() -> None:
    class Hostile:
        def __str__(self) -> str:
            raise RuntimeError

    parsed = json.loads(json_line(0.0, "info", "a.b", {"value": Hostile()}))
    assert parsed["value"] == "<Hostile that cannot be printed: RuntimeError>"


def test_secrets_print_as_stars_at_every_depth() -> None:
    canary = "canary-5f1c"
    held: dict[str, object] = {"direct": Secret(canary), "deep": {"list": [Secret(canary)]}}
    for line in (json_line(0.0, "info", "a.b", held), console_line(0.0, "info", "a.b", held, colour=True)):
        assert canary not in line
        assert line.count("***") == 2


def test_of_a_long_traceback_the_end_is_kept() -> None:
    text = exception_text(ValueError("x" * 20_000 + " the point"))
    assert text is not None
    assert text.endswith(" the point\n")
    assert len(text) == LONGEST_TRACE + 1
    assert json.loads(json_line(0.0, "error", "a.b", {"exception": text}))["exception"] == text


@pytest.mark.parametrize("nothing", [None, False, (None, None, None), True])
def test_no_exception_is_no_text(nothing: object) -> None:
    assert exception_text(nothing) is None


def test_printable_text_is_left_alone() -> None:
    assert clean("für 日本 = ok") == "für 日本 = ok"
    assert clean("a\x1b[31m\nb\u2028") == r"a\x1b[31m\nb\u2028"
