"""How the feed is set up, in Python or as a `demo://` URL."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from jetsocket_ingest.errors import ConfigError
from jetsocket_ingest.testing.feed.market import stream_names
from jetsocket_ingest.testing.feed.schedule import ScheduledFault, schedule, seconds

MOST_STREAMS = 100_000
MOST_BYTES = 64 * 1024 * 1024
DEFAULT_PATH = "/ws"


@dataclass(slots=True, frozen=True)
class FeedOptions:
    """How the feed is set up. Raises ConfigError, with every value that cannot be.

    Attributes:
        streams: names, or how many market-like ones to make up.
        rate: messages a second over all streams, dealt out in turn; 0 sends only what `publish` is told to.
        size: bytes of a message, filled up with a `pad` field; a message that is longer by itself, or less than ten
            bytes shorter, is sent without one.
        host, port: where to listen; port 0 takes any free one and keeps it for later starts.
        heartbeat: seconds between heartbeats on each connection; None sends none.
        seed: of prices, and of the connections that scheduled faults strike.
        limit: messages of each stream, then it is quiet. A stream with a limit stands still while nobody listens and
            waits for its slowest reader, so that a client that stays receives exactly so many.
        subprotocols: supported, best first; a client that offers none of them is refused with HTTP 400.
        compression: take permessage-deflate where the client offers it.
        ack_delay: seconds before a request is answered. Data of a new subscription flows meanwhile.
        tls: serve wss:// with this context.
        require_token: `Authorization: Bearer <token>` that a handshake must carry; else 401.
        max_streams_per_connection: subscriptions beyond it are refused.
        faults: what goes wrong by itself, and how often.
    """

    streams: Sequence[str] | int = 6
    rate: float = 100.0
    size: int = 0
    host: str = "127.0.0.1"
    port: int = 0
    heartbeat: float | None = None
    seed: int = 0
    limit: int | None = None
    subprotocols: Sequence[str] = ()
    compression: bool = True
    ack_delay: float = 0.0
    tls: ssl.SSLContext | None = None
    require_token: str | None = field(default=None, repr=False)
    max_streams_per_connection: int | None = None
    faults: Sequence[ScheduledFault] = ()

    def __post_init__(self) -> None:
        problems = [
            f"feed option {name}: expected {expected}, found {getattr(self, name)!r}"
            for name, (expected, valid) in _RULES.items()
            if not valid(getattr(self, name))
        ]
        if problems:
            raise ConfigError(problems)

    @property
    def stream_names(self) -> tuple[str, ...]:
        """The streams served."""
        return stream_names(self.streams) if isinstance(self.streams, int) else tuple(self.streams)


def _number(low: float, high: float, *, above: bool = False) -> Callable[[object], bool]:
    def valid(value: object) -> bool:
        return (
            isinstance(value, int | float)
            and not isinstance(value, bool)
            and low <= value <= high
            and not (above and value == low)
        )

    return valid


def _whole(low: int, high: int) -> Callable[[object], bool]:
    def valid(value: object) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high

    return valid


def _optional(valid: Callable[[object], bool]) -> Callable[[object], bool]:
    return lambda value: value is None or valid(value)


def _streams(value: object) -> bool:
    if isinstance(value, int):
        return _whole(1, MOST_STREAMS)(value)
    if isinstance(value, str) or not isinstance(value, Sequence):
        return False
    named = all(isinstance(name, str) and name for name in value)
    return named and 0 < len(value) <= MOST_STREAMS and len(set(value)) == len(value)


_RULES: dict[str, tuple[str, Callable[[object], bool]]] = {
    "streams": (f"a number from 1 to {MOST_STREAMS:,}, or a list of different names", _streams),
    "rate": ("messages a second from 0 to 10,000,000", _number(0, 10_000_000)),
    "size": (f"bytes from 0 to {MOST_BYTES:,}", _whole(0, MOST_BYTES)),
    "port": ("a port from 0 to 65535", _whole(0, 65535)),
    "heartbeat": ("seconds above 0, up to 86,400", _optional(_number(0, 86_400, above=True))),
    "seed": ("a whole number", _whole(-(2**63), 2**63)),
    "limit": ("a number of messages, 1 or more", _optional(_whole(1, 2**63))),
    "ack_delay": ("seconds from 0 to 86,400", _number(0, 86_400)),
    "max_streams_per_connection": ("a number of streams, 1 or more", _optional(_whole(1, MOST_STREAMS))),
}


# demo://feed/ws?rate=500&streams=8


def demo_path(url: str) -> str:
    """The feed's path that a `demo://` URL means: /ws, /ws/<stream> or /all. Raises ConfigError for any other."""
    path = _split(url).path.rstrip("/") or DEFAULT_PATH
    if path not in (DEFAULT_PATH, "/all") and not path.startswith(f"{DEFAULT_PATH}/"):
        raise ConfigError(f"{url}: expected the path /ws, /ws/<stream> or /all, found {path}")
    return path


