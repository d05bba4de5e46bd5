"""The JSON Schema of a config file, for editors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from jetsocket_ingest.config.models import PipelineConfig
from jetsocket_ingest.config.types import DURATION_PATTERN, SIZE_PATTERN, format_duration, format_size

Node = dict[str, Any]

_INTERPOLATED: Node = {
    "type": "string",
    "pattern": r"\$\{",
    "description": "Text with ${NAME}, read at start.",
}
_OUTER = ("description", "default", "examples")


def json_schema(sink_models: Mapping[str, type[BaseModel]]) -> dict[str, Any]:
    """The schema of a whole file (draft 2020-12), with a branch for each sink type.

    Wherever something else than free text is expected, a text with `${…}` is allowed too, as the loader does.
    """
    definitions, branches = plain_schema(sink_models)
    definitions = {name: _tolerant(node) for name, node in definitions.items()}
    top = definitions.pop("PipelineConfig")
    sinks = top["properties"]["sinks"]
    kinds = {"description": "Which sink.", "enum": list(branches)}
    options = {
        "type": "object",
        "required": ["type"],
        "properties": {"type": _tolerant(kinds)},
        "allOf": [
            {
                "if": {"properties": {"type": {"const": kind}}, "required": ["type"]},
                "then": {"$ref": reference},
            }
            for kind, reference in branches.items()
        ],
    }
    sinks["patternProperties"] = dict.fromkeys(sinks["patternProperties"], options)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "jetsocket-ingest config",
        **top,
        "$defs": definitions,
    }


def plain_schema(sink_models: Mapping[str, type[BaseModel]]) -> tuple[dict[str, Node], dict[str, str]]:
    """Definitions by model name, as exact as the models, and a reference for each sink type."""
    models: list[type[BaseModel]] = [PipelineConfig, *dict.fromkeys(sink_models.values())]
    references, schema = models_json_schema([(model, "validation") for model in models])
    branches = {
        kind: references[(model, "validation")]["$ref"] for kind, model in sorted(sink_models.items())
    }
    return {name: _tidy(node) for name, node in schema["$defs"].items()}, branches


def _tidy(node: Any) -> Any:
    """Without pydantic's titles, and with defaults as a user would write them."""
    if isinstance(node, list):
        return [_tidy(item) for item in node]
    if not isinstance(node, dict):
        return node
    if "patternProperties" in node:
        node = {"additionalProperties": False, **node}
    tidy = {key: _tidy(item) for key, item in node.items() if not (key == "title" and isinstance(item, str))}
    default = tidy.get("default")
    if isinstance(default, dict) and "$ref" in tidy:
        del tidy["default"]  # the keys of the mapping show their own
    elif isinstance(default, (int, float)) and not isinstance(default, bool):
        if has_pattern(tidy, DURATION_PATTERN):
            tidy["default"] = format_duration(default)
        elif has_pattern(tidy, SIZE_PATTERN):
            tidy["default"] = format_size(int(default))
    return tidy


def has_pattern(node: Node, pattern: str) -> bool:
    """Whether a schema, or a branch of it, is a text of this pattern."""
    return node.get("pattern") == pattern or any(
        has_pattern(branch, pattern) for branch in node.get("anyOf", ())
    )


def _tolerant(node: Any) -> Any:
    if isinstance(node, list):
        return [_tolerant(item) for item in node]
    if not isinstance(node, dict):
        return node
    if (
        node.get("type") in ("integer", "number", "boolean")
        or "enum" in node
        or "const" in node
        or "pattern" in node
    ):
        outer = {key: node[key] for key in _OUTER if key in node}
        inner = {key: item for key, item in node.items() if key not in _OUTER}
        return {**outer, "anyOf": [inner, _INTERPOLATED]}
    # Names of keys are never interpolated.
    return {key: item if key == "propertyNames" else _below(key, item) for key, item in node.items()}


def _below(key: str, item: Any) -> Any:
    if key in ("properties", "patternProperties"):
        return {name: _tolerant(child) for name, child in item.items()}
    return _tolerant(item) if key in ("items", "additionalProperties", "anyOf", "oneOf", "allOf") else item
