"""What the transport suite is made of: a hand-made peer, a listener that remembers, and the way to run a scenario."""

from __future__ import annotations

import asyncio
import base64
import functools
import hashlib
import socket
import ssl
import struct
import unittest
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from jetsocket_ingest.net.transport import HANDOVER_MESSAGES, Dial, DialOptions, Transport

DEADLINE = 10.0
"""Seconds after which a scenario has failed."""

TEXT, BINARY, CONTINUATION, CLOSE, PING, PONG = 0x1, 0x2, 0x0, 0x8, 0x9, 0xA


class Heard:
    """A listener that remembers, and holds the transport to the rules that every call obeys."""

    def __init__(self) -> None:
        self.batches: list[tuple[list[bytes], bool, int]] = []
        self.pongs: list[bytes] = []
        self.closed: tuple[int, str] | None = None
        self.react: Callable[[], None] | None = None
        """Called at the end of each `on_messages`."""

    def on_messages(self, payloads: list[bytes], binary: bool, received_ns: int) -> None:
        assert self.closed is None, "on_messages after on_close"
        assert 0 < len(payloads) <= HANDOVER_MESSAGES, f"{len(payloads)} messages in one hand-over"
        assert all(type(payload) is bytes for payload in payloads)
        assert not self.batches or received_ns >= self.batches[-1][2], "the receive time went back"
        self.batches.append((payloads, binary, received_ns))
        if self.react is not None:
            self.react()

    def on_pong(self, payload: bytes) -> None:
        assert self.closed is None, "on_pong after on_close"
        self.pongs.append(payload)

    def on_close(self, code: int, reason: str) -> None:
        assert self.closed is None, "on_close twice"
        self.closed = code, reason

    @property
    def messages(self) -> list[bytes]:
        return [payload for payloads, _, _ in self.batches for payload in payloads]

    @property
    def typed(self) -> list[tuple[bytes, bool]]:
        """Each message with whether it was binary."""
        return [(payload, binary) for payloads, binary, _ in self.batches for payload in payloads]

    async def until_count(self, count: int) -> list[bytes]:
        await until(lambda: sum(len(payloads) for payloads, _, _ in self.batches) >= count)
        return self.messages

    async def until_closed(self) -> tuple[int, str]:
        await until(lambda: self.closed is not None)
        assert self.closed is not None
        return self.closed


_script_failures: ContextVar[list[AssertionError]] = ContextVar("script_failures")
"""What the scripts of a scenario's peers found wrong."""


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop run until it holds; the scenario's deadline ends a wait that is in vain."""
    while not condition():
        for failure in _script_failures.get(()):  # none where it is used outside a scenario
            raise failure
        await asyncio.sleep(0)


async def turns(count: int) -> None:
    """Let the loop run for a while."""
    for _ in range(count):
        await asyncio.sleep(0)


def frame(opcode: int, payload: bytes = b"", *, fin: bool = True, rsv: int = 0, mask: bool = False) -> bytes:
    """A frame as a server sends it; `rsv`: the reserved bits as a number of 0 to 7."""
    first = fin << 7 | rsv << 4 | opcode
    size = len(payload)
    flag = mask << 7
    if size < 126:
        head = struct.pack(">BB", first, flag | size)
    elif size < 1 << 16:
        head = struct.pack(">BBH", first, flag | 126, size)
    else:
        head = struct.pack(">BBQ", first, flag | 127, size)
    return head + (b"\0\0\0\0" if mask else b"") + payload


def close_frame(code: int, reason: bytes = b"") -> bytes:
    return frame(CLOSE, code.to_bytes(2) + reason)


class RawPeer:
    """A server's end of one connection, that writes the bytes it is told to."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.request = b""

    async def read_request(self) -> None:
        self.request = await self.reader.readuntil(b"\r\n\r\n")

    def header(self, name: str) -> str | None:
        """A header of the request."""
        for line in self.request.decode("latin-1").split("\r\n")[1:]:
            key, _, value = line.partition(":")
            if key.lower() == name.lower():
                return value.strip()
        return None

    def accept(self, *extra: str, glued: bytes = b"") -> None:
        """Answer the handshake; `extra` header lines; `glued` goes out in the same write."""
        key = (self.header("Sec-WebSocket-Key") or "").encode()
        digest = hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11", usedforsecurity=False).digest()
        lines = [
            "HTTP/1.1 101 Switching Protocols",
            "Upgrade: websocket",
            "Connection: Upgrade",
            f"Sec-WebSocket-Accept: {base64.b64encode(digest).decode()}",
            *extra,
        ]
        self.writer.write("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + glued)

    def send(self, *frames: bytes) -> None:
        self.writer.write(b"".join(frames))

    async def receive(self) -> tuple[int, bytes]:
        """The next frame of the client: first byte and unmasked payload."""
        first, flag = await self.reader.readexactly(2)
        assert flag & 0x80, "a client must mask"
        size = flag & 0x7F
        if size > 125:
            size = int.from_bytes(await self.reader.readexactly(2 if size == 126 else 8))
        mask = await self.reader.readexactly(4)
        payload = await self.reader.readexactly(size)
        repeated = (mask * (size // 4 + 1))[:size]
        unmasked = int.from_bytes(payload) ^ int.from_bytes(repeated)
        return first, unmasked.to_bytes(size)

    async def closing(self) -> tuple[int, str]:
        """Code and reason of the client's close frame; frames before it are passed over."""
        while True:
            first, payload = await self.receive()
            if first == 0x80 | CLOSE:
                return int.from_bytes(payload[:2]) if payload else 1005, payload[2:].decode()

    async def gone(self) -> None:
        """Wait until the client's end of TCP is over."""
        try:
            while await self.reader.read(1 << 20):
                pass
        except OSError:
            pass

    def stop_reading(self) -> None:
        """Let TCP hold the client back."""
        transport: Any = self.writer.transport
        transport.pause_reading()

    def start_reading(self) -> None:
        transport: Any = self.writer.transport
        transport.resume_reading()

    def reset(self) -> None:
        """Break the connection with RST."""
        raw = self.writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


