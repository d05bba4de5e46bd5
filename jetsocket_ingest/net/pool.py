"""`ConnectionPool`: leases WebSockets under a limit. The decisions are `PoolCore`'s; this carries them out."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Generic, TypeVar
from urllib.parse import urlsplit

from jetsocket_ingest.clock import Clock, SystemClock
from jetsocket_ingest.errors import (
    ConnectionClosed,
    InternalError,
    PoolClosedError,
    PoolError,
    PoolExhaustedError,
)
from jetsocket_ingest.net.life import Changed, State
from jetsocket_ingest.net.pool_core import Action, Assign, Lease, Open, PoolCore, Shut
from jetsocket_ingest.net.websocket import Receiver, WebSocket
from jetsocket_ingest.telemetry.log import get_logger

T = TypeVar("T")
log = get_logger()

SETTLE_TIMEOUT = 1.0
"""Seconds a released connection has to answer the ping that proves it quiet; a slower one is closed instead."""


@dataclass(slots=True, frozen=True)
class ConnectionPoolConfig:
    """Limits of a pool; times in seconds.

    Attributes:
        max_connections: connections at any moment, in use, idle, connecting or closing.
        max_idle_time: an idle connection is closed after it.
        health_check_interval: idle connections are pinged this often.
        acquire_timeout: how long `acquire` may take, waiting and connecting together.
    """

    max_connections: int = 10
    max_idle_time: float = 300.0
    health_check_interval: float = 30.0
    acquire_timeout: float = 10.0

    def __post_init__(self) -> None:
        count: Any = self.max_connections
        if isinstance(count, bool) or not isinstance(count, int) or count <= 0:
            raise ValueError(f"max_connections must be a positive whole number, found {count!r}")
        for name in ("max_idle_time", "health_check_interval", "acquire_timeout"):
            value: Any = getattr(self, name)
            if (
                isinstance(value, bool)
                or not isinstance(value, (int, float))
                or math.isnan(value)
                or value <= 0
            ):
                raise ValueError(f"{name} must be a positive number of seconds, found {value!r}")


@dataclass(slots=True, frozen=True)
class PoolStats:
    """A snapshot. The message and reconnect totals never fall; connections closed meanwhile stay counted in them."""

    total_connections: int
    active_connections: int
    idle_connections: int
    total_messages_sent: int
    total_messages_received: int
    total_reconnects: int


class ReleasedError(PoolError):
    """The connection was given back to its pool and is not this user's any more."""

    def __init__(self) -> None:
        super().__init__("this connection was released; acquire another one from the pool")


class PooledConnection(Generic[T]):
    """A lease of one connection. After release every method raises `ReleasedError`."""

    __slots__ = ("_key", "_pool", "_received_before", "_released", "_sent_before", "_socket")

    def __init__(self, pool: ConnectionPool[T], key: int, socket: WebSocket[T]) -> None:
        self._pool = pool
        self._key = key
        self._socket = socket
        self._released = False
        self._sent_before = socket.counters.messages_sent
        self._received_before = socket.counters.messages_received

    @property
    def socket(self) -> WebSocket[T]:
        """The WebSocket behind the lease: state, round trip, pause and resume."""
        if self._released:
            raise ReleasedError
        return self._socket

    async def send(self, message: Any) -> None:
        """Send text, bytes, or anything JSON can express; see `WebSocket.send`."""
        await self.socket.send(message)

    async def recv(self) -> T:
        """The next message, decoded; see `WebSocket.recv`."""
        socket = self.socket
        try:
            return await socket.recv()
        except EOFError as error:
            if self._released:
                raise ReleasedError from error
            raise ConnectionClosed(1000, "the connection has ended") from error

    async def __aiter__(self) -> AsyncIterator[T]:
        while True:
            try:
                message = await self.recv()
            except ConnectionClosed:
                if self._socket.state is State.FAILED:
                    raise
                return
            yield message

    async def release(self) -> None:
        """Give it back; once more does nothing."""
        await self._pool.release(self)

    async def __aenter__(self) -> PooledConnection[T]:
        if self._released:
            raise ReleasedError
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.release()

    def __repr__(self) -> str:
        return f"PooledConnection({'released' if self._released else self._socket.state.name})"

    def _answered(self) -> bool:
        """The peer spoke exactly as often as it was spoken to: nothing is owed, and nothing comes unasked."""
        counters = self._socket.counters
        return (
            counters.messages_received - self._received_before == counters.messages_sent - self._sent_before
            and counters.reconnects == 0
        )


