"""A network in memory whose peers are kind, slow, mute, deaf or gone as the world's random numbers decide."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

from jetsocket_ingest.errors import DialError, HandshakeRefused
from jetsocket_ingest.net.transport import HANDOVER_BYTES, HANDOVER_MESSAGES, DialOptions
from jetsocket_ingest.testing.clock import LoopClock
from tests.simulation.loop import History
from tests.simulation.monitor import Monitor

TICK = 1 / 64
"""All times are multiples of it: events coincide often, and sums of it are exact."""

CLOSE_CODES = (1000, 1001, 1003, 1005, 1006, 1008, 1011, 1012, 1013, 3000, 4000, 4008)
PADDING = b"x" * 400_000


@dataclass(slots=True, frozen=True)
class Climate:
    """What peers are like in one world: shares of 1, except where said."""

    slowest: int
    """Longest way there and back, ticks."""
    bad_dials: float
    short_lives: float
    """Connections that end by the peer's doing."""
    mute: float
    deaf: float
    stalls: float
    talkative: float
    huge: float
    """Bursts that cross the water marks."""


class Network:
    """Where `dial` leads."""

    def __init__(self, rng: random.Random, climate: Climate, monitor: Monitor, history: History) -> None:
        self.rng = rng
        self.climate = climate
        self.monitor = monitor
        self.history = history
        self.calm = False
        """From now on every dial succeeds and peers only answer."""
        self.wires: list[Wire] = []
        self._timers: list[asyncio.Handle] = []

    async def dial(self, options: DialOptions, listener: Any) -> Wire:
        self.monitor.dial_began(listener)
        try:
            await self._answer()
        except BaseException as error:
            self.monitor.dial_failed(listener, error)
            raise
        wire = Wire(self, len(self.wires), listener)
        self.wires.append(wire)
        self.monitor.dial_succeeded(listener, wire)
        wire.begin()
        return wire

    async def _answer(self) -> None:
        rng = self.rng
        await asyncio.sleep(self.latency())
        if self.calm or rng.random() >= self.climate.bad_dials:
            return
        kind = rng.choice(("silence", "refused", "refused", "status", "status", "fatal", "bug"))
        self.history.note("a dial meets {}", kind)
        if kind == "silence":
            await asyncio.Event().wait()
        elif kind == "refused":
            raise DialError("connection refused")
        elif kind == "fatal":
            raise DialError("certificate expired", fatal=True)
        elif kind == "bug":
            raise OSError("an engine's bug")
        status = rng.choice((401, 403, 404, 429, 429, 500, 503, 503))
        raise HandshakeRefused(status, retry_after=self._retry_after() if status in (429, 503) else None)

    def _retry_after(self) -> str | None:
        seconds = self.rng.randrange(6)
        now = datetime.fromtimestamp(LoopClock().wall_ns() / 1e9, UTC)
        date = format_datetime((now + timedelta(seconds=seconds)).replace(microsecond=0), usegmt=True)
        return self.rng.choice((None, str(seconds), date, "soon", "Mon, 01 Jan 99999999999999 00:00:00 GMT"))

    def latency(self) -> float:
        return 0.0 if self.calm else self.rng.randrange(self.climate.slowest + 1) * TICK

    def later(self, delay: float, callback: Callable[..., None], *args: Any) -> None:
        self._timers.append(asyncio.get_running_loop().call_later(delay, callback, *args))

    def stop(self) -> None:
        """Nothing of the network's own is scheduled any more."""
        for timer in self._timers:
            timer.cancel()


