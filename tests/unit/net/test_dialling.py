"""Addresses, proxies' addresses and redirects: what decides where a dial goes."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import pytest
import uvloop

from jetsocket_ingest.config.proxy import parse_proxy
from jetsocket_ingest.errors import DialError, HandshakeRefused
from jetsocket_ingest.net.addresses import open_tcp
from jetsocket_ingest.net.engines import Engine, dial_for
from jetsocket_ingest.net.handshake import HandshakeRedirected
from jetsocket_ingest.net.proxy import open_through
from jetsocket_ingest.net.redirects import MAX_REDIRECTS, Trail
from jetsocket_ingest.net.transport import DialOptions
from jetsocket_ingest.testing.transport_cases.peers import Heard, RawPeer, open_sockets, raw_server
from jetsocket_ingest.testing.transport_cases.proxies import Tunnels, proxy_server, socks5

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}
V4, V6 = socket.AF_INET, socket.AF_INET6


@pytest.fixture(params=LOOPS)
def run(request: pytest.FixtureRequest) -> Iterator[Callable[[Any], Any]]:
    """Runs a coroutine on each kind of loop, and finds the sockets that it left."""
    before = open_sockets()

    async def bounded(coroutine: Any) -> Any:
        async with asyncio.timeout(20):
            return await coroutine

    def runner(coroutine: Any) -> Any:
        with asyncio.Runner(loop_factory=LOOPS[request.param]) as own:
            return own.run(bounded(coroutine))

    yield runner
    assert open_sockets() == before


def resolving(*addresses: tuple[int, str, int]) -> Any:
    """A resolver that answers with these (family, host, port)."""

    async def resolve(host: str, port: int) -> list[Any]:
        return [(family, socket.SOCK_STREAM, 0, "", (at, to)) for family, at, to in addresses]

    return resolve


def refused_port(host: str = "127.0.0.1") -> int:
    with socket.create_server((host, 0)) as unused:
        return int(unused.getsockname()[1])


@contextmanager
def black_hole() -> Iterator[int]:
    """A port that neither accepts nor refuses: its queue is full, so the system drops what comes."""
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    listening.listen(0)
    fillers = []
    for _ in range(4):
        filler = socket.socket()
        filler.setblocking(False)
        try:
            filler.connect(listening.getsockname())
        except BlockingIOError:
            pass
        fillers.append(filler)
    try:
        yield listening.getsockname()[1]
    finally:
        for each in (*fillers, listening):
            each.close()


@asynccontextmanager
async def listening(host: str = "127.0.0.1") -> AsyncIterator[int]:
    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    server = await asyncio.start_server(connected, host, 0)
    yield server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()


# Addresses


def test_a_refused_address_gives_way_to_the_next_one(run: Callable[[Any], Any]) -> None:
    async def body() -> None:
        async with listening() as port:
            dead = refused_port()
            opened = await open_tcp(
                "feed", port, resolve=resolving((V4, "127.0.0.1", dead), (V4, "127.0.0.1", port))
            )
            assert opened.getpeername() == ("127.0.0.1", port)
            opened.close()

    run(body())


def test_a_silent_address_is_overtaken_after_the_stagger(run: Callable[[Any], Any]) -> None:
    async def body() -> None:
        async with listening() as port:
            with black_hole() as hole:
                began = asyncio.get_running_loop().time()
                opened = await open_tcp(
                    "feed", port, resolve=resolving((V4, "127.0.0.1", hole), (V4, "127.0.0.1", port))
                )
                assert 0.2 < asyncio.get_running_loop().time() - began < 2
                assert opened.getpeername() == ("127.0.0.1", port)
                opened.close()

    run(body())


def test_families_take_turns(run: Callable[[Any], Any]) -> None:
    dead = refused_port()
    names = [(V6, "::1", 1), (V6, "::1", 2), (V4, "127.0.0.1", dead)]
    with pytest.raises(DialError) as raised:
        run(open_tcp("feed", 80, resolve=resolving(*names)))
    assert f"(tried [::1]:1, 127.0.0.1:{dead}, [::1]:2)" in str(raised.value)


def test_the_error_names_every_address_and_reason(run: Callable[[Any], Any]) -> None:
    one, other = refused_port(), refused_port()
    names = [(V4, "127.0.0.1", one), (V4, "127.0.0.1", other)]
    with pytest.raises(DialError) as raised:
        run(open_tcp("feed.example", 80, resolve=resolving(*names)))
    words = str(raised.value)
    assert f"cannot connect to feed.example:80 (tried 127.0.0.1:{one}, 127.0.0.1:{other})" in words
    assert os.strerror(errno.ECONNREFUSED) in words
    assert not raised.value.fatal


def test_addresses_that_fail_in_different_ways_are_told_both(run: Callable[[Any], Any]) -> None:
    names = [(V4, "127.0.0.1", refused_port()), (V4, "255.255.255.255", 80)]
    with pytest.raises(DialError) as raised:
        run(open_tcp("feed.example", 80, resolve=resolving(*names)))
    words = str(raised.value)
    assert "255.255.255.255:80" in words
    assert f"Errno {errno.ECONNREFUSED}" in words


def test_names_are_resolved_anew_at_each_dial(run: Callable[[Any], Any]) -> None:
    async def body() -> None:
        async with listening() as one, listening() as other:
            ports = iter((one, other))

            async def resolve(host: str, port: int) -> list[Any]:
                return [(V4, socket.SOCK_STREAM, 0, "", ("127.0.0.1", next(ports)))]

            for expected in (one, other):
                opened = await open_tcp("feed", 80, resolve=resolve)
                assert opened.getpeername()[1] == expected
                opened.close()

    run(body())


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a" * 64 + ".example", "a..b"])
def test_a_name_without_an_address_is_told(run: Callable[[Any], Any], host: str) -> None:
    with pytest.raises(DialError, match="cannot be resolved") as raised:
        run(open_tcp(host, 80))
    assert repr(host) in str(raised.value)
    assert not raised.value.fatal


def test_a_name_with_no_address_at_all_is_told(run: Callable[[Any], Any]) -> None:
    with pytest.raises(DialError, match="has no address"):
        run(open_tcp("feed", 80, resolve=resolving()))


def test_a_cancelled_race_leaves_no_socket(run: Callable[[Any], Any]) -> None:
    async def body() -> None:
        with black_hole() as hole:
            made: list[str] = []
            started = asyncio.Event()

            async def resolve(host: str, port: int) -> list[Any]:
                started.set()
                return await resolving(*[(V4, "127.0.0.1", hole)] * 3)(host, port)  # type: ignore[no-any-return]

            before = open_sockets()
            dialling = asyncio.ensure_future(open_tcp("feed", 80, resolve=resolve))
            await started.wait()
            while len(made := sorted(open_sockets() - before)) < 2:
                await asyncio.sleep(0)
            dialling.cancel()
            await asyncio.wait([dialling])
            assert dialling.cancelled()
            assert made
            assert open_sockets() == before

    run(body())


@pytest.mark.parametrize("engine", ["websockets", "picows"])
def test_sockets_have_nodelay_and_keep_alive(run: Callable[[Any], Any], engine: Engine) -> None:
    async def body() -> None:
        async def script(peer: RawPeer) -> None:
            peer.accept()

        async with raw_server(script) as port:
            heard = Heard()
            transport: Any = await dial_for(engine)(DialOptions(f"ws://127.0.0.1:{port}/"), heard)
            opened = transport._transport.get_extra_info("socket")
            assert opened.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
            assert opened.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            assert opened.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 60
            transport.abort()
            await heard.until_closed()

    run(body())


@pytest.mark.parametrize("name", [".", "a\0b", "x" * 64, "a..b"])
def test_a_name_that_tls_cannot_ask_for_is_fatal(run: Callable[[Any], Any], name: str) -> None:
    with pytest.raises(DialError, match=r"tls\.server_name") as raised:
        run(dial_for("websockets")(DialOptions("wss://127.0.0.1:1/", server_name=name), Heard()))
    assert raised.value.fatal


# Proxies


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://proxy:3128", ("http", "proxy", 3128, "", "")),
        ("http://proxy/", ("http", "proxy", 8080, "", "")),
        ("HTTP://Proxy", ("http", "proxy", 8080, "", "")),
        ("http://us:p%40%2F%3A@[::1]:1", ("http", "::1", 1, "us", "p@/:")),
        ("http://user@proxy", ("http", "proxy", 8080, "user", "")),
        ("socks5://proxy", ("socks5", "proxy", 1080, "", "")),
        ("socks5h://a:b@10.0.0.1:9", ("socks5h", "10.0.0.1", 9, "a", "b")),
    ],
)
def test_a_proxys_address_is_taken_apart(url: str, expected: tuple[str, str, int, str, str]) -> None:
    proxy = parse_proxy(url)
    assert (proxy.scheme, proxy.host, proxy.port, proxy.user, proxy.password) == expected
    assert expected[4] == "" or expected[4] not in repr(proxy)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "proxy:3128",
        "https://h:1",
        "socks4://h:1",
        "http://",
        "http://:80",
        "http://h:0",
        "http://h:99999",
        "http://h:private",
        "http://[::1",
        "http://h:1/private",
        "http://h:1?private",
        "http://u:a/private@h:1",
        "http://u%3Aprivate:b@h:1",
        "http://h:1 ",
        "http://u:private%0d%0aX@h",
        "socks5://private@h",
        "socks5://:private@h",
        "http://:private@h",
        "socks5://u:priv%C3%A9@h",
        "socks5://u:" + "private" * 40 + "@h",
    ],
)
def test_what_is_no_proxy_is_told_without_showing_it(url: str) -> None:
    with pytest.raises(ValueError, match="expected") as raised:
        parse_proxy(url)
    assert "priv" not in str(raised.value)


def test_a_socks_proxy_is_given_each_address_of_the_peer_in_turn(run: Callable[[Any], Any]) -> None:
    async def body() -> None:
        tunnels = Tunnels()

        async def speak(tunnels: Tunnels, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
            if not tunnels.asked:
                await reader.readexactly(3)
                writer.write(b"\x05\x00")
                await reader.readexactly(10)
                tunnels.asked.append(("first", 0))
                writer.write(b"\x05\x04\x00\x01\x00\x00\x00\x00\x00\x00")
                return False
            return await socks5(tunnels, reader, writer)

        async with listening() as port, proxy_server(speak, tunnels) as through:
            names = resolving((V4, "10.255.255.1", port), (V4, "127.0.0.1", port))
            opened = await open_through(f"socks5://127.0.0.1:{through}", "feed", port, resolve=names)
            opened.close()
            assert tunnels.asked == [("first", 0), ("127.0.0.1", port)]

    run(body())


# Redirects


def redirected(location: str) -> HandshakeRedirected:
    return HandshakeRedirected(302, location)


@pytest.mark.parametrize(
    ("url", "location", "expected"),
    [
        ("ws://h/a", "/b", "ws://h/b"),
        ("ws://h/a", "b?c=1", "ws://h/b?c=1"),
        ("ws://h", "wss://h/", "wss://h/"),
        ("ws://h:80/a", "https://H:8443/b", "wss://h:8443/b"),
        ("wss://h/a", "//h:444", "wss://h:444/"),
        ("wss://u:p@h/a", "https://x:y@h/b#c", "wss://u:p@h/b"),
        ("wss://[::1]:5/a", "wss://[::1]:6/a", "wss://[::1]:6/a"),
        ("wss://h./a", "wss://h/b", "wss://h/b"),
        # A browser would take backslashes for slashes; here they are part of a path.
        ("wss://h/a", r"\\other\b", r"wss://h/\\other\b"),
    ],
)
def test_a_redirect_to_the_same_host_leads_there(url: str, location: str, expected: str) -> None:
    assert Trail(url).follow(redirected(location)) == expected


@pytest.mark.parametrize(
    ("url", "location", "words"),
    [
        ("ws://h/a", "ws://h.evil/b", "another host"),
        ("ws://h/a", "ws://evil@other/b", "another host"),
        ("ws://h/a", "ws://h@other/b", "another host"),
        ("ws://h/a", "//other", "another host"),
        ("wss://h/a", "http://h/a", "encryption"),
        ("wss://h/a", "https://h/a", "circle"),
        ("wss://h/a", "#x", "circle"),
        ("wss://h/a", "javascript:1", "no address"),
        ("wss://h/a", "wss://h:x/", "no address"),
        ("wss://h/a", "/b\tc", "no address"),
    ],
)
def test_any_other_redirect_is_refused_in_words(url: str, location: str, words: str) -> None:
    with pytest.raises(HandshakeRefused, match=words) as raised:
        Trail(url).follow(redirected(location))
    assert raised.value.status == 302


def test_only_so_many_redirects_are_followed() -> None:
    trail = Trail("ws://h/")
    for step in range(MAX_REDIRECTS):
        trail.follow(redirected(f"/{step}"))
    with pytest.raises(HandshakeRefused, match="no more than 5"):
        trail.follow(redirected("/more"))
