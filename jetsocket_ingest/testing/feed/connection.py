"""One client of the feed: what it subscribed to, what it was sent, what it said."""

from __future__ import annotations

import json
from asyncio import TimerHandle
from collections import Counter, defaultdict, deque
from collections.abc import Callable
from typing import cast

from websockets.exceptions import ConnectionClosed

from jetsocket_ingest.testing.feed.market import Burst
from jetsocket_ingest.testing.feed.records import Handshake, Sent
from jetsocket_ingest.testing.feed.wire import Wire, fragments, frame

SLOW_READER_BYTES = 8 * 1024 * 1024
"""A client with more than this waiting to be read gets no further messages until it has caught up."""

REMEMBERED_REQUESTS = 1000


class FeedConnection:
    """One client.

    Attributes:
        number: 1 for the feed's first client, 2 for the next.
        handshake: path and headers it came with.
        subscriptions: stream names, in the order of subscribing.
        sent: stream → what was handed to this socket.
        skipped: stream → messages left out because the client did not read fast enough.
        requests: the last messages from the client, as received.
        close_code, close_reason: from the client's close frame, an echo of ours where the feed closed; None while it is
            open, 1006 if there was no such frame.
    """

    def __init__(self, number: int, wire: Wire, handshake: Handshake, changed: Callable[[], None]) -> None:
        self.number = number
        self.handshake = handshake
        self.subscriptions: dict[str, None] = {}
        self.sent: defaultdict[str, Sent] = defaultdict(Sent)
        self.skipped: Counter[str] = Counter()
        self.requests: deque[str | bytes] = deque(maxlen=REMEMBERED_REQUESTS)
        self._wire = wire
        self._changed = changed
        self._withheld: Counter[str] = Counter()
        self._pending: list[bytes] = []
        self._pending_bytes = 0
        self._timers: set[TimerHandle] = set()

    def __repr__(self) -> str:
        state = "open" if self.writable else "mute" if self._wire.mute else "closing"
        sent = sum(sent.count for sent in self.sent.values())
        return f"<FeedConnection {self.number} {state} {self.path} streams={len(self.subscriptions)} sent={sent}>"

    @property
    def path(self) -> str:
        return self.handshake.path

    @property
    def client_port(self) -> int:
        """The port that it came from."""
        return cast("int", self._wire.remote_address[1])

    @property
    def writable(self) -> bool:
        """Open, neither silenced nor closing."""
        return self._wire.writable

    @property
    def full(self) -> bool:
        """The client reads too slowly to be sent more."""
        return self._wire.queued + self._pending_bytes > SLOW_READER_BYTES

    @property
    def pings(self) -> int:
        """WebSocket pings heard."""
        return self._wire.pings

    @property
    def pongs(self) -> int:
        """WebSocket pongs heard."""
        return self._wire.pongs

    @property
    def subprotocol(self) -> str | None:
        return self._wire.subprotocol

    @property
    def compressed(self) -> bool:
        """permessage-deflate was agreed on."""
        return self._wire.deflates

    @property
    def close_code(self) -> int | None:
        return self._wire.close_code

    @property
    def close_reason(self) -> str | None:
        return self._wire.close_reason

    # Data.

    def offer(self, messages: Burst, *, pieces: int = 1) -> bool:
        """Queue messages for `flush`; False where none of them goes to this client.

        `pieces` above 1 sends each message in so many frames, a ping after the first.
        """
        if not self.writable:
            return False
        withheld = min(self._withheld[messages.stream], len(messages))
        if withheld:
            self._withheld[messages.stream] -= withheld
            messages = messages.without_first(withheld)
        if self.full:
            self.skipped[messages.stream] += len(messages)
            return False
        if not messages.payloads:
            return False
        if pieces > 1:
            self._pending.extend(fragments(payload, pieces) for payload in messages.payloads)
        elif self.compressed:
            self.flush()
            self._wire.send_compressed(messages.payloads)
        else:
            self._pending.append(messages.frames)
            self._pending_bytes += len(messages.frames)
        self.sent[messages.stream].add(messages)
        return True

    def flush(self) -> None:
        """Hand what was offered to the socket, in one write."""
        if self._pending:
            self._wire.write(b"".join(self._pending))
            self._pending.clear()
            self._pending_bytes = 0

    async def drain(self) -> None:
        """Wait until the client has read most of what was sent, or is gone."""
        if self.writable:
            try:
                await self._wire.drain()
            except OSError:
                pass  # the client is gone, which ends the waiting as well

    def withhold(self, stream: str, count: int) -> None:
        """Leave out the next `count` messages of a stream."""
        self._withheld[stream] += count

    # Control.

    def reply(self, content: bytes, *, delay: float = 0.0) -> None:
        """Send an answer, now or `delay` seconds from now."""
        if delay > 0:
            self.later(delay, lambda: self.reply(content))
        elif self.full:
            # Answers may not be left out, and a client that asks without reading must not fill our memory.
            self.close(1008, "asks without reading the answers")
        else:
            self.send_frame(frame(content))
            self._changed()

    def send_frame(self, data: bytes) -> None:
        """Write bytes of the caller's choice, frame header included."""
        self.flush()
        self._wire.write(data)

    def later(self, delay: float, action: Callable[[], None]) -> None:
        """Do something after `delay` seconds, unless the connection ends before."""

        def act() -> None:
            self._timers.discard(timer)
            action()

        timer = self._wire.loop.call_later(delay, act)
        self._timers.add(timer)

    def start_heartbeat(self, every: float, now_ms: Callable[[], int]) -> None:
        """Send a heartbeat every so many seconds, the first one that long from now."""

        def beat() -> None:
            if not self.full:
                self.send_frame(
                    frame(json.dumps({"op": "heartbeat", "ts": now_ms()}, separators=(",", ":")).encode())
                )
            self.later(every, beat)

        self.later(every, beat)

    async def ping(self) -> float:
        """Send a WebSocket ping and wait for its pong: seconds it took. Raises ConnectionError if the client is gone."""
        try:
            return await (await self._wire.ping())
        except ConnectionClosed as error:
            raise ConnectionError(
                f"connection {self.number} ended before it answered a ping: {error}"
            ) from error

    # The end.

    def close(self, code: int | None = 1000, reason: str = "") -> None:
        """Begin the closing handshake. `code` None sends a close frame without a code."""
        self.flush()
        self._wire.send_close(code, reason)

    def silence(self) -> None:
        """Stay connected and do nothing any more, not even answer pings."""
        self._wire.silence()

    def rst(self) -> None:
        """End with TCP RST: what the client has not read yet is lost."""
        self._wire.rst()

    def fin(self) -> None:
        """End with TCP FIN and no close frame: everything sent so far arrives."""
        self.flush()
        self._wire.fin()

    def ended(self) -> None:
        """The socket is gone: stop the timers."""
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()
