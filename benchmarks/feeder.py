"""A feeder: serves pre-encoded WebSocket messages as fast as TCP takes them, on a core of its own.

    python -m benchmarks.feeder --messages 1000000 --size 200 --streams 100

A client that asks for the path `/N` gets the first N messages, then a close frame. Messages are JSON text of the chosen
size, numbered per stream; they are encoded before the first client is served.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import os
import socket
import threading
from itertools import accumulate

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
CLOSE_NORMAL = b"\x88\x02\x03\xe8"


def message(stream: int, sequence: int, size: int) -> bytes:
    """One message of exactly `size` bytes."""
    head = b'{"stream":"trades.S%05d","seq":%d,"ts":1790000000000,"price":"64250.10","pad":"' % (
        stream,
        sequence,
    )
    return head + b"x" * (size - len(head) - 2) + b'"}'


def frame(payload: bytes) -> bytes:
    """An unmasked text frame, as a server sends it."""
    size = len(payload)
    if size < 126:
        return bytes((0x81, size)) + payload
    if size < 65536:
        return b"\x81\x7e" + size.to_bytes(2, "big") + payload
    return b"\x81\x7f" + size.to_bytes(8, "big") + payload


Piece = tuple[int, bytes, list[int]]
"""Frames sent at once: how many, their bytes, and where each ends."""


def encode(messages: int, size: int, streams: int) -> list[Piece]:
    """All frames, 5,000 to a piece."""
    pieces = []
    for start in range(0, messages, 5000):
        numbers = range(start, min(start + 5000, messages))
        frames = [frame(message(number % streams, number // streams + 1, size)) for number in numbers]
        pieces.append((len(frames), b"".join(frames), list(accumulate(map(len, frames)))))
    return pieces


def serve(client: socket.socket, pieces: list[Piece]) -> None:
    request = b""
    while b"\r\n\r\n" not in request:
        data = client.recv(65536)
        if not data:
            return
        request += data
    wanted = int(request.split(b" ", 2)[1].strip(b"/"))
    key = next(
        line.split(b":", 1)[1].strip()
        for line in request.split(b"\r\n")
        if line.lower().startswith(b"sec-websocket-key")
    )
    accept = base64.b64encode(hashlib.sha1(key + GUID, usedforsecurity=False).digest())
    client.sendall(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n"
    )
    try:
        for count, piece, ends in pieces:
            if wanted < count:
                client.sendall(piece[: ends[wanted - 1]] if wanted else b"")
                break
            client.sendall(piece)
            wanted -= count
        client.sendall(CLOSE_NORMAL)
        while client.recv(65536):
            pass
    except OSError:
        pass  # the client had enough
    finally:
        client.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=1_000_000)
    parser.add_argument("--size", type=int, default=200)
    parser.add_argument("--streams", type=int, default=100)
    parser.add_argument("--core", type=int)
    arguments = parser.parse_args()
    if arguments.core is not None:
        os.sched_setaffinity(0, {arguments.core})
    pieces = encode(arguments.messages, arguments.size, arguments.streams)
    with socket.create_server(("127.0.0.1", 0)) as server:
        print(server.getsockname()[1], flush=True)
        while True:
            client, _ = server.accept()
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=serve, args=(client, pieces), daemon=True).start()


if __name__ == "__main__":
    main()
