"""Scenarios: how a connection comes about, or does not, and what the error says."""

from __future__ import annotations

import asyncio
import gc
import socket
import unittest
from typing import Any

from websockets.asyncio.server import ServerConnection, serve
from websockets.typing import Subprotocol

from jetsocket_ingest.errors import DialError, HandshakeRefused
from jetsocket_ingest.net.transport import DialOptions
from jetsocket_ingest.testing.transport_cases.peers import (
    TEXT,
    Certificates,
    Heard,
    RawPeer,
    Scenarios,
    Script,
    close_frame,
    frame,
    open_sockets,
    raw_server,
    scenario,
    turns,
    until,
)


class Dialling(Scenarios):
    """Helpers for dials that fail."""

    async def refused(self, script: Script, **options: Any) -> DialError:
        """What the dial of a peer that runs `script` raises."""
        async with raw_server(script) as port:
            return await self.dial_fails(f"ws://127.0.0.1:{port}/feed?token=hidden", **options)

    async def dial_fails(self, url: str, **options: Any) -> DialError:
        heard = Heard()
        error: DialError | None = None
        try:
            await self.dial()(DialOptions(url, **options), heard)
        except DialError as raised:
            error = raised
        assert error is not None, "the dial did not fail"
        await turns(10)
        assert heard.closed is None, "the listener heard of a connection that the dial did not return"
        assert "hidden" not in str(error), "the URL's query may be secret"
        assert len(str(error)) > 20
        return error

    async def cancel_at_each_turn(
        self, script: Script, scheme: str, listen: dict[str, Any], options: dict[str, Any]
    ) -> None:
        """Cancel a dial after 0, 1, 2, … turns of the loop, until one is over before; nothing may be left of any."""
        for count in range(10_000):
            before = open_sockets()
            heard = Heard()
            async with raw_server(script, **listen) as port:
                url = f"{scheme}://127.0.0.1:{port}/"
                dialling = asyncio.ensure_future(self.dial()(DialOptions(url, **options), heard))
                await turns(count)
                finished = dialling.done()
                dialling.cancel()
                await asyncio.wait([dialling])
                if not dialling.cancelled():
                    await self.end(dialling.result(), heard)
                else:
                    await turns(10)
                    assert (heard.batches, heard.closed) == ([], None)
            await until(lambda before=before: open_sockets() == before)  # type: ignore[misc]  # mypy: default of a lambda
            if finished:
                assert count > 3
                return