class Wire:
    """One connection: the `Transport` of the near end, and the peer at the far end."""

    engine = "simulated"
    subprotocol = None

    def __init__(self, network: Network, number: int, listener: Any) -> None:
        self.network = network
        self.number = number
        self.listener = listener
        self.open = True
        self.reading = True
        self.mute_since: float | None = None
        self.heard_since = 0.0
        """Since when reading goes on without a pause."""
        self._said = 0
        self._dropped = False
        self._closing = False
        self._deaf = False
        self._pipe: deque[tuple[str, Any]] = deque()
        self._backlog: deque[tuple[str, Any]] = deque()
        self._last_arrival = 0.0
        self._stalled = False
        self._drains: list[asyncio.Future[None]] = []
        self._loop = asyncio.get_running_loop()

    def __repr__(self) -> str:
        return f"wire {self.number}"

    # The near end ---------------------------------------------------------------------------------------------------

    def send(self, payload: bytes, *, binary: bool) -> None:
        if self.open:
            self.network.monitor.sent(self)
            if not self._closing and self.network.rng.random() < 0.8:
                self._say(1)

    async def drain(self) -> None:
        if self._stalled and self.open:
            waiter = self._loop.create_future()
            self._drains.append(waiter)
            await waiter

    def ping(self, payload: bytes) -> None:
        if self.open and self.mute_since is None:
            self._arrive("pong", payload)

    def close(self, code: int, reason: str) -> None:
        if self.open and not self._closing:
            self._closing = True
            if not self._deaf and self.mute_since is None:
                self._arrive("end", (code, reason))

    def abort(self) -> None:
        if self.open and not self._dropped:
            self._dropped = True
            self._loop.call_soon(self._gone, 1006, "dropped by us")

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        if not self.reading:
            self.reading = True
            self.heard_since = self._loop.time()
            if self._backlog:
                self._loop.call_soon(self._catch_up)

    # The far end ----------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Draw what this peer will do."""
        network, rng, climate = self.network, self.network.rng, self.network.climate
        self.heard_since = self._loop.time()
        if network.calm:
            return
        self._deaf = rng.random() < climate.deaf
        if rng.random() < climate.talkative:
            # Glued to the handshake: it arrives before the owner knows that it is connected.
            if rng.random() < 0.3:
                self._loop.call_soon(self._hand_over, ("messages", self._payloads(1)))
            network.later(rng.randrange(1, 64) * TICK, self._talk)
        if rng.random() < climate.stalls:
            self._stalled = True
            network.later(rng.randrange(1, 128) * TICK, self._flow)
        if rng.random() < climate.short_lives:
            code = rng.choice(CLOSE_CODES)
            if rng.random() < 0.3:
                self._loop.call_soon(self._gone, code, "accepted, then closed")
            else:
                network.later(rng.randrange(256) * TICK, self._arrive, "end", (code, "the peer's doing"))
        elif rng.random() < climate.mute:
            network.later(rng.randrange(256) * TICK, self._fall_mute)

    def _talk(self) -> None:
        rng = self.network.rng
        if not self.open or self.mute_since is not None or self.network.calm:
            return
        self._say(rng.choice((1, 1, 2, 5)), huge=rng.random() < self.network.climate.huge)
        self.network.later(rng.randrange(1, 96) * TICK, self._talk)

    def _say(self, count: int, *, huge: bool = False) -> None:
        if self.open and self.mute_since is None:
            for payloads in _handovers(self._payloads(count, huge=huge)):
                self._arrive("messages", payloads)

    def _payloads(self, count: int, *, huge: bool = False) -> list[bytes]:
        """Numbered messages; one of a hundred is no JSON."""
        payloads = []
        size = self.network.rng.choice((100_000, 400_000)) if huge else 0
        for _ in range(count if not huge else 6):
            bad = self.network.rng.random() < 0.01
            body = b'{"wire":%d,"n":%d,"pad":"%s"}' % (self.number, self._said, PADDING[:size])
            payloads.append(b"?" + body if bad else body)
            self._said += 1
        return payloads

    def _fall_mute(self) -> None:
        if self.open:
            self.network.history.note("{} falls mute", self)
            self.mute_since = self._loop.time()
            self.network.monitor.muted(self)

    def _flow(self) -> None:
        self._stalled = False
        self._release_drains()

    def _release_drains(self) -> None:
        for waiter in self._drains:
            if not waiter.done():
                waiter.set_result(None)
        self._drains.clear()

    # The way between ------------------------------------------------------------------------------------------------

    def _arrive(self, kind: str, what: Any) -> None:
        """In the order it was sent, as TCP keeps it."""
        self._last_arrival = max(self._last_arrival, self._loop.time() + self.network.latency())
        self._pipe.append((kind, what))
        self.network.later(self._last_arrival - self._loop.time(), self._arrived)

    def _arrived(self) -> None:
        item = self._pipe.popleft()
        if self.reading and not self._backlog:
            self._hand_over(item)
        else:
            self._backlog.append(item)

    def _catch_up(self) -> None:
        while self._backlog and self.reading:
            self._hand_over(self._backlog.popleft())

    def _hand_over(self, item: tuple[str, Any]) -> None:
        if not self.open or self._dropped:
            return
        kind, what = item
        if kind == "messages":
            self.network.monitor.handing_over(self, what)
            self.listener.on_messages(list(what), False, LoopClock().wall_ns())
            self.network.monitor.handed_over(self)
        elif kind == "pong":
            self.listener.on_pong(what)
        else:
            self._gone(*what)

    def _gone(self, code: int, reason: str) -> None:
        if not self.open:
            return
        self.open = False
        self._release_drains()
        self.network.monitor.wire_gone(self, code)
        self.listener.on_close(code, reason)


def _handovers(payloads: list[bytes]) -> Iterator[list[bytes]]:
    """As an engine bounds them."""
    batch: list[bytes] = []
    size = 0
    for payload in payloads:
        if batch and (len(batch) >= HANDOVER_MESSAGES or size + len(payload) > HANDOVER_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(payload)
        size += len(payload)
    yield batch
