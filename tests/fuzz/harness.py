"""Plays bytes to a connection as a socket would, without one, and holds it to what must be true of any bytes."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
from dataclasses import dataclass
from typing import Any

from jetsocket_ingest.errors import DialError, HandshakeRefused
from jetsocket_ingest.net.connection import READ_FIRST, READ_MOST, Connection, MakeFrames
from jetsocket_ingest.net.engine_picows import PicowsFrames
from jetsocket_ingest.net.frames import FrameReader, wire_limit
from jetsocket_ingest.net.transport import DialOptions
from jetsocket_ingest.testing.transport_cases.peers import Heard

ENGINES: dict[str, MakeFrames] = {"websockets": FrameReader, "picows": PicowsFrames}
ACCEPT = b"@" * 28
"""Stands in a made-up answer where the digest of the client's key belongs."""
DEFLATE = {
    "off": "",
    "context": "permessage-deflate",
    "no context": "permessage-deflate; server_no_context_takeover",
    "small window": "permessage-deflate; server_max_window_bits=9",
}
SECRET = "hidden"

_PATIENCE = 10_000
"""Turns of the loop in which a connection must have come to its end: far more than any of these inputs needs."""
_OURS = frozenset((1002, 1005, 1006, 1007, 1009))
_SENDABLE = frozenset((*range(1000, 1004), *range(1007, 1015), *range(3000, 5000)))


@dataclass(frozen=True, slots=True)
class Plan:
    """How bytes are played.

    Attributes:
        deflate: a key of DEFLATE.
        limit: `max_message_size`.
        step: bytes of a read; 0: as many as are asked for.
        glued: the frames come in one piece with the answer to the handshake.
        pausing: the owner pauses reading at every hand-over, for a turn.
        late: the dial only goes on when the socket is already gone.
    """

    deflate: str = "off"
    limit: int = 4096
    step: int = 0
    glued: bool = False
    pausing: bool = False
    late: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of it, so far as engines and ways of cutting must agree.

    Attributes:
        refusal: of a handshake: the error's type and HTTP status; None where it was accepted.
        messages: each with whether it was binary.
        pongs: heard.
        sent: first byte and payload of each frame written; of a close frame only the code.
        code: of `on_close`; None where the handshake was refused.
    """

    refusal: tuple[str, int] | None
    messages: tuple[tuple[bytes, bool], ...] = ()
    pongs: tuple[bytes, ...] = ()
    sent: tuple[tuple[int, bytes], ...] = ()
    code: int | None = None

    def agrees_with(self, other: Outcome) -> bool:
        """The same messages and pongs, and an end that fits the same bytes.

        A frame may break two rules at once, and an engine may see that its first byte is wrong only when all of it is
        there, which at the end of the stream is never. What was sent depends on whether there still was a socket.
        """
        faults = {1002, 1006, 1007, 1009}
        same_end = self.code == other.code or {self.code, other.code} <= faults
        return same_end and (self.refusal, self.messages, self.pongs) == (
            other.refusal,
            other.messages,
            other.pongs,
        )


class Wire:
    """The transport under a connection, its far end in the test's hands."""

    def __init__(self) -> None:
        self.written = bytearray()
        self.reading = True
        self.closing = False
        self.connection: Any = None

    def write(self, data: bytes) -> None:
        assert not self.closing, "written to a socket that is closing"
        self.written += data

    def abort(self) -> None:
        if not self.closing:
            self.closing = True
            asyncio.get_running_loop().call_soon(self.connection.connection_lost, None)

    def is_closing(self) -> bool:
        return self.closing

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, *, high: int) -> None:
        pass


async def play(engine: str, data: bytes, plan: Plan = Plan()) -> Outcome:
    """Play what a server sends once it has accepted."""
    lines = [
        b"HTTP/1.1 101 Switching Protocols",
        b"Upgrade: websocket",
        b"Connection: Upgrade",
        b"Sec-WebSocket-Accept: " + ACCEPT,
    ]
    if plan.deflate != "off":
        lines.append(b"Sec-WebSocket-Extensions: " + DEFLATE[plan.deflate].encode())
    answer = b"\r\n".join(lines) + b"\r\n\r\n"
    outcome = await play_answer(engine, answer, plan, then=data)
    assert outcome.refusal is None, outcome.refusal
    return outcome


async def play_answer(engine: str, answer: bytes, plan: Plan, *, then: bytes = b"") -> Outcome:
    """Play the whole answer of a server to the opening handshake, and what comes `then`."""
    heard = Heard()
    options = DialOptions(
        f"ws://server/?{SECRET}",
        subprotocols=["v1", "v2"],
        compression=plan.deflate != "off",
        max_message_size=plan.limit,
    )
    connection = Connection(engine, options, heard, ENGINES[engine])
    wire = Wire()
    wire.connection = connection
    connection.connection_made(wire)  # type: ignore[arg-type]  # all of a transport that it uses
    request = bytes(wire.written)
    wire.written.clear()
    answer = answer.replace(ACCEPT, _digest(request))
    if plan.pausing:
        heard.react = lambda: _pause(connection)
    started = False
    # Nothing is read before the dial goes on, so what is left would never be taken.
    late = plan.late and plan.glued and not plan.step and len(answer) + len(then) < READ_FIRST
    for piece in _pieces(answer, then, plan):
        await _give(connection, wire, piece, plan)
        started = started or (not late and _start(connection))
    if not wire.closing:
        connection.eof_received()
        wire.abort()
    if not (started or _start(connection)):
        return await _refused(connection, heard)
    for _ in range(_PATIENCE):
        if heard.closed is not None:
            break
        await asyncio.sleep(0)
    await _check_end(connection, heard, wire, plan)
    assert heard.closed is not None
    return Outcome(
        None, tuple(heard.typed), tuple(heard.pongs), _frames(bytes(wire.written)), heard.closed[0]
    )