def demo_options(url: str) -> FeedOptions:
    """What `demo://feed?rate=500&streams=8&size=200&heartbeat=5` asks for; a free port of the loopback interface.

    Raises ConfigError, with every parameter that is unknown, repeated or cannot be.
    """
    given: dict[str, Any] = {}
    faults: list[str] = []
    every: list[float] = []
    problems: list[str] = []
    for name, text in parse_qsl(_split(url).query, keep_blank_values=True):
        try:
            if name == "fault":
                faults += text.split(",")
            elif name == "every":
                every += [seconds(part) for part in text.split(",")]
            elif name not in _PARAMETERS:
                problems.append(
                    f"{url}: unknown parameter {name!r}; known are: {', '.join([*_PARAMETERS, 'fault', 'every'])}"
                )
            elif name in given:
                problems.append(f"{url}: parameter {name!r} is given twice; keep one of them")
            else:
                given[name] = _PARAMETERS[name][1](text)
        except ValueError:
            expected = "seconds such as 10, or 500ms" if name == "every" else _PARAMETERS[name][0]
            problems.append(f"{url}: parameter {name}: expected {expected}, found {text!r}")
    # Values that are numbers but out of range are told as well, not only after the others are put right.
    for build in (lambda: FeedOptions(**given), lambda: schedule(faults, every)):
        try:
            build()
        except ConfigError as error:
            problems += [f"{url}: {problem.removeprefix('feed option ')}" for problem in error.problems]
    if problems:
        raise ConfigError(problems)
    return FeedOptions(**given, faults=schedule(faults, every))


def _split(url: str) -> Any:
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise ConfigError(f"{url}: expected a URL such as demo://feed?rate=500&streams=8: {error}") from error
    if parts.scheme != "demo" or parts.netloc not in ("", "feed"):
        raise ConfigError(
            f"{url}: expected a URL such as demo://feed?rate=500&streams=8, with `feed` as its host"
        )
    return parts


def _streams_of(text: str) -> int | list[str]:
    return int(text) if text.strip().isdecimal() else text.split(",")


def _switch(text: str) -> bool:
    if text not in ("on", "off"):
        raise ValueError(text)
    return text == "on"


_PARAMETERS: dict[str, tuple[str, Callable[[str], object]]] = {
    "rate": (_RULES["rate"][0], float),
    "streams": ("a number, or names with commas between", _streams_of),
    "size": (_RULES["size"][0], int),
    "heartbeat": ("seconds such as 5, or 500ms", seconds),
    "seed": (_RULES["seed"][0], int),
    "limit": (_RULES["limit"][0], int),
    "compression": ("on or off", _switch),
    "ack_delay": ("seconds such as 1.5, or 500ms", seconds),
    "max_streams_per_connection": (_RULES["max_streams_per_connection"][0], int),
}

assert set(_PARAMETERS) <= {each.name for each in fields(FeedOptions)}