class _Acquire(Generic[T]):
    """What `acquire` returns: awaitable, and an async context manager."""

    __slots__ = ("_connection", "_run")

    def __init__(self, run: Callable[[], Coroutine[Any, Any, PooledConnection[T]]]) -> None:
        self._run = run
        self._connection: PooledConnection[T] | None = None

    def __await__(self) -> Generator[Any, None, PooledConnection[T]]:
        return self._run().__await__()

    async def __aenter__(self) -> PooledConnection[T]:
        self._connection = await self._run()
        return self._connection

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._connection is not None
        await self._connection.release()


class ConnectionPool(Generic[T]):
    """Leases WebSocket connections under a limit.

        async with ConnectionPool(base_uri="wss://stream.example.com") as pool:
            async with pool.acquire("/ws/btcusdt") as conn:
                await conn.send({"subscribe": "trades"})
                async for message in conn:
                    ...

    Args:
        config: limits; default `ConnectionPoolConfig()`.
        base_uri: what relative paths are joined to.
        manager_kwargs: keyword arguments of every `WebSocket`: `message_type`, `headers`, `tls`, `policy`, …
        clock: injected.
    """

    def __init__(
        self,
        config: ConnectionPoolConfig | None = None,
        *,
        base_uri: str | None = None,
        manager_kwargs: Mapping[str, Any] | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._config = config or ConnectionPoolConfig()
        self._base_uri = base_uri
        self._clock: Clock = clock or SystemClock()
        self._kwargs = {"clock": self._clock, **(manager_kwargs or {})}
        self._core = PoolCore(self._config.max_connections, self._config.max_idle_time)
        self._sockets: dict[int, WebSocket[T]] = {}
        self._waiting: dict[int, _Turn[T]] = {}
        self._waiter_ids = 0
        self._sent = self._received = self._reconnects = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._housekeeper: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._closing: asyncio.Task[None] | None = None
        self._replacing = asyncio.Lock()

    # For users ------------------------------------------------------------------------------------------------------

    def acquire(
        self, uri_or_path: str, timeout: float | None = None, *, receiver: Receiver | None = None
    ) -> _Acquire[T]:
        """A connection to a URI, or to a path under `base_uri`; `await` it, or use it with `async with`.

        Reuses an idle, healthy, quiet connection of that URI, else opens one, else evicts an idle one of another URI,
        else waits its turn. With a `receiver` the connection lives its own life: acquire returns as soon as a slot is
        leased, the receiver hears of connects and messages, and the first connect is retried by the policy too.

        Raises PoolExhaustedError after `timeout` seconds (default: `acquire_timeout`), PoolClosedError, ValueError for
        a path without `base_uri`, or whatever kept the connection from opening.
        """
        uri = self.resolve(uri_or_path)
        limit = self._config.acquire_timeout if timeout is None else timeout
        if not limit > 0:
            raise ValueError(f"timeout must be a positive number of seconds, found {timeout!r}")
        return _Acquire(lambda: self._acquire(uri, limit, receiver))

    async def release(self, connection: PooledConnection[T]) -> None:
        """Take a connection back. Again, or another pool's, changes nothing."""
        if connection._released or connection._pool is not self:  # noqa: SLF001  (the two halves of a lease)
            return
        key, socket = connection._key, connection._socket  # noqa: SLF001
        quiet = socket.up and connection._answered()  # noqa: SLF001
        self._detach(connection)
        if not quiet or self.is_closed:
            self._perform(self._core.discard(key, "released, and not known to be quiet"))
            return
        self._core.settling(key)
        # The user may be cancelled here; the connection must settle all the same.
        await asyncio.shield(self._spawn(self._settle(key, socket)))

    def _detach(self, connection: PooledConnection[T]) -> None:
        """From now on it is nobody's: what arrives is not handed out any more."""
        connection._released = True  # noqa: SLF001
        connection._socket.attach(_IdleWatch(self, connection._key))  # noqa: SLF001

    async def replace(
        self,
        connection: PooledConnection[T],
        timeout: float | None = None,
        *,
        receiver: Receiver | None = None,
    ) -> PooledConnection[T]:
        """Make before break: lease and connect a second connection to the same URI, then give the first back.

        Needs a spare slot, and one replacement runs at a time, so that one spare slot serves a whole pool. Where none
        comes about (PoolExhaustedError, or what kept it from opening) the first connection stays as it is. With a
        `receiver`, both connections feed their receivers until the new one is up: duplicates are the receivers' affair.
        """
        uri = connection.socket.uri
        limit = self._config.acquire_timeout if timeout is None else timeout
        async with self._replacing:
            fresh = await self.acquire(uri, limit, receiver=receiver)
            try:
                async with asyncio.timeout(None if math.isinf(limit) else limit):
                    await fresh.socket.wait_up()
            except TimeoutError:
                await fresh.release()
                raise PoolExhaustedError(self._config.max_connections, limit) from None
            except BaseException:
                await fresh.release()
                raise
            if not connection._released:  # noqa: SLF001
                self._detach(connection)
                self._perform(self._core.discard(connection._key, "replaced"))  # noqa: SLF001
        return fresh

    def stats(self) -> PoolStats:
        """Counts now; totals since the pool was made."""
        counters = [socket.counters for socket in self._sockets.values()]
        return PoolStats(
            total_connections=len(self._core.slots),
            active_connections=self._core.active_count,
            idle_connections=self._core.idle_count,
            total_messages_sent=self._sent + sum(c.messages_sent for c in counters),
            total_messages_received=self._received + sum(c.messages_received for c in counters),
            total_reconnects=self._reconnects + sum(c.reconnects for c in counters),
        )

    @property
    def is_closed(self) -> bool:
        return self._core.closed

    async def close(self) -> None:
        """Turn waiters away, close every connection, and return when sockets and tasks are gone. Idempotent."""
        if self._closing is None:
            self._closing = asyncio.get_running_loop().create_task(self._close())
        await asyncio.shield(self._closing)

    async def __aenter__(self) -> ConnectionPool[T]:
        if self.is_closed:
            raise PoolClosedError
        self._start_housekeeper()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        core = self._core
        return (
            f"ConnectionPool(max_connections={core.max_connections}, active={core.active_count}, "
            f"idle={core.idle_count}, closed={core.closed})"
        )

    def sockets(self) -> list[WebSocket[T]]:
        """The WebSockets that hold slots now, for telemetry."""
        return list(self._sockets.values())

    # Acquire --------------------------------------------------------------------------------------------------------

    async def _acquire(self, uri: str, timeout: float, receiver: Receiver | None) -> PooledConnection[T]:
        if self.is_closed:
            raise PoolClosedError
        self._start_housekeeper()
        key: int | None = None
        try:
            async with asyncio.timeout(None if math.isinf(timeout) else timeout):
                lease, fresh = await self._wait_turn(uri, receiver)
                key, socket = lease._key, lease._socket  # noqa: SLF001  (the two halves of a lease)
                if self.is_closed:
                    raise PoolClosedError
                if not fresh:
                    # Where it was lost since, the receiver hears when it is back.
                    if receiver is not None and socket.up:
                        receiver.on_connected()
                elif receiver is not None:
                    socket.start()
                else:
                    await socket.connect()
        except BaseException as error:
            if key is not None:
                self._perform(self._core.discard(key, "acquire did not complete"))
            if self._core.closed and isinstance(error, (TimeoutError, ConnectionClosed)):
                raise PoolClosedError from error
            if isinstance(error, TimeoutError):
                log.warning("pool.exhausted", max_connections=self._config.max_connections, timeout_s=timeout)
                raise PoolExhaustedError(self._config.max_connections, timeout) from error
            raise
        # What a fresh connection did to open is not the user's, so the lease counts from here.
        return PooledConnection(self, key, socket) if fresh else lease

    async def _wait_turn(self, uri: str, receiver: Receiver | None) -> tuple[PooledConnection[T], bool]:
        """A connection, and whether it has yet to connect. Cancelled, nothing is lost."""
        self._waiter_ids += 1
        waiter = self._waiter_ids
        turn: _Turn[T] = _Turn(asyncio.get_running_loop().create_future(), receiver)
        self._waiting[waiter] = turn
        try:
            self._perform(self._core.acquire(waiter, uri))
            return await turn.served
        except BaseException:
            served = turn.served
            if served.done() and not served.cancelled() and served.exception() is None:
                # Served and cancelled on the same turn of the loop: the connection must not stay with nobody.
                self._take_back(*served.result())
            else:
                self._perform(self._core.give_up(waiter))
            raise
        finally:
            del self._waiting[waiter]

    def _take_back(self, lease: PooledConnection[T], fresh: bool) -> None:
        """A connection whose waiter vanished before it was told: still good, unless something happened since."""
        key, socket = lease._key, lease._socket  # noqa: SLF001  (the two halves of a lease)
        quiet = not fresh and socket.up and lease._answered()  # noqa: SLF001
        self._detach(lease)
        if quiet:
            self._core.settling(key)
            self._perform(self._core.settled(key, self._clock.monotonic()))
        else:
            self._perform(self._core.discard(key, "its waiter was cancelled"))

    def resolve(self, uri_or_path: str) -> str:
        """The URI that `acquire` takes a path for: joined to `base_uri`; an empty path is `base_uri` itself."""
        if urlsplit(uri_or_path).scheme in ("ws", "wss"):
            return uri_or_path
        if "://" in uri_or_path:
            raise ValueError(f"expected a ws:// or wss:// URI, or a path, found {uri_or_path!r}")
        if self._base_uri is None:
            raise ValueError(
                f"{uri_or_path!r} is a relative path, and this pool has no base_uri to join it to"
            )
        if not uri_or_path:
            return self._base_uri
        base, mark, query = self._base_uri.partition("?")
        return base.rstrip("/") + "/" + uri_or_path.lstrip("/") + mark + query

    # Carrying out ---------------------------------------------------------------------------------------------------

    def _perform(self, actions: list[Action]) -> None:
        for action in actions:
            match action:
                case Assign(waiter, key):
                    self._serve(waiter, key, fresh=False)
                case Open(waiter, key, uri):
                    self._sockets[key] = WebSocket(uri, **self._kwargs)
                    self._serve(waiter, key, fresh=True)
                case Shut(key, reason):
                    self._spawn(self._shut(key, reason))
        self._wake.set()

    def _serve(self, waiter: int, key: int, *, fresh: bool) -> None:
        turn = self._waiting[waiter]
        lease = PooledConnection(self, key, self._sockets[key])
        if turn.served.done():
            self._take_back(lease, fresh)
            return
        # From this moment on, what arrives is the new user's.
        self._sockets[key].attach(turn.receiver)
        turn.served.set_result((lease, fresh))

    async def _shut(self, key: int, reason: str) -> None:
        socket = self._sockets[key]
        log.debug("pool.closing", reason=reason, uri=_host(socket.uri))
        try:
            await socket.close()
        finally:
            # Counted into the totals in the moment it leaves the list, so that they never fall.
            del self._sockets[key]
            self._sent += socket.counters.messages_sent
            self._received += socket.counters.messages_received
            self._reconnects += socket.counters.reconnects
            self._perform(self._core.gone(key))

    async def _settle(self, key: int, socket: WebSocket[T]) -> None:
        """Prove a released connection quiet: what the peer sent before its pong has arrived by then."""
        try:
            async with asyncio.timeout(SETTLE_TIMEOUT):
                await socket.ping()
        except (TimeoutError, ConnectionClosed):
            self._perform(self._core.discard(key, "released, and did not answer a ping"))
            return
        self._perform(self._core.settled(key, self._clock.monotonic()))

    def _idle_disturbed(self, key: int, reason: str) -> None:
        slot = self._core.slots.get(key)
        if slot is not None and slot.lease in (Lease.SETTLING, Lease.IDLE):
            self._perform(self._core.discard(key, reason))

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._task_done)
        return task

    def _task_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("pool.task_failed", exc_info=error)

    # Housekeeping ---------------------------------------------------------------------------------------------------

    def _start_housekeeper(self) -> None:
        if self._housekeeper is None:
            self._housekeeper = asyncio.get_running_loop().create_task(self._keep_house())

    async def _keep_house(self) -> None:
        """Close what has idled too long at the moment it has, and ping what idles on."""
        next_check = self._clock.monotonic() + self._config.health_check_interval
        while True:
            expiry = self._core.next_expiry()
            due = next_check if expiry is None else min(expiry, next_check)
            self._wake.clear()
            try:
                async with asyncio.timeout(
                    None if math.isinf(due) else max(0.0, due - self._clock.monotonic())
                ):
                    await self._wake.wait()
                    continue
            except TimeoutError:
                pass
            now = self._clock.monotonic()
            self._perform(self._core.expire(now))
            if now >= next_check:
                next_check = now + self._config.health_check_interval
                for slot in self._core.idle():
                    self._spawn(self._check(slot.key))

    async def _check(self, key: int) -> None:
        """Ping an idle connection; the WebSocket's own ping deadline decides that it is dead."""
        socket = self._sockets.get(key)
        if socket is None:
            return
        try:
            async with asyncio.timeout(min(self._config.health_check_interval, socket.ping_timeout)):
                await socket.ping()
        except (TimeoutError, ConnectionClosed):
            self._idle_disturbed(key, "did not answer the health check")

    async def _close(self) -> None:
        self._perform(self._core.close())
        for turn in self._waiting.values():
            if not turn.served.done():
                turn.served.set_exception(PoolClosedError())
        if self._housekeeper is not None:
            self._housekeeper.cancel()
            await asyncio.wait({self._housekeeper})
        while self._tasks:
            await asyncio.wait(set(self._tasks))
        if self._core.slots:
            raise InternalError(f"slots left after closing: {self._core.slots}")


