"""The life of a connection, decided without I/O: events and `now` in, actions out.

`WebSocket` feeds it and carries out what it returns. The state diagram in the docs is drawn from `TRANSITIONS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum, StrEnum

from jetsocket_ingest.errors import ConnectionClosed, DialError, HandshakeRefused, InternalError
from jetsocket_ingest.net.backoff import Backoff
from jetsocket_ingest.net.budget import ConnectBudget


class State(StrEnum):
    """Where a connection is in its life."""

    DISCONNECTED = "disconnected"
    CONNECTING = "connecting"
    CONNECTED = "connected"
    RECONNECTING = "reconnecting"
    BACKING_OFF = "backing_off"
    CLOSING = "closing"
    CLOSED = "closed"
    FAILED = "failed"

    @property
    def terminal(self) -> bool:
        return self is State.CLOSED or self is State.FAILED


TRANSITIONS: Mapping[State, frozenset[State]] = {
    State.DISCONNECTED: frozenset({State.CONNECTING, State.BACKING_OFF, State.CLOSED}),
    State.CONNECTING: frozenset({State.CONNECTED, State.BACKING_OFF, State.CLOSING, State.FAILED}),
    State.CONNECTED: frozenset({State.BACKING_OFF, State.CLOSING, State.CLOSED, State.FAILED}),
    State.RECONNECTING: frozenset({State.CONNECTED, State.BACKING_OFF, State.CLOSING, State.FAILED}),
    State.BACKING_OFF: frozenset({State.CONNECTING, State.RECONNECTING, State.CLOSED, State.FAILED}),
    State.CLOSING: frozenset({State.CLOSED, State.FAILED}),
    State.CLOSED: frozenset(),
    State.FAILED: frozenset(),
}


def diagram() -> str:
    """The states as a Mermaid diagram."""
    lines = ["stateDiagram-v2", "    [*] --> DISCONNECTED"]
    lines += [
        f"    {a.name} --> {b.name}" for a, targets in TRANSITIONS.items() for b in State if b in targets
    ]
    lines += [f"    {state.name} --> [*]" for state in State if state.terminal]
    return "\n".join(lines)


class Verdict(Enum):
    """What a close code or an HTTP status means for the connection."""

    RETRY = "retry"
    END = "end"
    """Over, in good order: the connection ends CLOSED."""
    FAIL = "fatal"
    """Trying again cannot help: the connection ends FAILED."""


RETRIED_STATUSES = frozenset({408, 425, 429})
"""The 4xx statuses that time can cure: request time-out, too early, too many requests."""

FATAL_CLOSE_CODES = frozenset({1003, 1008, 1010})
"""Closes that say "not what you send, not you, not without that extension": repeating them is abuse of the peer."""


STALL = 0.5
"""Seconds that a timer may come late before we take the stall for our own and not for the peer's."""


@dataclass(slots=True, frozen=True)
class ReconnectPolicy:
    """When and how to connect again.

    Attributes:
        http_status: verdicts that override the default: 4xx but 408, 425 and 429 fail, all others are retried.
        close_code: verdicts that override the default: 1003, 1008 and 1010 fail, all others are retried.
        initial, maximum: bounds of the first and of every wait, seconds.
        reset_after: seconds of flowing data after which the back-off starts over. A handshake alone never resets it:
            a peer that accepts and closes would be dialled in a tight loop.
        flaps: losses in a row, each after less than `stable_after` seconds, whose back-off may start over; from then on
            it grows even though data flowed, until a connection holds for `stable_after`.
        max_attempts: failed attempts in a row before the connection ends FAILED; None: no limit.
        max_time: seconds without a connection before it ends FAILED; None: no limit.
        retry_first: also retry the very first connection; otherwise its failure is final.
    """

    http_status: Mapping[int, Verdict] = field(default_factory=dict)
    close_code: Mapping[int, Verdict] = field(default_factory=dict)
    initial: float = 0.5
    maximum: float = 30.0
    reset_after: float = 10.0
    flaps: int = 3
    stable_after: float = 60.0
    max_attempts: int | None = None
    max_time: float | None = None
    retry_first: bool = False

    def on_status(self, status: int) -> Verdict:
        fatal = 400 <= status < 500 and status not in RETRIED_STATUSES
        return self.http_status.get(status, Verdict.FAIL if fatal else Verdict.RETRY)

    def on_close(self, code: int) -> Verdict:
        return self.close_code.get(code, Verdict.FAIL if code in FATAL_CLOSE_CODES else Verdict.RETRY)


