"""The watchdog for silence: of a whole connection, and of single streams. Only data counts, no heartbeat and no answer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

NEVER = float("inf")


@dataclass(slots=True, frozen=True)
class StaleRule:
    """How long silence may last, seconds.

    Attributes:
        connection: of all data of a connection together; None: as long as it likes.
        streams: pattern of names (`*`, `?`, `[...]`) → seconds; the first that fits counts, a stream that none fits is
            not watched: a quiet feed is not a dead one.
    """

    connection: float | None = None
    streams: Mapping[str, float] = field(default_factory=dict)

    def limit(self, stream: str) -> float | None:
        return next((limit for pattern, limit in self.streams.items() if fnmatchcase(stream, pattern)), None)


class Watch:
    """When each watched stream, and the connection, was last heard; all times monotonic seconds."""

    def __init__(self, rule: StaleRule, streams: Sequence[str]) -> None:
        self._connection = rule.connection
        self._limits = {name: limit for name in streams if (limit := rule.limit(name)) is not None}
        self._heard: dict[str, float] = {}
        self._last = 0.0
        self._next: float | None = None

    def begin(self, now: float) -> None:
        """All are heard now: the connection is new, or reading went on after a pause."""
        self._last = now
        self._heard = dict.fromkeys(self._limits, now)
        self._next = None

    def data(self, streams: Iterable[str | None], now: float) -> None:
        """Data of these streams arrived."""
        self._last = now
        if self._limits:
            # One look at each different name of the hand-over.
            for name in set(streams) & self._limits.keys():
                self._heard[name] = now  # type: ignore[index]  # None is no key of the limits

    def silent_connection(self, now: float) -> bool:
        return self._connection is not None and now >= self._last + self._connection

    def silent_streams(self, now: float) -> tuple[str, ...]:
        """The streams whose time is over; each is told once and then has its full time again."""
        if self._next is not None and now < self._next:
            return ()
        silent = tuple(name for name, heard in self._heard.items() if now >= heard + self._limits[name])
        self._heard.update(dict.fromkeys(silent, now))
        self._next = min((heard + self._limits[name] for name, heard in self._heard.items()), default=NEVER)
        return silent

    def grant(self, now: float, seconds: float) -> None:
        """We were stalled ourselves: whatever would be too late now has so many seconds more."""
        if self._connection is not None:
            self._last = max(self._last, now + seconds - self._connection)
        for name, limit in self._limits.items():
            self._heard[name] = max(self._heard[name], now + seconds - limit)
        self._next = None

    def deadline(self) -> float:
        """When to look again; NEVER where nothing is watched. It may come too early, for data moves it on."""
        if self._next is None:
            self._next = min(
                (heard + self._limits[name] for name, heard in self._heard.items()), default=NEVER
            )
        return min(self._next, NEVER if self._connection is None else self._last + self._connection)
