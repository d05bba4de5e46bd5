"""Who listens to what: hands the market's messages to the connections that subscribed to them."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable

from jetsocket_ingest.clock import Clock
from jetsocket_ingest.testing.feed.connection import FeedConnection
from jetsocket_ingest.testing.feed.market import Burst, Market
from jetsocket_ingest.testing.feed.records import Sent

REMEMBERED_CONNECTIONS = 1000


class Hub:
    """The market, its listeners, and the record of what they were sent.

    Attributes:
        connections: clients connected now, the eldest first.
        past: clients that are gone, the last ones.
        sent: stream → messages handed to at least one socket.
    """

    def __init__(self, market: Market, clock: Clock, changed: Callable[[], None]) -> None:
        self.market = market
        self.connections: list[FeedConnection] = []
        self.past: deque[FeedConnection] = deque(maxlen=REMEMBERED_CONNECTIONS)
        self.sent = {stream.name: Sent() for stream in market}
        self._skipped_in_past = 0
        self._clock = clock
        self._changed = changed
        self._listeners: dict[str, dict[FeedConnection, None]] = {stream.name: {} for stream in market}

    def now_ms(self) -> int:
        return self._clock.wall_ns() // 1_000_000

    @property
    def skipped(self) -> int:
        """Messages left out for slow readers, over all connections ever."""
        return self._skipped_in_past + sum(connection.skipped.total() for connection in self.connections)

    def join(self, connection: FeedConnection) -> None:
        self.connections.append(connection)
        self._changed()

    def leave(self, connection: FeedConnection) -> None:
        connection.ended()
        for stream in connection.subscriptions:
            self._listeners[stream].pop(connection, None)
        self.connections.remove(connection)
        self.past.append(connection)
        self._skipped_in_past += connection.skipped.total()
        self._changed()

    def subscribe(self, connection: FeedConnection, streams: Iterable[str]) -> None:
        for stream in streams:
            connection.subscriptions[stream] = None
            self._listeners[stream][connection] = None
        self._changed()

    def unsubscribe(self, connection: FeedConnection, streams: Iterable[str]) -> None:
        for stream in streams:
            connection.subscriptions.pop(stream, None)
            self._listeners[stream].pop(connection, None)
        self._changed()

    def subscribed(self) -> Counter[str]:
        """Stream → connections subscribed to it now; streams without any are left out."""
        return Counter({stream: len(listeners) for stream, listeners in self._listeners.items() if listeners})

    def listeners(self, stream: str) -> list[FeedConnection]:
        """Subscribed connections that can be written to."""
        return [connection for connection in self._listeners[stream] if connection.writable]

    def produce(self, due: int) -> None:
        """Make and send `due` messages, dealt out over the streams."""
        now = self.now_ms()
        reached: dict[FeedConnection, None] = {}
        for stream, share in self.market.shares(due):
            listeners = self.listeners(stream.name)
            if stream.limit is None and not listeners:
                stream.pass_unheard(share)
                continue
            left = int(min(share, stream.remaining)) if listeners else 0
            while left > 0:
                if stream.limit is not None and any(connection.full for connection in listeners):
                    break
                messages = stream.make(min(left, stream.chunk), now)
                left -= len(messages)
                reached |= self._offer(messages, listeners)
        self._flush(reached)

    async def publish(self, name: str, count: int = 1) -> int:
        """Send the next `count` messages of a stream now, and wait until its readers have taken most of them.

        The limit does not hold it back, but what it sends counts towards it. Returns the last number given.
        Raises ValueError for an unknown stream.
        """
        if name not in self.market.streams:
            raise ValueError(f"unknown stream {name!r}; known are: {', '.join(self.market.streams)}")
        stream = self.market[name]
        while count > 0:
            await self._drain(name)
            listeners = self.listeners(name)
            if not listeners:
                stream.pass_unheard(count)
                break
            messages = stream.make(min(count, stream.chunk), self.now_ms())
            self.deliver(messages, listeners)
            count -= len(messages)
        await self._drain(name)
        return stream.seq

    async def _drain(self, stream: str) -> None:
        for connection in self.listeners(stream):
            await connection.drain()

    def deliver(self, messages: Burst, to: Iterable[FeedConnection], *, pieces: int = 1) -> int:
        """Send messages to connections; how many of these were sent any."""
        reached = self._offer(messages, to, pieces)
        self._flush(reached)
        return len(reached)

    def _offer(
        self, messages: Burst, to: Iterable[FeedConnection], pieces: int = 1
    ) -> dict[FeedConnection, None]:
        reached = {connection: None for connection in to if connection.offer(messages, pieces=pieces)}
        if reached:
            self.sent[messages.stream].add(messages)
        return reached

    def _flush(self, connections: Iterable[FeedConnection]) -> None:
        for connection in connections:
            connection.flush()
        self._changed()
