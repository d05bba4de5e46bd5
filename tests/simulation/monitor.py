"""What must hold, checked from outside: by what the network saw, what users got, and the pool's own books."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from jetsocket_ingest import ConnectionPool
from jetsocket_ingest.clock import Clock
from jetsocket_ingest.errors import DialError, HandshakeRefused
from jetsocket_ingest.net.backoff import retry_after_seconds
from jetsocket_ingest.net.life import TRANSITIONS, Changed, Life, State
from jetsocket_ingest.net.mailbox import HIGH_WATER
from jetsocket_ingest.net.pool import PoolStats
from jetsocket_ingest.net.pool_core import Lease, Slot
from jetsocket_ingest.net.transport import HANDOVER_BYTES
from jetsocket_ingest.net.websocket import WebSocket
from tests.simulation.loop import History, Violation

if TYPE_CHECKING:
    from tests.simulation.network import Wire
    from tests.simulation.world import Rules

LATE = 1e-6
"""Seconds by which a timer may miss: the loop's clock resolution, and sums of floats."""
LARGEST_MESSAGE = 400_100

MessageId = tuple[int, int]
"""Wire, and number on it; the number is -1 where the message does not decode."""


@dataclass(slots=True, eq=False)
class Tenancy:
    """One lease as its user should see it: from the moment the pool assigned it to the moment it is released."""

    socket: WebSocket[Any]
    expected: deque[MessageId] = field(default_factory=deque)
    over: bool = False
    taken: bool = False


@dataclass(slots=True, eq=False)
class Line:
    """One WebSocket as the network sees it: its dials and wires, and when the next dial may come."""

    socket: WebSocket[Any]
    dials: int = 0
    dialling: bool = False
    wire: Wire | None = None
    connected_at: float = 0.0
    last_message_at: float = 0.0
    waits: int = 0
    flaps: int = 0
    earliest: float = 0.0
    latest: float = float("inf")
    since: float = 0.0


