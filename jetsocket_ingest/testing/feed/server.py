"""The feed's server: handshakes, timers, start and stop."""

from __future__ import annotations

import asyncio
import http
import random
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import Any, Self
from urllib.parse import unquote

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.typing import Subprotocol

from jetsocket_ingest.clock import Clock, SystemClock
from jetsocket_ingest.errors import OperatorError
from jetsocket_ingest.testing.feed.connection import FeedConnection
from jetsocket_ingest.testing.feed.faults import Faults
from jetsocket_ingest.testing.feed.hub import Hub
from jetsocket_ingest.testing.feed.market import Market, Pacer
from jetsocket_ingest.testing.feed.options import FeedOptions
from jetsocket_ingest.testing.feed.records import Handshake, Sent
from jetsocket_ingest.testing.feed.requests import Rules, answer
from jetsocket_ingest.testing.feed.schedule import ScheduledFault
from jetsocket_ingest.testing.feed.wire import CLOSE_TIMEOUT, HANDSHAKE_TIMEOUT, Wire
from jetsocket_ingest.testing.proxy import FaultProxy
from jetsocket_ingest.testing.waiting import Conditions

STOP_TIMEOUT = 1.0
INSIDE = "127.0.0.1"
"""Where the feed listens that has a proxy before it."""
REMEMBERED_HANDSHAKES = 10_000

Condition = Callable[["FeedServer"], object]


