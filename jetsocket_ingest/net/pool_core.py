"""The decisions of a connection pool, without I/O: who gets which connection, what is opened, what is closed.

State is plain and every decision is made in `_decide`, called after each event; `ConnectionPool` carries the actions
out. (Encode's httpcore is the model of this shape.)
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from enum import Enum


class Lease(Enum):
    """What holds a slot. A slot is free only when the socket that held it is gone."""

    ACTIVE = "active"
    """In the hands of a user: connecting, connected, backing off, or dead and not yet released."""
    SETTLING = "settling"
    """Released, and being proven quiet."""
    IDLE = "idle"
    """Quiet, alive, ready for the next user of its URI."""
    CLOSING = "closing"


@dataclass(slots=True)
class Slot:
    key: int
    uri: str
    lease: Lease
    idle_since: float = 0.0
    was_active: bool = True
    """For the counts while CLOSING: it still holds its lease, as what it was."""


@dataclass(slots=True, frozen=True)
class Assign:
    """Hand the idle connection `key` to `waiter`."""

    waiter: int
    key: int


@dataclass(slots=True, frozen=True)
class Open:
    """Open a connection `key` to `uri` for `waiter`; its slot is taken."""

    waiter: int
    key: int
    uri: str


@dataclass(slots=True, frozen=True)
class Shut:
    """Close connection `key`; report `gone` when its socket is."""

    key: int
    reason: str


Action = Assign | Open | Shut


class PoolCore:
    """Slots and waiters of one pool.

    Rules: slots never exceed `max_connections`; waiters are served in the order they came; nothing is lost when one of
    them gives up.
    """

    def __init__(self, max_connections: int, max_idle_time: float) -> None:
        self.max_connections = max_connections
        self.max_idle_time = max_idle_time
        self.closed = False
        self.slots: dict[int, Slot] = {}
        self.waiters: OrderedDict[int, str] = OrderedDict()
        self._keys = 0

    # Events ---------------------------------------------------------------------------------------------------------

    def acquire(self, waiter: int, uri: str) -> list[Action]:
        """`waiter` wants a connection to `uri`."""
        assert not self.closed
        self.waiters[waiter] = uri
        return self._decide()

    def give_up(self, waiter: int) -> list[Action]:
        """`waiter` was cancelled or ran out of time before it was served."""
        self.waiters.pop(waiter, None)
        return self._decide()

    def settling(self, key: int) -> None:
        """The user released it; it is being proven quiet."""
        slot = self.slots[key]
        if slot.lease is Lease.ACTIVE:
            slot.lease = Lease.SETTLING

    def settled(self, key: int, now: float) -> list[Action]:
        """It is quiet and alive: ready for the next user."""
        slot = self.slots.get(key)
        if slot is None or slot.lease is not Lease.SETTLING:
            return []
        if self.closed:
            return self._shut(slot, "pool closed")
        slot.lease = Lease.IDLE
        slot.idle_since = now
        return self._decide()

    def discard(self, key: int, reason: str) -> list[Action]:
        """It must not be used again (not quiet, not alive, failed): close it."""
        slot = self.slots.get(key)
        return [] if slot is None else self._shut(slot, reason)

    def gone(self, key: int) -> list[Action]:
        """Its socket and tasks are gone: the slot is free."""
        self.slots.pop(key, None)
        return self._decide()

    def expire(self, now: float) -> list[Action]:
        """Close what has been idle for longer than `max_idle_time`."""
        actions: list[Action] = []
        for slot in self.idle():
            if now - slot.idle_since >= self.max_idle_time:
                actions += self._shut(slot, "idle for too long")
        return actions

    def close(self) -> list[Action]:
        """No more connections. Waiters are the caller's to turn away; every slot is shut."""
        self.closed = True
        self.waiters.clear()
        return [action for slot in list(self.slots.values()) for action in self._shut(slot, "pool closed")]

    # Views ----------------------------------------------------------------------------------------------------------

    def idle(self) -> list[Slot]:
        """Idle slots, the longest idle first."""
        return sorted((s for s in self.slots.values() if s.lease is Lease.IDLE), key=lambda s: s.idle_since)

    @property
    def active_count(self) -> int:
        return sum(slot.was_active for slot in self.slots.values() if slot.lease is not Lease.IDLE)

    @property
    def idle_count(self) -> int:
        return len(self.slots) - self.active_count

    def next_expiry(self) -> float | None:
        """When `expire` is wanted next, monotonic seconds."""
        idle = self.idle()
        return idle[0].idle_since + self.max_idle_time if idle else None

    # The decision ---------------------------------------------------------------------------------------------------

    def _decide(self) -> list[Action]:
        """Serve waiters in order: reuse, else open, else wait for a slot that is on its way out, else evict.

        A waiter that must wait does not block a later one for whom an idle connection of its own URI is at hand: no
        slot could serve the first one sooner for it, since every idle one was considered for eviction before.
        """
        if self.closed:
            return []
        actions: list[Action] = []
        coming_free = sum(slot.lease is Lease.CLOSING for slot in self.slots.values())
        for waiter, uri in list(self.waiters.items()):
            idle = self.idle()
            match = next((slot for slot in reversed(idle) if slot.uri == uri), None)
            if match is not None:
                del self.waiters[waiter]
                match.lease = Lease.ACTIVE
                match.was_active = True
                actions.append(Assign(waiter, match.key))
            elif len(self.slots) < self.max_connections:
                del self.waiters[waiter]
                self._keys += 1
                self.slots[self._keys] = Slot(self._keys, uri, Lease.ACTIVE)
                actions.append(Open(waiter, self._keys, uri))
            elif coming_free:
                coming_free -= 1
            elif idle:
                actions += self._shut(idle[0], "evicted for another URI")
            else:
                break
        return actions

    def _shut(self, slot: Slot, reason: str) -> list[Action]:
        if slot.lease is Lease.CLOSING:
            return []
        slot.was_active = slot.lease is not Lease.IDLE
        slot.lease = Lease.CLOSING
        return [Shut(slot.key, reason)]
