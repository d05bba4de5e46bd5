"""A WebSocket that stays up: the thin asyncio shell that carries out what `Life` decides."""

from __future__ import annotations

import asyncio
import random as _random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from ssl import SSLContext
from types import TracebackType
from typing import Any, Generic, Protocol, TypeVar, cast

import msgspec

from jetsocket_ingest.clock import Clock, SystemClock
from jetsocket_ingest.errors import (
    ConnectionClosed,
    DialError,
    HandshakeRefused,
    OperatorError,
    ProviderError,
)
from jetsocket_ingest.net import life as life_
from jetsocket_ingest.net.backoff import retry_after_seconds
from jetsocket_ingest.net.budget import ConnectBudget
from jetsocket_ingest.net.engines import Engine, dial_for
from jetsocket_ingest.net.life import Action, Changed, Life, ReconnectPolicy, State, Timing
from jetsocket_ingest.net.mailbox import Mailbox
from jetsocket_ingest.net.transport import Dial, DialOptions, Transport
from jetsocket_ingest.telemetry.tracing import NO_SPAN, Span

T = TypeVar("T")
Headers = Mapping[str, str] | Callable[[], Mapping[str, str]]
"""Extra headers of the handshake; a callable is asked at every connect, so that rotated secrets work."""


class Receiver(Protocol):
    """Takes what arrives on a `WebSocket`, a hand-over at a time, on the event loop. What it raises ends the
    connection FAILED."""

    def on_connected(self) -> None:
        """Connected, for the first time or again: whatever was subscribed must be subscribed now."""
        ...

    def on_messages(self, payloads: list[bytes], binary: bool, received_ns: int, size: int) -> None:
        """Complete messages of one read, `size` bytes together, all text or all binary; the list is the receiver's."""
        ...

    def on_changed(self, change: Changed) -> None:
        """The state changed; a terminal state is the last call."""
        ...


@dataclass(slots=True)
class Counters:
    """What one connection did; plain numbers that telemetry reads when it exports."""

    messages_sent: int = 0
    messages_received: int = 0
    bytes_received: int = 0
    reconnects: int = 0
    attempts: int = 0
    pauses: int = 0


@dataclass(slots=True)
class Hooks:
    """Where others look in: a span around each dial. Nothing here is called for each message."""

    dial_span: Callable[[int], Span] = field(default=lambda attempt: NO_SPAN)


class MessageError(ProviderError):
    """A message could not be decoded to what the reader asked for; the connection goes on with the next one."""