class FeedServer:
    """A WebSocket server that plays a market-like provider, well or badly.

        async with FeedServer(FeedOptions(rate=0, streams=["trades.BTC-USD"])) as feed:
            ...                                            # a client connects to f"{feed.url}/ws/trades.BTC-USD"
            await feed.wait_for(lambda feed: feed.subscribed())
            await feed.publish("trades.BTC-USD", 10)
            feed.faults.rst()

    Paths: `/ws` takes subscribe and unsubscribe requests, `/ws/<stream>` sends one stream at once, `/all` all of them.
    Messages are numbered per stream from 1, for all clients alike. Numbering goes on while nobody listens, stands still
    while the feed is stopped, and continues when the same object is started again, on the same port.

    A client that reads too slowly misses messages once 8 MiB wait for it: its sequence has a gap and `skipped` counts
    them. `publish` and streams with a `limit` wait for slow readers instead.

    Attributes:
        faults: what to do wrong.
        requests: the last handshakes, as they came.
        port: where it listens; 0 until the first start of a feed that takes any port.
    """

    def __init__(
        self,
        options: FeedOptions | None = None,
        *,
        clock: Clock | None = None,
        on_fault: Callable[[str, FeedConnection], None] | None = None,
    ) -> None:
        """`clock` stamps messages; `on_fault` hears of each scheduled fault, with the connection that it struck."""
        self.options = options = options or FeedOptions()
        market = Market(options.stream_names, size=options.size, seed=options.seed, limit=options.limit)
        self._hub = Hub(market, clock or SystemClock(), self._changed)
        self.faults = Faults(self._hub)
        self.requests: deque[Handshake] = deque(maxlen=REMEMBERED_HANDSHAKES)
        self.port = options.port
        self._host = options.host
        self._on_fault = on_fault
        self._random = random.Random(options.seed)
        self._accepted = 0
        self._server: Server | None = None
        self._wires: set[Wire] = set()
        self._timers: dict[object, asyncio.TimerHandle] = {}
        self._conditions: Conditions[FeedServer] = Conditions(self)

    def __repr__(self) -> str:
        state = f"serving {self.url}" if self._server else "stopped"
        sent = sum(sent.count for sent in self.sent.values())
        return (
            f"<FeedServer {state} connections={self.connections} subscribed={dict(self.subscribed())} "
            f"handshakes={len(self.requests)} sent={sent} skipped={self.skipped}>"
        )

    # What happened.

    @property
    def url(self) -> str:
        """ws://HOST:PORT without a path; wss:// with TLS. It stays the same while the feed is stopped."""
        if not self.port:
            raise RuntimeError("the feed has no address yet: start it first, or give it a port")
        # S104: these are recognised, not bound to.
        host = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(self._host, self._host)  # noqa: S104
        scheme = "wss" if self.options.tls else "ws"
        return f"{scheme}://[{host}]:{self.port}" if ":" in host else f"{scheme}://{host}:{self.port}"

    @property
    def streams(self) -> tuple[str, ...]:
        return tuple(self._hub.market.streams)

    @property
    def connections(self) -> list[FeedConnection]:
        """Clients connected now, the eldest first."""
        return list(self._hub.connections)

    @property
    def past(self) -> list[FeedConnection]:
        """Clients that are gone (the last 1000), in the order of leaving."""
        return list(self._hub.past)

    @property
    def accepted(self) -> int:
        """Connections ever opened."""
        return self._accepted

    @property
    def sent(self) -> dict[str, Sent]:
        """Stream → messages handed to at least one socket."""
        return self._hub.sent

    @property
    def skipped(self) -> int:
        """Messages left out for slow readers."""
        return self._hub.skipped

    def subscribed(self) -> Counter[str]:
        """Stream → connections subscribed to it now; streams without any are left out."""
        return self._hub.subscribed()

    async def wait_for(self, condition: Condition, timeout: float = 10.0) -> None:
        """Wait until `condition(feed)` holds; it is asked on the turn of the loop after each change.

        Raises TimeoutError, which tells the state of the feed, after `timeout` seconds.
        """
        await self._conditions.wait_for(condition, timeout)

    def _changed(self) -> None:
        self._conditions.changed()

    async def publish(self, stream: str, count: int = 1) -> int:
        """Send the next `count` messages of a stream now; return the last number given.

        Waits for slow readers. Nobody listening, the numbers pass unheard. Raises ValueError for an unknown stream.
        """
        return await self._hub.publish(stream, count)

    # Start and stop.

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Listen. Raises OperatorError where the address cannot be had, RuntimeError if the feed already runs."""
        if self._server:
            raise RuntimeError(f"the feed already serves {self.url}")
        options = self.options
        proxied = any(fault.kind.line for fault in options.faults)
        host, port = (INSIDE, 0) if proxied else (self._host, self.port)
        # The library asks for a class but only ever calls it.
        wire: Any = partial(Wire, wires=self._wires, heard=self._changed)
        try:
            self._server = await serve(
                self._serve,
                host,
                port,
                create_connection=wire,
                process_request=self._judge_handshake,
                process_response=self._note_response,
                subprotocols=[Subprotocol(name) for name in options.subprotocols] or None,
                compression="deflate" if options.compression else None,
                open_timeout=HANDSHAKE_TIMEOUT,
                close_timeout=CLOSE_TIMEOUT,
                ping_interval=None,
                # Requests are taken off the queue at once; flow control there would undo `silence`.
                max_queue=None,
                ssl=options.tls,
            )
        except OSError as error:
            raise OperatorError(
                f"the feed cannot listen on {host} port {port}: {error.strerror or error}. "
                "Choose another port (0 takes any free one) or host, or end the program that has it."
            ) from error
        host, port = self._server.sockets[0].getsockname()[:2]
        if proxied:
            host, port = await self._start_proxy(port)
        self._host, self.port = host, port
        self._start_timers()

    async def _start_proxy(self, inside: int) -> tuple[str, int]:
        """Put a proxy before the feed; where it listens."""
        proxy = FaultProxy(
            INSIDE, inside, host=self._host, port=self.port, random=random.Random(self.options.seed)
        )
        try:
            await proxy.start()
        except OperatorError:
            await self.stop()
            raise
        self.faults.proxy = proxy
        for fault in self.options.faults:
            if fault.kind.standing:
                fault.strike(self.faults, None)
        return proxy.host, proxy.port

    async def stop(self) -> None:
        """Stop listening and close every connection with 1001; clients that have not gone after a second are dropped.

        Idempotent. Numbering continues at the next start.
        """
        await self._stop(lambda connection: connection.close(1001, "the feed stops"))

    async def kill(self) -> None:
        """Stop as a crash would: every connection ends with TCP RST."""
        await self._stop(FeedConnection.rst)

    async def _stop(self, end: Callable[[FeedConnection], None]) -> None:
        server, self._server = self._server, None
        if server is None:
            return
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        for connection in self.connections:
            end(connection)
        for wire in list(self._wires):
            # Those that never finished their handshake, or were silenced, would keep us waiting.
            if wire.opening or wire.deaf:
                wire.transport.abort()
            else:
                wire.drop_after(STOP_TIMEOUT)
        server.close(close_connections=False)
        await server.wait_closed()
        proxy, self.faults.proxy = self.faults.proxy, None
        if proxy is not None:
            await proxy.stop(patience=STOP_TIMEOUT)

    # Timers.

    def _start_timers(self) -> None:
        loop = asyncio.get_running_loop()
        if self.options.rate:
            pacer = Pacer(self.options.rate, loop.time())
            self._timers[pacer] = loop.call_at(pacer.next_tick(loop.time()), self._tick, pacer)
        for place, fault in enumerate(self.options.faults):
            if fault.kind.standing:
                continue
            self._timers[place] = loop.call_later(fault.every, self._strike, place, fault)

    def _tick(self, pacer: Pacer) -> None:
        """The one timer that sends what is due, of all streams to all connections."""
        loop = asyncio.get_running_loop()
        due = pacer.due(loop.time())
        if due:
            self._hub.produce(due)
        self._timers[pacer] = loop.call_at(pacer.next_tick(loop.time()), self._tick, pacer)

    def _strike(self, place: int, fault: ScheduledFault) -> None:
        open_ones = [connection for connection in self._hub.connections if connection.writable]
        if open_ones:
            victim = self._random.choice(open_ones)
            fault.strike(self.faults, victim)
            if self._on_fault:
                self._on_fault(fault.fault, victim)
        self._timers[place] = asyncio.get_running_loop().call_later(fault.every, self._strike, place, fault)

    # One client, from its handshake to its end.

    async def _judge_handshake(self, wire: ServerConnection, request: Request) -> Response | None:
        """None accepts."""
        assert isinstance(wire, Wire)
        wire.request_seen = Handshake(request.path, request.headers)
        self.requests.append(wire.request_seen)
        self._changed()
        delay = self.faults.handshake_delay.take()
        if delay:
            await asyncio.wait([wire.connection_lost_waiter], timeout=delay)
        refusal = self.faults.handshake.take()
        if refusal:
            return _response(refusal.status, refusal.body, refusal.headers)
        token = self.options.require_token
        if token is not None and request.headers.get_all("Authorization") != [f"Bearer {token}"]:
            body = "expected the header Authorization: Bearer with the feed's token\n"
            return _response(401, body, {"WWW-Authenticate": "Bearer"})
        if self._streams_of(request.path) is None:
            known = ", ".join(self.streams[:20])
            return _response(
                404, f"unknown path; expected /ws, /all, or /ws/ and a stream such as {known}\n", {}
            )
        return None

    def _note_response(self, wire: ServerConnection, request: Request, response: Response) -> None:
        assert isinstance(wire, Wire)
        assert wire.request_seen is not None
        wire.request_seen.status = response.status_code
        self._changed()

    def _streams_of(self, path: str) -> tuple[str, ...] | None:
        """What a path sends without being asked; None where there is no such path."""
        name = unquote(path.partition("?")[0])
        if name == "/ws":
            return ()
        if name == "/all":
            return self.streams
        stream = name.removeprefix("/ws/")
        return (stream,) if stream != name and stream in self._hub.market.streams else None

    async def _serve(self, wire: ServerConnection) -> None:
        assert isinstance(wire, Wire)
        assert wire.request_seen is not None
        self._accepted += 1
        connection = FeedConnection(self._accepted, wire, wire.request_seen, self._changed)
        self._hub.join(connection)
        try:
            self._welcome(connection)
            async for message in wire:
                self._hear(connection, message)
        except ConnectionClosed:
            pass  # the connection's record tells how it ended
        finally:
            self._hub.leave(connection)

    def _welcome(self, connection: FeedConnection) -> None:
        farewell = self.faults.welcome.take()
        if farewell and farewell.code is None:
            connection.fin()
        elif farewell:
            connection.close(farewell.code, farewell.reason)
        else:
            self._hub.subscribe(connection, self._streams_of(connection.path) or ())
            if self.options.heartbeat:
                connection.start_heartbeat(self.options.heartbeat, self._hub.now_ms)

    def _hear(self, connection: FeedConnection, message: str | bytes) -> None:
        """Obey a request at once; its answer may come late or never."""
        connection.requests.append(message)
        faults = self.faults
        rules = Rules(self._hub.market.streams, faults.refused, self.options.max_streams_per_connection)
        result = answer(message, connection.subscriptions, rules)
        if result.add and faults.requests.take():
            result = answer(message, connection.subscriptions, replace(rules, refused=None))
        if not result.acknowledges:
            connection.reply(result.reply)
        else:
            late = faults.ack_delay.take()
            if not faults.acks.take():
                connection.reply(result.reply, delay=self.options.ack_delay if late is None else late)
        self._hub.subscribe(connection, result.add)
        self._hub.unsubscribe(connection, result.remove)


def _response(status: int, body: str, headers: Mapping[str, str]) -> Response:
    content = body.encode()
    try:
        phrase = http.HTTPStatus(status).phrase
    except ValueError:
        phrase = "Refused"
    fields = Headers({"Connection": "close", "Content-Type": "text/plain; charset=utf-8"})
    fields["Content-Length"] = str(len(content))
    for name, value in headers.items():
        fields[name] = value
    return Response(status, phrase, fields, content)
