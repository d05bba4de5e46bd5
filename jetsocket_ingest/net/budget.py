"""A connect budget: so many attempts in any window of time, shared by all connections of an endpoint."""

from __future__ import annotations

from collections import deque


class ConnectBudget:
    """Hands out the moments at which attempts may begin, first come first served.

    In any window of `per` seconds at most `count` moments lie, so that a restart of two hundred connections, or a
    reconnect of all at once, stays inside what the provider allows.

    Args:
        count: attempts in a window, at least 1.
        per: length of the window, seconds.
    """

    __slots__ = ("_count", "_moments", "_per")

    def __init__(self, count: int, per: float) -> None:
        self._count = count
        self._per = per
        self._moments: deque[float] = deque()

    def take(self, now: float) -> float:
        """The moment, `now` or later, at which the caller may begin. Moments are handed out in rising order."""
        moments = self._moments
        # By age, not by number: where later ones are given back, these bound what comes next.
        while moments and moments[0] <= now - self._per:
            moments.popleft()
        moment = max(now, moments[-1]) if moments else now
        if len(moments) >= self._count:
            moment = max(moment, moments[-self._count] + self._per)
        moments.append(moment)
        return moment

    def give_back(self, moment: float) -> None:
        """An attempt that was to begin later will not be made."""
        try:
            self._moments.remove(moment)
        except ValueError:
            pass  # so old that it is forgotten

    def used(self, now: float) -> int:
        """Attempts begun in the window that ends now."""
        return sum(now - self._per < moment <= now for moment in self._moments)
