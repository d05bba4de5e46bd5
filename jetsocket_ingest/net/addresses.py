"""TCP to a host by its name: every address it has, raced as RFC 8305 describes."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable, Sequence

from aiohappyeyeballs import AddrInfoType, start_connection

from jetsocket_ingest.errors import DialError

STAGGER = 0.25
"""Seconds an address has to itself before the next one is tried beside it: the delay that RFC 8305 recommends."""

KEEP_ALIVE = {"TCP_KEEPIDLE": 60, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3}
"""Seconds of silence before the system probes the peer, seconds between probes, and lost probes that end it. Pings prove
more; these free the sockets of peers that vanished where pings are turned off, and keep NAT tables warm."""

Resolve = Callable[[str, int], Awaitable[Sequence[AddrInfoType]]]
"""Host and port to what `socket.getaddrinfo` returns, best first. Raises socket.gaierror."""


async def resolve(host: str, port: int) -> Sequence[AddrInfoType]:
    """The addresses of a host as of now; a literal address without a detour over a thread."""
    try:
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except socket.gaierror:
        return await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)


async def resolve_or_tell(host: str, port: int, resolve: Resolve = resolve) -> Sequence[AddrInfoType]:
    """`resolve`, with its failure in words: DialError."""
    try:
        infos = await resolve(host, port)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "not a valid name"
        raise DialError(
            f"host name {host!r} cannot be resolved ({reason}): check its spelling and this machine's DNS"
        ) from None
    if not infos:
        raise DialError(f"host name {host!r} has no address: check its spelling and this machine's DNS")
    return infos


async def open_tcp(host: str, port: int, *, peer: str = "", resolve: Resolve = resolve) -> socket.socket:
    """A connected, non-blocking socket with NODELAY and keep-alive on. Cancelled, it leaves none behind.

    Args:
        peer: what stands before host and port in an error, where they are not the peer's own.
        resolve: injected.

    Raises DialError, which names every address that was tried.
    """
    infos = await resolve_or_tell(host, port, resolve)
    tried: list[str] = []

    def make_socket(info: AddrInfoType) -> socket.socket:
        tried.append(_shown(info))
        return _make_socket(info)

    try:
        return await start_connection(infos, happy_eyeballs_delay=STAGGER, socket_factory=make_socket)
    except (OSError, RuntimeError) as error:  # uvloop raises RuntimeError for some addresses
        place = f"{peer} {place_of(host, port)}".strip()
        through = f" (tried {', '.join(tried)})" if tried != [place_of(host, port)] else ""
        raise DialError(
            f"cannot connect to {place}{through}: {_why(error)}; "
            "check the address, and that the service is reachable from here"
        ) from None


def place_of(host: str, port: int) -> str:
    """Host and port as they stand in a URL."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _shown(info: AddrInfoType) -> str:
    address = info[4]
    return place_of(str(address[0]), int(address[1]))


def _make_socket(info: AddrInfoType) -> socket.socket:
    family, kind, protocol, _, _ = info
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in KEEP_ALIVE.items():
        if hasattr(socket, name):  # not every system lets a program choose
            made.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    return made


def _why(error: OSError | RuntimeError) -> str:
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno)
    # Addresses that failed in different ways come joined into one text.
    return str(error).removeprefix("Multiple exceptions: ") or type(error).__name__
