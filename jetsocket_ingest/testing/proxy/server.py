"""The proxy: listens, opens a connection to the target for each client, and does wrong what it is told."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from random import Random
from types import TracebackType
from typing import Any, Literal, Self

from jetsocket_ingest.errors import OperatorError
from jetsocket_ingest.testing.proxy.connection import ProxiedConnection
from jetsocket_ingest.testing.proxy.line import Line, Rules
from jetsocket_ingest.testing.waiting import Conditions

Way = Literal["up", "down", "both"]
"""`up`: from the client to the target; `down`: back."""


@dataclass(slots=True)
class Counters:
    """What happened since the proxy was made. Bytes and bits of open connections are in them.

    Attributes:
        accepted: clients.
        ignored: clients that were never answered.
        unreachable: clients that were reset since the target could not be reached.
        resets: connections that ended with RST, made here or passed on.
        most_open: connections at the same time.
        up, down: bytes that came through, each way.
        swallowed: bytes that did not, both ways.
        flipped: bits flipped, both ways.
    """

    accepted: int = 0
    ignored: int = 0
    unreachable: int = 0
    resets: int = 0
    most_open: int = 0
    up: int = 0
    down: int = 0
    swallowed: int = 0
    flipped: int = 0


class FaultProxy:
    """A TCP proxy that plays a bad network.

        async with FaultProxy("127.0.0.1", feed.port) as proxy:
            ...                                  # a client connects to 127.0.0.1, proxy.port
            proxy.delay(0.2, jitter=0.05)
            proxy.corrupt(1e-6, way="down")
            proxy.reset(proxy.connections[0])

    Faults of the line (`delay`, `throttle`, `drop`, `corrupt`, `cut`) take `way`, and `on`, one connection; without it
    they hold for all that are open and all that are to come, until they are set anew or `clear` is called. What ends
    connections (`half_close`, `reset`) reaches those that are open. All return how many open connections they reached.

    Without faults it is a faithful proxy: FIN and RST are passed on, each direction by itself, and a reader that does
    not read holds back the writer. It holds at most 64 KiB a direction, 1 MiB where bytes are delayed, beside what the
    sockets buffer.

    Attributes:
        host, port: where it listens; the port is 0 until the first start of a proxy that takes any port. It stays the same afterwards.
    """

    def __init__(
        self,
        target_host: str,
        target_port: int,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        random: Random | None = None,
        forget_after: float = 60.0,
    ) -> None:
        """
        Args:
            host, port: where to listen; port 0 takes any free one.
            random: of jitter and of the bits flipped; the same seed and the same bytes give the same faults.
            forget_after: seconds after which a connection is reset whose one side has left into a black hole. The
                other side could not hear of it; a real network stack would give up as well, after minutes.
        """
        self.port = port
        self._target = (target_host, target_port)
        self.host = host
        self._random = random or Random()
        self._forget_after = forget_after
        self._rules = {"up": Rules(), "down": Rules()}
        self._ignore: int | None = 0
        self._server: asyncio.Server | None = None
        self._closed: list[asyncio.Server] = []
        self._connections: dict[ProxiedConnection, None] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._reopening: asyncio.TimerHandle | None = None
        self._counters = Counters()
        self._conditions: Conditions[FaultProxy] = Conditions(self)

    def __repr__(self) -> str:
        state = "listening" if self.listening else "refusing"
        return f"<FaultProxy port={self.port} {state} open={len(self._connections)} {self.counters}>"

    # What happened.

    @property
    def listening(self) -> bool:
        """New connections are accepted."""
        return self._server is not None

    @property
    def connections(self) -> list[ProxiedConnection]:
        """Clients connected now, the eldest first."""
        return list(self._connections)

    @property
    def counters(self) -> Counters:
        """A snapshot."""
        total = replace(self._counters)
        for connection in self._connections:
            _add_lines(total, connection)
        return total

    def connection_from(self, port: int) -> ProxiedConnection | None:
        """The connection that the target sees come from this port."""
        return next((each for each in self._connections if each.target_port == port), None)

    async def wait_for(self, condition: Callable[[FaultProxy], object], timeout: float = 10.0) -> None:
        """Wait until `condition(proxy)` holds; it is asked after the port opens, and after connections
        come, go, or send something.

        Raises TimeoutError, which tells the state of the proxy, after `timeout` seconds.
        """
        await self._conditions.wait_for(condition, timeout)

    # Start and stop.

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Listen; once more does nothing. Raises OperatorError where the address cannot be had."""
        if self._reopening is not None:
            self._reopening.cancel()
            self._reopening = None
        if self._server is not None:
            return
        loop = asyncio.get_running_loop()
        try:
            self._server = await loop.create_server(lambda: self._accept().client, self.host, self.port)
        except OSError as error:
            raise OperatorError(
                f"the proxy cannot listen on {self.host} port {self.port}: {error.strerror or error}. "
                "Choose another port (0 takes any free one) or host, or end the program that has it."
            ) from error
        self.host, self.port = self._server.sockets[0].getsockname()[:2]
        self._conditions.changed()

    def refuse(self, seconds: float | None = None) -> None:
        """Refuse new connections (the port is closed), for a time, or until `start` is called. Open ones live on.
        Takes effect at the latest on the next turn of the loop."""
        if self._server is not None:
            self._server.close()
            self._closed.append(self._server)
            self._server = None
        if self._reopening is not None:
            self._reopening.cancel()
            self._reopening = None
        if seconds is not None:
            loop = asyncio.get_running_loop()
            self._reopening = loop.call_later(seconds, lambda: self._spawn(self.start()))

    async def stop(self, patience: float = 0.0) -> None:
        """Stop listening and reset every connection that has not ended by itself within `patience` seconds; sockets
        and tasks are gone when it returns. Idempotent."""
        self.refuse()
        if patience:
            try:
                await self.wait_for(lambda proxy: not proxy.connections, patience)
            except TimeoutError:
                pass  # those that are left are reset
        for connection in self.connections:
            connection.drop()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        await self.wait_for(lambda proxy: not proxy.connections)
        while self._closed:
            await self._closed.pop().wait_closed()

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _accept(self) -> ProxiedConnection:
        counters = self._counters
        counters.accepted += 1
        rules = (replace(self._rules["up"]), replace(self._rules["down"]))
        connection = ProxiedConnection(
            counters.accepted,
            rules,
            self._random,
            self._forget_after,
            over=self._leave,
            stirred=self._conditions.changed,
        )
        self._connections[connection] = None
        counters.most_open = max(counters.most_open, len(self._connections))
        if self._ignore is None or self._ignore > 0:
            self._ignore = None if self._ignore is None else self._ignore - 1
            counters.ignored += 1
            connection.ignore()
        else:
            self._spawn(self._dial(connection))
        self._conditions.changed()
        return connection

    async def _dial(self, connection: ProxiedConnection) -> None:
        try:
            await asyncio.get_running_loop().create_connection(lambda: connection.target, *self._target)
        except OSError:
            # The client is told in the only way that there is on this side of a handshake.
            self._counters.unreachable += 1
            connection.reset()

    def _leave(self, connection: ProxiedConnection) -> None:
        del self._connections[connection]
        self._counters.resets += connection.was_reset
        _add_lines(self._counters, connection)
        self._conditions.changed()

    # Faults of the line.

    def delay(
        self,
        latency: float | None = None,
        jitter: float | None = None,
        *,
        way: Way = "both",
        on: ProxiedConnection | None = None,
    ) -> int:
        """Let bytes take `latency` seconds, and up to `jitter` more; each way by itself, so a round trip takes both.
        None leaves one of them as it is."""
        given = {
            name: value for name, value in (("latency", latency), ("jitter", jitter)) if value is not None
        }
        for name, value in given.items():
            if not 0 <= value < math.inf:
                raise ValueError(f"expected {name} in seconds, 0 or more, found {value}")

        def set_delay(rules: Rules) -> None:
            for name, value in given.items():
                setattr(rules, name, value)

        return self._set(set_delay, way, on)

    def throttle(self, rate: float | None, *, way: Way = "both", on: ProxiedConnection | None = None) -> int:
        """Let at most so many bytes a second through, of each connection; None: all there are."""
        if rate is not None and not rate > 0:
            raise ValueError(f"expected bytes a second above 0, or None for no limit, found {rate}")

        def set_rate(rules: Rules) -> None:
            rules.rate = rate

        return self._set(set_rate, way, on)

    def drop(self, *, way: Way = "both", on: ProxiedConnection | None = None) -> int:
        """Swallow bytes, what is under way included, and the news of a side's leaving; sockets stay open.

        What was swallowed is lost: after `clear` a connection goes on with a hole in it.
        """

        def set_swallow(rules: Rules) -> None:
            rules.swallow = True

        reached = self._set(set_swallow, way, on)
        for connection in self._reached(on):
            for line in _lines(connection, way):
                line.swallow()
        return reached

    def corrupt(
        self,
        rate: float = 0.0,
        *,
        at: int | None = None,
        way: Way = "both",
        on: ProxiedConnection | None = None,
    ) -> int:
        """Flip a bit of each byte with probability `rate`; with `at`, flip one bit of the byte after so many more."""
        if not 0 <= rate <= 1:
            raise ValueError(f"expected a probability from 0 to 1, found {rate}")
        if at is not None and at < 0:
            raise ValueError(f"expected a number of bytes, 0 or more, found {at}")

        def set_flips(rules: Rules) -> None:
            rules.flips, rules.flip_in = rate, at

        return self._set(set_flips, way, on)

    def cut(self, after: int, *, way: Way = "down", on: ProxiedConnection | None = None) -> int:
        """Reset a connection as soon as so many bytes more have come through.

        They were written by then; a receiver that has not read them may lose them, as with any RST.
        """
        if after < 0:
            raise ValueError(f"expected a number of bytes, 0 or more, found {after}")

        def set_cut(rules: Rules) -> None:
            rules.cut_in = after

        return self._set(set_cut, way, on)

    def clear(self, on: ProxiedConnection | None = None) -> int:
        """Take all faults of the line back, of one connection, or of all; without `on`, answer all that come, too."""
        if on is None:
            self._ignore = 0

        def set_none(rules: Rules) -> None:
            for name in Rules.__slots__:
                setattr(rules, name, getattr(_NO_FAULTS, name))

        return self._set(set_none, "both", on)

    # Ends.

    def half_close(self, *, way: Way = "down", on: ProxiedConnection | None = None) -> int:
        """End one direction with TCP FIN, after what is under way; the other goes on."""
        reached = self._reached(on)
        for connection in reached:
            for line in _lines(connection, way):
                connection.half_close(line)
        return len(reached)

    def reset(self, on: ProxiedConnection | None = None) -> int:
        """End with TCP RST towards both sides."""
        reached = self._reached(on)
        for connection in reached:
            connection.reset()
        return len(reached)

    def ignore(self, times: int | None = None) -> None:
        """Accept the next clients and never answer them; None: until `clear`."""
        if times is not None and times < 1:
            raise ValueError(f"expected times to be 1 or more, or None for ever, found {times}")
        self._ignore = times

    def _set(self, change: Callable[[Rules], None], way: Way, on: ProxiedConnection | None) -> int:
        if on is None:
            for name, rules in self._rules.items():
                if way in (name, "both"):
                    change(rules)
        reached = self._reached(on)
        for connection in reached:
            for line in _lines(connection, way):
                change(line.rules)
            connection.changed()
        return len(reached)

    def _reached(self, on: ProxiedConnection | None) -> list[ProxiedConnection]:
        return [each for each in self._connections if on in (None, each) and each.open]


_NO_FAULTS = Rules()


def _lines(connection: ProxiedConnection, way: Way) -> list[Line]:
    lines = {"up": [connection.up], "down": [connection.down], "both": [connection.up, connection.down]}
    if way not in lines:
        raise ValueError(f"expected way to be up, down or both, found {way!r}")
    return lines[way]


def _add_lines(counters: Counters, connection: ProxiedConnection) -> None:
    counters.up += connection.up.passed
    counters.down += connection.down.passed
    counters.swallowed += connection.up.swallowed + connection.down.swallowed
    counters.flipped += connection.up.flipped + connection.down.flipped
