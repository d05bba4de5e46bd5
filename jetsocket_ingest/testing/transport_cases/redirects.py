"""Scenarios: a peer that answers the opening handshake with a redirect."""

from __future__ import annotations

from typing import Any

from jetsocket_ingest.errors import DialError, HandshakeRefused
from jetsocket_ingest.net.transport import DialOptions
from jetsocket_ingest.testing.transport_cases.openings import Dialling
from jetsocket_ingest.testing.transport_cases.peers import (
    TEXT,
    Certificates,
    Heard,
    RawPeer,
    frame,
    raw_server,
    scenario,
)


def redirect(peer: RawPeer, location: str, status: int = 302) -> None:
    head = f"HTTP/1.1 {status} Elsewhere\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n"
    peer.writer.write(head.encode("latin-1"))


class Signposts:
    """A peer that sends each path where `ways` says, and accepts where it says nothing."""

    def __init__(self, ways: dict[str, str], status: int = 302) -> None:
        self.ways = ways
        self.status = status
        self.peers: list[RawPeer] = []

    @property
    def paths(self) -> list[str]:
        """What was asked for."""
        return [peer.request.split(b" ")[1].decode() for peer in self.peers]

    async def __call__(self, peer: RawPeer) -> None:
        self.peers.append(peer)
        location = self.ways.get(self.paths[-1])
        if location is None:
            peer.accept(glued=frame(TEXT, b"arrived"))
        else:
            redirect(peer, location, self.status)


class RedirectScenarios(Dialling):
    """Redirects lead to the same host, or nowhere."""

    async def _follow(self, signposts: Signposts, path: str, **options: Any) -> None:
        heard = Heard()
        async with raw_server(signposts) as port:
            signposts.ways = {key: way.format(port=port) for key, way in signposts.ways.items()}
            transport = await self.dial()(DialOptions(f"ws://127.0.0.1:{port}{path}", **options), heard)
            assert await heard.until_count(1) == [b"arrived"]
            await self.end(transport, heard)

    async def _refuses(self, location: str, path: str = "/") -> str:
        error: DialError | None = None

        async def script(peer: RawPeer) -> None:
            redirect(peer, location)

        async with raw_server(script) as port:
            error = await self.dial_fails(f"ws://127.0.0.1:{port}{path}?token=hidden")
        assert isinstance(error, HandshakeRefused)
        assert error.status == 302
        return str(error)

    @scenario
    async def test_each_kind_of_redirect_to_the_same_host_is_followed(self) -> None:
        for status in (301, 302, 303, 307, 308):
            for location, path in (
                ("/v2/feed?key=1", "/v2/feed?key=1"),
                ("there", "/old/there"),
                ("?key=2", "/old/feed?key=2"),
                ("ws://127.0.0.1:{port}/new#part", "/new"),
                ("http://127.0.0.1:{port}/new", "/new"),
                ("//127.0.0.1:{port}", "/"),
            ):
                signposts = Signposts({"/old/feed": location}, status)
                await self._follow(signposts, "/old/feed")
                assert signposts.paths == ["/old/feed", path]

    @scenario
    async def test_headers_and_login_go_with_it_but_a_login_of_the_peers_does_not_count(self) -> None:
        signposts = Signposts({"/": "ws://evil:evil@127.0.0.1:{port}/b", "/b": "/c"})
        heard = Heard()
        async with raw_server(signposts) as port:
            signposts.ways["/"] = signposts.ways["/"].format(port=port)
            url = f"ws://user:pass@127.0.0.1:{port}/"
            transport = await self.dial()(DialOptions(url, headers={"X-Key": "k"}), heard)
            await heard.until_count(1)
            await self.end(transport, heard)
        assert signposts.paths == ["/", "/b", "/c"]
        assert [peer.header("Authorization") for peer in signposts.peers] == ["Basic dXNlcjpwYXNz"] * 3
        assert [peer.header("X-Key") for peer in signposts.peers] == ["k"] * 3
        assert len({peer.header("Sec-WebSocket-Key") for peer in signposts.peers}) == 3

    @scenario
    async def test_a_redirect_from_ws_to_wss_is_followed_and_verified(self) -> None:
        certificates = Certificates()
        heard = Heard()
        secured = Signposts({})
        async with raw_server(secured, ssl=certificates.server(certificates.good)) as target:
            plain = Signposts({"/": f"https://localhost:{target}/safe"})
            async with raw_server(plain) as port:
                url = f"ws://localhost:{port}/"
                transport = await self.dial()(DialOptions(url, tls=certificates.trusting()), heard)
                assert await heard.until_count(1) == [b"arrived"]
                await self.end(transport, heard)
                assert secured.paths == ["/safe"]
                error = await self.dial_fails(url)
                assert "does not verify" in str(error)

    @scenario
    async def test_a_redirect_from_wss_to_ws_is_refused(self) -> None:
        certificates = Certificates()
        plain = Signposts({})
        async with raw_server(plain) as target:
            secured = Signposts({"/": f"http://localhost:{target}/?hidden"})
            async with raw_server(secured, ssl=certificates.server(certificates.good)) as port:
                error = await self.dial_fails(f"wss://localhost:{port}/", tls=certificates.trusting())
        assert "encryption" in str(error)
        assert plain.paths == []

    @scenario
    async def test_another_host_is_refused_before_anything_is_sent_to_it(self) -> None:
        other = Signposts({})
        async with raw_server(other) as port:
            for location in (f"ws://localhost:{port}/x?hidden", f"//u:hidden@localhost:{port}/x"):
                told = await self._refuses(location)
                assert f"ws://localhost:{port}/x" in told or f"://localhost:{port}/x" in told
                assert "another host" in told
        assert other.paths == []

    @scenario
    async def test_circles_and_long_ways_are_refused(self) -> None:
        assert "circle" in await self._refuses("/?token=hidden")
        ways = {f"/{step}": f"/{step + 1}" for step in range(5)}
        await self._follow(Signposts(ways), "/0")
        signposts = Signposts(ways | {"/5": "/6"})
        error = await self.dial_fails_at(signposts, "/0")
        assert "no more than 5" in str(error)
        assert signposts.paths == [f"/{step}" for step in range(6)]
        error = await self.dial_fails_at(Signposts({"/a": "/b", "/b": "/c", "/c": "/b"}), "/a")
        assert "circle" in str(error)

    async def dial_fails_at(self, signposts: Signposts, path: str) -> DialError:
        async with raw_server(signposts) as port:
            return await self.dial_fails(f"ws://127.0.0.1:{port}{path}")

    @scenario
    async def test_a_redirect_to_no_address_is_refused(self) -> None:
        for location in (
            "",
            "mailto:x@y",
            "ws://[::1",
            "ws://127.0.0.1:0/",
            "ws://127.0.0.1:99999/",
            "/a b",
            "/\xe9",
            "ftp://127.0.0.1/",
        ):
            assert "no address of a WebSocket" in await self._refuses(location), location

    @scenario
    async def test_a_dial_that_is_redirected_can_be_cancelled_at_any_turn_of_the_loop(self) -> None:
        async def script(peer: RawPeer) -> None:
            if b"/next" in peer.request.split(b"\r\n")[0]:
                peer.accept(glued=frame(TEXT, b"arrived"))
            else:
                redirect(peer, "/next")

        await self.cancel_at_each_turn(script, "ws", {}, {})
