"""The live line at the bottom of a terminal: how much flows, through how many connections, to where."""

from __future__ import annotations

import asyncio
import unicodedata
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import TextIO

from jetsocket_ingest.telemetry.log import CLEAR_LINE
from jetsocket_ingest.telemetry.render import clean

INTERVAL = 0.25
"""Seconds between two drawings."""

RATE_WINDOW = 2.0
"""Seconds that a rate is taken over: long enough to be read, short enough to be news."""


@dataclass(frozen=True, slots=True)
class SinkStatus:
    """One sink: totals since the start, and what waits for it now. `state` is shown where it is not `ok`."""

    name: str
    delivered: int
    """Records that the sink confirmed."""
    backlog: int = 0
    """Records waiting or in flight."""
    state: str = "ok"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What the line shows. The rates are filled in by `StatusLine` from the totals of successive snapshots."""

    elapsed: float
    """Seconds since the start."""
    messages: int
    """Received so far."""
    bytes: int
    """Payload bytes received so far."""
    connections_up: int
    connections_wanted: int
    sinks: tuple[SinkStatus, ...] = ()
    last_error: str | None = None
    message_rate: float = 0.0
    """Messages a second."""
    byte_rate: float = 0.0
    """Bytes a second."""


class RateMeter:
    """Rates of rising totals over the last two seconds. Pure."""

    __slots__ = ("_points",)

    def __init__(self) -> None:
        self._points: deque[tuple[float, int, int]] = deque()

    def update(self, now: float, messages: int, size: int) -> tuple[float, float]:
        """The totals at `now` (seconds); returns messages and bytes a second, 0 at the first call."""
        points = self._points
        points.append((now, messages, size))
        while len(points) > 2 and points[1][0] <= now - RATE_WINDOW:
            points.popleft()
        then, messages_then, size_then = points[0]
        span = now - then
        if span <= 0:
            return 0.0, 0.0
        return (messages - messages_then) / span, (size - size_then) / span


def render(snapshot: Snapshot, width: int) -> str:
    """The line, at most `width` - 1 columns wide, so that no terminal wraps it. What is cut first is the error."""
    parts = [
        _duration(snapshot.elapsed),
        f"{_rate(snapshot.message_rate)} msg/s",
        f"{_size(snapshot.byte_rate)}/s",
        f"{snapshot.connections_up}/{snapshot.connections_wanted} connected",
        *map(_sink, snapshot.sinks),
    ]
    line = "  ".join(parts)
    if snapshot.last_error:
        line += f"  ! {clean(snapshot.last_error)}"
    return _fit(line, max(0, width - 1))


class StatusLine:
    """Draws the line on a terminal four times a second, and clears it at the end.

    Args:
        stream: the terminal, the same that log lines go to.
        width_fn: its width in columns, asked at each drawing.
        snapshot: the state of things, asked at each drawing.
        sleep: waits between two drawings.
    """

    def __init__(
        self,
        stream: TextIO,
        width_fn: Callable[[], int],
        snapshot: Callable[[], Snapshot],
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._stream = stream
        self._width = width_fn
        self._snapshot = snapshot
        self._sleep = sleep
        self._meter = RateMeter()

    async def run(self) -> None:
        """Draw until cancelled, or until the terminal is gone."""
        try:
            while self.draw():
                await self._sleep(INTERVAL)
        finally:
            self._put("")

    def draw(self) -> bool:
        """Draw once, where the cursor's line is. False where the terminal is gone."""
        snapshot = self._snapshot()
        messages, size = self._meter.update(snapshot.elapsed, snapshot.messages, snapshot.bytes)
        return self._put(render(replace(snapshot, message_rate=messages, byte_rate=size), self._width()))

    def _put(self, line: str) -> bool:
        try:
            try:
                self._stream.write(CLEAR_LINE + line)
            except UnicodeEncodeError:
                self._stream.write(CLEAR_LINE + line.encode("ascii", "replace").decode())
            self._stream.flush()
        except (OSError, ValueError):
            # The terminal hung up, or its stream is closed. The line is a convenience: the run goes on without it.
            return False
        return True


def _sink(sink: SinkStatus) -> str:
    text = f"{clean(sink.name)} {_count(sink.delivered)}"
    if sink.backlog:
        text += f" (+{_count(sink.backlog)})"
    return text if sink.state == "ok" else f"{text} {clean(sink.state).upper()}"


def _rate(number: float) -> str:
    return f"{number:.1f}" if 0 < number < 10 else _count(number)


def _count(number: float) -> str:
    """1234 becomes 1,234; from 100,000 in thousands, millions and so on with three digits."""
    if number < 100_000:
        return f"{number:,.0f}"
    for unit in ("k", "M", "G"):
        number /= 1000
        if number < 999.5:
            return f"{number:.3g}{unit}"
    return f"{number / 1000:,.1f}T"


def _size(number: float) -> str:
    for unit in ("B", "kB", "MB"):
        if number < 999.5:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:,.1f} GB"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes:02d}:{rest:02d}"


def _fit(text: str, columns: int) -> str:
    """The text cut to so many columns of a terminal, with an ellipsis where it was cut."""
    if sum(map(_columns, text)) <= columns:
        return text
    used, kept = 0, 0
    for char in text:
        used += _columns(char)
        if used > columns - 1:
            break
        kept += 1
    return text[:kept] + "…" if columns else ""


def _columns(char: str) -> int:
    """How many columns a character takes, counting too many rather than too few."""
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1
