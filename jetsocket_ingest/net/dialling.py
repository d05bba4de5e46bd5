"""Name resolution, proxy, TCP, TLS, the opening handshake and its redirects in one go, each failure in words."""

from __future__ import annotations

import asyncio
import dataclasses
import ssl
from collections.abc import Callable

from jetsocket_ingest.errors import DialError
from jetsocket_ingest.net.addresses import open_tcp
from jetsocket_ingest.net.connection import Connection
from jetsocket_ingest.net.handshake import HandshakeRedirected
from jetsocket_ingest.net.proxy import open_through
from jetsocket_ingest.net.redirects import Trail
from jetsocket_ingest.net.tls import default_context, tls_error
from jetsocket_ingest.net.transport import DialOptions


async def open_connection(make: Callable[[DialOptions], Connection], options: DialOptions) -> Connection:
    """Bring a connection up to the point where messages flow; `make` gives a fresh one for an address.

    Raises DialError; cancelled, it leaves no socket.
    """
    trail: Trail | None = None
    while True:
        connection = make(options)
        try:
            await _connect(connection, options)
            await connection.accepted
        except HandshakeRedirected as redirect:
            connection.discard()
            trail = trail or Trail(options.url)
            options = dataclasses.replace(options, url=trail.follow(redirect))
        except BaseException:
            connection.discard()
            raise
        else:
            connection.start()
            return connection


async def _connect(connection: Connection, options: DialOptions) -> None:
    host, port, secure = connection.host, connection.port, connection.secure
    name = _tls_name(options.server_name or host) if secure else None
    if options.proxy is None:
        opened = await open_tcp(host, port)
    else:
        opened = await open_through(options.proxy, host, port)
    # Without an await in between: from here on the loop closes the socket, whatever happens.
    try:
        await asyncio.get_running_loop().create_connection(
            lambda: connection,
            sock=opened,
            ssl=(options.tls or default_context()) if secure else None,
            server_hostname=name,
        )
    except ssl.SSLError as error:
        raise tls_error(error, connection.place) from None
    except (ConnectionResetError, ConnectionAbortedError, BrokenPipeError) as error:
        if not secure:
            raise _broken(connection, error) from None
        raise DialError(
            f"{connection.place} ended the connection during the TLS handshake: "
            "if it speaks no TLS on this port, it wants ws:// in place of wss://"
        ) from None
    except OSError as error:
        raise _broken(connection, error) from None


def _tls_name(name: str) -> str:
    # OpenSSL and the loops tell this late, and as a bug of ours.
    try:
        name.encode("idna")
    except UnicodeError:
        pass
    else:
        if "\0" not in name:
            return name
    raise DialError(
        f"TLS cannot ask for the name {name!r}: expected a host name; check the URL and tls.server_name",
        fatal=True,
    )


def _broken(connection: Connection, error: OSError) -> DialError:
    return DialError(
        f"the connection to {connection.place} broke as it was made: "
        f"{error.strerror or error or type(error).__name__}; "
        "check the address, and that the service is reachable from here"
    )
