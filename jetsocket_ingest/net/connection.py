"""The asyncio side of a transport, the same for every engine: an engine only says how bytes become frames."""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import Callable
from typing import Any

from websockets.exceptions import ProtocolError
from websockets.extensions import Extension
from websockets.frames import Close, Frame, Opcode

from jetsocket_ingest.errors import DialError
from jetsocket_ingest.net.handshake import OpeningHandshake
from jetsocket_ingest.net.messages import (
    CLOSE,
    PING,
    FrameSource,
    Inflater,
    MessageAssembler,
    Violation,
)
from jetsocket_ingest.net.tls import tls_error
from jetsocket_ingest.net.transport import (
    HANDOVER_BYTES,
    HANDOVER_MESSAGES,
    WRITE_HIGH_WATER,
    DialOptions,
    Listener,
)

MakeFrames = Callable[[int, bool], FrameSource]
"""Makes an engine's frame source from the largest message in bytes, and whether permessage-deflate was negotiated."""

READ_FIRST = 16 * 1024
READ_MOST = HANDOVER_BYTES // 2
"""Bytes asked for in a read. Reads of a busy socket grow from the first to the most as long as they stay below
HANDOVER_MESSAGES. Half a hand-over leaves room for the frame that the read before left unfinished."""
READ_LEAST = 2 * 1024

LINGER = 1.0
"""Seconds that the peer has to close TCP once the WebSocket is over, before the socket is dropped. It is the server's
part to close first, so that the port does not linger with us, and data it has not read is not lost to a reset."""

BODY_WAIT = 0.5
"""Seconds to wait for the rest of the body of a refusal: it is only for the log."""


class _Scratch(threading.local):
    """The buffer that every connection of a thread reads into. Loops fill it and call `buffer_updated` in one go, so
    that thousands of quiet connections share one."""

    def __init__(self) -> None:
        self.view = memoryview(bytearray(READ_MOST))


_scratch = _Scratch()


