"""Faults by name, as `demo` and `demo://` offer them: one strikes every so many seconds, or holds all the time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from jetsocket_ingest.config.types import format_duration, format_size, parse_duration, parse_size
from jetsocket_ingest.errors import ConfigError

if TYPE_CHECKING:
    from jetsocket_ingest.testing.feed.connection import FeedConnection
    from jetsocket_ingest.testing.feed.faults import Faults
    from jetsocket_ingest.testing.proxy import FaultProxy, ProxiedConnection

DEFAULT_EVERY = 10.0

Strike = Callable[["Faults", Any, float], object]
"""Takes the connection that is struck; a standing fault takes None."""


@dataclass(slots=True, frozen=True)
class Kind:
    """A fault that has a name.

    Attributes:
        about: what it does, in words.
        strike: does it to one connection.
        value: what stands after the colon when nothing does; None allows no value.
        unit: what the value is; `seconds` and `bytes` also take 500ms and 10KiB.
        lowest, highest: bounds of the value.
        line: a fault of the network: it needs the proxy before the feed.
        standing: it does not strike, but holds for every connection, all the time.
    """

    about: str
    strike: Strike
    value: float | None = None
    unit: Literal["number", "seconds", "bytes", "probability", "close code"] = "number"
    lowest: float = 1
    highest: float = 1_000_000
    line: bool = False
    standing: bool = False

    def show(self, value: float) -> str:
        """A value as a user would write it."""
        if self.unit == "seconds":
            return format_duration(value)
        return format_size(int(value)) if self.unit == "bytes" else f"{value:.10g}"


def _next_connect(arm: Callable[[Faults, float], None]) -> Strike:
    """Faults of the handshake and the first request show when the client comes back: send it away."""

    def strike(faults: Faults, connection: FeedConnection, value: float) -> None:
        arm(faults, value)
        faults.rst(connection)

    return strike


def _line(strike: Callable[[FaultProxy, ProxiedConnection | None, float], object]) -> Strike:
    """Faults of the network, on the line that a client of the feed came over; without a client: on all."""

    def act(faults: Faults, connection: FeedConnection | None, value: float) -> None:
        on = None if connection is None else faults.line.connection_from(connection.client_port)
        if connection is None or on is not None:
            strike(faults.line, on, value)

    return act


def _unreachable(proxy: FaultProxy, on: ProxiedConnection | None, seconds: float) -> None:
    proxy.refuse(seconds)
    proxy.reset()


def _unanswered(proxy: FaultProxy, on: ProxiedConnection | None, value: float) -> None:
    proxy.ignore(times=1)
    proxy.reset(on)


KINDS: dict[str, Kind] = {
    "silence": Kind("stay connected, read and answer nothing", lambda faults, on, _: faults.silence(on)),
    "rst": Kind("end with TCP RST", lambda faults, on, _: faults.rst(on)),
    "fin": Kind("end with TCP FIN, no close frame", lambda faults, on, _: faults.fin(on)),
    "close": Kind(
        "close with a code",
        lambda faults, on, code: faults.close(int(code), on=on),
        value=1012,
        unit="close code",
    ),
    "oversize": Kind(
        "a message of so many bytes",
        lambda faults, on, size: faults.oversize(int(size), on=on),
        value=32 * 1024 * 1024,
        unit="bytes",
        highest=1024 * 1024 * 1024,
    ),
    "fragmented": Kind(
        "a message in so many frames, a ping in between",
        lambda faults, on, count: faults.fragmented(int(count), on=on),
        value=3,
        lowest=2,
        highest=1000,
    ),
    "binary": Kind("a binary message", lambda faults, on, _: faults.binary(on=on)),
    "invalid-utf8": Kind(
        "a text message that is not UTF-8", lambda faults, on, _: faults.invalid_utf8(on=on)
    ),
    "invalid-json": Kind("a text message that is not JSON", lambda faults, on, _: faults.invalid_json(on=on)),
    "gap": Kind(
        "so many messages are never sent", lambda faults, on, count: faults.gap(int(count), on=on), value=1
    ),
    "duplicate": Kind(
        "the last messages once more",
        lambda faults, on, count: faults.duplicate(int(count), on=on),
        value=1,
        highest=100,
    ),
    "http": Kind(
        "reset; the next handshake is answered with an HTTP status",
        _next_connect(lambda faults, status: faults.refuse_handshakes(int(status), retry_after=1, times=1)),
        value=503,
        lowest=300,
        highest=599,
    ),
    "accept-then-close": Kind(
        "reset; the next connection is closed with a code as soon as it stands",
        _next_connect(lambda faults, code: faults.accept_then_close(int(code), times=1)),
        value=1013,
        unit="close code",
    ),
    "slow-handshake": Kind(
        "reset; the next handshake takes so many seconds",
        _next_connect(lambda faults, delay: faults.slow_handshakes(delay, times=1)),
        value=3,
        unit="seconds",
        lowest=0,
        highest=50,
    ),
    "refuse": Kind(
        "reset; the next request is refused", _next_connect(lambda faults, _: faults.refuse_requests(times=1))
    ),
    "late-ack": Kind(
        "reset; the next ack is so many seconds late",
        _next_connect(lambda faults, delay: faults.late_acks(delay, times=1)),
        value=3,
        unit="seconds",
        lowest=0,
        highest=3600,
    ),
    "no-ack": Kind(
        "reset; the next request gets no ack", _next_connect(lambda faults, _: faults.no_acks(times=1))
    ),
    "delay": Kind(
        "all the time: bytes take so long, each way",
        _line(lambda proxy, on, seconds: proxy.delay(seconds, on=on)),
        value=0.2,
        unit="seconds",
        lowest=0,
        highest=3600,
        line=True,
        standing=True,
    ),
    "jitter": Kind(
        "all the time: bytes take up to so much longer, each way",
        _line(lambda proxy, on, seconds: proxy.delay(jitter=seconds, on=on)),
        value=0.05,
        unit="seconds",
        lowest=0,
        highest=3600,
        line=True,
        standing=True,
    ),
    "throttle": Kind(
        "all the time: so many bytes a second on each connection, each way",
        _line(lambda proxy, on, rate: proxy.throttle(rate, on=on)),
        value=10 * 1024,
        unit="bytes",
        highest=1024 * 1024 * 1024,
        line=True,
        standing=True,
    ),
    "corrupt": Kind(
        "all the time: a bit of each byte flips with this probability, each way",
        _line(lambda proxy, on, rate: proxy.corrupt(rate, on=on)),
        value=1e-6,
        unit="probability",
        lowest=0,
        highest=1,
        line=True,
        standing=True,
    ),
    "blackhole": Kind(
        "bytes disappear each way, both sockets stay open",
        _line(lambda proxy, on, _: proxy.drop(on=on)),
        line=True,
    ),
    "half-close": Kind(
        "TCP FIN to the client, whose bytes still arrive",
        _line(lambda proxy, on, _: proxy.half_close(on=on)),
        line=True,
    ),
    "cut": Kind(
        "TCP RST both ways after so many bytes more to the client",
        _line(lambda proxy, on, size: proxy.cut(int(size), on=on)),
        value=1024,
        unit="bytes",
        lowest=0,
        highest=1024 * 1024 * 1024,
        line=True,
    ),
    "unanswered": Kind(
        "reset; the next TCP connection is accepted and never answered", _line(_unanswered), line=True
    ),
    "unreachable": Kind(
        "reset, all connections; new ones are refused for so long",
        _line(_unreachable),
        value=3,
        unit="seconds",
        lowest=0,
        highest=3600,
        line=True,
    ),
}


@dataclass(slots=True, frozen=True)
class ScheduledFault:
    """`fault`, a name of `KINDS` or `NAME:VALUE`, on one connection taken at random, every `every` seconds; one that
    is standing holds all the time.

    Raises ConfigError for a name, value or interval that cannot be.
    """

    fault: str
    every: float = DEFAULT_EVERY
    kind: Kind = field(init=False, repr=False, compare=False)
    value: float = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not 0 < self.every < float("inf"):
            raise ConfigError(
                f"fault {self.fault}: expected an interval above 0 seconds, found {self.every:g}"
            )
        name, colon, text = self.fault.partition(":")
        if name not in KINDS:
            raise ConfigError(f"unknown fault {name!r}; known are: {', '.join(KINDS)}")
        object.__setattr__(self, "kind", KINDS[name])
        object.__setattr__(self, "value", _value(name, KINDS[name], text if colon else None))

    def strike(self, faults: Faults, connection: FeedConnection | None) -> None:
        """Do it; a standing fault takes no connection."""
        self.kind.strike(faults, connection, self.value)


def _value(name: str, kind: Kind, text: str | None) -> float:
    if text is None:
        return kind.value or 0
    if kind.value is None:
        raise ConfigError(f"fault {name}: expected no value, found {text!r}")
    if kind.unit == "close code":
        return close_code(text)
    try:
        value = _PARSERS[kind.unit](text)
    except ValueError:
        value = float("nan")
    if not kind.lowest <= value <= kind.highest:
        raise ConfigError(
            f"fault {name}: expected {_EXPECTED[kind.unit].format(lowest=kind.lowest, highest=kind.highest)} "
            f"after the colon, found {text!r}"
        )
    return value


def seconds(text: str) -> float:
    """`5`, `0.5`, `5s` or `500ms` → seconds. ValueError for anything else."""
    try:
        return float(text)
    except ValueError:
        return parse_duration(text)


def _bytes(text: str) -> float:
    """`1024` or `1KiB`."""
    return int(text) if text.isascii() and text.isdecimal() else parse_size(text)


_PARSERS: dict[str, Callable[[str], float]] = {
    "number": int,
    "seconds": seconds,
    "bytes": _bytes,
    "probability": float,
}
_EXPECTED = {
    "number": "a whole number from {lowest:g} to {highest:,.0f}",
    "seconds": "seconds from {lowest:g} to {highest:,.0f}, such as 3 or 500ms,",
    "bytes": "bytes from {lowest:g} to {highest:,.0f}, such as 1024 or 10KiB,",
    "probability": "a probability from 0 to 1",
}


def close_code(code: int | str) -> int:
    """A code that a close frame can carry. Raises ConfigError for any other."""
    number = int(code) if str(code).isascii() and str(code).isdecimal() else 0
    if (1000 <= number <= 1014 and number not in (1004, 1005, 1006)) or 3000 <= number <= 4999:
        return number
    raise ConfigError(
        f"close code: expected 1000 to 1014 without 1004, 1005 and 1006, or 3000 to 4999, found {code!r}; "
        "to end without a close frame use the fault rst or fin"
    )


def schedule(faults: Sequence[str], every: Sequence[float]) -> tuple[ScheduledFault, ...]:
    """Faults with their intervals: one interval for all that strike, or one each, in the same order.

    Raises ConfigError where the numbers of the two do not match.
    """
    named = [ScheduledFault(fault) for fault in faults]
    striking = sum(not fault.kind.standing for fault in named)
    if not striking and every:
        standing = ", ".join(name for name, kind in KINDS.items() if kind.standing)
        raise ConfigError(
            "an interval (every) was given, but no fault to repeat; name one, or leave the interval out "
            f"({standing} hold all the time)"
        )
    intervals = every or [DEFAULT_EVERY]
    if len(intervals) == 1:
        intervals = list(intervals) * striking
    if len(intervals) != striking:
        raise ConfigError(
            f"expected one interval (every) for all faults or one for each of the {striking} that strike, "
            f"found {len(intervals)}"
        )
    left = iter(intervals)
    return tuple(fault if fault.kind.standing else ScheduledFault(fault.fault, next(left)) for fault in named)
