"""Matching of decoded JSON values: path, equality, regular expression, presence; never an expression."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationInfo
from pydantic_core import CoreSchema, core_schema

from jetsocket_ingest.config.paths import MISSING, Path
from jetsocket_ingest.config.types import Interpolated, shown

_Test = Callable[[Any], bool]
_KEYS = "exists, regex, in"


class Condition:
    """What one path must hold: a scalar (equals), or `{exists: …}`, `{regex: …}`, `{in: […]}`, together if several.

    Attributes:
        source: the condition as written.
    """

    __slots__ = ("_tests", "source")

    def __init__(self, source: object, tests: tuple[_Test, ...]) -> None:
        self.source = source
        self._tests = tests

    @classmethod
    def parse(cls, source: object) -> Condition:
        """ValueError where it is none."""
        if isinstance(source, Condition):
            return source
        if isinstance(source, list):
            raise ValueError(
                "expected one value or {in: [...]}, found a list; write {in: [...]} for any of several"
            )
        if not isinstance(source, Mapping):
            return cls(source, (_equals(source),))
        if not source:
            raise ValueError(f"expected a value, or a mapping with {_KEYS}, found an empty mapping")
        return cls(source, tuple(_test(key, argument) for key, argument in source.items()))

    def holds(self, value: Any) -> bool:
        """Whether a value, or MISSING, fulfils it."""
        return all(test(value) for test in self._tests)

    def __repr__(self) -> str:
        return f"Condition({self.source!r})"


class Match:
    """A set of conditions that must all hold.

    Attributes:
        conditions: path → condition.
    """

    __slots__ = ("conditions",)

    def __init__(self, conditions: Mapping[Path, Condition]) -> None:
        if not conditions:
            raise ValueError("expected at least one condition, such as {$.op: subscribe}, found none")
        self.conditions = dict(conditions)

    @classmethod
    def parse(cls, source: Mapping[str, object]) -> Match:
        """`{"$.op": "subscribe", "$.ok": {"exists": True}}`. ValueError where a path or condition is none."""
        return cls({Path.parse(path): Condition.parse(condition) for path, condition in source.items()})

    def matches(self, value: Any) -> bool:
        """Whether a decoded JSON value fulfils every condition. A text that is not JSON is a string at `$`."""
        return all(condition.holds(path.find(value)) for path, condition in self.conditions.items())

    @property
    def source(self) -> dict[str, object]:
        """The conditions as written."""
        return {path.source: condition.source for path, condition in self.conditions.items()}

    def __eq__(self, other: object) -> bool:
        # `repr` tells 1 from True, which compare as equal.
        return repr(self) == repr(other) if isinstance(other, Match) else NotImplemented

    def __hash__(self) -> int:
        return hash(repr(self))

    def __repr__(self) -> str:
        return f"Match({self.source!r})"

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        # A mapping of validators, so that each wrong path or condition is an error with a place of its own.
        mapping = core_schema.dict_schema(
            keys_schema=handler.generate_schema(Path),
            values_schema=core_schema.no_info_plain_validator_function(Condition.parse),
        )
        return core_schema.with_info_wrap_validator_function(
            cls._validate,
            mapping,
            serialization=core_schema.plain_serializer_function_ser_schema(lambda match: shown(match.source)),
        )

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        scalar: dict[str, Any] = {"type": ["string", "number", "boolean", "null"]}
        tests = {
            "exists": {"type": "boolean", "description": "Whether there must be something at the path."},
            "regex": {
                "type": "string",
                "description": "A regular expression found anywhere in the text there.",
            },
            "in": {"type": "array", "items": scalar, "minItems": 1, "description": "Any of these values."},
        }
        condition = {"type": "object", "properties": tests, "additionalProperties": False, "minProperties": 1}
        return {
            "type": "object",
            "minProperties": 1,
            "propertyNames": {"pattern": r"^\$"},
            "additionalProperties": {"anyOf": [scalar, condition]},
            "examples": [{"$.op": "subscribe"}],
        }

    @classmethod
    def _validate(
        cls, value: Any, inner: Callable[[Any], dict[Path, Condition]], info: ValidationInfo
    ) -> Match:
        return value if isinstance(value, Match) else cls(inner(value))


def _equals(expected: object) -> _Test:
    if isinstance(expected, bool) or expected is None:
        return lambda value: value is expected
    if isinstance(expected, (int, float)):
        return lambda value: value == expected and not isinstance(value, bool)
    text = str(expected)
    return lambda value: isinstance(value, str) and value == text


def _test(key: object, argument: object) -> _Test:
    if key == "exists":
        return _exists(argument)
    if key == "regex":
        return _regex(argument)
    if key == "in":
        return _any_of(argument)
    raise ValueError(f"expected {_KEYS}, found the key {key!r}")


def _exists(argument: object) -> _Test:
    if not isinstance(argument, bool):
        raise ValueError(f"exists: expected true or false, found {argument!r}")
    return lambda value: (value is not MISSING) is argument


def _regex(argument: object) -> _Test:
    if not isinstance(argument, str):
        raise ValueError(f"regex: expected a regular expression as text, found {argument!r}")
    try:
        pattern = re.compile(str(argument))
    except (re.error, RecursionError, OverflowError) as error:
        # The parser's words quote the pattern, which may have come from the environment.
        reason = "it is not one" if isinstance(argument, Interpolated) else error
        raise ValueError(f"regex: expected a regular expression, found {argument!r}: {reason}") from None
    return lambda value: isinstance(value, str) and pattern.search(value) is not None


def _any_of(argument: object) -> _Test:
    if not isinstance(argument, list) or not argument:
        raise ValueError(f"in: expected a list of values, found {argument!r}")
    if any(isinstance(item, (list, Mapping)) for item in argument):
        raise ValueError("in: expected single values in the list, found a list or mapping")
    tests = [_equals(item) for item in argument]
    return lambda value: any(test(value) for test in tests)
