"""Valid streams and answers, and the ways to spoil them."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import NamedTuple

from jetsocket_ingest.testing.transport_cases.peers import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    close_frame,
    frame,
)
from tests.fuzz.harness import ACCEPT


def deflated(payload: bytes, *, bits: int = 15, final: bool = False) -> bytes:
    """A message as permessage-deflate sends it; `final` ends its stream, which is allowed and rare."""
    compressor = zlib.compressobj(6, zlib.DEFLATED, -bits)
    data = compressor.compress(payload)
    if final:
        return data + compressor.flush() + b"\x00"
    return (data + compressor.flush(zlib.Z_SYNC_FLUSH)).removesuffix(b"\x00\x00\xff\xff")


def fragments(opcode: int, *parts: bytes, between: bytes = b"", rsv: int = 0) -> bytes:
    """A message in pieces, with other frames between them."""
    last = len(parts) - 1
    return b"".join(
        frame(CONTINUATION if index else opcode, part, fin=index == last, rsv=0 if index else rsv)
        + (between if index < last else b"")
        for index, part in enumerate(parts)
    )


WORDS = '{"price": 1.5, "name": "Größe €"}'.encode()
PLAIN = (
    frame(TEXT, WORDS),
    frame(TEXT, b""),
    frame(TEXT, b"a" * 125),
    frame(TEXT, b"a" * 126),
    frame(BINARY, b"\xff\x00" * 200),
    frame(BINARY, b"b" * 4096),
    frame(BINARY, b"b" * 4097),
    frame(BINARY, b"b" * 65536),
    fragments(TEXT, WORDS[:25], WORDS[25:26], WORDS[26:]),
    fragments(BINARY, b"x", b"", b"yz", between=frame(PING, b"amid")),
    frame(PING, b"p" * 125),
    frame(PING),
    frame(PONG, b"unasked"),
    frame(TEXT, b"\xc3\x28"),
    frame(TEXT, b"\xed\xa0\x80"),
    frame(TEXT, b"m", mask=True),
    frame(TEXT, b"r", rsv=2),
    frame(0x3, b"u"),
    frame(PING, b"f", fin=False),
    frame(CONTINUATION, b"c"),
    b"\x81\x7e\x00\x05short",
    b"\x82\x7f\xff\xff\xff\xff\xff\xff\xff\xff",
    b"\x82\x7f\x7f\xff\xff\xff\xff\xff\xff\xff",
    b"\x89\x7e\x00\x80" + b"p" * 128,
)
PACKED = (
    frame(TEXT, deflated(WORDS), rsv=4),
    frame(TEXT, deflated(WORDS, final=True), rsv=4),
    frame(BINARY, deflated(b"\x00" * 4096, bits=9), rsv=4),
    frame(BINARY, deflated(b"\x00" * 1_000_000), rsv=4),
    fragments(TEXT, deflated(WORDS)[:7], deflated(WORDS)[7:], rsv=4, between=frame(PONG)),
    frame(TEXT, b"", rsv=4),
    frame(TEXT, b"\x00", rsv=4),
    frame(TEXT, b"\xff\xff\xff", rsv=4),
    frame(TEXT, deflated(b"\xc3\x28"), rsv=4),
    frame(PING, b"x", rsv=4),
)
CLOSES = (
    close_frame(1000, b"bye"),
    close_frame(4001, "später".encode()),
    close_frame(1012),
    frame(CLOSE),
    frame(CLOSE, b"\x03"),
    close_frame(1005),
    close_frame(999),
    close_frame(1000, b"\xff\xfe"),
    close_frame(1000, b"r" * 123),
)
GOOD_STREAM = (
    PLAIN[0] + PLAIN[8] + PLAIN[9] + PLAIN[11] + PLAIN[4] + PLAIN[12] + frame(TEXT, WORDS) * 20 + CLOSES[0]
)
GOOD_PACKED = PACKED[0] + PLAIN[0] + PACKED[4] + PACKED[1] + PACKED[0] + PLAIN[11] + CLOSES[1]

_ACCEPTED = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "
    + ACCEPT
)
ANSWERS = (
    _ACCEPTED + b"\r\n\r\n",
    _ACCEPTED + b"\r\nSec-WebSocket-Protocol: v2\r\nServer: x\r\n\r\n" + frame(TEXT, b"first"),
    _ACCEPTED
    + b"\r\nSec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=10\r\n\r\n"
    + PACKED[2],
    _ACCEPTED + b"\r\nSec-WebSocket-Extensions: permessage-deflate; client_max_window_bits=8\r\n\r\n",
    _ACCEPTED + b"\r\nSec-WebSocket-Protocol: v3\r\n\r\n",
    b"HTTP/1.1 103 Early Hints\r\nLink: <x>\r\n\r\n" + _ACCEPTED + b"\r\n\r\n",
    b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 7\r\nContent-Length: 4\r\n\r\nslow",
    b"HTTP/1.1 503 Busy\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6;x=y\r\n world\r\n0\r\n\r\n",
    b"HTTP/1.1 503 Busy\r\nContent-Length: 99999999999999999999\r\n\r\n",
    b"HTTP/1.0 401 \r\n\r\nto the end",
    b"HTTP/1.1 302 Found\r\nLocation: wss://u:p@elsewhere/x?theirs\r\n\r\n",
    b"HTTP/1.1 101\r\n\r\n",
    b"SSH-2.0-OpenSSH_9.6\r\n",
    b"\x15\x03\x01\x00\x02\x02\x46",
    b"HTTP/1.1 200 OK\r\n" + b"X-Filler: yyyyyyyyyyyyyyyyyyyyyyyyyy\r\n" * 100,
    b"",
)


class Change(NamedTuple):
    """One way to spoil bytes: `kind` of what, `at` where (a share of 65536), with `value`."""

    kind: int
    at: int
    value: bytes


KINDS = 8


def spoil(data: bytes, changes: Sequence[Change]) -> bytes:
    """Apply changes, one after the other."""
    for kind, where, value in changes:
        at = where * (len(data) + 1) >> 16
        head, tail = data[:at], data[at:]
        size = max(1, len(value))
        match kind:
            case 0:  # flip bits
                flipped = bytes(a ^ b for a, b in zip(tail, value, strict=False))
                data = head + flipped + tail[len(flipped) :]
            case 1:  # overwrite
                data = head + value + tail[size:]
            case 2:  # insert
                data = head + value + tail
            case 3:  # leave out
                data = head + tail[size * size :]
            case 4:  # repeat
                data = head + tail[: size * size] * 3 + tail[size * size :]
            case 5:  # cut off
                data = head
            case 6:  # swap the halves
                data = tail + head
            case _:  # lengths that lie
                data = head + b"\x7e\x7f\xff"[: 1 + size % 3] + tail[size:]
    return data
