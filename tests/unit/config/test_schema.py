"""The JSON Schema for editors, and the reference for people."""

from __future__ import annotations

import json
import re
from typing import Any

import jsonschema
import pytest
import yaml

from jetsocket_ingest.config.reference import reference
from jetsocket_ingest.config.schema import json_schema
from tests.unit.config.examples import GOOD, SINKS, edited

SCHEMA = json_schema(SINKS)


def errors(text: str) -> list[str]:
    # JSON knows only texts as keys, as editors do.
    data = json.loads(json.dumps(yaml.safe_load(text)))
    return [error.message for error in jsonschema.Draft202012Validator(SCHEMA).iter_errors(data)]


def test_the_schema_is_one_and_is_the_same_each_time() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert json.dumps(json_schema(SINKS)) == json.dumps(SCHEMA)
    assert SCHEMA["$schema"] == "https://json-schema.org/draft/2020-12/schema"


@pytest.mark.parametrize(
    "change",
    [
        ("name: ticks", "name: ticks\nshutdown_timeout: 1h 30m"),
        (
            "name: ticks",
            "name: ${NAME}\nshutdown_timeout: ${T}\nlimits: {max_connections: '${N:-5}'}\non_failure: ${F}",
        ),
        (
            "  desk:\n",
            "  desk:\n    max_message_size: 64 MiB\n    compression: ${C}\n    policy: {http_status: {403: fatal}}\n",
        ),
        (
            "  desk:\n",
            "  desk:\n    max_message_size: 65536\n    ping: {every: null}\n    headers: {X: '${T}'}\n",
        ),
        (
            "{stream: $.topic}",
            "{stream: $.topic, match: {$.a: 1, $.b: {in: [x, null]}, $.c: {exists: true}}}",
        ),
        ("message: {op: subscribe, args: <streams>}", "message: '<streams>'"),
        ('{type: "null"}', "{type: vault, password: x, port: '${P}', batch: {max_age: 5ms}}"),
        ('{type: "null"}', "{type: '${SINK}'}"),
        ("name: ticks", "name: ticks\nadmin: null"),
    ],
)
def test_what_loads_is_valid(change: tuple[str, str]) -> None:
    assert errors(GOOD) == []
    assert errors(edited(change)) == []


@pytest.mark.parametrize(
    "change",
    [
        ("name: ticks", "name: ticks\nnme: x"),
        ("name: ticks", "name: Ticks!"),
        ("name: ticks", "name: ticks\nshutdown_timeout: 5"),
        ("name: ticks", "name: ticks\nshutdown_timeout: soon"),
        ("name: ticks", "name: ticks\non_failure: explode"),
        ("version: 1", "version: 2"),
        ("    url: wss://feed.example.com/ws\n", ""),
        ("  desk:\n", "  'bad name':\n"),
        ("  desk:\n", "  desk:\n    compression: 'no'\n"),
        ("{stream: $.topic}", "{stream: topic}"),
        ("{stream: $.topic}", "{match: {topic: 1}}"),
        ("{stream: $.topic}", "{match: {$.topic: {exist: true}}}"),
        ('{type: "null"}', "{type: nul}"),
        ('{type: "null"}', "{}"),
        ('{type: "null"}', "{type: vault}"),
        ('{type: "null"}', '{type: "null", password: x}'),
        ('{type: "null"}', '{type: "null", encoding: xml}'),
    ],
)
def test_what_does_not_load_is_invalid(change: tuple[str, str]) -> None:
    assert errors(edited(change))


def properties(node: Any) -> list[tuple[str, dict[str, Any]]]:
    if isinstance(node, list):
        return [found for item in node for found in properties(item)]
    if not isinstance(node, dict):
        return []
    own = list(node["properties"].items()) if isinstance(node.get("properties"), dict) else []
    return [*own, *(found for item in node.values() for found in properties(item))]


def test_every_key_shows_what_it_is_for_in_an_editor() -> None:
    found = [(name, node) for name, node in properties(SCHEMA) if "const" not in node]
    assert len(found) > 80
    unknown = [
        name for name, node in found if not node.get("description") and not _target(node).get("description")
    ]
    assert unknown == []


def _target(node: dict[str, Any]) -> dict[str, Any]:
    target: dict[str, Any] = SCHEMA["$defs"].get(node.get("$ref", "").rpartition("/")[2], {})
    return target


def test_defaults_are_shown_as_a_user_writes_them() -> None:
    assert SCHEMA["properties"]["shutdown_timeout"]["default"] == "30s"
    assert SCHEMA["$defs"]["Endpoint"]["properties"]["max_message_size"]["default"] == "16MiB"


def test_the_reference_names_every_key_once_for_each_mapping() -> None:
    text = reference(SINKS)
    assert text == reference(SINKS)
    assert "| `shutdown_timeout` | duration | `30s` |" in text
    assert "| `url` | text | required |" in text
    assert "| `headers` | mapping of secret |" in text
    assert "## sinks.NAME, type: vault" in text
    assert "| `password` | secret | required |" in text
    headings = re.findall(r"^## .*$", text, re.MULTILINE)
    assert len(headings) == len(set(headings)) > 20
    for line in text.splitlines():
        if line.startswith("| `"):
            assert len(re.split(r"(?<!\\)\|", line)) == 6, line
