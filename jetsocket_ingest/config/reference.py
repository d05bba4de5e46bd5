"""The reference of all keys, written from the models."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel

from jetsocket_ingest.config.schema import Node, has_pattern, plain_schema
from jetsocket_ingest.config.types import DURATION_PATTERN, SIZE_PATTERN

_INTRODUCTION = """\
# Configuration

<!-- Written from the models by `jetsocket_ingest.config.reference`. Change the descriptions there. -->

A config is one YAML file. Unknown keys, duplicate keys and values of another type are errors; all errors are
reported at once, each with file, line and column.

| form | written as |
|---|---|
| duration | a number with its unit: `250ms`, `20s`, `5m`, `1h30m`, `1d` |
| size | a number of bytes, or with a unit: `64KiB`, `4MiB`, `1GB` |
| path | JSONPath names and indices: `$.data.id`, `$.items[0]`, `$['a b']` |
| match | a mapping of paths to a value (equals), `{exists: true}`, `{regex: "^a"}` or `{in: [a, b]}`; all must hold |
| secret | text that never prints |
| template | text, or for messages a whole JSON tree, with placeholders such as `<stream>`; `<<stream>>` stands for the text |

Any value may hold `${NAME}`, `${NAME:-default}` or `${file:/run/secrets/token}`. They are read from the environment
or the file after the YAML is parsed; a secret is read again at each connect. `$${` stands for the text `${`.

Placeholders of messages: `<streams>` (a list), `<stream>`, `<request_id>`, and the functions `<now_s>`, `<now_ms>`,
`<now_iso>`, `<uuid>` and `<counter>`. A value that is exactly one placeholder keeps the type of what replaces it.
"""


def reference(sink_models: Mapping[str, type[BaseModel]]) -> str:
    """The text of docs/configuration.md: a table of key, type, default and description for each mapping."""
    definitions, branches = plain_schema(sink_models)
    writer = _Writer(definitions)
    parts = [_INTRODUCTION, *writer.section("The file", "", definitions["PipelineConfig"])]
    sinks = {kind: writer.resolve({"$ref": target}) for kind, target in branches.items()}
    common = _common_keys([sink["properties"] for sink in sinks.values()])
    if common:
        every = {
            "description": "Keys that mean the same for every sink.",
            "properties": common,
            "required": ["type"],
        }
        parts += writer.section("sinks.NAME", "sinks.NAME", every)
    for kind, sink in sinks.items():
        own = {key: node for key, node in sink["properties"].items() if key not in common}
        parts += writer.section("sinks.NAME", "sinks.NAME", {**sink, "properties": own}, f", type: {kind}")
    return "\n".join(parts)


def _common_keys(models: list[Node]) -> Node:
    """Keys that are the same in all of several models."""
    if len(models) < 2:
        return {}
    return {
        key: node for key, node in models[0].items() if all(model.get(key) == node for model in models[1:])
    }


_FORMS = {DURATION_PATTERN: "duration", SIZE_PATTERN: "size", r"^\$": "path"}


class _Writer:
    def __init__(self, definitions: Mapping[str, Node]) -> None:
        self.definitions = definitions
        self.written: dict[str, str] = {}

    def resolve(self, node: Node) -> Node:
        return self.definitions[node["$ref"].rpartition("/")[2]]

    def section(self, title: str, path: str, model: Node, suffix: str = "") -> list[str]:
        """The model's table, then those of the mappings in it that were not written yet."""
        rows, below = [], []
        for key, node in model.get("properties", {}).items():
            seen_at = ""
            for target, where in self._mappings(node, f"{path}.{key}" if path else key):
                if target not in self.written:
                    self.written[target] = where + suffix
                    below.append((where, target))
                seen_at = self.written[target]
            default = "required" if key in model.get("required", ()) else _default(node)
            kind = self._words(node) + (f", see `{seen_at}`" if seen_at else "")
            rows.append(f"| `{key}` | {kind} | {default} | {_cell(self._about(node))} |")
        table = ["| key | type | default | description |", "|---|---|---|---|", *rows, ""] if rows else []
        parts = ["\n".join([f"## {title}{suffix}", "", *_paragraph(model), *table])]
        for where, target in below:
            parts += self.section(where, where, self.definitions[target], suffix)
        return parts

    def _mappings(self, node: Node, path: str) -> Iterator[tuple[str, str]]:
        """Models that stand at a key or below its names."""
        if "$ref" in node:
            target = node["$ref"].rpartition("/")[2]
            # Sinks have sections of their own, by type.
            if target != "ConfigModel":
                yield target, path
        for branch in node.get("anyOf", ()):
            yield from self._mappings(branch, path)
        for child in _values(node):
            yield from self._mappings(child, f"{path}.NAME")

    def _about(self, node: Node) -> str:
        # Pydantic leaves a description out where it is the same as the mapping's own.
        return str(
            node.get("description") or (self.resolve(node).get("description", "") if "$ref" in node else "")
        )

    def _words(self, node: Node) -> str:
        for pattern, words in _FORMS.items():
            if node.get("pattern") == pattern or node.get("propertyNames", {}).get("pattern") == pattern:
                return words if "pattern" in node else "match"
        if "anyOf" in node:
            size = has_pattern(node, SIZE_PATTERN)
            return "size" if size else " or ".join(dict.fromkeys(self._words(one) for one in node["anyOf"]))
        if "enum" in node or "const" in node:
            return ", ".join(f"`{value}`" for value in node.get("enum", [node.get("const")]))
        if "$ref" in node:
            return "mapping"
        return "secret" if node.get("writeOnly") else self._plain_words(node)

    def _plain_words(self, node: Node) -> str:
        kind = node.get("type")
        if kind == "array":
            return f"list of {self._words(node.get('items', {}))}"
        if kind == "object" and _values(node):
            return f"mapping of {self._words(_values(node)[0])}"
        if isinstance(kind, list):
            return "template"
        words = {"string": "text", "integer": "whole number", "boolean": "true or false", "null": "null"}
        return words.get(str(kind), str(kind or "anything")) + _range(node)


def _values(node: Node) -> list[Node]:
    """Schemas of the values of a mapping with free names."""
    free = node.get("additionalProperties")
    return [*node.get("patternProperties", {}).values(), *([free] if isinstance(free, dict) else [])]


def _range(node: Node) -> str:
    least, most = node.get("minimum"), node.get("maximum")
    if least is not None and most is not None:
        return f", {least} to {most}"
    return f", at least {least}" if least is not None else ""


def _default(node: Node) -> str:
    if "default" not in node:
        return ""
    default: Any = node["default"]
    return f"`{default}`" if isinstance(default, str) else f"`{json.dumps(default)}`"


def _paragraph(model: Node) -> list[str]:
    return [" ".join(model["description"].split()), ""] if model.get("description") else []


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
