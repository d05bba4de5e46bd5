"""How late the event loop is: what a timer finds on waking is what every message and deadline feels too."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from structlog.typing import FilteringBoundLogger

from jetsocket_ingest.clock import Clock
from jetsocket_ingest.telemetry.log import get_logger

INTERVAL = 0.1
"""Seconds between two looks."""

WINDOW = 30.0
"""Seconds after which a worst lateness is half forgotten: readers see the worst of the last one to two windows."""


class LagMonitor:
    """Keeps the worst lateness, and decides when it is worth a log line. Pure: fed with times.

    Args:
        threshold: seconds; a timer that fires later than this is told.
        quiet: seconds between two tellings at least.
    """

    __slots__ = ("_current", "_previous", "_quiet", "_threshold", "_told", "_window_began")

    def __init__(self, *, threshold: float = 0.25, quiet: float = 10.0) -> None:
        self._threshold = threshold
        self._quiet = quiet
        self._current = 0.0
        self._previous = 0.0
        self._window_began = 0.0
        self._told: float | None = None

    def woke(self, due: float, now: float) -> float | None:
        """A timer meant for `due` fired at `now` (monotonic seconds). Returns its lateness where it is to be told."""
        late = max(0.0, now - due)
        if now - self._window_began >= WINDOW:
            # A window that nothing was heard in for as long again holds nothing that still counts.
            self._previous = self._current if now - self._window_began < 2 * WINDOW else 0.0
            self._current = 0.0
            self._window_began = now
        self._current = max(self._current, late)
        if late <= self._threshold or (self._told is not None and now - self._told < self._quiet):
            return None
        self._told = now
        return late

    @property
    def worst(self) -> float:
        """Seconds: the worst lateness of the last 30 to 60 seconds."""
        return max(self._current, self._previous)


async def watch_lag(
    monitor: LagMonitor,
    clock: Clock,
    *,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    log: FilteringBoundLogger | None = None,
) -> None:
    """Feed the monitor until cancelled, and tell what it finds worth telling as `loop.lagging`."""
    log = get_logger() if log is None else log
    while True:
        due = clock.monotonic() + INTERVAL
        await sleep(INTERVAL)
        late = monitor.woke(due, clock.monotonic())
        if late is not None:
            log.warning("loop.lagging", late_ms=round(late * 1000))
