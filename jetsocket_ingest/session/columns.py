"""Messages of a hand-over to columns: which are data, of which stream, when and with which number.

The rules compile once, for JSON of the expected shape, into one `msgspec` decoder that keeps only the fields asked for
and a few column operations: a hand-over is decoded in one call. Messages of any other shape take the slow road one by
one, with the same outcome.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from operator import attrgetter
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from jetsocket_ingest.config.matching import Condition, Match
from jetsocket_ingest.config.paths import MISSING, Path

UNDECODED = object()
"""Stands for the value of a message that is neither JSON nor text."""


@dataclass(slots=True, frozen=True)
class DataRule:
    """Which messages are data, and where their fields are; see `session.data` in the config."""

    match: Match | None = None
    stream: Path | None = None
    event_time: Path | None = None
    time_unit: str = "ms"
    sequence: Path | None = None


@dataclass(slots=True)
class Columns:
    """The data of a hand-over, one entry a message; and the messages that are not data, as (payload, value)."""

    payloads: list[bytes]
    streams: Sequence[str | None]
    event_times_ns: Sequence[int | None] | None = None
    sequences: Sequence[int | None] | None = None
    others: list[tuple[bytes, object]] = field(default_factory=list)


def decode(payload: bytes, binary: bool) -> object:
    """The value paths and matches see: JSON; or, of a text that is not JSON, the text; or UNDECODED."""
    try:
        return msgspec.json.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return UNDECODED if binary else payload.decode("utf-8", "replace")


class Classifier:
    """Sorts messages by one connection's rules.

    Args:
        rule: what is data.
        controls: matches that come first; a message that fits one is not data.
        stream: the stream of data where the rule has no path to it.
    """

    def __init__(self, rule: DataRule, controls: Sequence[Match], stream: str | None) -> None:
        self._rule = rule
        self._controls = tuple(controls)
        self._stream = stream
        self._trivial = not controls and rule == DataRule()
        self._time = _TIME_UNITS[rule.time_unit]
        self._factor = _FACTORS.get(rule.time_unit)
        self._fast = None if self._trivial else _compile(rule, self._controls)

    def sort(self, payloads: list[bytes], binary: bool) -> Columns:
        """Sort a hand-over; order is kept."""
        if self._trivial:
            return Columns(payloads, [self._stream] * len(payloads))
        if self._fast is not None:
            columns = self._sort_fast(self._fast, payloads)
            if columns is not None:
                return columns
        return self._sort_slow(payloads, binary)

    def _sort_fast(self, fast: _Fast, payloads: list[bytes]) -> Columns | None:
        """None where not every message is plainly data of the expected shape."""
        count = len(payloads)
        rows = _rows(fast.decoder, payloads)
        if rows is None or any(_any_suspect(rows, get, test) for get, test in fast.suspects):
            return None
        streams: Sequence[str | None]
        if fast.stream is None:
            streams = [self._stream] * count
        else:
            found: list[Any] = list(map(fast.stream, rows))
            if UNSET in found:
                return None
            streams = found
        times = None
        if fast.event_time is not None:
            values = list(map(fast.event_time, rows))
            try:
                if self._factor is not None and set(map(type, values)) == {int}:
                    factor = self._factor
                    times = [value * factor for value in values]
                else:
                    times = list(map(self._time, values))
            except _UNUSABLE:
                return None
        sequences = None if fast.sequence is None else list(map(fast.sequence, rows))
        if sequences is not None and UNSET in sequences:
            return None
        return Columns(payloads, streams, times, sequences)

    def _sort_slow(self, payloads: list[bytes], binary: bool) -> Columns:
        rule = self._rule
        streams: list[str | None] = []
        columns = Columns([], streams)
        times: list[int | None] = []
        sequences: list[int | None] = []
        for payload in payloads:
            # What a message is must not depend on those beside it, and the two roads differ in what they look at:
            # the fast one skips a field of no interest even where it holds the number 1e999.
            plain = self._sort_fast(self._fast, [payload]) if self._fast is not None else None
            if plain is not None:
                columns.payloads.append(payload)
                streams += plain.streams
                times += plain.event_times_ns or ()
                sequences += plain.sequences or ()
                continue
            value = decode(payload, binary)
            if not self._is_data(value):
                columns.others.append((payload, value))
                continue
            columns.payloads.append(payload)
            streams.append(self._stream if rule.stream is None else _text(rule.stream.find(value)))
            if rule.event_time is not None:
                times.append(self._time_or_none(rule.event_time.find(value)))
            if rule.sequence is not None:
                sequences.append(_whole_number(rule.sequence.find(value)))
        if rule.event_time is not None:
            columns.event_times_ns = times
        if rule.sequence is not None:
            columns.sequences = sequences
        return columns

    def _is_data(self, value: object) -> bool:
        if value is UNDECODED:
            return self._rule.match is None and self._rule.stream is None
        if any(control.matches(value) for control in self._controls):
            return False
        if self._rule.match is not None:
            return self._rule.match.matches(value)
        return self._rule.stream is None or _text(self._rule.stream.find(value)) is not None

    def _time_or_none(self, value: object) -> int | None:
        try:
            return self._time(value)
        except _UNUSABLE:
            return None


def _rows(decoder: msgspec.json.Decoder[Any], payloads: list[bytes]) -> list[Any] | None:
    """The fields of each message, decoded in one call; None where a message is not one document of that shape."""
    joined = b"\n".join(payloads)
    # Documents may end anywhere for the decoder: `{} {}` counts as two, `{"a":` and `1}` as one, and rows would shift.
    # Where every message begins with { and ends with }, and none holds a newline, none of that can be: after the } of
    # one message, an open object would need a comma before the { of the next.
    between = len(payloads) - 1
    if (
        joined[:1] != b"{"
        or joined[-1:] != b"}"
        or joined.count(b"}\n{") != between
        or joined.count(b"\n") != between
    ):
        return None
    try:
        rows: list[Any] = decoder.decode_lines(joined)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return rows if len(rows) == len(payloads) else None


def _any_suspect(rows: list[Any], get: Callable[[Any], Any], test: Callable[[Any], bool]) -> bool:
    """Whether a row must be looked at closely."""
    try:
        # Few values differ, mostly only "not there": each is tested once for the whole hand-over.
        values = set(map(get, rows))
    except TypeError:
        return True
    return any(map(test, map(get, rows) if values & _ALIKE else values))


# Values ---------------------------------------------------------------------------------------------------------------

_UNUSABLE = (TypeError, ValueError, OverflowError, ArithmeticError)
_ALIKE = frozenset({0, 1})
"""In a set, true hides 1, and false hides 0; conditions tell them apart."""


def _text(value: object) -> str | None:
    """A stream's name: text, or a number as text."""
    if isinstance(value, str):
        return value
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else None