class HandshakeScenarios(Dialling):
    """The opening handshake."""

    @scenario
    async def test_headers_subprotocols_path_and_user_are_sent(self) -> None:
        heard = Heard()
        peers: list[RawPeer] = []

        async def script(peer: RawPeer) -> None:
            peers.append(peer)
            peer.accept("Sec-WebSocket-Protocol: v2")

        async with raw_server(script) as port:
            options = DialOptions(
                f"ws://user:p%40ss@127.0.0.1:{port}/a/b?c=d",
                headers={"X-Key": "secret", "Origin": "https://example.com", "user-agent": "mine"},
                subprotocols=["v1", "v2"],
            )
            transport = await self.dial()(options, heard)
            peer = peers[0]
            assert peer.request.startswith(b"GET /a/b?c=d HTTP/1.1\r\n")
            assert peer.header("Host") == f"127.0.0.1:{port}"
            assert peer.header("X-Key") == "secret"
            assert peer.header("Origin") == "https://example.com"
            assert peer.request.lower().count(b"user-agent") == 1
            assert peer.header("User-Agent") == "mine"
            assert peer.header("Sec-WebSocket-Protocol") == "v1, v2"
            assert peer.header("Sec-WebSocket-Version") == "13"
            assert peer.header("Sec-WebSocket-Extensions") is None
            assert peer.header("Authorization") == "Basic dXNlcjpwQHNz"
            assert transport.subprotocol == "v2"
            assert transport.engine == self.engine
            await self.end(transport, heard)

    @scenario
    async def test_a_real_server_is_understood(self) -> None:
        heard = Heard()

        async def handler(server: ServerConnection) -> None:
            async for message in server:
                await server.send(message)

        async with serve(handler, "127.0.0.1", 0, subprotocols=[Subprotocol("feed")]) as server:
            port = server.sockets[0].getsockname()[1]
            transport = await self.connect(port, heard, subprotocols=["feed"], compression=True)
            assert transport.subprotocol == "feed"
            transport.send(b"echo", binary=False)
            transport.send(b"\xff", binary=True)
            await heard.until_count(2)
            assert heard.typed == [(b"echo", False), (b"\xff", True)]
            transport.close(1000, "")
            assert (await heard.until_closed())[0] == 1000

    @scenario
    async def test_a_server_that_chooses_no_subprotocol_is_accepted(self) -> None:
        heard = Heard()

        async def script(peer: RawPeer) -> None:
            pass

        async with self.open(script, heard, subprotocols=["feed"]) as transport:
            assert transport.subprotocol is None

    @scenario
    async def test_an_answer_in_pieces_and_in_unusual_form_is_understood(self) -> None:
        heard = Heard()

        async def script(peer: RawPeer) -> None:
            peer.writer.write(b"HTTP/1.1 103 Early Hints\r\nLink: <x>\r\n\r\n")
            real = peer.writer
            written = bytearray()
            peer.writer = type("Pieces", (), {"write": staticmethod(written.extend)})()
            peer.accept("X-Padding: " + "p" * 9000)
            peer.writer = real
            answer = (
                bytes(written)
                .replace(b" Switching Protocols", b"")
                .replace(b"Upgrade\r\n", b"keep-alive, UPGRADE\r\n")
            )
            for begin in range(0, len(answer), 500):
                real.write(answer[begin : begin + 500])
                await real.drain()
                await turns(2)
            peer.send(frame(TEXT, b"here"))

        async with raw_server(script) as port:
            transport = await self.connect(port, heard)
            assert await heard.until_count(1) == [b"here"]
            await self.end(transport, heard)

    @scenario
    async def test_a_status_other_than_101_is_told_with_retry_after_and_body(self) -> None:
        for status in (400, 401, 403, 404, 429, 500, 503, 520, 599):

            async def script(peer: RawPeer, status: int = status) -> None:
                head = f"HTTP/1.1 {status} Because\r\nRetry-After: 7\r\nContent-Length: 4000\r\n\r\n"
                peer.writer.write(head.encode())
                await turns(5)
                peer.writer.write(b"not now " * 500)

            error = await self.refused(script)
            assert isinstance(error, HandshakeRefused)
            assert (error.status, error.retry_after) == (status, "7")
            assert error.body == (b"not now " * 500)[:1024]
            assert str(status) in str(error)
            assert not error.fatal

    @scenario
    async def test_a_refusal_is_told_whatever_becomes_of_its_body(self) -> None:
        head = b"HTTP/1.1 503 Busy\r\n"
        for answer, hang_up, body in (
            (head + b"Content-Length: 0\r\n\r\n", False, b""),
            (head + b"Content-Length: 100\r\n\r\ncut", True, b"cut"),
            (head + b"\r\nto the end", True, b"to the end"),
            (head + b"\r\n", True, b""),
            (
                head + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n",
                False,
                b"hello world",
            ),
            (head + b"Content-Length: 9\r\n\r\nheld", False, b"held"),
            (b"HTTP/1.0 503 Busy\r\n\r\nold", True, b"old"),
        ):

            async def script(peer: RawPeer, answer: bytes = answer, hang_up: bool = hang_up) -> None:
                peer.writer.write(answer)
                if hang_up:
                    peer.writer.close()

            error = await self.refused(script)
            assert isinstance(error, HandshakeRefused), (answer, error)
            assert (error.status, error.body, error.retry_after) == (503, body, None)

    @scenario
    async def test_a_redirect_is_refused_with_its_target_but_not_its_query(self) -> None:
        async def script(peer: RawPeer) -> None:
            peer.writer.write(
                b"HTTP/1.1 302 Found\r\nLocation: wss://other.example/x?sig=private\r\nContent-Length: 0\r\n\r\n"
            )

        error = await self.refused(script)
        assert isinstance(error, HandshakeRefused)
        assert error.status == 302
        assert "wss://other.example/x" in str(error)
        assert "private" not in str(error)

    @scenario
    async def test_answers_that_are_no_handshake_are_refused_in_words(self) -> None:
        good = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        for answer, hang_up, words in (
            (b"SSH-2.0-OpenSSH_9.6\r\n", False, "HTTP"),
            (b"\x15\x03\x01\x00\x02\x02\x46", False, "wss://"),
            (b"HTTP/2 101\r\n\r\n", False, "HTTP"),
            (b"HTTP/1.1 abc def\r\n\r\n", False, "status line"),
            (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 20_000, False, "head"),
            (b"HTTP/1.1 200 OK\r\nbroken header\r\n\r\n", False, "header"),
            (good + b"\r\n", False, "Sec-WebSocket-Accept"),
            (good + b"Sec-WebSocket-Accept: d3Jvbmc=\r\n\r\n", False, "Sec-WebSocket-Accept"),
            (b"HTTP/1.1 101 Switching Protocols\r\n\r\n", False, "Connection"),
            (b"", True, "without an answer"),
            (b"HTTP/1.1 101 Swi", True, "middle"),
        ):

            async def script(peer: RawPeer, answer: bytes = answer, hang_up: bool = hang_up) -> None:
                peer.writer.write(answer)
                if hang_up:
                    peer.writer.close()

            error = await self.refused(script)
            assert words in str(error), (answer[:40], str(error))
            assert not isinstance(error, HandshakeRefused)

    @scenario
    async def test_what_was_not_offered_must_not_be_accepted(self) -> None:
        for extra in ("Sec-WebSocket-Protocol: other", "Sec-WebSocket-Extensions: permessage-deflate"):

            async def script(peer: RawPeer, extra: str = extra) -> None:
                peer.accept(extra)

            assert "not valid" in str(await self.refused(script))

    @scenario
    async def test_a_reset_during_the_handshake_is_told(self) -> None:
        async def script(peer: RawPeer) -> None:
            peer.reset()

        assert "127.0.0.1" in str(await self.refused(script))

    @scenario
    async def test_what_cannot_be_dialled_is_fatal_and_told_without_secrets(self) -> None:
        for url in (
            "http://h/?hidden",
            "ws://",
            "h:80",
            "ws://h:99999/?hidden",
            "ws://h/?hidden#f",
            "ws://h:x/?hidden",
        ):
            error = await self.dial_fails(url)
            assert error.fatal
            assert "ws://host" in str(error)
        for name, value in (
            ("X-Key", "hidden\r\nX-Other: 1"),
            ("X-Key", "hidden€"),
            ("X Key", "hidden"),
            ("X-Key:", "hidden"),
            ("", "hidden"),
            ("Ä", "hidden"),
            ("Upgrade", "hidden"),
            ("sec-websocket-key", "hidden"),
        ):
            error = await self.dial_fails("ws://127.0.0.1:1/", headers={name: value})
            assert error.fatal
            assert repr(name) in str(error)

    @scenario
    async def test_a_refused_port_and_an_unknown_host_are_told(self) -> None:
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            port = unused.getsockname()[1]
            error = await self.dial_fails(f"ws://127.0.0.1:{port}/?hidden")
        assert f"127.0.0.1:{port}" in str(error)
        assert not error.fatal
        error = await self.dial_fails("ws://no-such-host.invalid/?hidden")
        assert "no-such-host.invalid" in str(error)
        assert not error.fatal

    @scenario
    async def test_a_connection_over_ipv6(self) -> None:
        heard = Heard()

        async def script(peer: RawPeer) -> None:
            peer.accept(glued=frame(TEXT, (peer.header("Host") or "").encode()))

        try:
            server = raw_server(script, host="::1")
            port = await server.__aenter__()
        except OSError as error:
            raise unittest.SkipTest(f"no IPv6 on loopback: {error}") from None
        transport = await self.connect(port, heard, host="[::1]")
        assert await heard.until_count(1) == [f"[::1]:{port}".encode()]
        await self.end(transport, heard)
        await server.__aexit__(None, None, None)


