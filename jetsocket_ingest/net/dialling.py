"""Name resolution, TCP, TLS and the opening handshake in one go, each failure in words."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Awaitable, Callable
from typing import Any

from jetsocket_ingest.errors import DialError
from jetsocket_ingest.net.connection import Connection
from jetsocket_ingest.net.tls import default_context, tls_error
from jetsocket_ingest.net.transport import DialOptions

Connect = Callable[..., Awaitable[Any]]
"""`create_connection` of a loop, or its like."""


async def open_connection(connection: Connection, options: DialOptions, connect: Connect) -> Connection:
    """Bring a connection up to the point where messages flow. Raises DialError; cancelled, it leaves no socket."""
    try:
        await _connect(connection, options, connect)
        await connection.accepted
    except BaseException:
        connection.discard()
        raise
    connection.start()
    return connection


async def _connect(connection: Connection, options: DialOptions, connect: Connect) -> None:
    secure = connection.secure
    try:
        await connect(
            lambda: connection,
            connection.host,
            connection.port,
            ssl=(options.tls or default_context()) if secure else None,
            server_hostname=(options.server_name or connection.host) if secure else None,
        )
    except ssl.SSLError as error:
        raise tls_error(error, connection.place) from None
    except socket.gaierror as error:
        raise DialError(
            f"host name {connection.host!r} cannot be resolved ({error.strerror}): check the URL and this machine's DNS"
        ) from None
    except (ConnectionResetError, ConnectionAbortedError, BrokenPipeError) as error:
        if not secure:
            raise _unreachable(connection, error) from None
        raise DialError(
            f"{connection.place} ended the connection during the TLS handshake: "
            "if it speaks no TLS on this port, it wants ws:// in place of wss://"
        ) from None
    except OSError as error:
        raise _unreachable(connection, error) from None


def _unreachable(connection: Connection, error: OSError) -> DialError:
    return DialError(
        f"cannot connect to {connection.place}: {error.strerror or error or type(error).__name__}; "
        "check the address, and that the service is reachable from here"
    )