@dataclass(slots=True, frozen=True)
class _Turn(Generic[T]):
    """One call of `acquire` that waits: `served` becomes the connection, and whether it has yet to connect."""

    served: asyncio.Future[tuple[PooledConnection[T], bool]]
    receiver: Receiver | None


class _IdleWatch:
    """The receiver of a connection that nobody uses: whatever arrives shows that it is not quiet."""

    __slots__ = ("_key", "_pool")

    def __init__(self, pool: ConnectionPool[Any], key: int) -> None:
        self._pool = pool
        self._key = key

    def on_connected(self) -> None:
        self._pool._idle_disturbed(self._key, "reconnected while idle")  # noqa: SLF001  (the pool's own receiver)

    def on_messages(self, payloads: list[bytes], binary: bool, received_ns: int, size: int) -> None:
        self._pool._idle_disturbed(self._key, "the peer sent something while idle")  # noqa: SLF001

    def on_changed(self, change: Changed) -> None:
        self._pool._idle_disturbed(self._key, f"went {change.state} while idle")  # noqa: SLF001


def _host(uri: str) -> str:
    """A URI without what may be secret in it."""
    parts = urlsplit(uri)
    return f"{parts.scheme}://{parts.hostname}{f':{parts.port}' if parts.port else ''}{parts.path}"
