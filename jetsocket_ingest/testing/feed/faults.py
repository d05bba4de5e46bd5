"""What the feed does wrong on command: to one connection, to all, or to those that come next."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from jetsocket_ingest.testing.feed.connection import FeedConnection
from jetsocket_ingest.testing.feed.hub import Hub
from jetsocket_ingest.testing.feed.market import Stream
from jetsocket_ingest.testing.feed.schedule import close_code
from jetsocket_ingest.testing.feed.wire import BINARY, HANDSHAKE_TIMEOUT, frame
from jetsocket_ingest.testing.proxy import FaultProxy

T = TypeVar("T")


class Armed(Generic[T]):
    """A fault that waits for its occasion: the next few, or every one until it is disarmed."""

    def __init__(self) -> None:
        self._value: T | None = None
        self._times: int | None = None

    def arm(self, value: T, times: int | None) -> None:
        """`times` None means until disarmed."""
        if times is not None and times < 1:
            raise ValueError(f"expected times to be 1 or more, or None for ever, found {times}")
        self._value, self._times = value, times

    def disarm(self) -> None:
        self._value = None

    def take(self) -> T | None:
        """What is to happen on this occasion; None for nothing."""
        value = self._value
        if self._times is not None and value is not None:
            self._times -= 1
            if self._times == 0:
                self._value = None
        return value


@dataclass(slots=True, frozen=True)
class Refusal:
    """An HTTP answer in place of the handshake's 101."""

    status: int
    body: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(slots=True, frozen=True)
class Farewell:
    """How a connection is closed as soon as it stands; code None: TCP FIN without a close frame."""

    code: int | None
    reason: str = ""


