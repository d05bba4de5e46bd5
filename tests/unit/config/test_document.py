"""YAML text → data and places; what would be misread is refused."""

from __future__ import annotations

import math

import pytest

from jetsocket_ingest.config import document
from jetsocket_ingest.errors import ConfigError


def refusals(text: str | bytes) -> list[str]:
    """Problems of a text, whether they stopped the parser or not."""
    try:
        return [problem.at("c.yaml") for problem in document.parse(text, "c.yaml").problems]
    except ConfigError as error:
        return error.problems


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no", "no"),
        ("on", "on"),
        ("Yes", "Yes"),
        ("12:30:45", "12:30:45"),
        ("2026-11-23", "2026-11-23"),
        ("1_000", "1_000"),
        ("0b11", "0b11"),
        ("=", "="),
        ("true", True),
        ("False", False),
        ("~", None),
        ("null", None),
        ("'null'", "null"),
        ("010", 10),
        ("0o17", 15),
        ("0x1F", 31),
        ("-7", -7),
        ("9007199254740993", 9007199254740993),
        ("1e3", 1000.0),
        (".5", 0.5),
        ("-.inf", -math.inf),
        ('"7"', "7"),
        ("!!str 7", "7"),
        ("<streams>", "<streams>"),
    ],
)
def test_scalars_are_read_by_the_core_schema_only(text: str, value: object) -> None:
    data = document.parse(f"key: {text}", "c.yaml").data
    assert data["key"] == value
    assert type(data["key"]) is type(value)


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        ("a: 1\nb: 2\na: 3", "3:1", "duplicate key a; it stands at 1:1 already"),
        ("a: {x: 1, 'x': 2}", "1:11", "duplicate key x"),
        ("a: {1: x, 0x1: y}", "1:11", "duplicate key 1"),
        ("a: &x {k: 1}\nb: {<<: *x, c: 1}", "2:5", "merge keys (<<) are not supported"),
        ("a: !env X", "1:4", "YAML tags"),
        ("a: !!python/object:os.system x", "1:4", "YAML tags"),
        ("a: !!binary aGk=", "1:4", "YAML tags"),
        ("{null: 1}", "1:2", "expected a name as key"),
        ("true: 1", "1:1", "expected a name as key"),
        ("1.5: 1", "1:1", "expected a name as key"),
        ("[a]: 1", "1:1", "found a list or mapping"),
        ("${A}: 1", "1:1", "works in values only"),
        ("a: {<streams>}", "1:5", 'put it in quotes, as in "{<streams>}"'),
        ("a: [<a>: b]", "1:5", 'put it in quotes, as in "<a>: b"'),
        ("a: ${B}\nb: {c: ${B}}", "2:9", "put a text with ${…} in quotes"),
        ("a: b: c", "1:5", "must be in quotes"),
        ("a: {b: $.c[0]}", "1:11", "must be in quotes here"),
        ("a:\n\t- b", "2:1", "indent with spaces"),
        ('a: "\\d"', "1:6", "write \\\\ for a backslash"),
        ("a: 'x", "1:6", "not valid YAML"),
        ("a: *x", "1:4", "expected an anchor"),
        ("a: &x [*x]", "1:8", "expected an anchor"),
        ("a: 1\n---\nb: 2", "2:1", "expected one YAML document"),
        ('a: "\\ud800"', "1:4", "half a character"),
        (f"a: {'9' * 101}", "1:4", "at most 100 digits"),
        (f"a: 0x{'f' * 5000}", "1:4", "at most 100 digits"),
        ("a: \x07", "1:4", "U+0007"),
        ('a: "\\UFFFFFFFF"', "1:7", "impossible number"),
        (b"a: 1\nb: \xc3\xa9\xff", "2:5", "expected UTF-8 text, found the byte 0xff"),
    ],
)
def test_what_yaml_would_misread_is_refused_with_its_place(text: str | bytes, place: str, words: str) -> None:
    found = refusals(text)
    assert len(found) == 1
    assert found[0].startswith(f"c.yaml:{place}: ")
    assert words in found[0]


@pytest.mark.parametrize("text", ["", "  \n", "# only a comment\n", b"\xef\xbb\xbf"])
def test_an_empty_file_is_refused(text: str | bytes) -> None:
    assert refusals(text) == ["c.yaml: expected a YAML document, found an empty file"]


def test_several_problems_are_told_in_one_go() -> None:
    found = refusals("a: !x 1\nb: {<<: {}}\nb: 2\nc: [\n")
    assert [line.split(":")[1] for line in found] == ["1", "2", "3", "5"]


def test_an_alias_bomb_is_refused_before_it_is_expanded() -> None:
    levels = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    levels += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 9)]
    assert "aliases that stand for at most 1000 values" in refusals("\n".join(levels))[-1]


def test_aliases_within_the_budget_are_expanded() -> None:
    assert document.parse("a: &x {k: [1]}\nb: *x", "c.yaml").data == {"a": {"k": [1]}, "b": {"k": [1]}}


@pytest.mark.parametrize("text", ["[" * 100_000, "- " * 100_000, "{a: " * 100_000, "? " * 1000])
def test_deep_nesting_is_refused(text: str) -> None:
    assert "at most 50 levels" in refusals(text)[0]


def test_deep_nesting_through_aliases_is_refused() -> None:
    text = f"a: &x {'[' * 40}{']' * 40}\nb: {'[' * 20}*x{']' * 20}"
    assert "at most 50 levels" in refusals(text)[0]


def test_fifty_levels_are_allowed() -> None:
    assert refusals("[" * 49 + "x" + "]" * 49) == []
    assert "at most 50 levels" in refusals("[" * 50 + "x" + "]" * 50)[0]


def test_too_many_values_are_refused() -> None:
    assert "at most 100000 values" in refusals("[" + "1," * 100_001 + "]")[0]


def test_a_large_file_is_refused_unread() -> None:
    assert "expected at most 4194304 bytes" in refusals("#" * (document.MAX_BYTES + 1))[0]


def test_secrets_that_look_like_yaml_are_not_quoted_in_messages() -> None:
    for text in ("password: *canary", "password: !canary", "password: &canary [*canary]"):
        assert "canary" not in refusals(text)[0]


def test_places_of_values_and_keys_are_known() -> None:
    parsed = document.parse("a:\n  b: [x, {c: 1}]\n", "c.yaml")
    assert parsed.place(("a", "b", 1, "c")) == (2, 14)
    assert parsed.place(("a", "b", 1, "c"), of_key=True) == (2, 11)
    assert parsed.place(("a", "nowhere")) == (2, 3)
    assert parsed.place(("a", "nowhere"), of_key=True) == (1, 1)