class Monitor:
    """Told by the network and the users; `check` runs after every step of the loop."""

    def __init__(self, rules: Rules, history: History, loop: asyncio.AbstractEventLoop) -> None:
        self.rules = rules
        self.history = history
        self.now = loop.time
        self.pool: ObservedPool | None = None
        self.demands = 0
        """Leases that users may hold now: asked for, and not yet given back."""
        self.dialling = 0
        self.open: set[Wire] = set()
        self.covered: dict[str, int] = {}
        """How often each kind of thing happened, so that a campaign can show that it tried everything."""
        self.sent_in_all = self.received_in_all = 0
        self._broken: Violation | None = None
        self._lines: dict[int, Line] = {}
        self._by_life: dict[int, Line] = {}
        self._tenants: dict[int, Tenancy] = {}
        self._mute: list[Wire] = []
        self._opening: list[tuple[WebSocket[Any], Wire]] = []
        self._attempts: deque[float] = deque()
        self._stats = PoolStats(0, 0, 0, 0, 0, 0)

    def count(self, what: str) -> None:
        self.covered[what] = self.covered.get(what, 0) + 1

    def must(self, holds: bool, text: str, *facts: Any) -> None:
        if not holds:
            # Kept, since whoever called may catch exceptions: `check` raises it once more.
            self._broken = self._broken or Violation(text.format(*facts))
            raise self._broken

    # Sockets --------------------------------------------------------------------------------------------------------

    def adopt(self, socket: WebSocket[Any]) -> None:
        """A WebSocket that the pool has just made."""
        # Keyed by identity, and held for the world's length, so that no identity comes twice.
        line = self._lines[id(socket)] = Line(socket)
        self._by_life[id(socket._life)] = line

    @contextlib.contextmanager
    def opening(self, socket: WebSocket[Any]) -> Iterator[None]:
        """While a user's `on_open` runs."""
        wire = self._lines[id(socket)].wire
        assert wire is not None
        self._opening.append((socket, wire))
        try:
            yield
        finally:
            self._opening.remove((socket, wire))

    def ready(self, socket: WebSocket[Any]) -> None:
        """A user is told that the connection is up."""
        present = (socket, self._lines[id(socket)].wire)
        self.must(present not in self._opening, "told to be up while its on_open still runs")

    def changed(self, life: Life, previous: State, change: Changed) -> None:
        line = self._by_life[id(life)]
        self.history.note(
            "line {} {} -> {} {}", self.number(line), previous.name, change.state.name, change.reason
        )
        self.must(
            change.state in TRANSITIONS[previous], "{} -> {} is not in the diagram", previous, change.state
        )
        self.count(f"{previous.name} -> {change.state.name}")
        line.since = self.now()

    def number(self, line: Line) -> int:
        return list(self._lines.values()).index(line)

    # The network ----------------------------------------------------------------------------------------------------

    def dial_began(self, listener: Any) -> None:
        line = self._lines[id(listener._owner)]
        now = self.now()
        self.history.note("line {} dials", self.number(line))
        self.must(not line.dialling, "two dials of one connection at a time")
        self.must(line.wire is None, "a dial while {} is open", line.wire)
        self.must(
            now >= line.earliest - LATE,
            "a dial at {:.4f}, before the back-off allows it at {:.4f}",
            now,
            line.earliest,
        )
        line.dials += 1
        line.dialling = True
        self.dialling += 1
        self._mind_budget(now)

    def _mind_budget(self, now: float) -> None:
        count, per = self.rules.budget
        if not count:
            return
        self._attempts.append(now)
        if len(self._attempts) > count:
            before = self._attempts.popleft()
            self.must(
                now - before >= per - LATE, "{} dials within {:.4f} s of {} s", count + 1, now - before, per
            )

    def dial_failed(self, listener: Any, error: BaseException) -> None:
        line = self._lines[id(listener._owner)]
        self.history.note("line {} dial fails: {!r}", self.number(line), error)
        self.count(f"dial: {type(error).__name__}")
        self._dial_over(line)
        asked = error.retry_after if isinstance(error, HandshakeRefused) else None
        wall = self.rules.wall_now()
        self._plan_return(
            line, (retry_after_seconds(asked, wall) or 0.0) if isinstance(error, DialError) else 0.0
        )

    def dial_succeeded(self, listener: Any, wire: Wire) -> None:
        line = self._lines[id(listener._owner)]
        self.history.note("line {} has {}", self.number(line), wire)
        self._dial_over(line)
        line.wire = wire
        line.connected_at = line.last_message_at = self.now()
        self.open.add(wire)

    def _dial_over(self, line: Line) -> None:
        line.dialling = False
        self.dialling -= 1

    def wire_gone(self, wire: Wire, code: int) -> None:
        line = self._lines[id(wire.listener._owner)]
        self.history.note("{} of line {} ends with {}", wire, self.number(line), code)
        self.count(f"end: {code}")
        self.open.discard(wire)
        if wire in self._mute:
            self._mute.remove(wire)
        line.wire = None
        policy = line.socket._life.policy
        now = self.now()
        if now - line.connected_at >= policy.stable_after:
            line.flaps = 0
        if line.last_message_at - line.connected_at >= policy.reset_after:
            line.flaps += 1
            if line.flaps <= policy.flaps:
                line.waits = 0
        self._plan_return(line, 0.0)

    def _plan_return(self, line: Line, asked: float) -> None:
        policy = line.socket._life.policy
        bound = min(policy.maximum, policy.initial * 2.0**line.waits)
        line.waits += 1
        line.earliest = self.now() + bound * self.rules.least_jitter + asked
        line.latest = float("inf") if self.rules.budget[0] else self.now() + bound + asked

    def muted(self, wire: Wire) -> None:
        self.count("mute")
        self._mute.append(wire)

    def sent(self, wire: Wire) -> None:
        self.sent_in_all += 1

    # Messages -------------------------------------------------------------------------------------------------------

    def handing_over(self, wire: Wire, payloads: list[bytes]) -> None:
        self.must(wire.reading, "{} hands over while reading is paused", wire)
        link = wire.listener
        ids = [(wire.number, number_of(payload)) for payload in payloads]
        if link._early is None:
            self._expect(wire, ids)
        else:
            # Held back until the WebSocket knows that it is connected: whose they are is decided then.
            link._early.append(lambda: self._expect(wire, ids))

    def _expect(self, wire: Wire, ids: list[MessageId]) -> None:
        socket = wire.listener._owner
        if socket.state.terminal:
            return
        self._lines[id(socket)].last_message_at = self.now()
        self.received_in_all += len(ids)
        tenancy = self._tenants.get(id(socket))
        if tenancy is not None and not tenancy.over:
            tenancy.expected.extend(ids)

    def handed_over(self, wire: Wire) -> None:
        mailbox = getattr(wire.listener._owner._receiver, "mailbox", None)
        if mailbox is not None:
            most = HIGH_WATER + 2 * max(HANDOVER_BYTES, LARGEST_MESSAGE)
            self.must(mailbox._bytes <= most, "{} bytes wait in a mailbox", mailbox._bytes)
            if mailbox._paused:
                self.count("paused")

    def received(self, tenancy: Tenancy, message: MessageId) -> None:
        """A user got a message."""
        self.count("message")
        self.must(bool(tenancy.expected), "a user got {}, which did not arrive for them", message)
        first = tenancy.expected.popleft()
        self.must(first == message, "a user got {} where {} came first", message, first)

    def read_to_the_end(self, tenancy: Tenancy) -> None:
        """The connection ended for good and its user has read everything."""
        self.count("read to the end")
        self.must(
            not tenancy.expected, "reading ended with {} messages not handed out", len(tenancy.expected)
        )

    # Leases ---------------------------------------------------------------------------------------------------------

    def served(self, waiter: int, waiting: dict[int, str], socket: WebSocket[Any], *, fresh: bool) -> None:
        self.history.note(
            "waiter {} gets line {}{}",
            waiter,
            self.number(self._lines[id(socket)]),
            " (new)" if fresh else "",
        )
        self.count("opened" if fresh else "reused")
        for earlier, uri in waiting.items():
            if earlier < waiter:
                self.count("overtaken")
                self.must(
                    not fresh and uri != socket.uri, "waiter {} is served before waiter {}", waiter, earlier
                )
        previous = self._tenants.get(id(socket))
        self.must(previous is None or previous.over, "a connection is leased twice at a time")
        self._tenants[id(socket)] = Tenancy(socket)

    def tenancy_over(self, socket: WebSocket[Any]) -> None:
        tenancy = self._tenants.get(id(socket))
        if tenancy is not None:
            tenancy.over = True

    def tenancy(self, socket: WebSocket[Any]) -> Tenancy:
        """Of the user whose `acquire` has just returned."""
        tenancy = self._tenants[id(socket)]
        self.must(not tenancy.taken, "two users hold one lease")
        tenancy.taken = True
        if socket.state is State.CONNECTED:
            self.ready(socket)
        return tenancy

    # After every step -----------------------------------------------------------------------------------------------

    def check(self) -> None:
        if self._broken is not None:
            raise self._broken
        if self.pool is None:
            return
        self._check_stats(self.pool.stats())
        core = self.pool._core
        slots = core.slots
        held = len(slots)
        self.must(held <= core.max_connections, "{} leases of at most {}", held, core.max_connections)
        in_use = len(self.open) + self.dialling
        self.must(in_use <= held, "{} sockets open or dialling with {} leases", in_use, held)
        now = self.now()
        active = closing = idle = 0
        for slot in slots.values():
            self._check_line(self._lines[id(self.pool._sockets[slot.key])], slot, now)
            active += slot.lease is Lease.ACTIVE
            closing += slot.lease is Lease.CLOSING
            idle += slot.lease is Lease.IDLE
        self.must(active <= self.demands, "{} leases in use by {} users", active, self.demands)
        if core.waiters:
            self.must(held == core.max_connections, "a waiter sleeps while a slot is free")
            self.must(not idle or closing >= len(core.waiters), "a waiter sleeps while a connection is idle")
        for wire in self._mute:
            self._check_mute(wire, now)
        for socket, _ in self._opening:
            self.must(not socket.gone, "a connection is gone while its on_open still runs")

    def _check_stats(self, stats: PoolStats) -> None:
        before, self._stats = self._stats, stats
        self.must(
            stats.total_connections == stats.active_connections + stats.idle_connections
            and stats.idle_connections >= 0,
            "counts that do not add up: {}",
            stats,
        )
        self.must(
            stats.total_messages_sent >= before.total_messages_sent
            and stats.total_messages_received >= before.total_messages_received
            and stats.total_reconnects >= before.total_reconnects,
            "a total fell: {} after {}",
            stats,
            before,
        )

    def _check_line(self, line: Line, slot: Slot, now: float) -> None:
        socket, state, timing = line.socket, line.socket.state, line.socket._life.timing
        if slot.lease is Lease.IDLE:
            self.must(state is State.CONNECTED, "an idle connection is {}", state)
            idle = now - slot.idle_since
            self.must(idle <= self.rules.max_idle_time + LATE, "idle for {:.4f} s", idle)
        if state is State.BACKING_OFF:
            self.must(now <= line.latest + LATE, "no dial by {:.4f}", line.latest)
        elif state is State.CLOSING:
            self.must(now <= line.since + timing.close_timeout + LATE, "closing since {:.4f}", line.since)
        elif state in (State.CONNECTING, State.RECONNECTING):
            self.must(now <= line.since + timing.open_timeout + LATE, "dialling since {:.4f}", line.since)
        elif state.terminal and socket.gone:
            self.must(socket._timer is None, "a connection that is gone keeps a timer")

    def _check_mute(self, wire: Wire, now: float) -> None:
        socket = wire.listener._owner
        timing = socket._life.timing
        if not wire.reading or socket.state is not State.CONNECTED or wire.mute_since is None:
            return
        since = max(wire.mute_since, wire.heard_since)
        if timing.ping_every is not None:
            limit = since + timing.ping_every + timing.ping_timeout
            self.must(now <= limit + LATE, "{} is half-open since {:.4f} and nobody noticed", wire, since)


class ObservedPool(ConnectionPool[Any]):
    """A pool that tells the monitor who is served with what, and when a lease ends."""

    def __init__(self, monitor: Monitor, *args: Any, clock: Clock, **kwargs: Any) -> None:
        super().__init__(*args, clock=clock, **kwargs)
        self._monitor = monitor
        monitor.pool = self

    def _serve(self, waiter: int, key: int, *, fresh: bool) -> None:
        socket = self._sockets[key]
        if fresh:
            self._monitor.adopt(socket)
        if not self._waiting[waiter].served.done():
            self._monitor.served(waiter, dict(self._core.waiters), socket, fresh=fresh)
        super()._serve(waiter, key, fresh=fresh)

    def _take_back(self, lease: Any, fresh: bool) -> None:
        self._monitor.history.note("slot {} is taken back", lease._key)
        self._monitor.count("taken back")
        super()._take_back(lease, fresh)

    def _detach(self, connection: Any) -> None:
        self._monitor.tenancy_over(connection._socket)
        super()._detach(connection)


def number_of(payload: bytes) -> int:
    """The number that a message carries, -1 where it does not decode."""
    if payload[:1] == b"?":
        return -1
    return int(json.loads(payload[: payload.index(b',"pad"')] + b"}")["n"])
