"""One WebSocket seen from the server's side: frames written as they are, and sockets ended the hard way."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from websockets.asyncio.server import ServerConnection
from websockets.frames import Frame, Opcode
from websockets.protocol import Event, State

from jetsocket_ingest.testing.resets import reset

if TYPE_CHECKING:
    from jetsocket_ingest.testing.feed.records import Handshake

HANDSHAKE_TIMEOUT = 60.0
"""Seconds from the TCP connection to the answer of the opening handshake."""

CLOSE_TIMEOUT = 10.0
"""Seconds a client has to end the connection, once a close frame or our FIN went out, before its socket is dropped."""

CONTINUATION, TEXT, BINARY, PING = 0x0, 0x1, 0x2, 0x9


def frame(payload: bytes, opcode: int = TEXT, *, fin: bool = True) -> bytes:
    """One unmasked frame."""
    return _header(opcode | (0x80 if fin else 0), len(payload)) + payload


def fragments(payload: bytes, count: int) -> bytes:
    """`payload` as one text message of `count` frames, a ping after the first of them."""
    size = -(-len(payload) // count)
    parts = [payload[place * size : (place + 1) * size] for place in range(count)]
    frames = [
        frame(part, TEXT if place == 0 else CONTINUATION, fin=place == count - 1)
        for place, part in enumerate(parts)
    ]
    return b"".join([frames[0], frame(b"between", PING), *frames[1:]])


def text_frames(payloads: Sequence[bytes]) -> bytes:
    """A text message each, one after the other."""
    pieces: list[bytes] = []
    for payload in payloads:
        pieces.append(_TEXT_HEADERS[len(payload)])
        pieces.append(payload)
    return b"".join(pieces)


def _header(first: int, size: int) -> bytes:
    if size < 126:
        return bytes((first, size))
    if size < 65536:
        return struct.pack("!BBH", first, 126, size)
    return struct.pack("!BBQ", first, 127, size)


class _TextHeaders(dict[int, bytes]):
    """The header of a text message of each size met so far."""

    def __missing__(self, size: int) -> bytes:
        self[size] = header = _header(0x80 | TEXT, size)
        return header


_TEXT_HEADERS = _TextHeaders()


class Wire(ServerConnection):
    """The library's connection, with its socket within reach.

    It adds itself to `wires` while its socket lives, and calls `heard` for every frame from the client.

    Attributes:
        request_seen: what the client came with, once it has arrived.
        mute: nothing is written any more: the connection was silenced or cut.
        deaf: nothing is read any more either, so that not even the client's leaving is noticed.
        pings, pongs: control frames heard from the client.
    """

    def __init__(self, *args: Any, wires: set[Wire], heard: Callable[[], None], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.request_seen: Handshake | None = None
        self.mute = False
        self.deaf = False
        self.pings = 0
        self.pongs = 0
        self._wires = wires
        self._heard = heard

    # What asyncio and the library call.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._wires.add(self)
        super().connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._wires.discard(self)
        super().connection_lost(exc)

    def process_event(self, event: Event) -> None:
        if isinstance(event, Frame):
            self.pings += event.opcode is Opcode.PING
            self.pongs += event.opcode is Opcode.PONG
            if event.opcode is Opcode.CLOSE:
                self.drop_after(CLOSE_TIMEOUT)
            self._heard()
        super().process_event(event)

    def send_data(self) -> None:
        if self.mute:
            # The library would answer a close frame on a socket whose sending half is shut.
            self.protocol.data_to_send()
        else:
            super().send_data()

    # What the feed calls.

    @property
    def opening(self) -> bool:
        """The handshake is not answered yet."""
        return self.protocol.state is State.CONNECTING

    @property
    def writable(self) -> bool:
        return not self.mute and self.protocol.state is State.OPEN

    @property
    def queued(self) -> int:
        """Bytes waiting for the client to read."""
        return self.transport.get_write_buffer_size()

    @property
    def deflates(self) -> bool:
        return bool(self.protocol.extensions)

    def write(self, data: bytes) -> None:
        """Put bytes on the socket as they are."""
        if self.writable:
            self.transport.write(data)

    def send_compressed(self, payloads: Iterable[bytes]) -> None:
        """Text messages through the extension negotiated, whose window is this connection's own."""
        for payload in payloads:
            self.protocol.send_text(payload)
        self.send_data()

    def send_close(self, code: int | None, reason: str) -> None:
        """Begin the closing handshake."""
        if not self.writable:
            return
        self.protocol.send_close(code, reason)
        self.send_data()
        self.drop_after(CLOSE_TIMEOUT)

    def drop_after(self, timeout: float) -> None:
        """Throw the socket away in `timeout` seconds, if it still exists then."""
        timer = self.loop.call_later(timeout, self.transport.abort)
        self.connection_lost_waiter.add_done_callback(lambda _: timer.cancel())

    def silence(self) -> None:
        """Stay connected, read nothing, write nothing."""
        self.mute = self.deaf = True
        self.transport.pause_reading()

    def rst(self) -> None:
        """Throw the socket away, so that the client's next read fails with ECONNRESET."""
        self.mute = True
        reset(self.transport)

    def fin(self) -> None:
        """End the stream of bytes without a close frame; what is queued still arrives."""
        self.mute = True
        if self.transport.can_write_eof():
            # Reading goes on: closing a socket with unread bytes in it would send RST instead of FIN.
            self.transport.write_eof()
            self.drop_after(CLOSE_TIMEOUT)
        else:
            self.transport.close()
