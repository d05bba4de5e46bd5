"""Intake: what one connection delivers becomes chunks; what its session asks for is sent."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from jetsocket_ingest.clock import Clock
from jetsocket_ingest.errors import ConnectionClosed, OperatorError, SubscriptionRefused
from jetsocket_ingest.net.life import Changed, State
from jetsocket_ingest.net.websocket import WebSocket
from jetsocket_ingest.plan.plan import PlannedConnection
from jetsocket_ingest.session import session as session_
from jetsocket_ingest.session.columns import Columns
from jetsocket_ingest.session.session import Session
from jetsocket_ingest.sink.encoding import marker_payload
from jetsocket_ingest.sink.record import Chunk, Kind
from jetsocket_ingest.telemetry.log import get_logger
from jetsocket_ingest.telemetry.tracing import NO_SPAN, Span, Tracing

UNMATCHED_LOG_INTERVAL = 10.0
"""Seconds between two log lines about unmatched messages of one connection: a changed envelope must not flood."""


@dataclass(slots=True)
class IntakeCounters:
    records: int = 0
    """Data records accepted, once for each subscription of the connection."""
    unmatched: int = 0
    gaps: Counter[str] = field(default_factory=Counter)
    """Gap records, by close code of the loss."""
    subscriptions_refused: int = 0
    stale: int = 0
    """Times a stream was silent for too long and asked for again."""


@dataclass(slots=True)
class Allowance:
    """How many records a bounded run may still take; shared by all connections."""

    left: int | None = None
    on_spent: Callable[[], None] = field(default=lambda: None)

    def grant(self, wanted: int) -> int:
        """How many of `wanted` may be taken."""
        if self.left is None:
            return wanted
        granted = min(wanted, self.left)
        self.left -= granted
        if granted and not self.left:
            self.on_spent()
        return granted


@dataclass(slots=True, frozen=True)
class _Loss:
    """Since when a stream is missing (ns since 1970 UTC), and why."""

    since_ns: int
    reason: str
    code: str


class Intake:
    """The receiver of one planned connection.

    Args:
        planned: its streams and the subscriptions they belong to.
        host: where it leads, for the log.
        session: the protocol to speak.
        accept: takes chunks.
        allowance: bounds the run.
        tracing: a span covers each subscribe.
        on_end: called once when the connection has ended, with the error, or None where we closed it.
    """

    def __init__(
        self,
        planned: PlannedConnection,
        host: str,
        session: Session,
        accept: Callable[[Chunk], None],
        allowance: Allowance,
        clock: Clock,
        on_end: Callable[[Intake, Exception | None], None],
        tracing: Tracing,
    ) -> None:
        self.planned = planned
        self.host = host
        self.counters = IntakeCounters()
        self.state = State.DISCONNECTED
        self.error: Exception | None = None
        self.live: set[str] = set()
        self.refused: set[str] = set()
        self.last_data: float | None = None
        """Monotonic time of the last data; None before the first."""
        self.socket: WebSocket[Any] | None = None
        self.lost: Counter[str] = Counter()
        """Times the connection was lost, by close code."""
        self._up = False
        self._up_since = 0.0
        self._session = session
        self._accept = accept
        self._allowance = allowance
        self._clock = clock
        self._on_end = on_end
        self._tracing = tracing
        self._subscribing: Span = NO_SPAN
        self.trace_context: Any = None
        """Of the last subscribe, for links."""
        self._log = get_logger(endpoint=planned.endpoint, connection=planned.id)
        self._timer: asyncio.TimerHandle | None = None
        self._last_ns = 0
        self._missing: dict[str | None, _Loss] = {}
        """Streams that were lost and are not confirmed again; None stands for all that an address sends by itself."""
        self._unmatched_told: float | None = None
        self._unmatched_since = 0
        self._pressed: set[str] = set()

    # The receiver's part --------------------------------------------------------------------------------------------

    def on_changed(self, change: Changed) -> None:
        self.state = change.state
        socket = self.socket
        attempts = socket.counters.attempts if socket is not None else 0
        match change.state:
            case State.CONNECTING | State.RECONNECTING:
                self._log.debug("connection.dialled", host=self.host, attempt=attempts + 1)
            case State.CONNECTED:
                self.error = None
                self._up = True
                self._up_since = self._clock.monotonic()
                self._log.info(
                    "connection.connected",
                    attempt=attempts,
                    engine=socket.engine if socket is not None else None,
                    subprotocol=socket.subprotocol if socket is not None else None,
                )
            case State.BACKING_OFF:
                self.error = change.error
                self._went_down(change)
                self._log.warning(
                    "connection.backing_off",
                    reason=change.reason,
                    delay_s=round(change.delay, 3),
                    attempt=attempts,
                )
            case State.FAILED:
                self.error = change.error
                self._went_down(change)
                self._log.error("connection.failed", reason=change.reason, attempts=attempts)
            case State.CLOSED:
                self._went_down(change)
                self._log.debug("connection.closed", reason=change.reason)
            case _:
                pass
        if change.state.terminal:
            self._stop_timer()
            self._on_end(self, change.error)

    def on_connected(self) -> None:
        self.live.clear()
        self.refused.clear()
        self._last_ns = self._clock.wall_ns()
        self._mark(Kind.CONNECT, [None], [{"connection": self.planned.id}])
        self._subscribing = self._tracing.span(
            "subscription.subscribe",
            links=[self.socket.dial_context if self.socket is not None else None],
            endpoint=self.planned.endpoint,
            connection=self.planned.id,
            streams=len(self.planned.streams),
        )
        self.trace_context = self._subscribing.context
        if self.planned.streams:
            self._log.debug("subscription.requested", streams=len(self.planned.streams))
        self._speak(self._session.connected)

    def on_messages(self, payloads: list[bytes], binary: bool, received_ns: int, size: int) -> None:
        self._last_ns = received_ns
        columns, actions = self._session.received(payloads, binary, self._clock.monotonic())
        if actions:
            # An answer that comes with data came before it: a stream is live before its first record.
            self._act(actions)
        if columns.payloads:
            if columns.others:
                size = sum(map(len, columns.payloads))
            self._take(columns, binary, received_ns, size)

    def _take(self, columns: Columns, binary: bool, received_ns: int, size: int) -> None:
        count = len(columns.payloads)
        granted = self._allowance.grant(count)
        if granted < count:
            columns = Columns(
                columns.payloads[:granted],
                columns.streams[:granted],
                columns.event_times_ns and columns.event_times_ns[:granted],
                columns.sequences and columns.sequences[:granted],
            )
            size = sum(map(len, columns.payloads))
        if not granted:
            return
        self.counters.records += granted
        self.last_data = self._clock.monotonic()
        for subscription in self.planned.subscriptions:
            self._accept(
                Chunk(
                    Kind.DATA,
                    subscription,
                    self.planned.id,
                    received_ns,
                    binary,
                    columns.payloads,
                    columns.streams,
                    size,
                    columns.event_times_ns,
                    columns.sequences,
                )
            )

    # Pressure -------------------------------------------------------------------------------------------------------

    def press(self, subscription: str, pressed: bool) -> None:
        """A sink of the subscription is full, or none is any more: stop or go on reading."""
        (self._pressed.add if pressed else self._pressed.discard)(subscription)
        socket = self.socket
        if socket is None:
            return
        if self._pressed and not socket.paused:
            socket.pause_reading()
            self._session.suspend()
        elif not self._pressed and socket.paused:
            socket.resume_reading()
            self._session.resume(self._clock.monotonic())
        self._schedule()

    def goodbye(self) -> None:
        """Say what the provider wants to hear before a close."""
        if self.state is State.CONNECTED:
            with suppress(OperatorError):  # a secret in it cannot be read; the close itself says enough
                self._act(self._session.goodbye())

    # Parts ----------------------------------------------------------------------------------------------------------

    def _speak(self, ask: Callable[[float], Sequence[session_.Action]]) -> None:
        """Do what the session wants done now."""
        try:
            actions = ask(self._clock.monotonic())
        except OperatorError as error:
            # A secret file may be away for the moment in which it is replaced.
            actions = [session_.Reconnect(str(error))]
        self._act(actions)

    def _act(self, actions: Sequence[session_.Action]) -> None:
        for action in actions:
            match action:
                case session_.Send(text):
                    if self.socket is not None and self.socket.state is State.CONNECTED:
                        self.socket.send_soon(text)
                case session_.Live(streams, acknowledged):
                    self._went_live(streams, acknowledged)
                case session_.Refused(streams, answer):
                    self._refuse(streams, answer)
                case session_.Unmatched(count, excerpt):
                    self._unmatched(count, excerpt)
                case session_.Stale(streams):
                    self.counters.stale += len(streams)
                    self.live.difference_update(streams)
                    self._log.warning("subscription.stale", streams=_some(streams))
                case session_.Reconnect(reason):
                    if self.socket is not None:
                        self.socket.reconnect(reason)
        self._schedule()

    def _went_live(self, streams: tuple[str, ...], acknowledged: bool) -> None:
        self.live.update(streams)
        self._subscribed_all()
        if acknowledged:
            self._log.info("subscription.acknowledged", streams=len(streams))
        losses = {name: self._missing.pop(name) for name in streams or (None,) if name in self._missing}
        if not losses:
            return
        self.counters.gaps.update(loss.code for loss in losses.values())
        now_ns = self._clock.wall_ns()
        facts = [
            {
                "connection": self.planned.id,
                "reason": loss.reason,
                "from": loss.since_ns,
                "to": now_ns,
                "count": None,
                "stream": name,
            }
            for name, loss in losses.items()
        ]
        self._mark(Kind.GAP, list(losses), facts)

    @property
    def complete(self) -> bool:
        """Whether every stream is confirmed or refused."""
        return self.state is State.CONNECTED and len(self.live) + len(self.refused) >= len(
            self.planned.streams
        )

    def _subscribed_all(self) -> None:
        if self.complete:
            self._subscribing.end()

    def _refuse(self, streams: tuple[str, ...], answer: str) -> None:
        self.refused.update(streams)
        self.counters.subscriptions_refused += len(streams)
        shown = _some(streams)
        self._subscribing.fail(answer)
        self._subscribed_all()
        self._log.error("subscription.refused", streams=shown, reason=answer)
        if self.refused >= set(self.planned.streams) and self.socket is not None:
            # Nothing would ever come over this connection.
            self.error = SubscriptionRefused(f"{self.planned.endpoint} refused {shown}: {answer}")
            self.socket.fail(self.error)

    def _unmatched(self, count: int, excerpt: str) -> None:
        self.counters.unmatched += count
        self._unmatched_since += count
        now = self._clock.monotonic()
        if self._unmatched_told is None or now - self._unmatched_told >= UNMATCHED_LOG_INTERVAL:
            self._unmatched_told = now
            self._log.warning("message.unmatched", count=self._unmatched_since, sample=excerpt)
            self._unmatched_since = 0

    def _went_down(self, change: Changed) -> None:
        self._stop_timer()
        self._subscribing.end(change.error)
        self.live.clear()
        if not self._up:
            return
        self._up = False
        reason = "backpressure" if self._pressed else change.reason or "closed by us"
        if change.state is not State.CLOSED:
            code = change.error.code if isinstance(change.error, ConnectionClosed) else None
            # A dead peer is noticed late: what is missing may begin right after the last thing heard.
            loss = _Loss(self._last_ns, reason, str(code or "none"))
            for name in self.planned.streams or (None,):
                if name not in self.refused:
                    self._missing.setdefault(name, loss)
            self.lost[loss.code] += 1
            lasted = round(self._clock.monotonic() - self._up_since, 3)
            self._log.warning("connection.lost", code=code, reason=reason, lasted_s=lasted)
        self._mark(Kind.DISCONNECT, [None], [{"connection": self.planned.id, "reason": reason}])

    def _mark(self, kind: Kind, streams: Sequence[str | None], facts: Sequence[dict[str, Any]]) -> None:
        payloads = [marker_payload(kind, fact) for fact in facts]
        size = sum(map(len, payloads))
        for subscription in self.planned.subscriptions:
            self._accept(
                Chunk(
                    kind,
                    subscription,
                    self.planned.id,
                    self._clock.wall_ns(),
                    False,
                    payloads,
                    streams,
                    size,
                )
            )

    def _schedule(self) -> None:
        self._stop_timer()
        deadline = self._session.deadline()
        if deadline is not None and self.state is State.CONNECTED:
            delay = max(0.0, deadline - self._clock.monotonic())
            self._timer = asyncio.get_running_loop().call_later(delay, self._tick)

    def _tick(self) -> None:
        self._timer = None
        try:
            self._speak(self._session.tick)
        except Exception as error:  # noqa: BLE001  (a bug must end the connection, told, never its heartbeat in silence)
            if self.socket is not None:
                self.socket.fail(error)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _some(streams: tuple[str, ...]) -> str:
    """The first names, and how many more there are."""
    return ", ".join(streams[:5]) + (f" and {len(streams) - 5} more" if len(streams) > 5 else "")
