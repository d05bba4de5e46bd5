"""The engine on picows: its native parser cuts the frames, everything else is shared."""

from __future__ import annotations

import base64
import hashlib
import logging
import re
from collections import deque

from picows import WSAutoPingStrategy, WSFrame, WSListener, WSMsgType, WSTransport
from picows.picows import WSProtocol  # type: ignore[attr-defined]  # not in its stubs

from jetsocket_ingest.net.connection import Connection
from jetsocket_ingest.net.dialling import open_connection
from jetsocket_ingest.net.frames import wire_limit
from jetsocket_ingest.net.messages import TOO_BIG, WHOLE, Run, Violation, check_first_byte, too_big
from jetsocket_ingest.net.transport import DialOptions, Listener, Transport

PIECE = 8 * 1024
"""Bytes given to picows at once, half of its buffer: a buffer that is nearly filled makes picows double it, for good.
Only a longer frame does so here."""

_silent = logging.getLogger("picows.parser")
_silent.setLevel(logging.CRITICAL + 1)  # what it finds, we tell


async def dial(options: DialOptions, listener: Listener) -> Transport:
    """See `Dial`."""
    return await open_connection(
        lambda options: Connection("picows", options, listener, PicowsFrames), options
    )


class _Nowhere:
    """The transport, and the socket, that picows' protocol believes to have.

    picows is used for parsing alone. What it would send (handshake, close frames with a guessable mask) stays here.
    """

    def __init__(self) -> None:
        self.written = b""

    def get_extra_info(self, name: str) -> _Nowhere | None:
        return self if name == "socket" else None

    def setsockopt(self, level: int, name: int, value: int) -> None:
        pass

    def getsockopt(self, level: int, name: int) -> int:
        return 0

    def fileno(self) -> int:
        return -1

    def get_write_buffer_size(self) -> int:
        return 1  # otherwise picows would write to the file descriptor directly

    def write(self, data: bytes) -> None:
        self.written = data

    def close(self) -> None:
        pass


class PicowsFrames:
    """A `FrameSource` around picows' parser.

    picows has no parser to call by itself, and its `ws_connect` neither closes the socket of a cancelled dial nor tells
    the status of an answer outside the standard list (520 and the like), so its protocol object is driven directly: it
    is given a handshake of its own making first, then the bytes of each read. That object is no public interface;
    `engines.PICOWS` says which releases have this one, and the contract suite tests it.
    """

    def __init__(self, max_message_size: int, compressed: bool) -> None:
        self._max_message_size = max_message_size
        self._violation: Violation | None = None
        self._listener = _Listener(compressed)
        nowhere = _Nowhere()
        self._protocol = WSProtocol(
            "localhost",
            "/",
            True,  # client's side
            lambda: self._listener,
            _silent,
            True,  # disconnect on exception
            None,  # no handshake timeout
            False,  # no automatic ping
            1.0,
            1.0,
            WSAutoPingStrategy.PING_WHEN_IDLE,
            False,  # no automatic pong
            wire_limit(max_message_size, compressed=compressed),
            None,  # no extra headers
            2 * PIECE,
        )
        self._protocol.connection_made(nowhere)
        self._feed(memoryview(_answer(nowhere.written)))

    def feed(self, data: memoryview) -> None:
        if self._violation is None:
            self._feed(data)
            self._listener.end_run()
            self._violation = self._listener.violation or self._found_by_picows()

    def _feed(self, data: memoryview) -> None:
        protocol = self._protocol
        while data:
            # The buffer starts where an unfinished frame ends; a long one is taken in larger pieces as it grows.
            buffer = protocol.get_buffer(-1)
            size = min(len(data), max(PIECE, len(buffer) // 2), len(buffer))
            buffer[:size] = data[:size]
            protocol.buffer_updated(size)
            if protocol.transport.is_close_frame_sent:
                return  # a violation: fed on, picows would hand out the very frame that it refused
            data = data[size:]

    def next_run(self) -> Run | None:
        runs = self._listener.runs
        if runs:
            return runs.popleft()
        if self._violation is not None:
            raise self._violation
        return None

    def _found_by_picows(self) -> Violation | None:
        """picows answers a violation with a close frame; that is how it shows."""
        if not self._protocol.transport.is_close_frame_sent:
            return None
        sent = self._protocol.transport.close_handshake.sent
        code = int(sent.code)
        return too_big(self._max_message_size) if code == TOO_BIG else Violation(code, sent.reason)


class _Listener(WSListener):
    """Collects frames into runs. Each attribute of a frame costs 30 to 150 ns to read, so the usual frame, a whole
    message of the same type as the one before, is known by as few as will do."""

    def __init__(self, compressed: bool) -> None:
        self.runs: deque[Run] = deque()
        self.violation: Violation | None = None
        self._compressed = compressed
        self._first = 0
        self._type: WSMsgType | None = None
        self._payloads: list[bytes] = []

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type is self._type and frame.fin and not (frame.rsv1 or frame.rsv2 or frame.rsv3):
            self._payloads.append(frame.get_payload_as_bytes())
        else:
            self._begin_run(frame)

    def _begin_run(self, frame: WSFrame) -> None:
        if self.violation is not None:
            return
        self.end_run()
        opcode = int(frame.msg_type)  # type: ignore[call-overload]  # an IntEnum; its stubs say Enum
        first = frame.fin << 7 | frame.rsv1 << 6 | frame.rsv2 << 5 | frame.rsv3 << 4 | opcode
        self._type = frame.msg_type if first in WHOLE else None
        try:
            check_first_byte(first, compressed=self._compressed)
        except Violation as violation:
            self.violation = violation
            return
        self._first = first
        self._payloads.append(frame.get_payload_as_bytes())

    def end_run(self) -> None:
        payloads = self._payloads
        if payloads:
            self.runs.append(Run(self._first, payloads, sum(map(len, payloads))))
            self._payloads = []


def _answer(request: bytes) -> bytes:
    """What a server would answer to picows' opening handshake."""
    key = re.search(rb"(?i)sec-websocket-key: *([^\r\n]*)", request)
    assert key is not None, "picows wrote its request"
    accept = base64.b64encode(
        hashlib.sha1(key[1] + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11", usedforsecurity=False).digest()
    )
    return (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n"
    )
