"""Scenarios: through HTTP and SOCKS5 proxies, real ones on loopback, and what goes wrong with them."""

from __future__ import annotations

import asyncio
import base64
import ssl
from asyncio import StreamReader as Reader
from asyncio import StreamWriter as Writer
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from jetsocket_ingest.errors import HandshakeRefused
from jetsocket_ingest.net.transport import DialOptions
from jetsocket_ingest.testing.transport_cases.openings import Dialling
from jetsocket_ingest.testing.transport_cases.peers import (
    TEXT,
    Certificates,
    Heard,
    RawPeer,
    Script,
    frame,
    raw_server,
    scenario,
    turns,
)

ANYWHERE = "feed.invalid"
"""A name that only the proxies here know."""
LOGIN = ("us er", "hidden:/@")
WRITTEN = "us%20er:hidden%3A%2F%40@"
"""LOGIN in a URL."""


@dataclass
class Tunnels:
    """A proxy's view of what it did: whom it was asked for, who asked, and what went through."""

    login: tuple[str, str] | None = None
    in_pieces: bool = False
    asked: list[tuple[str, int]] = field(default_factory=list)
    carried: bytearray = field(default_factory=bytearray)

    async def reply(self, writer: Writer, answer: bytes) -> None:
        """Answer, in one piece or a byte at a time."""
        pieces = [answer[at : at + 1] for at in range(len(answer))] if self.in_pieces else [answer]
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await turns(2)


Speak = Callable[[Tunnels, Reader, Writer], Awaitable[bool]]
"""A proxy's language: hears a request, adds to `asked`, answers; whether a tunnel is to be made."""