def _whole_number(value: object) -> int | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    return int(value) if isinstance(value, str) and value.isascii() and value.isdigit() else None


def _multiply(factor: int) -> Callable[[Any], int]:
    digits = len(str(factor)) - 1
    # A present time as a float has no finer steps than a quarter of a microsecond; what lies below is noise.
    parts = min(factor, max(1000, factor // 1000)) if factor > 1 else 1

    def to_ns(value: Any) -> int:
        if isinstance(value, str):
            whole, _, fraction = value.partition(".")
            if fraction.isdecimal() and whole.isdecimal():
                return int(whole) * factor + int(fraction[:digits].ljust(digits, "0") or 0)
            value = float(value) if "." in value else int(value)
        if isinstance(value, float):
            before = int(value)
            return before * factor + round((value - before) * parts) * (factor // parts)
        if isinstance(value, bool):
            raise TypeError("a truth value is no time")
        return int(value) * factor

    return to_ns


def _from_iso(value: Any) -> int:
    moment = datetime.fromisoformat(value)
    if moment.tzinfo is None:
        moment = datetime.fromisoformat(value + "+00:00")
    whole = int(moment.replace(microsecond=0).timestamp())
    # datetime keeps microseconds; what the text says beyond them is read from it.
    fraction = value.replace(",", ".").partition(".")[2]
    digits = fraction[: next((i for i, c in enumerate(fraction) if not c.isdigit()), len(fraction))]
    return whole * 1_000_000_000 + int(digits[:9].ljust(9, "0") or 0)


_FACTORS = {"s": 1_000_000_000, "ms": 1_000_000, "us": 1_000, "ns": 1}
_TIME_UNITS: dict[str, Callable[[Any], int]] = {
    **{unit: _multiply(factor) for unit, factor in _FACTORS.items()},
    "iso": _from_iso,
}


# Compilation ----------------------------------------------------------------------------------------------------------


@dataclass(slots=True, frozen=True)
class _Fast:
    decoder: msgspec.json.Decoder[Any]
    suspects: list[tuple[Callable[[Any], Any], Callable[[Any], bool]]]
    """Field, and a test of its value that tells a message which may not be data."""
    stream: Callable[[Any], Any] | None
    event_time: Callable[[Any], Any] | None
    sequence: Callable[[Any], Any] | None


def _compile(rule: DataRule, controls: Sequence[Match]) -> _Fast | None:
    """The fast road, or None where the rules use more than names in their paths."""
    fields: tuple[tuple[Path | None, Any], ...] = (
        (rule.stream, str),
        (rule.sequence, int),
        (rule.event_time, int | float | str),
    )
    leaves: dict[Path, Any] = {path: kind | UnsetType for path, kind in fields if path is not None}
    suspects: list[tuple[Path, Callable[[Any], bool]]] = []
    for match in controls:
        if any(not path.parts and not condition.holds({}) for path, condition in match.conditions.items()):
            continue  # it wants the whole message to be a text such as `pong`; the fast road sees objects only
        path, condition = next(iter(match.conditions.items()))
        # Whatever fits the first condition is looked at closely; data seldom does.
        suspects.append((path, _unless_missing(condition)))
        leaves.setdefault(path, Any)
    if rule.match is not None:
        for path, condition in rule.match.conditions.items():
            suspects.append((path, _negated(_unless_missing(condition))))
            leaves.setdefault(path, Any)
    try:
        shape = _shape(leaves)
    except ValueError:
        return None

    def getter(path: Path | None) -> Callable[[Any], Any] | None:
        return None if path is None else attrgetter(".".join(_field(_key(part)) for part in path.parts))

    found = [(get, test) for path, test in suspects if (get := getter(path)) is not None]
    return _Fast(
        msgspec.json.Decoder(shape),
        found,
        getter(rule.stream),
        getter(rule.event_time),
        getter(rule.sequence),
    )


def _unless_missing(condition: Condition) -> Callable[[Any], bool]:
    return lambda value: condition.holds(MISSING if value is UNSET else value)


def _negated(condition: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: not condition(value)


def _key(part: object) -> str:
    if not isinstance(part, str):
        raise ValueError("only names compile")
    return part


def _field(key: str) -> str:
    """A Python identifier for a JSON key."""
    return "f" + key.encode().hex()


def _shape(leaves: dict[Path, Any]) -> type[msgspec.Struct]:
    """A struct with just these leaves; everything else in a message is skipped unread."""
    tree: dict[str, Any] = {}
    for path, kind in leaves.items():
        if not path.parts:
            raise ValueError("the whole message is no field")
        node = tree
        *above, last = map(_key, path.parts)
        for part in above:
            node = node.setdefault(part, {})
            if not isinstance(node, dict):
                raise ValueError("a field is both a value and an object")
        if last in node:
            raise ValueError("a field is both a value and an object")
        node[last] = (kind,)
    return _struct(tree)


def _struct(tree: dict[str, Any]) -> type[msgspec.Struct]:
    fields: list[tuple[str, Any, Any]] = []
    for name, child in tree.items():
        if isinstance(child, dict):
            inner = _struct(child)
            fields.append((_field(name), inner, msgspec.field(default_factory=inner)))
        else:
            fields.append((_field(name), child[0], UNSET))
    rename = {_field(name): name for name in tree}
    return msgspec.defstruct("Shape", fields, rename=rename, gc=False)
