"""Faults by name, as `demo` and `demo://` offer them: one strikes every so many seconds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from jetsocket_ingest.errors import ConfigError

if TYPE_CHECKING:
    from jetsocket_ingest.testing.feed.connection import FeedConnection
    from jetsocket_ingest.testing.feed.faults import Faults

DEFAULT_EVERY = 10.0

Strike = Callable[["Faults", "FeedConnection", float], object]


@dataclass(slots=True, frozen=True)
class Kind:
    """A fault that has a name. `value` is what stands after the colon when nothing does; None allows no value."""

    about: str
    strike: Strike
    value: float | None = None
    lowest: float = 1
    highest: float = 1_000_000
    whole: bool = True
    close_code: bool = False


def _next_connect(arm: Callable[[Faults, float], None]) -> Strike:
    """Faults of the handshake and the first request show when the client comes back: send it away."""

    def strike(faults: Faults, connection: FeedConnection, value: float) -> None:
        arm(faults, value)
        faults.rst(connection)

    return strike


KINDS: dict[str, Kind] = {
    "silence": Kind("stay connected, read and answer nothing", lambda faults, on, _: faults.silence(on)),
    "rst": Kind("end with TCP RST", lambda faults, on, _: faults.rst(on)),
    "fin": Kind("end with TCP FIN, no close frame", lambda faults, on, _: faults.fin(on)),
    "close": Kind(
        "close with a code",
        lambda faults, on, code: faults.close(int(code), on=on),
        value=1012,
        close_code=True,
    ),
    "oversize": Kind(
        "a message of so many bytes",
        lambda faults, on, size: faults.oversize(int(size), on=on),
        value=32 * 1024 * 1024,
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
        close_code=True,
    ),
    "slow-handshake": Kind(
        "reset; the next handshake takes so many seconds",
        _next_connect(lambda faults, delay: faults.slow_handshakes(delay, times=1)),
        value=3,
        lowest=0,
        highest=50,
        whole=False,
    ),
    "refuse": Kind(
        "reset; the next request is refused", _next_connect(lambda faults, _: faults.refuse_requests(times=1))
    ),
    "late-ack": Kind(
        "reset; the next ack is so many seconds late",
        _next_connect(lambda faults, delay: faults.late_acks(delay, times=1)),
        value=3,
        lowest=0,
        highest=3600,
        whole=False,
    ),
    "no-ack": Kind(
        "reset; the next request gets no ack", _next_connect(lambda faults, _: faults.no_acks(times=1))
    ),
}


@dataclass(slots=True, frozen=True)
class ScheduledFault:
    """`fault`, a name of `KINDS` or `NAME:VALUE`, on one connection taken at random, every `every` seconds.

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

    def strike(self, faults: Faults, connection: FeedConnection) -> None:
        """Do it."""
        self.kind.strike(faults, connection, self.value)


def _value(name: str, kind: Kind, text: str | None) -> float:
    if text is None:
        return kind.value or 0
    if kind.value is None:
        raise ConfigError(f"fault {name}: expected no value, found {text!r}")
    if kind.close_code:
        return close_code(text)
    try:
        value = float(int(text) if kind.whole else float(text))
    except ValueError:
        value = float("nan")
    if not kind.lowest <= value <= kind.highest:
        number = "a whole number" if kind.whole else "a number"
        raise ConfigError(
            f"fault {name}: expected {number} from {kind.lowest:g} to {kind.highest:,.0f} after the colon, found {text!r}"
        )
    return value


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
    """Faults with their intervals: one interval for all of them, or one each, in the same order.

    Raises ConfigError where the numbers of the two do not match.
    """
    if not faults and every:
        raise ConfigError(
            "an interval (every) was given, but no fault to repeat; name one, or leave the interval out"
        )
    intervals = every or [DEFAULT_EVERY]
    if len(intervals) == 1:
        intervals = list(intervals) * len(faults)
    if len(intervals) != len(faults):
        raise ConfigError(
            f"expected one interval (every) for all faults or one for each of the {len(faults)}, found {len(intervals)}"
        )
    return tuple(ScheduledFault(fault, interval) for fault, interval in zip(faults, intervals, strict=True))