async def http_connect(tunnels: Tunnels, reader: Reader, writer: Writer) -> bool:
    """What an HTTP proxy speaks."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    method, target, version = head[0].split(" ")
    assert (method, version) == ("CONNECT", "HTTP/1.1")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:])}
    assert headers["host"] == target
    if tunnels.login is not None:
        expected = base64.b64encode(":".join(tunnels.login).encode()).decode()
        if headers.get("proxy-authorization") != f"Basic {expected}":
            await tunnels.reply(
                writer, b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n"
            )
            return False
    host, _, port = target.rpartition(":")
    tunnels.asked.append((host.strip("[]"), int(port)))
    await tunnels.reply(writer, b"HTTP/1.1 200 Connection established\r\nVia: 1.1 here\r\n\r\n")
    return True


async def socks5(tunnels: Tunnels, reader: Reader, writer: Writer) -> bool:
    """What a SOCKS5 proxy speaks (RFC 1928, RFC 1929)."""
    version, count = await reader.readexactly(2)
    assert version == 5
    methods = await reader.readexactly(count)
    method = 0 if tunnels.login is None else 2
    if method not in methods:
        await tunnels.reply(writer, b"\x05\xff")
        return False
    await tunnels.reply(writer, bytes((5, method)))
    if tunnels.login is not None:
        _, size = await reader.readexactly(2)
        user = await reader.readexactly(size)
        password = await reader.readexactly((await reader.readexactly(1))[0])
        right = (user.decode(), password.decode()) == tunnels.login
        await tunnels.reply(writer, b"\x01\x00" if right else b"\x01\x01")
        if not right:
            return False
    assert await reader.readexactly(3) == b"\x05\x01\x00"
    kind = (await reader.readexactly(1))[0]
    size = (await reader.readexactly(1))[0] if kind == 3 else {1: 4, 4: 16}[kind]
    address = await reader.readexactly(size)
    port = int.from_bytes(await reader.readexactly(2))
    host = address.decode() if kind == 3 else ".".join(map(str, address))
    tunnels.asked.append((host, port))
    await tunnels.reply(writer, b"\x05\x00\x00\x01\x7f\x00\x00\x01\x12\x34")
    return True


LANGUAGES = {"http": http_connect, "socks5": socks5, "socks5h": socks5}


def says(answer: bytes, *, hang_up: bool = True) -> Speak:
    """A proxy that hears something and answers this."""

    async def speak(tunnels: Tunnels, reader: Reader, writer: Writer) -> bool:
        await reader.read(1 << 16)
        writer.write(answer)
        if not hang_up:
            await reader.read()
        return False

    return speak


@asynccontextmanager
async def proxy_server(speak: Speak, tunnels: Tunnels | None = None) -> AsyncIterator[int]:
    """A proxy on loopback that leads to loopback, whatever host it is asked for; yields its port."""
    made = tunnels or Tunnels()
    tasks: set[asyncio.Task[None]] = set()

    async def carry(reader: Reader, writer: Writer) -> None:
        while data := await reader.read(1 << 16):
            made.carried += data
            writer.write(data)
        writer.close()

    async def serve(reader: Reader, writer: Writer) -> None:
        try:
            if not await speak(made, reader, writer):
                writer.close()
                return
            there = await asyncio.open_connection("127.0.0.1", made.asked[-1][1])
            try:
                await asyncio.gather(carry(reader, there[1]), carry(there[0], writer))
            finally:
                there[1].transport.abort()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client left
        finally:
            writer.close()

    def connected(reader: Reader, writer: Writer) -> None:
        task = asyncio.get_running_loop().create_task(serve(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        task.add_done_callback(lambda _: writer.close())

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await server.wait_closed()
        await turns(3)


async def greet(peer: RawPeer) -> None:
    """The script of a peer that accepts and says something at once."""
    peer.accept(glued=frame(TEXT, b"hello"))


class ProxyScenarios(Dialling):
    """Through a proxy."""

    @scenario
    async def test_messages_come_through_every_kind_of_proxy_with_and_without_login(self) -> None:
        for scheme, speak in LANGUAGES.items():
            for login, written in ((None, ""), (LOGIN, WRITTEN)):
                for in_pieces in (False, True):
                    tunnels = Tunnels(login, in_pieces)
                    async with raw_server(greet) as port, proxy_server(speak, tunnels) as through:
                        heard = Heard()
                        proxy = f"{scheme}://{written}127.0.0.1:{through}"
                        transport = await self.connect(port, heard, proxy=proxy)
                        assert await heard.until_count(1) == [b"hello"]
                        assert tunnels.asked == [("127.0.0.1", port)]
                        await self.end(transport, heard)

    @scenario
    async def test_a_name_is_resolved_by_the_proxy_except_with_plain_socks5(self) -> None:
        for scheme, speak in LANGUAGES.items():
            tunnels = Tunnels()
            async with raw_server(greet) as port, proxy_server(speak, tunnels) as through:
                heard = Heard()
                proxy = f"{scheme}://127.0.0.1:{through}"
                if scheme == "socks5":
                    error = await self.dial_fails(f"ws://{ANYWHERE}:{port}/?hidden", proxy=proxy)
                    assert "cannot be resolved" in str(error)
                    transport = await self.connect(port, heard, host="localhost", proxy=proxy)
                    assert tunnels.asked == [("127.0.0.1", port)]
                else:
                    transport = await self.connect(port, heard, host=ANYWHERE, proxy=proxy)
                    assert tunnels.asked == [(ANYWHERE, port)]
                await heard.until_count(1)
                await self.end(transport, heard)

    @scenario
    async def test_tls_is_spoken_with_the_peer_and_not_with_the_proxy(self) -> None:
        certificates = Certificates()
        server = certificates.server(certificates.authority.issue_cert(ANYWHERE))
        names: list[str | None] = []
        server.sni_callback = lambda _, name, __: names.append(name)
        for scheme in ("http", "socks5h"):
            tunnels = Tunnels()
            async with raw_server(greet, ssl=server) as port, proxy_server(LANGUAGES[scheme], tunnels) as via:
                heard = Heard()
                proxy = f"{scheme}://127.0.0.1:{via}"
                transport = await self.connect(
                    port, heard, scheme="wss", host=ANYWHERE, tls=certificates.trusting(), proxy=proxy
                )
                assert await heard.until_count(1) == [b"hello"]
                assert names.pop() == ANYWHERE
                assert b"hello" not in tunnels.carried
                assert b"GET" not in tunnels.carried
                await self.end(transport, heard)
                error = await self.dial_fails(
                    f"wss://other.invalid:{port}/?hidden", tls=certificates.trusting(), proxy=proxy
                )
                assert "another host name" in str(error)
                assert error.fatal
                names.clear()

    @scenario
    async def test_what_the_peer_answers_is_told_as_without_a_proxy(self) -> None:
        async def refuse(peer: RawPeer) -> None:
            peer.writer.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")

        for scheme, speak in LANGUAGES.items():
            async with proxy_server(speak) as through:
                error = await self.refused(refuse, proxy=f"{scheme}://127.0.0.1:{through}")
                assert isinstance(error, HandshakeRefused)
                assert error.status == 403

    @scenario
    async def test_a_proxy_that_does_not_take_the_login_is_fatal_and_told_without_it(self) -> None:
        for scheme, speak in LANGUAGES.items():
            for written in ("", "some:hidden@"):
                async with proxy_server(speak, Tunnels(LOGIN)) as through:
                    proxy = f"{scheme}://{written}127.0.0.1:{through}"
                    error = await self.dial_fails("ws://127.0.0.1:1/?hidden", proxy=proxy)
                assert error.fatal
                assert "check the user and password" in str(error)
                assert f"the proxy 127.0.0.1:{through}" in str(error)

    @scenario
    async def test_a_proxy_that_refuses_or_fails_is_told_and_may_be_tried_again(self) -> None:
        for scheme, speak, words in (
            (
                "http",
                says(b"HTTP/1.1 502 Bad Gateway\r\n\r\n"),
                "refused to connect to 127.0.0.1:1: HTTP 502",
            ),
            ("http", says(b"HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 101"), "nobody asked for"),
            ("http", says(b"HTTP/1.1 200 O"), "without a complete answer"),
            ("http", says(b""), "without a complete answer"),
            ("http", says(b"SSH-2.0-OpenSSH_9.6\r\n\r\n"), "HTTP proxy"),
            ("http", says(b"HTTP/1.1 200 OK\r\nbroken header\r\n\r\n"), "header"),
            ("http", says(b"X-Long: header\r\n" * 2000, hang_up=False), "bytes of head"),
            ("socks5", says(b"HTTP/1.1 400 Bad Request\r\n\r\n"), "SOCKS5"),
            ("socks5h", says(b"\x05"), "SOCKS5"),
            ("socks5h", says(b""), "SOCKS5"),
            ("socks5h", says(b"\x05\x00\x05\x05\x00\x01\x00\x00\x00\x00\x00\x00"), "could not connect to"),
            ("socks5h", says(b"\x05\x00\x05\x77\x00\x01\x00\x00\x00\x00\x00\x00"), "SOCKS5"),
            ("socks5h", says(b"\x05\x00\x05\x00\x00\x09\x00\x00"), "SOCKS5"),
        ):
            async with proxy_server(speak) as through:
                error = await self.dial_fails(
                    "ws://127.0.0.1:1/?hidden", proxy=f"{scheme}://us:hidden@127.0.0.1:{through}"
                )
            assert words in str(error), (words, str(error))
            assert f"the proxy 127.0.0.1:{through}" in str(error), str(error)
            assert not error.fatal
            assert not isinstance(error, HandshakeRefused)

    @scenario
    async def test_a_proxy_that_breaks_off_is_told(self) -> None:
        async def reset(tunnels: Tunnels, reader: Reader, writer: Writer) -> bool:
            await reader.read(1)
            RawPeer(reader, writer).reset()
            return False

        for scheme in LANGUAGES:
            async with proxy_server(reset) as through:
                error = await self.dial_fails(
                    "ws://127.0.0.1:1/?hidden", proxy=f"{scheme}://127.0.0.1:{through}"
                )
            assert f"the proxy 127.0.0.1:{through} broke the connection" in str(error)

    @scenario
    async def test_a_proxy_that_is_away_is_told_as_the_one_who_is(self) -> None:
        async with proxy_server(http_connect) as gone:
            pass
        for scheme in LANGUAGES:
            error = await self.dial_fails("ws://127.0.0.1:1/?hidden", proxy=f"{scheme}://127.0.0.1:{gone}")
            assert f"cannot connect to the proxy 127.0.0.1:{gone}" in str(error)
            assert not error.fatal
            error = await self.dial_fails("ws://127.0.0.1:1/?hidden", proxy=f"{scheme}://{ANYWHERE}:{gone}")
            assert f"host name '{ANYWHERE}' cannot be resolved" in str(error)

    @scenario
    async def test_an_address_that_is_no_proxy_is_fatal(self) -> None:
        for proxy in (
            "ftp://hidden@h:1",
            "https://h:1",
            "http://",
            "http://h:0",
            "http://h:hidden",
            "hidden",
        ):
            error = await self.dial_fails("ws://127.0.0.1:1/?hidden", proxy=proxy)
            assert error.fatal
            assert "the proxy cannot be used" in str(error)

    @scenario
    async def test_a_dial_that_waits_for_a_proxy_can_be_cancelled(self) -> None:
        for scheme in LANGUAGES:
            asked = asyncio.Event()
            left = asyncio.Event()

            async def hang(
                tunnels: Tunnels,
                reader: Reader,
                writer: Writer,
                asked: asyncio.Event = asked,
                left: asyncio.Event = left,
            ) -> bool:
                await reader.read(1)
                asked.set()
                await reader.read()
                left.set()
                return False

            async with proxy_server(hang) as through:
                options = DialOptions("ws://127.0.0.1:1/", proxy=f"{scheme}://127.0.0.1:{through}")
                dialling = asyncio.ensure_future(self.dial()(options, Heard()))
                await asked.wait()
                dialling.cancel()
                await asyncio.wait([dialling])
                assert dialling.cancelled()
                await left.wait()

    @scenario
    async def test_a_dial_through_a_proxy_can_be_cancelled_at_any_turn_of_the_loop(self) -> None:
        for scheme, speak in LANGUAGES.items():
            await self._cancel_through(scheme, speak, greet, "ws", {}, {})

    @scenario
    async def test_a_dial_through_a_proxy_over_tls_can_be_cancelled_at_any_turn_of_the_loop(self) -> None:
        certificates = Certificates()
        listen: dict[str, Any] = {"ssl": certificates.server(certificates.good)}
        options: dict[str, ssl.SSLContext | str] = {
            "tls": certificates.trusting(),
            "server_name": "localhost",
        }
        await self._cancel_through("http", http_connect, greet, "wss", listen, options)

    async def _cancel_through(
        self,
        scheme: str,
        speak: Speak,
        script: Script,
        to: str,
        listen: dict[str, Any],
        options: dict[str, Any],
    ) -> None:
        async with proxy_server(speak, Tunnels(LOGIN)) as through:
            proxy = f"{scheme}://{WRITTEN}127.0.0.1:{through}"
            await self.cancel_at_each_turn(script, to, listen, options | {"proxy": proxy})
