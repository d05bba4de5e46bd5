"""Frames to complete messages, a hand-over at a time: the rules of RFC 6455 and RFC 7692, without I/O."""

from __future__ import annotations

import zlib
from typing import NamedTuple, Protocol

from websockets.exceptions import ProtocolError
from websockets.frames import Close

from jetsocket_ingest.net.transport import HANDOVER_BYTES, HANDOVER_MESSAGES

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
OPCODES = frozenset((CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG))
FIN, RSV1, RSV2_RSV3, CONTROL = 0x80, 0x40, 0x30, 0x08
WHOLE = frozenset((FIN | TEXT, FIN | BINARY))
"""First bytes of a whole, uncompressed message."""

PROTOCOL_ERROR, INVALID_TEXT, TOO_BIG = 1002, 1007, 1009


class Violation(Exception):
    """The peer broke a rule. The connection is to be closed with `code`; `reason` is for the peer and the log."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class Run(NamedTuple):
    """Frames in a row with the same first byte (FIN, reserved bits, opcode), unfragmented messages mostly.

    Attributes:
        first: that byte.
        payloads: never empty.
        size: bytes of all payloads, or a little more.
    """

    first: int
    payloads: list[bytes]
    size: int


class FrameSource(Protocol):
    """What an engine brings: bytes to frames."""

    def feed(self, data: memoryview) -> None:
        """Take the bytes of a read; `data` is only valid during the call."""
        ...

    def next_run(self) -> Run | None:
        """The next frames, None when more bytes are needed. Raises Violation, after all good frames before it."""
        ...


def check_first_byte(first: int, *, compressed: bool) -> None:
    """Raise Violation where no frame may begin with that byte; `compressed`: permessage-deflate was negotiated."""
    opcode = first & 0x0F
    if opcode not in OPCODES:
        raise Violation(PROTOCOL_ERROR, f"frame with unknown opcode 0x{opcode:x}")
    if first & RSV2_RSV3 or (first & RSV1 and (not compressed or opcode not in (TEXT, BINARY))):
        raise Violation(PROTOCOL_ERROR, "frame with a reserved bit set that was not negotiated")
    if opcode & CONTROL and not first & FIN:
        raise Violation(PROTOCOL_ERROR, "fragmented control frame")


def too_big(max_message_size: int) -> Violation:
    return Violation(TOO_BIG, f"message exceeds max_message_size of {max_message_size} bytes")


class Inflater:
    """Undoes permessage-deflate, never producing more than it is allowed to.

    `websockets` has the same in its extension, but that one yields nothing any more, silently, after a peer ended a
    message with a final block (RFC 7692, 7.2.3.4) under context takeover.
    """

    __slots__ = ("_context_takeover", "_decoder", "_fresh", "_window_bits")

    _STEP = 64 * 1024  # the most that is inflated beyond the limit before it shows
    _TAIL = b"\x00\x00\xff\xff"

    def __init__(self, *, window_bits: int, context_takeover: bool) -> None:
        self._window_bits = window_bits
        self._context_takeover = context_takeover
        self._decoder = zlib.decompressobj(-window_bits)
        self._fresh = False

    def inflate(self, payload: bytes, *, last: bool, limit: int) -> bytes | None:
        """The bytes behind one frame, None where they are more than `limit`. Raises Violation where it is corrupt."""
        data = payload + self._TAIL if last else payload
        inflated = self._decompress(data, limit)
        if last and (self._fresh or not self._context_takeover):
            self._decoder = zlib.decompressobj(-self._window_bits)
            self._fresh = False
        return inflated

    def _decompress(self, data: bytes, limit: int) -> bytes | None:
        whole: bytearray | None = None
        while True:
            decoder = self._decoder
            room = min(self._STEP, limit + 1)
            try:
                piece = decoder.decompress(data, room)
            except zlib.error as error:
                raise Violation(PROTOCOL_ERROR, f"corrupt compressed message ({error})") from None
            if whole is None:
                if len(piece) < room and not decoder.eof:
                    return piece
                whole = bytearray()
            whole += piece
            if len(whole) > limit:
                return None
            if decoder.eof:
                # A final block: whatever follows is a stream of its own.
                data = decoder.unused_data
                self._decoder = zlib.decompressobj(-self._window_bits)
                self._fresh = True
            elif len(piece) < room:
                return bytes(whole)
            else:
                data = decoder.unconsumed_tail


class MessageAssembler:
    """Puts messages together and hands them over in batches, all text or all binary.

    Feed it the bytes of a read, then call `next_batch` until it returns None.

    Args:
        frames: splits bytes into frames.
        max_message_size: bytes of a message, joined and inflated.
        inflater: where permessage-deflate was negotiated.
    """

    __slots__ = (
        "_batch",
        "_binary",
        "_compressed",
        "_ended",
        "_frames",
        "_inflater",
        "_joined",
        "_joined_binary",
        "_max_message_size",
        "_pending",
        "_size",
        "_violation",
        "controls",
        "feed",
        "starved",
    )

    def __init__(self, frames: FrameSource, max_message_size: int, inflater: Inflater | None = None) -> None:
        self.feed = frames.feed
        self.controls: list[tuple[int, bytes]] = []
        """Control frames (opcode, payload) met by `next_batch`, for the caller to take out. Nothing follows CLOSE, whose
        payload is a good one."""
        self.starved = True
        """There is no other batch before more bytes are fed; spares asking."""
        self._frames = frames
        self._max_message_size = max_message_size
        self._inflater = inflater
        self._pending: Run | None = None
        self._joined: bytearray | None = None
        self._joined_binary = False
        self._compressed = False
        self._ended = False
        self._violation: Violation | None = None
        self._batch: list[bytes] = []
        self._binary = False
        self._size = 0

    def next_batch(self) -> tuple[list[bytes], bool, int] | None:
        """The next hand-over: payloads, whether binary, and their bytes together (or a little more); None when more
        bytes are needed. Raises Violation once all good messages before it were handed over, and ever after."""
        if self._violation is not None:
            raise self._violation
        batch = self._batch = []
        self._size = 0
        self.starved = False
        try:
            while self._take_run():
                pass
        except Violation as violation:
            self._violation = violation
        # Also before a violation: what it ends with says nothing of the text that came first.
        if not self._binary and not b"".join(batch).isascii():
            self._check_text(batch)
        if self._violation is not None:
            self.starved = False
            if not batch:
                raise self._violation
        return (batch, self._binary, self._size) if batch else None

    def _take_run(self) -> bool:
        """Add the next frames to the batch; False when it is complete or bytes are missing."""
        if self._ended:
            return False
        run = self._pending or self._frames.next_run()
        self._pending = None
        if run is None:
            self.starved = True
            return False
        first, payloads, size = run
        if first & CONTROL:
            return self._take_controls(first & 0x0F, payloads)
        taken = self._take_whole(run) if first in WHOLE else self._take_parts(run)
        if taken < len(payloads):
            self._pending = Run(first, payloads[taken:], size)
            return False
        return True

    def _take_controls(self, opcode: int, payloads: list[bytes]) -> bool:
        if opcode == CLOSE:
            self._check_close(payloads[0])
            self.controls.append((CLOSE, payloads[0]))
            self._ended = True
            return False
        self.controls.extend([(opcode, payload) for payload in payloads])
        return True

    def _check_close(self, payload: bytes) -> None:
        try:
            Close.parse(payload)
        except ProtocolError as error:
            raise Violation(PROTOCOL_ERROR, f"close frame: {error}") from None
        except UnicodeDecodeError:
            raise Violation(INVALID_TEXT, "close frame: the reason is not UTF-8") from None

    def _take_whole(self, run: Run) -> int:
        """Whole messages, as they are: the common case. How many had room."""
        first, payloads, size = run
        if self._joined is not None:
            raise Violation(PROTOCOL_ERROR, "new message inside a fragmented one")
        binary = first & 0x0F == BINARY
        batch = self._batch
        if not batch:
            self._binary = binary
        elif self._binary is not binary:
            return 0
        room = len(batch) + len(payloads) <= HANDOVER_MESSAGES and self._size + size <= HANDOVER_BYTES
        # Under compression the frame source lets through what deflate may add, which these have no right to.
        longest = self._max_message_size
        if room and (self._inflater is None or max(map(len, payloads)) <= longest):
            batch += payloads
            self._size += size
            return len(payloads)
        for index, payload in enumerate(payloads):
            if len(payload) > longest:
                raise too_big(longest)
            if not self._room_for(len(payload)):
                return index
            batch.append(payload)
            self._size += len(payload)
        return len(payloads)

    def _take_parts(self, run: Run) -> int:
        """Fragments and compressed messages, one by one. How many had room."""
        first, payloads, _ = run
        batch = self._batch
        binary = self._joined_binary if first & 0x0F == CONTINUATION else first & 0x0F == BINARY
        for index, payload in enumerate(payloads):
            if not batch:
                self._binary = binary
            elif self._binary is not binary or not self._room_for(0):
                return index
            message = self._take_part(first, payload)
            if message is not None:
                batch.append(message)
                self._size += len(message)
        return len(payloads)

    def _take_part(self, first: int, payload: bytes) -> bytes | None:
        """One fragment or compressed message; the message that it completes."""
        joined = self._joined
        if first & 0x0F == CONTINUATION:
            if joined is None:
                raise Violation(PROTOCOL_ERROR, "continuation frame without a message to continue")
        elif joined is not None:
            raise Violation(PROTOCOL_ERROR, "new message inside a fragmented one")
        else:
            self._compressed = bool(first & RSV1)
            self._joined_binary = first & 0x0F == BINARY
        fin = bool(first & FIN)
        length = 0 if joined is None else len(joined)
        if self._compressed:
            payload = self._inflate(payload, fin, self._max_message_size - length)
        elif length + len(payload) > self._max_message_size:
            raise too_big(self._max_message_size)
        if joined is None:
            if fin:
                return payload
            self._joined = bytearray(payload)
            return None
        joined += payload
        if not fin:
            return None
        self._joined = None
        return bytes(joined)

    def _inflate(self, payload: bytes, last: bool, limit: int) -> bytes:
        assert self._inflater is not None, (
            "the frame source lets RSV1 pass only where compression was negotiated"
        )
        inflated = self._inflater.inflate(payload, last=last, limit=limit)
        if inflated is None:
            raise too_big(self._max_message_size)
        return inflated

    def _room_for(self, size: int) -> bool:
        batch = self._batch
        return not batch or (len(batch) < HANDOVER_MESSAGES and self._size + size <= HANDOVER_BYTES)

    def _check_text(self, batch: list[bytes]) -> None:
        """Keep the messages before the first one that is not UTF-8; that one is the violation, being the first."""
        for index, payload in enumerate(batch):
            if not payload.isascii():
                try:
                    payload.decode()
                except UnicodeDecodeError as error:
                    del batch[index:]
                    self._violation = Violation(INVALID_TEXT, f"text message is not UTF-8: {error.reason}")
                    return