class CancellationScenarios(Dialling):
    """A dial that is given up leaves no socket, and its listener hears nothing."""

    @scenario
    async def test_a_dial_to_a_peer_that_never_answers_can_be_cancelled(self) -> None:
        heard = Heard()
        left = asyncio.Event()
        asked = asyncio.Event()

        async def script(peer: RawPeer) -> None:
            asked.set()
            await peer.gone()
            left.set()

        async with raw_server(script) as port:
            dialling = asyncio.ensure_future(self.connect(port, heard))
            await asked.wait()
            dialling.cancel()
            await asyncio.wait([dialling])
            assert dialling.cancelled()
            await left.wait()
        assert (heard.messages, heard.closed) == ([], None)

    @scenario
    async def test_a_dial_cancelled_as_it_fails_leaves_no_forgotten_error(self) -> None:
        async def script(peer: RawPeer) -> None:
            peer.writer.write(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n")

        for count in range(10_000):
            heard = Heard()
            async with raw_server(script) as port:
                dialling = asyncio.ensure_future(self.dial()(DialOptions(f"ws://127.0.0.1:{port}/"), heard))
                await turns(count)
                finished = dialling.done()
                dialling.cancel()
                await asyncio.wait([dialling])
                assert dialling.cancelled() or isinstance(dialling.exception(), HandshakeRefused)
            # An error that nobody looked at is reported to the loop when it is collected, and fails the scenario.
            del dialling
            gc.collect()
            if finished:
                assert count > 3
                return

    @scenario
    async def test_a_dial_can_be_cancelled_at_any_turn_of_the_loop(self) -> None:
        async def script(peer: RawPeer) -> None:
            await turns(3)
            peer.accept(glued=frame(TEXT, b"early") + close_frame(1000))

        await self.cancel_at_each_turn(script, "ws", {}, {})

    @scenario
    async def test_a_dial_over_tls_can_be_cancelled_at_any_turn_of_the_loop(self) -> None:
        certificates = Certificates()

        async def script(peer: RawPeer) -> None:
            await turns(3)
            peer.accept(glued=frame(TEXT, b"early"))

        listen = {"ssl": certificates.server(certificates.good)}
        options = {"tls": certificates.trusting(), "server_name": "localhost"}
        await self.cancel_at_each_turn(script, "wss", listen, options)