class Faults:
    """`feed.faults`: each method does one thing wrong.

    Those that strike take `on`, one connection; None means every one that is open. They return how many connections
    they reached, so that a test can see that there was one. Those that wait for an occasion take `times`, None meaning
    until `clear`. Raw messages (`text`, `binary`, …) carry no number and are in no record.

    Attributes:
        handshake, handshake_delay, welcome, requests, acks, ack_delay: what is armed; the server asks them.
        refused: streams turned down although they exist.
        proxy: what stands before the feed, where scheduled faults of the line want one.
    """

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self.proxy: FaultProxy | None = None
        self.handshake: Armed[Refusal] = Armed()
        self.handshake_delay: Armed[float] = Armed()
        self.welcome: Armed[Farewell] = Armed()
        self.requests: Armed[bool] = Armed()
        self.acks: Armed[bool] = Armed()
        self.ack_delay: Armed[float] = Armed()
        self.refused: frozenset[str] = frozenset()

    @property
    def line(self) -> FaultProxy:
        """The network before the feed. Raises RuntimeError where there is none."""
        if self.proxy is None:
            raise RuntimeError(
                "this feed has no proxy before it: name a fault of the line in FeedOptions.faults, "
                "or put a FaultProxy of your own before the feed's port"
            )
        return self.proxy

    # Ends of a connection.

    def silence(self, on: FeedConnection | None = None) -> int:
        """Stay connected and do nothing: read nothing, send nothing, answer no ping. It lasts until the client leaves
        by itself or the feed stops."""
        return self._each(on, FeedConnection.silence)

    def rst(self, on: FeedConnection | None = None) -> int:
        """End with TCP RST. What the client has not read yet is lost."""
        return self._each(on, FeedConnection.rst)

    def fin(self, on: FeedConnection | None = None) -> int:
        """End with TCP FIN, without a close frame. Everything sent before arrives."""
        return self._each(on, FeedConnection.fin)

    def close(self, code: int | None = 1001, reason: str = "", on: FeedConnection | None = None) -> int:
        """Begin the closing handshake; code None sends a close frame without one. ConfigError for a code that no
        close frame can carry."""
        if code is not None:
            close_code(code)
        return self._each(on, lambda connection: connection.close(code, reason))

    # Messages.

    def text(self, content: str | bytes, on: FeedConnection | None = None) -> int:
        """Send a text message of the caller's choice; bytes go out as they are, valid or not."""
        data = frame(content.encode() if isinstance(content, str) else content)
        return self._each(on, lambda connection: connection.send_frame(data))

    def binary(self, content: bytes = b"\x00\x01\x02\xff", on: FeedConnection | None = None) -> int:
        """Send a binary message."""
        return self._each(on, lambda connection: connection.send_frame(frame(content, BINARY)))

    def invalid_utf8(self, on: FeedConnection | None = None) -> int:
        """Send a text message that is not UTF-8."""
        return self.text(b'{"stream":"\xc3\x28\xff"}', on)

    def invalid_json(self, on: FeedConnection | None = None) -> int:
        """Send a text message that stops in the middle of its JSON."""
        return self.text('{"stream":"', on)

    def oversize(self, size: int = 32 * 1024 * 1024, on: FeedConnection | None = None) -> int:
        """Send a valid text message of exactly `size` bytes (at least 10)."""
        if size < 10:
            raise ValueError(f"expected a size of 10 bytes or more, found {size}")
        return self.text(b'{"pad":"%b"}' % (b"x" * (size - 10)), on)

    def fragmented(
        self, fragments: int = 3, stream: str | None = None, on: FeedConnection | None = None
    ) -> int:
        """Send the next message of a stream in so many frames, a ping after the first. Other connections get it whole.

        Without `stream` it is one that is listened to; with nobody listening nothing is sent.
        """
        if fragments < 2:
            raise ValueError(f"expected 2 fragments or more, found {fragments}")
        for candidate in self._streams(stream):
            listeners = self._hub.listeners(candidate.name)
            struck = [connection for connection in listeners if on in (None, connection)]
            if struck:
                messages = candidate.make(1, self._hub.now_ms())
                self._hub.deliver(
                    messages, [connection for connection in listeners if connection not in struck]
                )
                return self._hub.deliver(messages, struck, pieces=fragments)
        return 0

    # Numbering.

    def gap(self, count: int = 1, stream: str | None = None, on: FeedConnection | None = None) -> int:
        """Skip numbers of a stream, or of all. With `on`, only this connection misses the next `count` messages of it;
        otherwise nobody ever sees these numbers. Returns how many streams have a gap now."""
        streams = self._streams(stream)
        if on is not None:
            streams = [each for each in streams if each.name in on.subscriptions]
        for each in streams:
            if on is None:
                each.skip(count)
            else:
                on.withhold(each.name, count)
        return len(streams)

    def duplicate(self, count: int = 1, stream: str | None = None, on: FeedConnection | None = None) -> int:
        """Send the last `count` messages (at most 100) of a stream, or of all, a second time to those that subscribed.
        They are an unbroken run: it stops short at a gap. Returns how many messages were repeated."""
        repeated = 0
        for each in self._streams(stream):
            messages = each.again(count)
            to = [connection for connection in self._hub.listeners(each.name) if on in (None, connection)]
            if messages.payloads and self._hub.deliver(messages, to):
                repeated += len(messages)
        return repeated

    # What meets the next handshakes and requests.

    def refuse_handshakes(
        self,
        status: int = 503,
        body: str = "",
        *,
        retry_after: int | str | None = None,
        headers: Mapping[str, str] | None = None,
        times: int | None = None,
    ) -> None:
        """Answer handshakes with an HTTP status from 200 to 599. `retry_after`: seconds or an HTTP date."""
        if not 200 <= status <= 599:
            raise ValueError(f"expected an HTTP status from 200 to 599, found {status}")
        after = {} if retry_after is None else {"Retry-After": str(retry_after)}
        self.handshake.arm(Refusal(status, body, {**after, **(headers or {})}), times)

    def slow_handshakes(self, delay: float, *, times: int | None = None) -> None:
        """Let handshakes wait so many seconds for their answer, less than a minute."""
        if not 0 <= delay < HANDSHAKE_TIMEOUT:
            raise ValueError(f"expected a delay from 0 to below {HANDSHAKE_TIMEOUT:g} seconds, found {delay}")
        self.handshake_delay.arm(delay, times)

    def accept_then_close(
        self, code: int | None = 1013, reason: str = "", *, times: int | None = None
    ) -> None:
        """Complete handshakes and end the connection at once: with a close code, or by TCP FIN where it is None."""
        if code is not None:
            close_code(code)
        self.welcome.arm(Farewell(code, reason), times)

    def refuse_streams(self, *streams: str) -> None:
        """Turn down subscriptions to these streams, instead of those named before. Without names: to none."""
        self.refused = frozenset(streams)

    def refuse_requests(self, *, times: int | None = None) -> None:
        """Turn down subscribe requests, whatever they ask for."""
        self.requests.arm(True, times)

    def late_acks(self, delay: float, *, times: int | None = None) -> None:
        """Answer subscribe and unsubscribe requests so many seconds late; data flows meanwhile."""
        self.ack_delay.arm(delay, times)

    def no_acks(self, *, times: int | None = None) -> None:
        """Obey subscribe and unsubscribe requests without a word."""
        self.acks.arm(True, times)

    def clear(self) -> None:
        """Disarm what waits for an occasion. What has struck stays: a silenced connection is not heard of again."""
        for armed in (
            self.handshake,
            self.handshake_delay,
            self.welcome,
            self.requests,
            self.acks,
            self.ack_delay,
        ):
            armed.disarm()
        self.refused = frozenset()

    def _streams(self, name: str | None) -> list[Stream]:
        if name is None:
            return list(self._hub.market)
        if name not in self._hub.market.streams:
            raise ValueError(f"unknown stream {name!r}; known are: {', '.join(self._hub.market.streams)}")
        return [self._hub.market[name]]

    def _each(self, on: FeedConnection | None, strike: Callable[[FeedConnection], None]) -> int:
        """Strike those that are open; how many."""
        struck = [
            connection
            for connection in self._hub.connections
            if on in (None, connection) and connection.writable
        ]
        for connection in struck:
            strike(connection)
        return len(struck)
