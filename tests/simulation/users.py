"""Users who do everything a pool allows, at moments that the world's random numbers choose."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any

from jetsocket_ingest import ConnectionPool, PoolClosedError, PoolExhaustedError
from jetsocket_ingest.errors import ConnectionClosed, DialError
from jetsocket_ingest.net.life import Changed, State
from jetsocket_ingest.net.pool import PooledConnection, ReleasedError
from jetsocket_ingest.net.websocket import MessageError
from tests.simulation.loop import History
from tests.simulation.monitor import Monitor, Tenancy, number_of
from tests.simulation.network import TICK
from tests.support.cancel import cancelled_at


class OurBugError(Exception):
    """Raised on purpose by a user's own code, inside a receiver or `on_open`."""


EXPECTED = (PoolExhaustedError, DialError, ConnectionClosed, ReleasedError, OurBugError, TimeoutError)


class Receiver:
    """Takes batches as the runner's session does, checks them, and seldom breaks."""

    def __init__(self, user: User) -> None:
        self.user = user
        self.tenancy: Tenancy | None = None
        self.early: list[list[bytes]] = []
        self.state: State | None = None
        self.breaks = user.rng.random() < 0.1

    def on_connected(self) -> None:
        state = self.state if self.tenancy is None else self.tenancy.socket.state
        self.user.monitor.must(state in (None, State.CONNECTED), "on_connected while {}", state)
        if self.tenancy is not None:
            self.user.monitor.ready(self.tenancy.socket)
        self._perhaps_break()

    def on_messages(self, payloads: list[bytes], binary: bool, received_ns: int, size: int) -> None:
        if self.tenancy is None:
            self.early.append(payloads)
        else:
            self._take(self.tenancy, payloads)
        self._perhaps_break()

    def on_changed(self, change: Changed) -> None:
        must, last = self.user.monitor.must, self.state
        must(last is None or not last.terminal, "on_changed({}) after the terminal {}", change.state, last)
        must(
            last is None or last is change.previous,
            "on_changed from {}, and the last was {}",
            change.previous,
            last,
        )
        self.state = change.state
        self._perhaps_break()

    def begin(self, tenancy: Tenancy) -> None:
        self.tenancy = tenancy
        for payloads in self.early:
            self._take(tenancy, payloads)

    def _take(self, tenancy: Tenancy, payloads: list[bytes]) -> None:
        self.user.monitor.must(not tenancy.over, "a receiver got messages after its lease")
        for payload in payloads:
            wire = int(payload[payload.index(b":") + 1 : payload.index(b",")])
            self.user.monitor.received(tenancy, (wire, number_of(payload)))

    def _perhaps_break(self) -> None:
        if self.breaks and self.user.rng.random() < 0.2:
            self.user.monitor.count("receiver raised")
            raise OurBugError("a receiver's bug")