@dataclass(slots=True, frozen=True)
class Timing:
    """Seconds. `ping_every` None sends no pings."""

    open_timeout: float = 10.0
    close_timeout: float = 5.0
    ping_every: float | None = 20.0
    ping_timeout: float = 20.0


@dataclass(slots=True, frozen=True)
class Dial:
    """Start connecting."""


@dataclass(slots=True, frozen=True)
class CancelDial:
    """Stop connecting; `dial_failed` follows when the attempt is gone."""


@dataclass(slots=True, frozen=True)
class Ping:
    payload: bytes


@dataclass(slots=True, frozen=True)
class Close:
    """Begin the closing handshake."""

    code: int
    reason: str


@dataclass(slots=True, frozen=True)
class Abort:
    """Drop the socket; `lost` follows."""


@dataclass(slots=True, frozen=True)
class Changed:
    """The state changed: for whoever watches. `delay` is the wait of BACKING_OFF, seconds."""

    state: State
    previous: State
    reason: str = ""
    delay: float = 0.0
    error: Exception | None = None


Action = Dial | CancelDial | Ping | Close | Abort | Changed


class Life:
    """One connection from its first dial to its end, reconnects included.

    Each method is an event: call it with the monotonic time and carry out the actions it returns, in order.
    `deadline` says when `tick` wants to be called next.
    """

    def __init__(
        self,
        policy: ReconnectPolicy,
        timing: Timing,
        random: Callable[[], float],
        budget: ConnectBudget | None = None,
    ) -> None:
        self.policy = policy
        self.timing = timing
        self.state = State.DISCONNECTED
        self.error: Exception | None = None
        """Why it FAILED, or how the peer ended it."""
        self.last_received = 0.0
        """Set by the owner at each hand-over: cheaper than an event each."""
        self.connects = 0
        self.round_trip: float | None = None
        """Seconds between the last ping and its pong."""
        self.pongs = 0
        """Pings of ours that were answered."""
        self._backoff = Backoff(policy.initial, policy.maximum, random)
        self._since = 0.0
        self._down_since = 0.0
        self._failures = 0
        self._connected_at = 0.0
        self._pending_reason = ""
        self._next_ping: float | None = None
        self._pong_due: float | None = None
        self._ping_sent = 0.0
        self._ping_number = 0
        self._suspended = False
        self._budget = budget
        self._granted: float | None = None
        """The moment that the budget gave us, while it lies ahead."""
        self._flaps = 0
        self._stalled = False

    # Events ---------------------------------------------------------------------------------------------------------

    def open(self, now: float) -> list[Action]:
        """Connect for the first time."""
        self._down_since = now
        return self._dial(now)

    def dialled(self, now: float) -> list[Action]:
        """The attempt succeeded."""
        if self.state not in (State.CONNECTING, State.RECONNECTING):
            return [Abort()]
        self.connects += 1
        self._failures = 0
        self._pending_reason = ""
        self._connected_at = self.last_received = now
        self._pong_due = None
        self._next_ping = None if self.timing.ping_every is None else now + self.timing.ping_every
        return [self._change(State.CONNECTED, now)]

    def dial_failed(
        self, now: float, error: DialError | None, retry_after: float | None = None
    ) -> list[Action]:
        """The attempt ended without a connection; `error` is None where we cancelled it ourselves."""
        if self.state is State.CLOSING:
            return [self._change(State.CLOSED, now)]
        if self.state.terminal:
            return []
        if error is None:
            error = DialError(self._pending_reason or "the attempt was cancelled")
        self._pending_reason = ""
        self._failures += 1
        first = self.connects == 0 and not self.policy.retry_first
        if first or error.fatal or self._verdict_on(error) is Verdict.FAIL:
            return [self._fail(now, error)]
        return [self._back_off(now, error, retry_after)]

    def lost(self, now: float, code: int, reason: str) -> list[Action]:
        """The socket is gone."""
        reason = self._pending_reason or reason
        self._pending_reason = ""
        self._next_ping = self._pong_due = None
        if self.state is State.CLOSING:
            return [self._change(State.CLOSED, now, reason)]
        if self.state.terminal:
            return []
        error = ConnectionClosed(code, reason)
        self._down_since = now
        self._judge_flapping(now)
        verdict = self.policy.on_close(code)
        if verdict is Verdict.FAIL:
            return [self._fail(now, error)]
        if verdict is Verdict.END:
            self.error = error
            return [self._change(State.CLOSED, now, str(error), error=error)]
        return [self._back_off(now, error, None)]

    def close(self, now: float, code: int, reason: str) -> list[Action]:
        """We want it to end."""
        if self.state is State.CONNECTED:
            return [self._change(State.CLOSING, now, reason), Close(code, reason)]
        if self.state in (State.CONNECTING, State.RECONNECTING):
            return [self._change(State.CLOSING, now, reason), CancelDial()]
        if self.state in (State.DISCONNECTED, State.BACKING_OFF):
            self._forgo()
            return [self._change(State.CLOSED, now, reason)]
        return []

    def fail(self, now: float, error: Exception) -> list[Action]:
        """Something of ours broke (a receiver raised): end it FAILED, not in silence."""
        if self.state.terminal:
            return []
        had_socket = self.state in (State.CONNECTED, State.CLOSING)
        dialling = self.state in (State.CONNECTING, State.RECONNECTING)
        actions: list[Action] = [self._fail(now, error)]
        if had_socket:
            actions.append(Abort())
        elif dialling:
            actions.append(CancelDial())
        return actions

    def drop(self, now: float, reason: str) -> list[Action]:
        """Give up this socket and connect again by the policy: the peer is not well."""
        if self.state is not State.CONNECTED:
            return []
        self._pending_reason = reason
        return [Abort()]

    def ping(self, now: float) -> list[Action]:
        """Prove it alive now; `tick` drops it where no pong comes within `ping_timeout`."""
        if self.state is not State.CONNECTED or self._pong_due is not None:
            return []
        self._ping_number += 1
        self._ping_sent = now
        self._stalled = False
        if not self._suspended:
            self._pong_due = now + self.timing.ping_timeout
        if self.timing.ping_every is not None:
            self._next_ping = now + self.timing.ping_every
        return [Ping(self._ping_payload())]

    def ponged(self, now: float, payload: bytes) -> list[Action]:
        """A pong arrived; one that answers no ping of ours is ignored, as RFC 6455 allows."""
        if payload == self._ping_payload() and self._ping_sent:
            self.round_trip = now - self._ping_sent
            self.pongs += 1
            self._pong_due = None
        return []

    def suspend(self) -> None:
        """Reading is paused: no pong can be seen, so none is missed. Pings still go out."""
        self._suspended = True
        self._pong_due = None

    def resume(self, now: float) -> None:
        """Reading goes on; the watch begins anew with the next ping."""
        self._suspended = False
        if self._next_ping is not None:
            self._next_ping = now

    def tick(self, now: float) -> list[Action]:
        """Do what is due."""
        if self.state is State.BACKING_OFF and now >= self._since:
            return self._dial(now)
        if self.state in (State.CONNECTING, State.RECONNECTING) and self._expired(
            now, self.timing.open_timeout
        ):
            self._since = float("inf")  # once
            self._pending_reason = f"no connection within {self.timing.open_timeout:g} s"
            return [CancelDial()]
        if self.state is State.CLOSING and self._expired(now, self.timing.close_timeout):
            self._since = float("inf")
            return [Abort()]
        if self.state is State.CONNECTED:
            if self._pong_due is not None and now >= self._pong_due:
                if now - self._pong_due > STALL and not self._stalled:
                    # We come late ourselves: the pong may lie unread in the socket. It has one more moment.
                    self._stalled = True
                    self._pong_due = now + STALL
                    return []
                return self.drop(now, f"no pong within {self.timing.ping_timeout:g} s")
            if self._next_ping is not None and now >= self._next_ping:
                if self._pong_due is not None:
                    # A ping is still unanswered, within its time: the next is due after it.
                    self._next_ping = self._pong_due
                    return []
                return self.ping(now)
        return []

    def deadline(self) -> float | None:
        """Monotonic time at which `tick` is wanted; None: no timer runs."""
        if self.state is State.BACKING_OFF:
            return self._since
        if self.state in (State.CONNECTING, State.RECONNECTING):
            return _finite(self._since + self.timing.open_timeout)
        if self.state is State.CLOSING:
            return _finite(self._since + self.timing.close_timeout)
        if self.state is State.CONNECTED:
            return min((t for t in (self._next_ping, self._pong_due) if t is not None), default=None)
        return None

    # Parts ----------------------------------------------------------------------------------------------------------

    def _dial(self, now: float) -> list[Action]:
        """Dial, or wait for the moment that the budget gives; having waited for it, dial."""
        if self._budget is not None and self._granted is None:
            moment = self._budget.take(now)
            if moment > now:
                self._granted = moment
                changed = None
                if self.state is not State.BACKING_OFF:
                    changed = self._change(
                        State.BACKING_OFF, now, "the connect budget is used up", delay=moment - now
                    )
                self._since = moment
                return [changed] if changed is not None else []
        self._granted = None
        first = self.connects == 0 and self._failures == 0
        return [self._change(State.CONNECTING if first else State.RECONNECTING, now), Dial()]

    def _forgo(self) -> None:
        """The attempt that the budget has a moment for will not be made."""
        if self._budget is not None and self._granted is not None:
            self._budget.give_back(self._granted)
            self._granted = None

    def _judge_flapping(self, now: float) -> None:
        """Let the back-off start over where the connection was good, unless it only seemed so several times."""
        if now - self._connected_at >= self.policy.stable_after:
            self._flaps = 0
        if self.last_received - self._connected_at >= self.policy.reset_after:
            self._flaps += 1
            if self._flaps <= self.policy.flaps:
                self._backoff.reset()

    def _verdict_on(self, error: DialError) -> Verdict:
        return self.policy.on_status(error.status) if isinstance(error, HandshakeRefused) else Verdict.RETRY

    def _expired(self, now: float, timeout: float) -> bool:
        return now >= self._since + timeout

    def _ping_payload(self) -> bytes:
        return b"%d" % self._ping_number

    def _back_off(self, now: float, error: Exception, retry_after: float | None) -> Changed:
        policy = self.policy
        if policy.max_attempts is not None and self._failures >= policy.max_attempts:
            return self._fail(now, error, f"gave up after {self._failures} failed attempts: {error}")
        if policy.max_time is not None and now - self._down_since >= policy.max_time:
            return self._fail(
                now, error, f"gave up after {policy.max_time:g} s without a connection: {error}"
            )
        # What the peer asks for is a lower bound: jitter on top keeps many connections from returning in step.
        delay = self._backoff.next() + (retry_after or 0.0)
        changed = self._change(State.BACKING_OFF, now, str(error), delay=delay, error=error)
        self._since = now + delay
        return changed

    def _fail(self, now: float, error: Exception, reason: str = "") -> Changed:
        self._forgo()
        self.error = error
        return self._change(State.FAILED, now, reason or str(error), error=error)

    def _change(
        self,
        state: State,
        now: float,
        reason: str = "",
        *,
        delay: float = 0.0,
        error: Exception | None = None,
    ) -> Changed:
        if state not in TRANSITIONS[self.state]:
            raise InternalError(f"a connection cannot go from {self.state.name} to {state.name}")
        previous, self.state, self._since = self.state, state, now
        return Changed(state, previous, reason, delay, error)


def _finite(value: float) -> float | None:
    return None if value == float("inf") else value
