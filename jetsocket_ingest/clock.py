"""Time, injected: monotonic seconds for timers, wall-clock nanoseconds for records."""

from __future__ import annotations

import time
from typing import Protocol

ANCHOR_DRIFT_NS = 100_000_000
"""The wall clock may drift this far (100 ms) from anchor + monotonic before the anchor is set anew."""


class Clock(Protocol):
    """What the program asks for the time; a test's clock stands still until it is moved."""

    def monotonic(self) -> float:
        """Seconds that never go back; the base of every timer."""
        ...

    def wall_ns(self) -> int:
        """Nanoseconds since 1970 UTC; never decreases between two re-anchorings."""
        ...


class SystemClock:
    """The machine's clocks: receive times are a wall-clock anchor plus monotonic time.

    A stepped wall clock (NTP, suspend) would otherwise reorder receive times. `reanchor` is called now and then;
    it returns the step in nanoseconds when one was needed, so that it can be told.
    """

    __slots__ = ("_offset_ns",)

    def __init__(self) -> None:
        self._offset_ns = time.time_ns() - time.monotonic_ns()

    def monotonic(self) -> float:
        return time.monotonic()

    def wall_ns(self) -> int:
        return time.monotonic_ns() + self._offset_ns

    def reanchor(self) -> int:
        """Follow the wall clock if it left us behind; the step in ns, 0 if none was needed."""
        step = time.time_ns() - time.monotonic_ns() - self._offset_ns
        if abs(step) <= ANCHOR_DRIFT_NS:
            return 0
        self._offset_ns += step
        return step
