"""Value types of the config: durations, sizes, secrets, interpolated text, and the base of all models."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Annotated, Any, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    ValidationInfo,
    WithJsonSchema,
)
from pydantic_core import CoreSchema, core_schema

FROM_FILE = {"from_file": True}
"""Validation context of values that were read from a file, where a duration must carry its unit."""


class ConfigModel(BaseModel):
    """Base of every model: unknown keys are errors, no silent conversion, values do not change or show in errors."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, hide_input_in_errors=True)


class Contradictions(ValueError):
    """Problems that a model's validator finds between its keys, each with the keys it concerns.

    `wrong = Contradictions()`, then `wrong.add("path", "…")` for each, then `wrong.settle()`.
    """

    def __init__(self) -> None:
        self.found: list[tuple[tuple[str | int, ...], str]] = []

    def add(self, keys: str | tuple[str | int, ...], message: str) -> None:
        """`keys`: a key of the model, or the way to a nested one."""
        self.found.append(((keys,) if isinstance(keys, str) else keys, message))

    def settle(self) -> None:
        """Raise if anything was added."""
        if self.found:
            raise self

    def __str__(self) -> str:
        return "; ".join(f"{'.'.join(map(str, keys))}: {message}" for keys, message in self.found)


_LONGEST = 64
"""Characters of a duration or size that are looked at: more is a mistake, and costs time to search."""
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)", re.ASCII)
_SECONDS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(B|kB|KB|MB|GB|KiB|MiB|GiB)", re.ASCII)
_BYTES = {
    "B": 1,
    "kB": 10**3,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
}

DURATION_PATTERN = r"^\s*([0-9]+(\.[0-9]+)?\s*(ms|s|m|h|d)\s*)+$"
SIZE_PATTERN = r"^\s*[0-9]+(\.[0-9]+)?\s*(B|kB|KB|MB|GB|KiB|MiB|GiB)\s*$"


def parse_duration(value: object) -> float:
    """`300s`, `1.5h`, `1h30m`, `250ms` → seconds. ValueError for anything else, a bare number too."""
    if not isinstance(value, str):
        raise ValueError(
            f"expected a duration with its unit, such as 300s, 5m, 1h30m or 250ms, found {_show(value)}"
        )
    text = value.strip()
    parts = _DURATION.findall(text) if len(text) <= _LONGEST else []
    if not parts or _DURATION.sub("", text).strip():
        raise ValueError(f"expected a duration such as 300s, 5m, 1h30m or 250ms, found {_show(value)}")
    return math.fsum(float(number) * _SECONDS[unit] for number, unit in parts)


def parse_size(value: object) -> int:
    """`4KiB`, `64 MiB`, `1.5GB`, or a plain number of bytes → bytes."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    text = value.strip() if isinstance(value, str) else ""
    match = _SIZE.fullmatch(text) if len(text) <= _LONGEST else None
    if match is None:
        raise ValueError(f"expected a size such as 4KiB, 64MiB or a number of bytes, found {_show(value)}")
    return int(float(match[1]) * _BYTES[match[2]])


def format_duration(seconds: float) -> str:
    """Seconds as a user would write them: `300s`, `1h`, `250ms`."""
    for unit in ("d", "h", "s", "ms"):
        count = round(seconds / _SECONDS[unit], 6)
        if count >= 1 and count.is_integer():
            return f"{int(count)}{unit}"
    return f"{seconds:g}s"


def format_size(size: int) -> str:
    """Bytes as a user would write them: `64KiB`, or the plain number where no unit divides it."""
    for unit in ("GiB", "MiB", "KiB"):
        if size and size % _BYTES[unit] == 0:
            return f"{size // _BYTES[unit]}{unit}"
    return str(size)


def _show(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def _duration(value: object, info: ValidationInfo) -> float:
    # Python callers give seconds as a number; in a file a number without a unit is ambiguous.
    if isinstance(value, float) and math.isfinite(value) and not (info.context or {}).get("from_file"):
        return value
    return parse_duration(value)


Duration = Annotated[
    float,
    BeforeValidator(_duration),
    WithJsonSchema({"type": "string", "pattern": DURATION_PATTERN, "examples": ["300s", "1h30m"]}),
]
"""Seconds, written with a unit. A bare float (as in Python code) is taken as seconds."""

ByteSize = Annotated[
    int,
    BeforeValidator(parse_size),
    WithJsonSchema(
        {
            "anyOf": [{"type": "integer", "minimum": 0}, {"type": "string", "pattern": SIZE_PATTERN}],
            "examples": ["64MiB"],
        }
    ),
]
"""Bytes."""


class Interpolated(str):
    """A config text with `${…}` in it. It equals the text as resolved at load, shows as it was written, and can be
    resolved afresh.

    Attributes:
        source: the text as written, `${…}` and all: safe to show.
        pieces: literal text, and a function for each `${…}`.
    """

    __slots__ = ("pieces", "source")

    source: str
    pieces: tuple[str | Callable[[], str], ...]

    def __new__(cls, source: str, pieces: tuple[str | Callable[[], str], ...]) -> Self:
        self = super().__new__(cls, _join(pieces))
        self.source = source
        self.pieces = pieces
        return self

    def resolve(self) -> str:
        """The text as of now. Raises OperatorError where a variable or file it comes from cannot be read any more."""
        return _join(self.pieces)

    def __repr__(self) -> str:
        return repr(self.source)


def _join(pieces: tuple[str | Callable[[], str], ...]) -> str:
    return "".join([piece if isinstance(piece, str) else piece() for piece in pieces])


def shown(tree: Any) -> Any:
    """A text, or a tree of dicts, lists and scalars, as it was written: what came out of `${…}` is not in it."""
    if isinstance(tree, dict):
        return {key: shown(item) for key, item in tree.items()}
    if isinstance(tree, list):
        return [shown(item) for item in tree]
    return tree.source if isinstance(tree, Interpolated) else tree


def current(text: str) -> str:
    """The text as of now: resolved afresh where it came from `${…}`, else itself."""
    return text.resolve() if isinstance(text, Interpolated) else text


class Secret:
    """A value that never prints. `reveal` reads it afresh, so that a rotated secret file is seen at the next connect."""

    __slots__ = ("_resolve",)

    def __init__(self, value: str) -> None:
        self._resolve: Callable[[], str] = value.resolve if isinstance(value, Interpolated) else lambda: value

    def reveal(self) -> str:
        """The value. Raises OperatorError where a file it comes from cannot be read any more."""
        return self._resolve()

    def __repr__(self) -> str:
        return "Secret('***')"

    __str__ = __repr__

    def __reduce__(self) -> Any:
        raise TypeError("a Secret cannot be pickled or copied out")

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            cls._validate,
            serialization=core_schema.plain_serializer_function_ser_schema(lambda _: "***"),
        )

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {"type": "string", "writeOnly": True}

    @classmethod
    def _validate(cls, value: object) -> Secret:
        if isinstance(value, Secret):
            return value
        if isinstance(value, str):
            return cls(value)
        # The value itself must not appear in the message.
        if isinstance(value, (dict, list)):
            raise ValueError(f"expected text, found a {'list' if isinstance(value, list) else 'mapping'}")
        raise ValueError(
            f"expected text, found {'nothing' if value is None else 'something else'}; put it in quotes"
        )
