"""A log event as one line of text: JSON for machines, columns for people. Pure, and safe with any value."""

from __future__ import annotations

import json
import math
import sys
import traceback
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

LONGEST_TEXT = 4096
MOST_ITEMS = 100
DEEPEST = 6
LONGEST_TRACE = 16_384
"""What a value may take of a line: a log is no place for a payload of megabytes, nor for a cycle."""

_RESET = "\x1b[0m"
_DIM = "\x1b[2m"
_BOLD = "\x1b[1m"
_KEY = "\x1b[36m"
_LEVEL_COLOURS = {
    "debug": _DIM,
    "info": "\x1b[32m",
    "warning": "\x1b[33m",
    "error": "\x1b[31m",
    "critical": "\x1b[1;31m",
}


def json_line(at: float, level: str, event: str, facts: Mapping[str, Any]) -> str:
    """One JSON object in ASCII: `ts` (ISO 8601, UTC), `level`, `event`, then the facts in their order.

    A fact that is called like one of the three gets an underscore behind its name. `at` is in seconds since 1970.
    """
    line: dict[str, object] = {
        "ts": _moment(at).isoformat(timespec="microseconds").replace("+00:00", "Z"),
        "level": level,
        "event": event,
    }
    for name, value in facts.items():
        shown = value if name == "exception" and isinstance(value, str) else plain(value)
        line[f"{name}_" if name in ("ts", "level", "event") else name] = shown
    return json.dumps(line, ensure_ascii=True, allow_nan=False, separators=(", ", ": "))


def console_line(at: float, level: str, event: str, facts: Mapping[str, Any], *, colour: bool) -> str:
    """Time (UTC), level, event and `name=value`; a traceback (`exception`) follows on indented lines."""
    dim, level_colour, reset = (_DIM, _LEVEL_COLOURS.get(level, ""), _RESET) if colour else ("", "", "")
    moment = _moment(at)
    time = f"{moment:%H:%M:%S}.{moment.microsecond // 1000:03d}"
    line = f"{dim}{time}{reset} {level_colour}{level:<7}{reset} {words(event, facts, colour=colour)}"
    if facts.get("exception"):
        line += "".join(f"\n    {clean(row)}" for row in str(facts["exception"]).rstrip("\n").split("\n"))
    return line


def words(event: str, facts: Mapping[str, Any], *, colour: bool) -> str:
    """`event name=value …` on one line, without a traceback."""
    bold, key, reset = (_BOLD, _KEY, _RESET) if colour else ("", "", "")
    parts = [
        f"{key}{clean(name)}{reset}={_shown(value)}" for name, value in facts.items() if name != "exception"
    ]
    return " ".join([f"{bold}{clean(event)}{reset}", *parts])


def clean(text: str) -> str:
    """The text with everything that is not printable (control, format and line characters) as an escape."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def plain(value: object, depth: int = 0) -> object:
    """The value as JSON knows it: bounded in length and depth; what JSON has no form for becomes text."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return _cut(str.__str__(value))
    if isinstance(value, int):
        # Python refuses to write out integers of thousands of digits in decimal.
        return int(value) if value.bit_length() <= 256 else _cut(hex(value))
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return _cut(bytes(value[: LONGEST_TEXT * 4]).decode("utf-8", "backslashreplace"))
    if isinstance(value, BaseException):
        return _cut(f"{type(value).__name__}: {_text(value)}".removesuffix(": "))
    if isinstance(value, Mapping | list | tuple | set | frozenset):
        return _plain_container(value, depth)
    return _cut(_text(value))


def exception_text(exc_info: object) -> str | None:
    """The traceback behind an `exc_info` (True, an exception or a triple), without the values of variables.

    Of a very long one the end is kept: it says what went wrong.
    """
    if exc_info is True:
        exc_info = sys.exc_info()
    if isinstance(exc_info, tuple) and len(exc_info) == 3:
        exc_info = exc_info[1]
    if not isinstance(exc_info, BaseException):
        return None
    text = "".join(traceback.format_exception(exc_info))
    return text if len(text) <= LONGEST_TRACE else f"…{text[-LONGEST_TRACE:]}"


def _plain_container(
    value: Mapping[Any, Any] | list[Any] | tuple[Any, ...] | set[Any] | frozenset[Any], depth: int
) -> object:
    if depth >= DEEPEST:
        return "…"
    more = len(value) - MOST_ITEMS
    if isinstance(value, Mapping):
        pairs = list(value.items())[:MOST_ITEMS]
        found: dict[str, object] = {_cut(_text(name)): plain(item, depth + 1) for name, item in pairs}
        return found | {"…": f"{more} more"} if more > 0 else found
    items = [plain(item, depth + 1) for item in list(value)[:MOST_ITEMS]]
    return [*items, f"… {more} more"] if more > 0 else items


def _shown(value: object) -> str:
    """A value behind `name=`: bare where it cannot be misread, else in quotes."""
    simple = plain(value)
    if not isinstance(simple, str):
        return clean(json.dumps(simple, ensure_ascii=False))
    if simple and not any(char in ' "=' for char in simple):
        return clean(simple)
    return '"' + clean(simple).replace('"', '\\"') + '"'


def _cut(text: str) -> str:
    if len(text) <= LONGEST_TEXT:
        return text
    return f"{text[:LONGEST_TEXT]}… ({len(text) - LONGEST_TEXT} characters more)"


def _text(value: object) -> str:
    try:
        return str(value)
    except Exception as error:  # noqa: BLE001  (a value that cannot be printed must not stop who logs it)
        return f"<{type(value).__name__} that cannot be printed: {type(error).__name__}>"


def _moment(at: float) -> datetime:
    return datetime.fromtimestamp(at, UTC)
