"""A way through a proxy: HTTP CONNECT or SOCKS5, up to the socket that leads to the peer."""

from __future__ import annotations

import asyncio
import base64
import socket
from typing import cast

from python_socks import ProxyError, ProxyType
from python_socks.async_.asyncio import Proxy

from jetsocket_ingest.config.proxy import ProxyAddress, parse_proxy
from jetsocket_ingest.errors import DialError
from jetsocket_ingest.net.addresses import Resolve, open_tcp, place_of, resolve, resolve_or_tell
from jetsocket_ingest.net.handshake import parse_head

MAX_ANSWER = 16 * 1024
"""Bytes of an HTTP proxy's answer."""

_FOR_EVER = 24 * 3600.0
"""Seconds: whoever dials has a time-out; the library insists on one of its own."""


async def open_through(url: str, host: str, port: int, *, resolve: Resolve = resolve) -> socket.socket:
    """A socket whose bytes go to `host` and `port` through the proxy at `url`. Cancelled, it leaves none behind.

    Raises DialError; `fatal` where the proxy's address is malformed, or it does not take our user and password.
    """
    try:
        proxy = parse_proxy(url)
    except ValueError as error:
        raise DialError(f"the proxy cannot be used: {error}", fatal=True) from None
    if proxy.scheme == "http":
        return await _connect(proxy, host, port)
    if proxy.scheme == "socks5h":
        return await _socks(proxy, host, port, host)
    failure: DialError | None = None
    for info in await resolve_or_tell(host, port, resolve):
        try:
            return await _socks(proxy, host, port, str(info[4][0]))
        except _Unreached as error:
            failure = error
    assert failure is not None, "a host that resolves has an address"
    raise failure


class _Unreached(DialError):
    """The proxy works, but could not reach the peer at the address it was given."""


# HTTP. Not the library's, which takes the first bytes that come for the whole answer.


async def _connect(proxy: ProxyAddress, host: str, port: int) -> socket.socket:
    opened = await open_tcp(proxy.host, proxy.port, peer="the proxy")
    try:
        await _ask(opened, proxy, place_of(host, port))
    except OSError as error:
        opened.close()
        raise DialError(f"{_name(proxy)} broke the connection: {error.strerror or error}") from None
    except BaseException:
        opened.close()
        raise
    return opened


async def _ask(opened: socket.socket, proxy: ProxyAddress, target: str) -> None:
    lines = [f"CONNECT {target} HTTP/1.1", f"Host: {target}", "User-Agent: jetsocket-ingest"]
    if proxy.user:
        login = base64.b64encode(f"{proxy.user}:{proxy.password}".encode()).decode()
        lines.append(f"Proxy-Authorization: Basic {login}")
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(opened, "\r\n".join([*lines, "", ""]).encode())
    answer = bytearray()
    while b"\r\n\r\n" not in answer:
        if len(answer) > MAX_ANSWER:
            raise DialError(f"{_name(proxy)} answered with more than {MAX_ANSWER} bytes of head")
        received = await loop.sock_recv(opened, 4096)
        if not received:
            raise DialError(f"{_name(proxy)} closed the connection without a complete answer")
        answer += received
    head, _, rest = answer.partition(b"\r\n\r\n")
    response = parse_head(bytes(head), sender=_name(proxy), advice="check that it is an HTTP proxy")
    status, reason = response.status_code, response.reason_phrase
    if status == 407:
        raise DialError(
            f"{_name(proxy)} does not let us through (HTTP 407): check the user and password in its address",
            fatal=True,
        )
    if not 200 <= status < 300:
        raise DialError(f"{_name(proxy)} refused to connect to {target}: HTTP {status} {reason}".rstrip())
    if rest:
        # Nobody but the proxy can have said that: a WebSocket's server waits for the client to begin.
        raise DialError(f"{_name(proxy)} sent {len(rest)} bytes that nobody asked for after its answer")


# SOCKS


class _Tcp:
    """What the library believes to be a proxy in front of the proxy: the way for it to use our sockets."""

    async def connect(self, dest_host: str, dest_port: int, timeout: float | None = None) -> socket.socket:
        return await open_tcp(dest_host, dest_port, peer="the proxy")


async def _socks(proxy: ProxyAddress, host: str, port: int, destination: str) -> socket.socket:
    """`host` is for words, `destination` for the proxy: the same, or an address of it."""
    client = Proxy(
        ProxyType.SOCKS5,
        proxy.host,
        proxy.port,
        proxy.user or None,
        proxy.password or None,
        rdns=True,
        forward=cast("Proxy", _Tcp()),
    )
    target = place_of(host, port)
    if destination != host:
        target += f" at {destination}"
    try:
        return await client.connect(destination, port, timeout=_FOR_EVER)
    except ProxyError as error:
        if error.error_code is not None:
            raise _Unreached(f"{_name(proxy)} could not connect to {target}: {error}") from None
        if "authentication" in str(error).lower():
            raise DialError(
                f"{_name(proxy)} does not let us through ({error}): check the user and password in its address",
                fatal=True,
            ) from None
        raise DialError(f"{_name(proxy)} does not answer as a SOCKS5 proxy does: {error}") from None
    except OSError as error:
        raise DialError(f"{_name(proxy)} broke the connection: {error.strerror or error}") from None
    except ValueError as error:
        raise DialError(f"{_name(proxy)} cannot be asked for {target}: {error}") from None


def _name(proxy: ProxyAddress) -> str:
    return f"the proxy {place_of(proxy.host, proxy.port)}"