Script = Callable[[RawPeer], Awaitable[None]]


@asynccontextmanager
async def raw_server(script: Script, **listen: Any) -> AsyncIterator[int]:
    """A TCP server on loopback that runs `script` for each connection, once the request is read; yields its port.

    The script may leave the connection open; it is dropped when the server ends. What a script raises fails the
    scenario.
    """
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = RawPeer(reader, writer)
        try:
            await peer.read_request()
            await script(peer)
            await peer.gone()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client left, which the scenario's own end shows
        except AssertionError as error:
            _script_failures.get().append(error)

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(serve(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        # Not in the task itself, which may be cancelled before it begins.
        task.add_done_callback(lambda _: writer.transport.abort())

    address: dict[str, Any] = {"host": "127.0.0.1", "port": 0} | listen
    server = await asyncio.start_server(connected, limit=1 << 26, **address)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await server.wait_closed()
        await turns(3)  # the sockets are closed on the turns after their abort


class Scenarios:
    """Base of the suite's parts.

    Attributes:
        engine: what `Transport.engine` says.
        loop_factory: makes the event loop; None means asyncio's own.
    """

    engine: str
    loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None

    def dial(self) -> Dial:
        """The way of the engine under test to open a connection."""
        raise NotImplementedError

    async def connect(
        self, port: int, heard: Heard, *, scheme: str = "ws", host: str = "127.0.0.1", **options: Any
    ) -> Transport:
        transport = await self.dial()(
            DialOptions(f"{scheme}://{host}:{port}/feed?token=hidden", **options), heard
        )
        assert heard.batches == []
        assert heard.closed is None, "the listener heard something before the dial returned"
        return transport

    async def end(self, transport: Transport, heard: Heard) -> None:
        """Drop a connection whose end is not what a scenario is about."""
        transport.abort()
        await heard.until_closed()

    @asynccontextmanager
    async def open(self, script: Script, heard: Heard, **options: Any) -> AsyncIterator[Transport]:
        """A connection to a peer that runs `script` after accepting."""

        async def accept_and_run(peer: RawPeer) -> None:
            peer.accept()
            await script(peer)

        async with raw_server(accept_and_run) as port:
            transport = await self.connect(port, heard, **options)
            yield transport
            await self.end(transport, heard)

    def run(self, scenario: Coroutine[Any, Any, None]) -> None:
        """Run to the end on a fresh loop; afterwards no task and no socket may be left, and no error unheard."""
        errors: list[dict[str, Any]] = []

        async def main() -> None:
            loop = asyncio.get_running_loop()
            loop.set_exception_handler(lambda _, context: errors.append(context))
            _script_failures.set([])
            async with asyncio.timeout(DEADLINE):
                before = open_sockets()
                await scenario
                await until(lambda: asyncio.all_tasks() == {asyncio.current_task()})
                await until(lambda: open_sockets() == before)
                for failure in _script_failures.get():
                    raise failure

        with asyncio.Runner(loop_factory=self.loop_factory) as runner:
            runner.run(main())
        assert not errors, errors


def scenario(body: Callable[[Any], Coroutine[Any, Any, None]]) -> Callable[[Any], None]:
    """Makes a test of a coroutine method."""

    @functools.wraps(body)
    def test(self: Scenarios) -> None:
        self.run(body(self))

    del test.__wrapped__  # runners would look through it, and find a coroutine
    return test


def open_sockets() -> set[str]:
    """The sockets of this process; nothing where the system does not tell."""
    found = set()
    descriptors = Path("/proc/self/fd")
    for entry in descriptors.iterdir() if descriptors.is_dir() else ():
        try:
            target = str(entry.readlink())
        except OSError:
            continue  # the one that listed the folder
        if target.startswith("socket:"):
            found.add(target)
    return found


class Certificates:
    """Throw-away certificates: an authority, a server's for `localhost`, an expired one, and a client's."""

    def __init__(self) -> None:
        try:
            import trustme
        except ImportError:
            raise unittest.SkipTest("the TLS scenarios need trustme: pip install trustme") from None
        from datetime import UTC, datetime, timedelta

        self.authority = trustme.CA()
        self.good = self.authority.issue_cert("localhost")
        self.expired = self.authority.issue_cert("localhost", not_after=datetime.now(UTC) - timedelta(days=1))
        self.client = self.authority.issue_cert("client@localhost")

    def server(self, certificate: Any, *, ask_client: bool = False) -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        certificate.configure_cert(context)
        if ask_client:
            self.authority.configure_trust(context)
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    def trusting(self) -> ssl.SSLContext:
        context = ssl.create_default_context()
        self.authority.configure_trust(context)
        return context
