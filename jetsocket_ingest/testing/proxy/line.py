"""One direction of a connection, without I/O: what goes in, when it comes out, and what has become of it."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from enum import Enum
from random import Random

READ_AHEAD = 64 * 1024
"""Bytes held of a line without delay before its source is told to wait."""

DELAY_LINE = 1024 * 1024
"""The same where bytes are delayed: what may be under way at once."""

SLICE = 0.02
"""Seconds of a throttled line that go out in one piece."""


@dataclass(slots=True)
class Rules:
    """What is wrong with one direction. May change at any time, and holds from then on for what is under way too.

    Attributes:
        latency: seconds that every byte takes.
        jitter: up to so many seconds more, drawn for each read; order is kept.
        rate: bytes a second; None: as fast as it goes.
        flips: probability, for each byte, that one of its bits is flipped.
        flip_in: after so many bytes more, one bit is flipped, once; None: never.
        cut_in: after so many bytes more, the connection is cut; None: never.
        swallow: bytes disappear, and so does the end of the stream.
    """

    latency: float = 0.0
    jitter: float = 0.0
    rate: float | None = None
    flips: float = 0.0
    flip_in: int | None = None
    cut_in: int | None = None
    swallow: bool = False


class Event(Enum):
    """What comes out of a line besides bytes."""

    END = "end"
    """The source has ended its stream (FIN)."""
    RESET = "reset"
    """The source is gone (RST)."""
    CUT = "cut"
    """The number of bytes after which the connection is to be cut has come through."""


class Line:
    """One direction. `now` is monotonic seconds throughout.

    Attributes:
        rules: what is wrong with it; the caller changes them.
        passed, swallowed: bytes that came out, and that did not.
        flipped: bits flipped.
        end_swallowed: the end of the stream disappeared: the far side will never hear of it.
    """

    def __init__(self, rules: Rules, random: Random) -> None:
        self.rules = rules
        self.passed = 0
        self.swallowed = 0
        self.flipped = 0
        self.end_swallowed = False
        self._random = random
        self._pieces: deque[tuple[float, float, memoryview | Event]] = deque()
        self._held = 0
        self._free_at = -math.inf
        self._ended = False
        self._until_flip = 0
        self._drawn_for = 0.0

    @property
    def full(self) -> bool:
        """Its source must wait."""
        delayed = self.rules.latency or self.rules.jitter
        return self._held >= (DELAY_LINE if delayed else READ_AHEAD)

    @property
    def due(self) -> float | None:
        """When `take` has something; None: not before something is put in."""
        rules = self.rules
        if rules.cut_in == 0:
            return -math.inf
        if not self._pieces:
            return None
        entered, chance, _ = self._pieces[0]
        arrival = entered + rules.latency + rules.jitter * chance
        return arrival if rules.rate is None else max(arrival, self._free_at)

    def put(self, content: bytes | Event, now: float) -> None:
        """Bytes, or the end, from the source. What comes after the end disappears."""
        if self.rules.swallow or self._ended:
            self._lose(content)
            return
        self._ended = isinstance(content, Event)
        self._held += 0 if isinstance(content, Event) else len(content)
        piece = content if isinstance(content, Event) else memoryview(content)
        self._pieces.append((now, self._random.random() if self.rules.jitter else 0.0, piece))

    def swallow(self) -> None:
        """From now on everything disappears, what is under way included."""
        self.rules.swallow = True
        while self._pieces:
            self._lose(self._pieces.popleft()[2])
        self._held = 0

    def take(self, now: float) -> bytes | Event | None:
        """What comes out now, the next piece of it; None: nothing before `due`."""
        due = self.due
        if due is None or due > now:
            return None
        if self.rules.cut_in == 0:
            self.rules.cut_in = None
            return Event.CUT
        entered, chance, piece = self._pieces.popleft()
        if isinstance(piece, Event):
            return piece
        size = self._next_size(len(piece))
        if size < len(piece):
            self._pieces.appendleft((entered, chance, piece[size:]))
        self._held -= size
        self.passed += size
        self._spend(size, now)
        return self._corrupted(bytes(piece[:size]))

    def _lose(self, content: bytes | memoryview | Event) -> None:
        if isinstance(content, Event):
            self.end_swallowed = self._ended = True
        else:
            self.swallowed += len(content)

    def _next_size(self, size: int) -> int:
        rules = self.rules
        if rules.rate is not None:
            size = min(size, max(1, int(rules.rate * SLICE)))
        return size if rules.cut_in is None else min(size, rules.cut_in)

    def _spend(self, size: int, now: float) -> None:
        rules = self.rules
        if rules.cut_in is not None:
            rules.cut_in -= size
        if rules.rate is not None:
            # A timer that fires a little late must not cost speed; an idle line saves up no more than that.
            self._free_at = max(self._free_at, now - SLICE) + size / rules.rate

    def _corrupted(self, data: bytes) -> bytes:
        flips = [*self._flip_asked_for(len(data)), *self._random_flips(len(data))]
        if not flips:
            return data
        changed = bytearray(data)
        for place, bit in flips:
            changed[place] ^= bit
        self.flipped += len(flips)
        return bytes(changed)

    def _flip_asked_for(self, size: int) -> list[tuple[int, int]]:
        place = self.rules.flip_in
        if place is None:
            return []
        self.rules.flip_in = None if place < size else place - size
        return [(place, self._bit())] if place < size else []

    def _random_flips(self, size: int) -> list[tuple[int, int]]:
        """Draws the distance to the next flip, so that the cost is two draws for each flip and none for each byte."""
        if not self.rules.flips:
            return []
        if self._drawn_for != self.rules.flips:
            self._drawn_for = self.rules.flips
            self._until_flip = self._distance()
        flips = []
        while self._until_flip < size:
            flips.append((self._until_flip, self._bit()))
            self._until_flip += 1 + self._distance()
        self._until_flip -= size
        return flips

    def _bit(self) -> int:
        return 1 << self._random.randrange(8)

    def _distance(self) -> int:
        if self.rules.flips >= 1:
            return 0
        return int(math.log(1.0 - self._random.random()) / math.log1p(-self.rules.flips))
