"""Paths into JSON values: the name and index selectors of JSONPath (RFC 9535), and `[*]` where it is asked for."""

from __future__ import annotations

import re
from enum import Enum
from typing import Any, Final

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, core_schema


class _Sentinel(Enum):
    MISSING = "MISSING"
    EVERY = "[*]"

    def __repr__(self) -> str:
        return self.value


MISSING: Final = _Sentinel.MISSING
"""What `Path.find` returns where there is nothing."""
EVERY: Final = _Sentinel.EVERY
"""The part of a path that stands for `[*]`."""

Part = str | int | _Sentinel

_NAME = re.compile(r"[A-Za-z_\u0080-\U0010FFFF][A-Za-z0-9_\u0080-\U0010FFFF]*")
_INDEX = re.compile(r"0|-?[1-9][0-9]{0,14}")
_SPACE = re.compile(r"[ \t\r\n]*")
_STRING = {
    "'": re.compile(r"'((?:[^'\\\x00-\x1f]|\\.)*)'"),
    '"': re.compile(r'"((?:[^"\\\x00-\x1f]|\\.)*)"'),
}
_ESCAPE = re.compile(r"\\(u[0-9A-Fa-f]{4}|.)")
_SHORT = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "/": "/", "\\": "\\"}


class Path:
    """A parsed path.

    Attributes:
        source: the path as written.
        parts: a str for a name, an int for an index (negative ones count from the end), EVERY for `[*]`.
    """

    __slots__ = ("parts", "source")

    def __init__(self, source: str, parts: tuple[Part, ...]) -> None:
        self.source = source
        self.parts = parts

    @classmethod
    def parse(cls, text: str, *, wildcard: bool = False) -> Path:
        """`$.a.b[0]['x y']`; `[*]` and `.*` only where `wildcard`. ValueError naming the column otherwise."""
        if not text.startswith("$"):
            raise ValueError(f"expected a path that begins with $, such as $.data.id, found {_show(text)}")
        parts: list[Part] = []
        at = 1
        while at < len(text):
            start = at
            part, at = _segment(text, at)
            if part is EVERY and not wildcard:
                raise _error(text, start, "one value is needed here, so [*] and .* cannot be used")
            parts.append(part)
        return cls(text, tuple(parts))

    def find(self, value: Any) -> Any:
        """What stands at the path in a decoded JSON value, else MISSING. Needs a path without EVERY."""
        for part in self.parts:
            if part.__class__ is str:
                if not isinstance(value, dict) or part not in value:
                    return MISSING
                value = value[part]
            elif part.__class__ is int:
                if not isinstance(value, list) or not -len(value) <= part < len(value):
                    return MISSING
                value = value[part]
            else:
                raise ValueError(f"{self.source} stands for many values: use find_all")
        return value

    def find_all(self, value: Any) -> list[Any]:
        """Everything at the path, in order; EVERY takes all items of a list and all values of an object."""
        found = [value]
        for part in self.parts:
            if part is EVERY:
                found = [item for one in found for item in _children(one)]
            else:
                step = Path(self.source, (part,))
                found = [item for one in found if (item := step.find(one)) is not MISSING]
        return found

    def __eq__(self, other: object) -> bool:
        return self.parts == other.parts if isinstance(other, Path) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.parts)

    def __str__(self) -> str:
        return self.source

    def __repr__(self) -> str:
        return f"Path({self.source!r})"

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            cls._validate,
            serialization=core_schema.plain_serializer_function_ser_schema(str),
        )

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {"type": "string", "pattern": r"^\$", "examples": ["$.data.id"]}

    @classmethod
    def _validate(cls, value: object) -> Path:
        if isinstance(value, Path):
            return value
        if isinstance(value, str):
            return cls.parse(value)
        raise ValueError(f"expected a path such as $.data.id, found {_show(value)}")


def _children(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []


def _segment(text: str, at: int) -> tuple[Part, int]:
    """The part that begins at `at`, and where the next one begins."""
    if text[at] == ".":
        if text.startswith("*", at + 1):
            return EVERY, at + 2
        name = _NAME.match(text, at + 1)
        if name is None:
            raise _error(text, at + 1, "expected a name; one with other characters is written as ['a-b']")
        return name[0], name.end()
    if text[at] != "[":
        raise _error(text, at, "expected . or [")
    at = _skip(text, at + 1)
    selector: Part
    if text.startswith("*", at):
        selector, at = EVERY, at + 1
    elif text[at : at + 1] in _STRING:
        selector, at = _string(text, at)
    elif (index := _INDEX.match(text, at)) is not None:
        selector, at = int(index[0]), index.end()
    else:
        raise _error(text, at, "expected an index, or a name in quotes")
    at = _skip(text, at)
    if not text.startswith("]", at):
        raise _error(text, at, "expected ]")
    return selector, at + 1


def _skip(text: str, at: int) -> int:
    space = _SPACE.match(text, at)
    return space.end() if space else at


def _string(text: str, at: int) -> tuple[str, int]:
    quote = text[at]
    literal = _STRING[quote].match(text, at)
    if literal is None:
        raise _error(text, at, f"expected a name that ends with {quote}")
    name = _ESCAPE.sub(lambda found: _unescape(found, quote, text, literal.start(1)), literal[1])
    try:
        # Two \u escapes may be one character beyond U+FFFF.
        return name.encode("utf-16", "surrogatepass").decode("utf-16"), literal.end()
    except UnicodeDecodeError:
        raise _error(text, at, "expected \\u escapes in valid pairs") from None


def _unescape(found: re.Match[str], quote: str, text: str, offset: int) -> str:
    code = found[1]
    if len(code) > 1:
        return chr(int(code[1:], 16))
    if code == quote:
        return quote
    if code not in _SHORT:
        raise _error(text, offset + found.start(), "expected one of the escapes of JSON")
    return _SHORT[code]


def _error(text: str, at: int, expected: str) -> ValueError:
    found = f"found {_show(text[at:])}" if at < len(text) else "found the end"
    return ValueError(f"{expected}, {found} at column {at + 1} of {_show(text)}")


def _show(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"