class WebSocket(Generic[T]):
    """One WebSocket with its life of reconnects.

    With a `receiver`, messages go there in batches as they arrive. Without one, `recv` and `async for` hand them out
    one by one, decoded from JSON or to `message_type`.

    Args:
        uri: ws:// or wss:// URL.
        receiver: takes batches of messages, instead of `recv`.
        message_type: `str`, `bytes` or any type msgspec decodes JSON to; default: what the JSON holds.
        resolve: turns `uri` into the URL to dial, at every connect: the place for secrets in a query.
        headers: a mapping, or a callable that is asked at every connect.
        subprotocols, tls, server_name, compression, max_message_size: see `DialOptions`.
        proxy: see `DialOptions`; a callable is asked at every connect.
        engine: `websockets`, `picows`, or `auto`: the faster of them.
        policy, timing: when to reconnect, and after what silence; see `ReconnectPolicy` and `Timing`.
        budget: bounds the rate of attempts; share one among all connections that a provider counts together.
        on_open: awaited after every connect, with the WebSocket: the place to subscribe. What it raises ends the
            connection FAILED, except ConnectionClosed, which only says that it went down again.
        clock, random, dial: injected.
    """

    def __init__(
        self,
        uri: str,
        *,
        receiver: Receiver | None = None,
        message_type: Any = None,
        resolve: Callable[[str], str] | None = None,
        headers: Headers | None = None,
        subprotocols: Sequence[str] = (),
        tls: SSLContext | None = None,
        server_name: str | None = None,
        compression: bool = False,
        max_message_size: int = 16 * 1024 * 1024,
        proxy: str | Callable[[], str] | None = None,
        engine: Engine = "auto",
        policy: ReconnectPolicy | None = None,
        timing: Timing | None = None,
        budget: ConnectBudget | None = None,
        on_open: Callable[[WebSocket[T]], Awaitable[None]] | None = None,
        clock: Clock | None = None,
        random: Callable[[], float] = _random.random,
        dial: Dial | None = None,
        hooks: Hooks | None = None,
    ) -> None:
        self.uri = uri
        self.counters = Counters()
        self.dial_context: Any = None
        """The trace context of the last dial, for links."""
        self._resolve = resolve
        self._server_name = server_name
        self._proxy = proxy
        self._headers: Headers = headers if headers is not None else {}
        self._subprotocols = tuple(subprotocols)
        self._tls = tls
        self._compression = compression
        self._max_message_size = max_message_size
        self._clock: Clock = clock or SystemClock()
        self._dial: Dial = dial or dial_for(engine)
        self._hooks = hooks or Hooks()
        self._on_open = on_open
        self._life = Life(policy or DEFAULT_POLICY, timing or Timing(), random, budget)
        self._decode = _decoder(message_type)
        self._receiver: Receiver = receiver or _Queue(self)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._transport: Transport | None = None
        self._link: _Link | None = None
        self._dialling: asyncio.Task[Transport] | None = None
        self._opening: asyncio.Task[None] | None = None
        """The `on_open` of the present connection, while it runs."""
        self._openings: set[asyncio.Task[None]] = set()
        """That one, and those of earlier connections that linger although they were cancelled."""
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._paused = False
        self._watchers: dict[asyncio.Future[None], None] = {}
        """In the order they came, and so they are woken."""

    # For users ------------------------------------------------------------------------------------------------------

    @property
    def state(self) -> State:
        return self._life.state

    @property
    def error(self) -> Exception | None:
        """Why it failed, or how the peer ended it."""
        return self._life.error

    @property
    def round_trip(self) -> float | None:
        """Seconds from the last ping to its pong; None before the first."""
        return self._life.round_trip

    @property
    def connects(self) -> int:
        """Times it connected."""
        return self._life.connects

    @property
    def ping_timeout(self) -> float:
        """Seconds a ping may stay unanswered."""
        return self._life.timing.ping_timeout

    @property
    def last_received(self) -> float:
        """Monotonic time of the last hand-over, or of the connect."""
        return self._life.last_received

    @property
    def subprotocol(self) -> str | None:
        return self._transport.subprotocol if self._transport is not None else None

    @property
    def engine(self) -> str | None:
        return self._transport.engine if self._transport is not None else None

    def start(self) -> None:
        """Begin to connect, in the background; the receiver hears how it goes."""
        self._loop = asyncio.get_running_loop()
        self._feed(self._life.open(self._now()))

    async def connect(self) -> None:
        """Connect, and return when connected. Raises what made it fail; cancelled, it closes again."""
        self.start()
        try:
            await self.wait_up()
        except BaseException:
            self.close_soon()
            raise

    async def wait_up(self) -> None:
        """Return when connected; raises what made it fail, or ConnectionClosed where it was closed."""
        await self._until(lambda: self.up or self.state.terminal)
        if self.state is not State.CONNECTED:
            raise self.error or ConnectionClosed(1006, "closed while connecting")

    @property
    def up(self) -> bool:
        """Connected, and `on_open` is done."""
        return self.state is State.CONNECTED and self._opening is None

    async def send(self, message: Any) -> None:
        """Send text (`str`), binary (`bytes`-like), or anything else as JSON text; waits while the write buffer is full.

        Raises ConnectionClosed where there is no connection now.
        """
        self.send_soon(message)
        assert self._transport is not None
        await self._transport.drain()

    def send_soon(self, message: Any) -> None:
        """`send` without waiting for room in the write buffer."""
        transport = self._transport
        if transport is None or self.state is not State.CONNECTED:
            raise ConnectionClosed(1006, f"not sent: the connection is {self.state}")
        if isinstance(message, str):
            transport.send(message.encode(), binary=False)
        elif isinstance(message, (bytes, bytearray, memoryview)):
            transport.send(bytes(message), binary=True)
        else:
            transport.send(msgspec.json.encode(message), binary=False)
        self.counters.messages_sent += 1

    async def recv(self) -> T:
        """The next message. Raises ConnectionClosed when the peer has ended the connection for good, and whatever
        made it fail where it failed; MessageError where the message does not decode."""
        if not isinstance(self._receiver, _Queue):
            raise TypeError("this WebSocket hands its messages to a receiver; recv() has nothing to give")
        payload, binary = await self._receiver.mailbox.get()
        return cast("T", self._decode(payload, binary))

    async def __aiter__(self) -> AsyncIterator[T]:
        while True:
            try:
                message = await self.recv()
            except (EOFError, ConnectionClosed):
                if self.state is State.FAILED:
                    raise
                return
            yield message

    async def ping(self) -> float:
        """Prove it alive; returns the round trip in seconds. Raises ConnectionClosed where no pong comes in time."""
        life = self._life
        pongs, connects = life.pongs, life.connects
        self._feed(life.ping(self._now()))
        await self._until(
            lambda: life.pongs != pongs or life.connects != connects or life.state is not State.CONNECTED
        )
        if life.pongs == pongs or life.round_trip is None:
            raise ConnectionClosed(1006, "no pong came")
        return life.round_trip

    def pause_reading(self) -> None:
        """Stop taking bytes from the socket: TCP holds the peer back. Pongs are not expected meanwhile."""
        if not self._paused:
            self._paused = True
            self.counters.pauses += 1
            self._life.suspend()
            if self._transport is not None:
                self._transport.pause_reading()

    def resume_reading(self) -> None:
        if self._paused:
            self._paused = False
            self._life.resume(self._now())
            if self._transport is not None:
                self._transport.resume_reading()
            self._schedule()

    @property
    def paused(self) -> bool:
        return self._paused

    def attach(self, receiver: Receiver | None) -> None:
        """From now on messages go to `receiver`; None: to a fresh queue for `recv`. What the last one holds stays there."""
        if isinstance(self._receiver, _Queue):
            self._receiver.mailbox.end(None)
            self.resume_reading()
        self._receiver = receiver or _Queue(self)
        if isinstance(self._receiver, _Queue) and self.state.terminal:
            self._receiver.mailbox.end(self.error)

    def reconnect(self, reason: str) -> None:
        """Give up the present socket and connect again by the policy."""
        self._feed(self._life.drop(self._now(), reason))

    def fail(self, error: Exception) -> None:
        """End it FAILED: nothing good can come over this connection any more."""
        self._feed(self._life.fail(self._now(), error))

    def close_soon(self, code: int = 1000, reason: str = "") -> None:
        """Begin to close; `wait_gone` tells when it is done."""
        self._feed(self._life.close(self._now(), code, reason))
        if self._paused and self._transport is not None:
            # The peer's answer stands behind data that we do not read any more.
            self._transport.abort()

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Close, and return when socket and tasks are gone; takes at most `close_timeout`. Idempotent."""
        self.close_soon(code, reason)
        await self.wait_gone()

    @property
    def gone(self) -> bool:
        """In a terminal state, with no socket and no task left."""
        return (
            self.state.terminal and self._transport is None and self._dialling is None and not self._openings
        )

    async def wait_gone(self) -> None:
        await self._until(lambda: self.gone)

    async def __aenter__(self) -> WebSocket[T]:
        await self.connect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"WebSocket(state={self.state.name}, connects={self._life.connects})"

    # The shell ------------------------------------------------------------------------------------------------------

    def _now(self) -> float:
        return self._clock.monotonic()

    def _feed(self, actions: list[Action]) -> None:
        for action in actions:
            match action:
                case Changed():
                    self._changed(action)
                case life_.Dial():
                    self._begin_dial()
                case life_.CancelDial():
                    self._cancel_dial()
                case _:
                    self._tell_transport(action)
        self._schedule()
        self._notify()

    def _tell_transport(self, action: life_.Ping | life_.Close | life_.Abort) -> None:
        transport = self._transport
        if transport is None:
            return
        match action:
            case life_.Ping(payload):
                transport.ping(payload)
            case life_.Close(code, reason):
                transport.close(code, reason)
            case life_.Abort():
                transport.abort()

    def _changed(self, change: Changed) -> None:
        if change.state is State.CONNECTED and self._life.connects > 1:
            self.counters.reconnects += 1
        try:
            self._receiver.on_changed(change)
            if change.state is State.CONNECTED and self.state is State.CONNECTED:
                self._connected()
        except Exception as error:  # noqa: BLE001  (a receiver's bug must end the connection, told, never in silence)
            self.fail(error)

    def _connected(self) -> None:
        if self._on_open is None:
            self._ready()
            return
        assert self._loop is not None
        self._opening = self._loop.create_task(self._run_on_open(self._on_open))
        self._openings.add(self._opening)
        self._opening.add_done_callback(self._opened)

    async def _run_on_open(self, on_open: Callable[[WebSocket[T]], Awaitable[None]]) -> None:
        await on_open(self)

    def _ready(self) -> None:
        try:
            self._receiver.on_connected()
        except Exception as error:  # noqa: BLE001  (as in _changed)
            self.fail(error)

    def _opened(self, task: asyncio.Task[None]) -> None:
        self._openings.discard(task)
        present = task is self._opening
        if present:
            self._opening = None
        error = None if task.cancelled() else task.exception()
        if isinstance(error, ConnectionClosed):
            pass  # it went down meanwhile: `lost` tells
        elif isinstance(error, Exception):
            self.fail(error)
        elif present and self.state is State.CONNECTED:
            self._ready()
        self._notify()

    def _begin_dial(self) -> None:
        assert self._loop is not None
        if self.state not in (State.CONNECTING, State.RECONNECTING):
            return  # ended by whoever heard of the change: nobody would cancel this dial
        self.counters.attempts += 1
        link = _Link(self)
        self._dialling = self._loop.create_task(self._run_dial(link))
        self._dialling.add_done_callback(lambda task: self._dial_ended(task, link))

    def _cancel_dial(self) -> None:
        if self._dialling is not None:
            self._dialling.cancel()
        else:  # ended by whoever heard of the change, before the dial began
            self._feed(self._life.dial_failed(self._now(), None))

    async def _run_dial(self, link: _Link) -> Transport:
        try:
            url = self._resolve(self.uri) if self._resolve is not None else self.uri
            headers = self._headers() if callable(self._headers) else self._headers
            proxy = self._proxy() if callable(self._proxy) else self._proxy
        except OperatorError as error:
            # A secret file may be away for the moment in which it is replaced.
            raise DialError(str(error)) from error
        options = DialOptions(
            url=url,
            headers=headers,
            subprotocols=self._subprotocols,
            tls=self._tls,
            server_name=self._server_name,
            proxy=proxy,
            compression=self._compression,
            max_message_size=self._max_message_size,
            clock=self._clock,
        )
        with self._hooks.dial_span(self.counters.attempts) as span:
            self.dial_context = span.context
            transport = await self._dial(options, link)
            span.set(engine=transport.engine)
            return transport

    def _dial_ended(self, task: asyncio.Task[Transport], link: _Link) -> None:
        self._dialling = None
        now = self._now()
        error = None if task.cancelled() else task.exception()
        if task.cancelled():
            self._feed(self._life.dial_failed(now, None))
        elif error is None:
            self._adopt(task.result(), link)
        elif isinstance(error, DialError):
            self._feed(self._life.dial_failed(now, error, self._retry_after(error)))
        elif isinstance(error, Exception):
            self.fail(error)
        else:
            raise error

    def _adopt(self, transport: Transport, link: _Link) -> None:
        self._transport, self._link = transport, link
        if self._paused:
            transport.pause_reading()
        self._feed(self._life.dialled(self._now()))
        link.release()

    def _retry_after(self, error: DialError) -> float | None:
        if not isinstance(error, HandshakeRefused):
            return None
        return retry_after_seconds(
            error.retry_after, datetime.fromtimestamp(self._clock.wall_ns() / 1e9, UTC)
        )

    def _deliver(self, payloads: list[bytes], binary: bool, received_ns: int) -> None:
        if self._life.state.terminal:
            return
        size = sum(map(len, payloads))
        counters = self.counters
        counters.messages_received += len(payloads)
        counters.bytes_received += size
        self._life.last_received = self._now()
        try:
            self._receiver.on_messages(payloads, binary, received_ns, size)
        except Exception as error:  # noqa: BLE001  (as in _changed)
            self.fail(error)

    def _ponged(self, payload: bytes) -> None:
        self._feed(self._life.ponged(self._now(), payload))

    def _lost(self, link: _Link, code: int, reason: str) -> None:
        if link is self._link:
            self._transport = self._link = None
            if self._opening is not None:
                self._opening.cancel()
                self._opening = None
            self._feed(self._life.lost(self._now(), code, reason))

    def _schedule(self) -> None:
        """One timer; a deadline that moved later is found out when the timer fires, since most move at each ping."""
        deadline = self._life.deadline()
        if self._timer is not None:
            if deadline is not None and self._timer_at <= deadline:
                return
            self._timer.cancel()
            self._timer = None
        if deadline is not None and self._loop is not None:
            self._timer_at = deadline
            self._timer = self._loop.call_later(max(0.0, deadline - self._now()), self._tick)

    def _tick(self) -> None:
        self._timer = None
        self._feed(self._life.tick(self._now()))

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            watcher = asyncio.get_running_loop().create_future()
            self._watchers[watcher] = None
            try:
                await watcher
            finally:
                del self._watchers[watcher]

    def _notify(self) -> None:
        for watcher in self._watchers:
            if not watcher.done():
                watcher.set_result(None)


class _Link:
    """The listener of one transport. It holds back what arrives before the WebSocket knows that it is connected."""

    __slots__ = ("_early", "_owner")

    def __init__(self, owner: WebSocket[Any]) -> None:
        self._owner = owner
        self._early: list[Callable[[], None]] | None = []

    def on_messages(self, payloads: list[bytes], binary: bool, received_ns: int) -> None:
        if self._early is None:
            self._owner._deliver(payloads, binary, received_ns)  # noqa: SLF001  (one thing in two classes)
        else:
            self._early.append(lambda: self._owner._deliver(payloads, binary, received_ns))  # noqa: SLF001

    def on_pong(self, payload: bytes) -> None:
        self._owner._ponged(payload)  # noqa: SLF001

    def on_close(self, code: int, reason: str) -> None:
        if self._early is None:
            self._owner._lost(self, code, reason)  # noqa: SLF001
        else:
            self._early.append(lambda: self._owner._lost(self, code, reason))  # noqa: SLF001

    def release(self) -> None:
        """Let through what was held back, in order."""
        early, self._early = self._early or [], None
        for call in early:
            call()


class _Queue:
    """The receiver behind `recv`."""

    def __init__(self, owner: WebSocket[Any]) -> None:
        self.mailbox = Mailbox(owner.pause_reading, owner.resume_reading)

    def on_connected(self) -> None:
        pass

    def on_messages(self, payloads: list[bytes], binary: bool, received_ns: int, size: int) -> None:
        self.mailbox.put(payloads, binary, size)

    def on_changed(self, change: Changed) -> None:
        if change.state.terminal:
            self.mailbox.end(change.error)


DEFAULT_POLICY = ReconnectPolicy(close_code={1000: life_.Verdict.END})
"""For users of `WebSocket` and `ConnectionPool`: a normal closure by the peer is the end, everything else is retried
or fails by the defaults of `ReconnectPolicy`. (The runner retries 1000 too: a feed that says goodbye comes back.)"""


def _decoder(message_type: Any) -> Callable[[bytes, bool], Any]:
    if message_type is bytes:
        return lambda payload, binary: payload
    if message_type is str:
        return lambda payload, binary: payload.decode(errors="replace" if binary else "strict")
    decoder = msgspec.json.Decoder(Any if message_type is None else message_type)

    def decode(payload: bytes, binary: bool) -> Any:
        if binary and message_type is None:
            return payload
        try:
            return decoder.decode(payload)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            wanted = "JSON" if message_type is None else getattr(message_type, "__name__", str(message_type))
            excerpt = payload[:80].decode("utf-8", "replace")
            raise MessageError(
                f"expected a message that decodes to {wanted}, found {excerpt!r}: {error}. "
                "Pass message_type=str or message_type=bytes to take messages as they come."
            ) from error

    return decode
