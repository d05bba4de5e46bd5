"""How long to wait before trying again: exponential back-off with full jitter, and what `Retry-After` says."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from math import isfinite


class Backoff:
    """Waits drawn from [0, min(maximum, initial·2ⁿ)], n being the waits since the last reset.

    Full jitter keeps many connections that lost the same peer from coming back in step
    (AWS Architecture Blog, "Exponential Backoff and Jitter", 2015).

    Args:
        initial: upper bound of the first wait, seconds.
        maximum: upper bound of every wait, seconds.
        random: uniform numbers from [0, 1).
    """

    __slots__ = ("_initial", "_maximum", "_random", "waits")

    def __init__(self, initial: float, maximum: float, random: Callable[[], float]) -> None:
        self._initial = initial
        self._maximum = maximum
        self._random = random
        self.waits = 0
        """Waits drawn since the last reset."""

    def next(self) -> float:
        """The next wait, seconds."""
        # 2**63 seconds is past any maximum; the bound keeps the exponent from growing for ever.
        bound = min(self._maximum, self._initial * 2.0 ** min(self.waits, 63))
        self.waits += 1
        return bound * self._random()

    def reset(self) -> None:
        self.waits = 0


def retry_after_seconds(value: str | None, now: datetime) -> float | None:
    """Seconds to wait by a `Retry-After` header, in seconds or as an HTTP date (RFC 9110, 10.2.3); None if unusable."""
    if value is None:
        return None
    text = value.strip()
    if text.isascii() and text.isdigit():
        seconds = float(text)
        return seconds if isfinite(seconds) else None
    try:
        date = parsedate_to_datetime(text)
    except (ValueError, OverflowError):  # numbers of any length may come
        return None
    if date.tzinfo is None:
        date = date.replace(tzinfo=UTC)
    return max(0.0, (date - now).total_seconds())
