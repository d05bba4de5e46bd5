"""Placeholders in texts and trees."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jetsocket_ingest.config.interpolate import expand
from jetsocket_ingest.config.placeholders import Template, TreeTemplate

NAMES = {"stream", "streams", "received.date", "counter"}


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("data/<stream>/<received.date>.jsonl", "data/btc/2026-11-23.jsonl"),
        ("<stream>", "btc"),
        ("<<stream>>", "<stream>"),
        ("<<stream>", "<btc"),
        ("<<unknown>>", "<<unknown>>"),
        ("<unknown> < b > <", "<unknown> < b > <"),
        ("100% <stream> %s %(x)s", "100% btc %s %(x)s"),
        ("<streams>", "a,b"),
        ("plain", "plain"),
        ("", ""),
    ],
)
def test_declared_names_are_replaced_and_the_rest_is_text(text: str, result: str) -> None:
    values = {"stream": "btc", "streams": ["a", "b"], "received.date": "2026-11-23"}
    assert Template.parse(text, NAMES).render(values) == result


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, ""), (True, "true"), (5, "5"), (1.5, "1.5"), (["a", 1], "a,1"), (lambda: 7, "7")],
)
def test_values_become_text(value: object, text: str) -> None:
    assert Template.parse("[<stream>]", NAMES).render({"stream": value}) == f"[{text}]"


def test_fields_are_the_names_that_are_used() -> None:
    template = Template.parse("<stream>-<stream>-<<streams>>-<other>", NAMES)
    assert template.fields == {"stream"}
    assert not template.is_literal
    assert Template.parse("<<streams>>", NAMES).is_literal


def test_a_missing_value_is_an_error() -> None:
    with pytest.raises(KeyError):
        Template.parse("<stream>", NAMES).render({})


def test_a_near_miss_of_a_name_is_a_warning() -> None:
    assert Template.parse("<stream> <recieved.date>", NAMES).warnings == (
        "<recieved.date> is plain text here; did you mean <received.date>?",
    )
    assert Template.parse("<stream>", {"streams"}).warnings == (
        "<stream> is plain text here; did you mean <streams>?",
    )
    assert Template.parse("<STREAM>", {"stream"}).warnings
    assert not Template.parse("<b>bold</b> <stream>", NAMES).warnings


def test_what_came_from_the_environment_is_not_searched_for_placeholders_and_is_read_afresh() -> None:
    environ = {"TOKEN": "100%<stream>"}
    template = Template.parse(expand("<stream>?${TOKEN}", environ), NAMES)
    assert template.render({"stream": "btc"}) == "btc?100%<stream>"
    environ["TOKEN"] = "new"
    assert template.render({"stream": "btc"}) == "btc?new"
    assert repr(template) == "Template('<stream>?${TOKEN}')"


@given(st.text(alphabet="<>streamxy.%s ", max_size=40))
def test_any_text_renders_and_text_without_brackets_is_itself(text: str) -> None:
    template = Template.parse(text, {"stream"})
    rendered = template.render({"stream": "V"})
    if "<stream>" not in text:
        assert rendered == text


def test_a_text_that_is_one_placeholder_keeps_its_type() -> None:
    tree = {
        "op": "subscribe",
        "args": "<streams>",
        "id": "<counter>",
        "note": "n <streams>",
        "on": True,
        "x": [1, None],
    }
    template = TreeTemplate.parse(tree, NAMES)
    numbers = itertools.count(1)
    values = {"streams": ["a", "b"], "counter": lambda: next(numbers)}
    assert template.render(values) == {**tree, "args": ["a", "b"], "id": 1, "note": "n a,b"}
    assert template.render(values)["id"] == 2
    assert template.fields == {"streams", "counter"}


def test_placeholders_stand_in_keys_and_lists_too() -> None:
    template = TreeTemplate.parse({"<stream>": ["<stream>", {"<<stream>>": 1}]}, NAMES)
    assert template.render({"stream": "btc"}) == {"btc": ["btc", {"<stream>": 1}]}


@pytest.mark.parametrize("tree", ["ping", [], {}, 5, None, {"a": [1, "x"]}])
def test_a_tree_without_placeholders_is_itself(tree: Any) -> None:
    template = TreeTemplate.parse(tree, NAMES)
    assert template.is_literal
    assert template.render({}) == tree


def test_a_tree_reads_the_environment_afresh_and_does_not_show_it() -> None:
    environ = {"TOKEN": "canary"}
    template = TreeTemplate.parse({"token": expand("${TOKEN}", environ)}, NAMES)
    assert template.render({}) == {"token": "canary"}
    environ["TOKEN"] = "rotated"
    assert template.render({}) == {"token": "rotated"}
    assert "canary" not in repr(template)


@pytest.mark.parametrize("tree", [{1: "x"}, [float("nan")], float("inf"), {"a": object()}])
def test_what_json_cannot_express_is_refused(tree: object) -> None:
    with pytest.raises(ValueError, match="expected"):
        TreeTemplate.parse(tree, NAMES)


def test_templates_are_equal_by_what_they_say() -> None:
    assert Template.parse("<stream>", NAMES) == Template.parse("<stream>", {"stream"})
    assert Template.parse("<stream>", NAMES) != Template.parse("<stream>", {"other"})
    assert TreeTemplate.parse({"a": 1}, NAMES) != TreeTemplate.parse({"a": True}, NAMES)
    assert len({TreeTemplate.parse({"a": 1}, NAMES), TreeTemplate.parse({"a": 1}, NAMES)}) == 1