class User:
    """One of several that share a pool."""

    def __init__(
        self,
        name: str,
        rng: random.Random,
        pool: ConnectionPool[Any],
        other: ConnectionPool[Any],
        paths: list[str],
        pace: int,
        monitor: Monitor,
        history: History,
    ) -> None:
        self.name = name
        self.rng = rng
        self.pool = pool
        self.other = other
        self.paths = paths
        self.monitor = monitor
        self.history = history
        self.pace = pace
        """Longest pause between two things, ticks: where it is short, much falls on one moment."""
        self.hoards = rng.random() < 0.05
        """Never gives back what it acquired."""

    async def live(self) -> None:
        visits: tuple[Callable[[], Coroutine[Any, Any, None]], ...] = (
            self._block, self._block, self._await, self._await, self._receive, self._replace,
        )  # fmt: skip
        for _ in range(self.rng.randrange(1, 7)):
            await self._pause(self.pace)
            visit = self.rng.choice(visits)
            try:
                await self._perhaps_cancelled(visit)
            except PoolClosedError:
                self.monitor.count("turned away")
                return
            except EXPECTED as error:
                self._note("{!r}", error)
                self.monitor.count(f"user: {type(error).__name__}")
            except OSError as error:
                self._note("{!r}", error)

    async def _perhaps_cancelled(self, visit: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """As it is, or cancelled at its n-th await, or cancelled after some time."""
        how = self.rng.randrange(4)
        if how == 0:
            reached, _ = await cancelled_at(visit(), self.rng.randrange(12))
            self.monitor.count("cancelled at an await" if reached else "not cancelled")
        elif how == 1:
            task: asyncio.Task[None] = asyncio.ensure_future(visit())
            timer = asyncio.get_running_loop().call_later(
                self.rng.randrange(2 * self.pace) * TICK, task.cancel
            )
            try:
                await task
            except asyncio.CancelledError:
                self.monitor.count("cancelled at a time")
            finally:
                timer.cancel()
        else:
            await visit()

    # Visits ---------------------------------------------------------------------------------------------------------

    async def _block(self) -> None:
        """`async with`, the way of the documentation."""
        with self._demand():
            async with self._acquire() as conn:
                await self._talk(conn, self._begin(conn))

    async def _await(self) -> None:
        """`await`, and a release that may come twice, elsewhere, from another task, or never."""
        if self.hoards:
            self.monitor.demands += 1
            await self._talk(conn := await self._acquire(), self._begin(conn))
            return
        with self._demand():
            conn = await self._acquire()
            tenancy = self._begin(conn)
            reader: asyncio.Task[None] | None = None
            try:
                if self.rng.random() < 0.2:
                    await self.other.release(conn)
                if self.rng.random() < 0.2:
                    reader = asyncio.ensure_future(self._read(conn, tenancy, 3))
                    await self._pause(self.pace)
                else:
                    await self._talk(conn, tenancy)
            finally:
                try:
                    await conn.release()
                    await conn.release()
                    await self.pool.release(conn)
                    await self._released(conn)
                finally:
                    if reader is not None:
                        reader.cancel()
                        await asyncio.wait({reader})
                        _retrieve(reader)

    async def _receive(self) -> None:
        """A receiver for a while, the way of the runner."""
        with self._demand():
            receiver = Receiver(self)
            conn = await self._acquire(receiver=receiver)
            receiver.begin(self._begin(conn))
            try:
                for _ in range(self.rng.randrange(1, 4)):
                    await self._pause(2 * self.pace)
                    if self.rng.random() < 0.3 and conn.socket.state is State.CONNECTED:
                        conn.socket.send_soon("subscribe")
                    if self.rng.random() < 0.2:
                        conn.socket.pause_reading()
                        await self._pause(self.pace)
                        if self.rng.random() < 0.8:
                            conn.socket.resume_reading()
            finally:
                await conn.release()

    async def _replace(self) -> None:
        """Make before break."""
        with self._demand():
            conn = await self._acquire()
            self._begin(conn)
            try:
                await self._pause(self.pace)
                with self._demand():
                    replaced = await self.pool.replace(conn, self._patience())
                    conn = replaced
                    self.monitor.count("replaced")
                    await self._talk(conn, self._begin(conn))
            finally:
                await conn.release()

    # Parts ----------------------------------------------------------------------------------------------------------

    def _acquire(self, **kwargs: Any) -> Any:
        path = self.rng.choice(self.paths)
        self._note("asks for {}", path)
        return self.pool.acquire(path, self._patience(), **kwargs)

    def _patience(self) -> float:
        return self.rng.randrange(1, 320) * TICK

    def _begin(self, conn: PooledConnection[Any]) -> Tenancy:
        self._note("has a lease")
        return self.monitor.tenancy(conn._socket)

    @contextlib.contextmanager
    def _demand(self) -> Iterator[None]:
        self.monitor.demands += 1
        try:
            yield
        finally:
            self.monitor.demands -= 1

    async def _talk(self, conn: PooledConnection[Any], tenancy: Tenancy) -> None:
        for _ in range(self.rng.randrange(4)):
            what = self.rng.choice(
                ("send", "send", "ask", "ask", "read", "read", "give up", "sleep", "ping", "meddle")
            )
            self._note("{}", what)
            async with asyncio.timeout(self.rng.randrange(1, 160) * TICK):
                if what == "send":
                    await conn.send(self.rng.choice(("text", b"bytes", {"json": 1})))
                elif what == "ask":
                    await conn.send("question")
                    await self._read(conn, tenancy, 1)
                elif what == "read":
                    await self._iterate(conn, tenancy)
                elif what == "give up":
                    await self._give_up_reading(conn, tenancy)
                    await self._read(conn, tenancy, 1)
                elif what == "sleep":
                    await self._pause(self.pace)
                elif what == "ping":
                    await conn.socket.ping()
                else:
                    self._meddle(conn)

    def _meddle(self, conn: PooledConnection[Any]) -> None:
        what = self.rng.choice(("reconnect", "reconnect", "close", "fail", "pause"))
        self.monitor.count(f"user's own {what}")
        if what == "reconnect":
            conn.socket.reconnect("the user wants to")
        elif what == "close":
            conn.socket.close_soon()
        elif what == "fail":
            conn.socket.fail(OurBugError("the user gives it up"))
        else:
            conn.socket.pause_reading()

    async def _read(self, conn: PooledConnection[Any], tenancy: Tenancy, count: int) -> None:
        for _ in range(count):
            try:
                message = await conn.recv()
            except MessageError as error:
                self._unreadable(tenancy, error)
            except ConnectionClosed:
                self.monitor.read_to_the_end(tenancy)
                raise
            else:
                self.monitor.received(tenancy, (message["wire"], message["n"]))

    async def _give_up_reading(self, conn: PooledConnection[Any], tenancy: Tenancy) -> None:
        """Often in the very moment in which a message arrives, some turns of the loop after it."""
        reader = asyncio.ensure_future(self._read(conn, tenancy, 3))
        try:
            await asyncio.wait({reader}, timeout=self.rng.randrange(self.pace) * TICK)
            for _ in range(self.rng.randrange(4)):
                await asyncio.sleep(0)
        finally:
            reader.cancel()
        await asyncio.wait({reader})
        _retrieve(reader)

    async def _iterate(self, conn: PooledConnection[Any], tenancy: Tenancy) -> None:
        count = self.rng.randrange(1, 20)
        async with contextlib.aclosing(_iterator(conn)) as messages:
            try:
                async for message in messages:
                    self.monitor.received(tenancy, (message["wire"], message["n"]))
                    count -= 1
                    if not count:
                        return
            except MessageError as error:
                self._unreadable(tenancy, error)
                return
        self.monitor.read_to_the_end(tenancy)

    def _unreadable(self, tenancy: Tenancy, error: MessageError) -> None:
        self.monitor.count("unreadable")
        wire = str(error).partition('"wire":')[2].partition(",")[0]
        self.monitor.received(tenancy, (int(wire), -1))

    async def _released(self, conn: PooledConnection[Any]) -> None:
        for call in (conn.recv(), conn.send("late")):
            try:
                await call
            except ReleasedError:
                continue
            self.monitor.must(False, "a released connection still works")

    async def _pause(self, most: int) -> None:
        await asyncio.sleep(self.rng.randrange(most) * TICK)

    def _note(self, text: str, *facts: Any) -> None:
        self.history.note(f"user {self.name}: {text}", *facts)


def _iterator(conn: PooledConnection[Any]) -> Any:
    iterator: AsyncIterator[Any] = aiter(conn)
    return iterator


def _retrieve(task: asyncio.Task[None]) -> None:
    """Raise what the task ended with, unless it is something that may happen."""
    error = None if task.cancelled() else task.exception()
    if error is not None and not isinstance(error, (*EXPECTED, OSError)):
        raise error
