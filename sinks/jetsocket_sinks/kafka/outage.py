"""When a broker that does not answer is worth telling, and when it is over."""

from __future__ import annotations


class Outage:
    """Tells an outage once: records wait, and for a while none was reported. Fed with the time in seconds."""

    PATIENCE = 3.0
    """Seconds without a report before it is called an outage."""

    def __init__(self) -> None:
        self._reports = -1
        self._since: float | None = None
        self._told = False

    @property
    def told(self) -> bool:
        """Whether an outage was told and is not over."""
        return self._told

    def look(self, now: float, reports: int, *, waiting: bool) -> float | str | None:
        """`"unavailable"` when an outage begins, its length in seconds when it is over, else None."""
        progress = reports != self._reports
        self._reports = reports
        if self._told:
            if not progress:
                return None
            assert self._since is not None
            length = now - self._since
            self._told, self._since = False, now if waiting else None
            return length
        if progress or not waiting or self._since is None:
            self._since = now if waiting else None
            return None
        if now - self._since < self.PATIENCE:
            return None
        self._told = True
        return "unavailable"