class Connection(asyncio.BufferedProtocol):
    """One WebSocket over one socket; implements `Transport`.

    Two flags keep reading still: `_paused` by the owner, `_resting` by ourselves until the loop has run. The socket is
    read when both are down.
    """

    def __init__(
        self, engine: str, options: DialOptions, listener: Listener, make_frames: MakeFrames
    ) -> None:
        self.engine = engine
        self.subprotocol: str | None = None
        self.accepted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when the opening handshake is; fails with DialError."""
        self._options = options
        self._listener = listener
        self._clock = options.clock
        self._make_frames = make_frames
        self._handshake: OpeningHandshake | None = OpeningHandshake(options)
        self.host, self.port, self.secure = self._handshake.host, self._handshake.port, self._handshake.secure
        self._loop = asyncio.get_running_loop()
        self._transport: Any = None
        self._messages: MessageAssembler
        self._extensions: list[Extension] = []
        self._scratch = _scratch.view
        self._read_size = READ_FIRST
        self._received_ns = 0
        self._paused = False
        self._resting = True
        self._socket_paused = False
        # How it ends: set by whichever close frame is first, or by the fault that was found.
        self._ending: tuple[int, str] | None = None
        # How TCP ended; it counts where nothing that came before, perhaps not looked at yet, says more.
        self._loss = ""
        self._close_sent = False
        self._deaf = False
        self._lost = False
        self._closed = False
        self._timer: asyncio.TimerHandle | None = None
        self._write_paused = False
        self._drains: set[asyncio.Future[None]] = set()

    @property
    def place(self) -> str:
        """Host and port, for messages."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    # What the loop calls --------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._transport.set_write_buffer_limits(high=WRITE_HIGH_WATER)
        assert self._handshake is not None
        self._transport.write(self._handshake.request)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._scratch[: self._read_size]

    def buffer_updated(self, nbytes: int) -> None:
        if self._deaf:
            return
        if self._handshake is not None:
            self._shake(bytes(self._scratch[:nbytes]))
            return
        self._received_ns = self._clock.wall_ns()
        self._messages.feed(self._scratch[:nbytes])
        handed = self._hand_over()
        if nbytes == self._read_size:
            # There is more. Some loops would read on at once, and starve the other connections.
            self._rest()
            if handed < HANDOVER_MESSAGES // 2:
                self._read_size = min(2 * self._read_size, READ_MOST)

    def eof_received(self) -> None:
        if self._handshake is not None:
            self._refuse(self._handshake.end())
        # The loop closes the socket once everything is written, which a peer that reads no more can put off for ever.
        self._abort_after(LINGER)

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = True
        if self._timer is not None:
            self._timer.cancel()
        if not self.accepted.done():
            self._refuse(self._why_not_accepted(exc))
        self._loss = _how_lost(exc)
        self.resume_writing()
        self._finish()

    def pause_writing(self) -> None:
        self._write_paused = True

    def resume_writing(self) -> None:
        self._write_paused = False
        for waiter in self._drains:
            if not waiter.done():
                waiter.set_result(None)

    # The opening handshake ------------------------------------------------------------------------------------------

    def _shake(self, data: bytes) -> None:
        assert self._handshake is not None
        try:
            rest = self._handshake.feed(data)
        except DialError as error:
            self._refuse(error)
            return
        if rest is not None:
            self._accept(self._handshake, rest)
        elif self._handshake.refused and self._timer is None:
            self._timer = self._loop.call_later(BODY_WAIT, self._refuse_as_is, self._handshake)

    def _accept(self, handshake: OpeningHandshake, rest: bytes) -> None:
        self._handshake = None
        self.subprotocol = handshake.subprotocol
        deflate = handshake.deflate
        inflater = None
        if deflate is not None:
            self._extensions = [deflate]
            inflater = Inflater(
                window_bits=deflate.remote_max_window_bits,
                context_takeover=not deflate.remote_no_context_takeover,
            )
        limit = self._options.max_message_size
        self._messages = MessageAssembler(self._make_frames(limit, deflate is not None), limit, inflater)
        self._received_ns = self._clock.wall_ns()
        if rest:
            self._messages.feed(memoryview(rest))
        self._read_or_not()
        if not self.accepted.done():
            self.accepted.set_result(None)

    def start(self) -> None:
        """Let the listener hear, from the next turn of the loop on. The last act of the dial."""
        self._loop.call_soon(self._go_on)

    def discard(self) -> None:
        """Drop a connection that the dial gave up; the listener hears nothing."""
        self._deaf = self._closed = True
        self.accepted.cancel()  # an error in it that nobody waits for any more is not to be reported
        if self._transport is not None:
            self._transport.abort()

    def _refuse_as_is(self, handshake: OpeningHandshake) -> None:
        self._refuse(handshake.end())

    def _refuse(self, error: DialError) -> None:
        self._deaf = self._closed = True
        if not self.accepted.done():
            self.accepted.set_exception(error)
        self._transport.abort()

    def _why_not_accepted(self, exc: Exception | None) -> DialError:
        if isinstance(exc, ssl.SSLError):
            return tls_error(exc, self.place)
        if exc is None and self._handshake is not None:
            return self._handshake.end()
        return DialError(f"{self.place} broke the connection during the opening handshake: {_how_lost(exc)}")

    # Reading --------------------------------------------------------------------------------------------------------

    def _hand_over(self) -> int:
        """Hand over what is complete, as far as one turn of the loop allows; the number of messages."""
        handed = 0
        while not self._paused and not self._deaf:
            try:
                batch = self._messages.next_batch()
            except Violation as violation:
                self._heed_controls()
                self._fail(violation.code, violation.reason)
                break
            if batch is None:
                self._heed_controls()
                break
            payloads, binary, size = batch
            handed += len(payloads)
            self._answer_pings()
            self._listener.on_messages(payloads, binary, self._received_ns)
            self._heed_controls()
            if handed >= HANDOVER_MESSAGES or size >= HANDOVER_BYTES:
                self._read_size = max(self._read_size // 2, READ_LEAST)
                self._rest()
                break
            if self._messages.starved:
                break
        return handed

    def _answer_pings(self) -> None:
        """Before the listener has its turn: it may be busy for long, and a ping amid the fragments of a message is owed its
        pong before what the listener answers to that message."""
        controls = self._messages.controls
        if not controls:
            return
        self._messages.controls = [control for control in controls if control[0] != PING]
        for opcode, payload in controls:
            # A peer that pings without reading must not fill our memory.
            if opcode == PING and not self._close_sent and not self._write_paused:
                self._write(Opcode.PONG, payload)

    def _heed_controls(self) -> None:
        if not self._messages.controls:
            return
        self._answer_pings()
        controls, self._messages.controls = self._messages.controls, []
        for opcode, payload in controls:
            if self._deaf:
                return
            if opcode == CLOSE:
                self._heed_close(payload)
            else:
                self._listener.on_pong(payload)

    def _rest(self) -> None:
        """Read no more until the loop has run."""
        if not self._resting:
            self._resting = True
            self._loop.call_soon(self._go_on)
            self._read_or_not()

    def _go_on(self) -> None:
        self._resting = False
        self._hand_over()
        self._read_or_not()
        if self._lost:
            self._finish()

    def _read_or_not(self) -> None:
        """Bring the socket to what the flags say."""
        still = (self._paused or self._resting) and not self._deaf
        if still == self._socket_paused or self._transport.is_closing():
            return
        self._socket_paused = still
        if still:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    # Ending ---------------------------------------------------------------------------------------------------------

    def _heed_close(self, payload: bytes) -> None:
        close = Close.parse(payload)
        self._end(int(close.code), close.reason)
        if not self._close_sent:
            self._write(Opcode.CLOSE, payload)
            self._close_sent = True
        self._wait_for_the_end()

    def _fail(self, code: int, reason: str) -> None:
        self._end(code, reason)
        if self._close_sent:
            self.abort()
            return
        self._send_close(code, reason)
        self._wait_for_the_end()

    def _wait_for_the_end(self) -> None:
        """Whatever still comes is read, so that the end of TCP shows, and dropped."""
        self._deaf = True
        self._read_or_not()
        self._abort_after(LINGER)

    def _end(self, code: int, reason: str) -> None:
        if self._ending is None:
            self._ending = code, reason

    def _send_close(self, code: int, reason: str) -> None:
        # 125 bytes of a control frame, without the code; a character cut in two is left out.
        reason = reason.encode()[:123].decode(errors="ignore")
        self._write(Opcode.CLOSE, Close(code, reason).serialize())
        self._close_sent = True

    def _abort_after(self, seconds: float) -> None:
        if self._timer is None and not self._lost:
            self._timer = self._loop.call_later(seconds, self._transport.abort)

    def _finish(self) -> None:
        """Tell that it is over, unless messages that came before have still to be handed over."""
        if self._closed or not self.accepted.done():
            return
        if not self._deaf and (self._paused or self._resting):
            return
        self._closed = self._deaf = True
        self._listener.on_close(*(self._ending or (1006, self._loss)))

    # What the owner calls -------------------------------------------------------------------------------------------

    def _write(self, opcode: Opcode, payload: bytes) -> None:
        if not self._lost and not self._transport.is_closing():
            self._transport.write(Frame(opcode, payload).serialize(mask=True, extensions=self._extensions))

    def send(self, payload: bytes, *, binary: bool) -> None:
        if not self._close_sent:
            self._write(Opcode.BINARY if binary else Opcode.TEXT, payload)

    def ping(self, payload: bytes) -> None:
        if len(payload) > 125:
            raise ValueError(f"a ping holds at most 125 bytes, found {len(payload)}")
        if not self._close_sent:
            self._write(Opcode.PING, payload)

    async def drain(self) -> None:
        if (
            not self._lost
            and not self._write_paused
            and self._transport.get_write_buffer_size() > WRITE_HIGH_WATER
        ):
            await asyncio.sleep(0)  # uvloop only writes, and notices that it cannot, at the end of a turn
        if not self._write_paused or self._lost:
            return
        waiter = self._loop.create_future()
        self._drains.add(waiter)
        try:
            await waiter
        finally:
            self._drains.discard(waiter)

    def close(self, code: int, reason: str) -> None:
        if self._close_sent or self._lost:
            return
        try:
            self._send_close(code, reason)
        except ProtocolError:
            raise ValueError(
                f"a close frame cannot hold code {code}; use 1000, 1001 or 3000 to 4999"
            ) from None
        self._end(code, reason)

    def abort(self) -> None:
        self._deaf = True
        self._end(1006, "dropped by us")
        if self._lost:
            # It waited for reading to resume; nothing is to be handed over any more.
            self._loop.call_soon(self._finish)
        else:
            self._transport.abort()

    def pause_reading(self) -> None:
        self._paused = True
        self._read_or_not()

    def resume_reading(self) -> None:
        if self._paused:
            self._paused = False
            # Not from here, since the owner may be in the middle of something: `_go_on` hands over what was held back.
            self._rest()


def _how_lost(exc: Exception | None) -> str:
    if exc is None:
        return "the peer closed TCP without a closing handshake"
    if isinstance(exc, OSError) and exc.strerror:
        return exc.strerror
    return str(exc) or type(exc).__name__