def _digest(request: bytes) -> bytes:
    key = re.search(rb"Sec-WebSocket-Key: ([^\r\n]+)", request)
    assert key is not None
    guid = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
    return base64.b64encode(hashlib.sha1(key[1] + guid, usedforsecurity=False).digest())


def _pieces(answer: bytes, then: bytes, plan: Plan) -> list[bytes]:
    if plan.glued:
        answer, then = answer + then, b""
    step = plan.step or READ_FIRST - 1
    return [part[at : at + step] for part in (answer, then) for at in range(0, len(part), step)]


def _start(connection: Connection) -> bool:
    """What the dial does when the handshake is over; whether it is, and was accepted."""
    if not connection.accepted.done() or connection.accepted.exception() is not None:
        return False
    connection.start()
    return True


def _pause(connection: Connection) -> None:
    connection.pause_reading()
    asyncio.get_running_loop().call_soon(connection.resume_reading)


async def _give(connection: Connection, wire: Wire, piece: bytes, plan: Plan) -> None:
    """As a loop does: while the socket is read, as many bytes as there is room for."""
    view = memoryview(piece)
    while view:
        for _ in range(_PATIENCE):
            if wire.reading or wire.closing:
                break
            await asyncio.sleep(0)
        if wire.closing:
            return
        assert wire.reading, "reading never went on"
        buffer = connection.get_buffer(-1)
        size = min(len(buffer), len(view))
        buffer[:size] = view[:size]
        connection.buffer_updated(size)
        view = view[size:]
        _check_memory(connection, plan)
        if plan.step != 1:
            await asyncio.sleep(0)


def _check_memory(connection: Connection, plan: Plan) -> None:
    messages = getattr(connection, "_messages", None)
    if messages is None:
        return
    joined = messages._joined
    assert joined is None or len(joined) <= plan.limit, f"{len(joined)} bytes of fragments kept"
    frames = messages._frames
    if isinstance(frames, FrameReader):
        kept = len(frames._partial) + len(frames._data)
        most = wire_limit(plan.limit, compressed=True) + 2 * READ_MOST
        assert kept <= most, f"{kept} bytes of frames kept"


async def _refused(connection: Connection, heard: Heard) -> Outcome:
    """A handshake that failed: one DialError that shows neither secrets nor a flood, and nothing heard."""
    assert connection.accepted.done(), "the end of the stream ended the handshake neither way"
    error = connection.accepted.exception()
    assert isinstance(error, DialError), repr(error)
    words = str(error)
    assert 10 < len(words) < 2000, words
    assert SECRET not in words
    connection.discard()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert heard.closed is None
    assert heard.batches == []
    return Outcome((type(error).__name__, error.status if isinstance(error, HandshakeRefused) else 0))


async def _check_end(connection: Connection, heard: Heard, wire: Wire, plan: Plan) -> None:
    assert heard.closed is not None, "it never ended"
    code, reason = heard.closed
    assert code in _OURS or code in _SENDABLE, code
    assert len(reason) < 1000
    for payload, binary in heard.typed:
        assert len(payload) <= plan.limit, f"a message of {len(payload)} bytes"
        if not binary:
            payload.decode()
    # Nothing comes after the end, which `Heard` checks, and no timer is left.
    for _ in range(3):
        await asyncio.sleep(0)
    connection.send(b"late", binary=False)
    connection.ping(b"late")
    connection.close(1000, "late")
    connection.abort()
    assert connection._timer is None or connection._timer.cancelled()


def _frames(written: bytes) -> tuple[tuple[int, bytes], ...]:
    """What the client wrote: whole, masked, well-formed frames, and nothing after a close frame."""
    found: list[tuple[int, bytes]] = []
    at = 0
    while at < len(written):
        first, flag = written[at], written[at + 1]
        assert flag & 0x80, "not masked"
        assert first in (0x88, 0x8A), f"it wrote a frame that begins with 0x{first:x}"
        size = flag & 0x7F
        assert size <= 125
        assert not found or found[-1][0] != 0x88, "a frame after the close frame"
        mask, payload = written[at + 2 : at + 6], written[at + 6 : at + 6 + size]
        assert len(payload) == size, "half a frame"
        plain = bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload))
        if first == 0x88:
            assert len(plain) != 1
            plain[2:].decode()
            plain = plain[:2]
            assert not plain or int.from_bytes(plain) in _SENDABLE, plain
        found.append((first, plain))
        at += 6 + size
    return tuple(found)
