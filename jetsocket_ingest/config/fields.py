"""Field types that endpoints and sessions share: names, template texts and trees."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import AfterValidator, Field, GetCoreSchemaHandler, GetJsonSchemaHandler, WrapValidator
from pydantic.functional_serializers import PlainSerializer
from pydantic_core import CoreSchema, core_schema

from jetsocket_ingest.config.placeholders import FUNCTIONS, Template, TreeTemplate
from jetsocket_ingest.config.types import Interpolated, shown

SUBSCRIBE_NAMES = frozenset({"streams", "stream", "request_id"}) | FUNCTIONS
"""Placeholders of subscribe and unsubscribe messages."""
HEARTBEAT_NAMES = frozenset({"request_id"}) | FUNCTIONS
PATH_NAMES = frozenset({"stream"})

PipelineName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$")]
"""The name of an endpoint, subscription or sink: it stands in metrics, paths and topics."""

Text = Annotated[str, Field(min_length=1)]


def _keep(value: Any, inner: Callable[[Any], str]) -> str:
    text = inner(value)
    return value if isinstance(value, Interpolated) else text


KeptText = Annotated[str, WrapValidator(_keep), PlainSerializer(shown)]
"""Text that stays `Interpolated`, so that it shows as written and `current` resolves it afresh."""


def _check_placeholders(fields: Collection[str], allowed: Collection[str]) -> None:
    strange = sorted(set(fields) - set(allowed))
    if strange:
        known = ", ".join(f"<{name}>" for name in sorted(allowed))
        raise ValueError(
            f"<{strange[0]}> has no value here, where these have: {known}; write <<{strange[0]}>> for the text"
        )


@dataclass(frozen=True, slots=True)
class TextOf:
    """Annotation of a `Template`: the names it may use."""

    names: frozenset[str]

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            self._validate,
            serialization=core_schema.plain_serializer_function_ser_schema(lambda template: template.source),
        )

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {"type": "string"}

    def _validate(self, value: object) -> Template:
        if isinstance(value, Template):
            return value
        if not isinstance(value, str):
            raise ValueError(f"expected text, found {value!r}; put it in quotes")
        template = Template.parse(value, SUBSCRIBE_NAMES | self.names)
        _check_placeholders(template.fields, self.names)
        return template


@dataclass(frozen=True, slots=True)
class TreeOf:
    """Annotation of a `TreeTemplate`: the names it may use."""

    names: frozenset[str]

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            self._validate,
            serialization=core_schema.plain_serializer_function_ser_schema(
                lambda template: shown(template.source)
            ),
        )

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {"type": ["object", "array", "string"]}

    def _validate(self, value: object) -> TreeTemplate:
        if isinstance(value, TreeTemplate):
            return value
        if not isinstance(value, (dict, list, str)) or not value:
            raise ValueError(f"expected a JSON object, list or text to send, found {value!r}")
        template = TreeTemplate.parse(value, SUBSCRIBE_NAMES | self.names)
        _check_placeholders(template.fields, self.names)
        return template


def _unique(items: list[str]) -> list[str]:
    seen: set[str] = set()
    for item in items:
        if item in seen:
            raise ValueError(f"expected each entry once, found {item!r} twice")
        seen.add(item)
    return items


UniqueTexts = Annotated[list[Text], AfterValidator(_unique)]
