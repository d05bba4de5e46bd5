"""kafka-python's connections, with three faults of its version 3.0 mended from outside.

It leaves the socket of a failed connection to the garbage collector, drops what it reads together with the end of a
stream, and repeats a refused password or certificate until its time is up.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from typing import Any, ClassVar

from kafka.net.compat import KafkaNetClient  # type: ignore[import-untyped]  # it has no types
from kafka.net.inet import KafkaNetSocket  # type: ignore[import-untyped]  # it has no types

DIRECT = "jetsocket-direct://"
"""The value of `proxy_url` that makes kafka-python connect by `_ClosingSocket`, without any proxy."""


class _ClosingSocket(KafkaNetSocket):  # type: ignore[misc]  # the class has no types
    """Closes the socket of a connection that failed: in a long outage, descriptors would run out otherwise."""

    SCHEMES: ClassVar[tuple[str, ...]] = ("jetsocket-direct",)

    async def sock_connect(
        self, net: Any, sock: socket.socket, sockaddr: Any, timeout_at: float | None = None
    ) -> Any:
        try:
            return await super().sock_connect(net, sock, sockaddr, timeout_at=timeout_at)
        except BaseException:
            sock.close()
            raise


class ClosingTLSSocket(ssl.SSLSocket):
    """Closes itself when the handshake fails; for `SSLContext.sslsocket_class`."""

    def do_handshake(self, block: bool = False) -> None:
        try:
            super().do_handshake(block)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except BaseException:
            self.close()
            raise


class Clients:
    """Makes the client within a producer or admin, can close it (a constructor that fails leaves it open), and makes it
    hear a broker's last words.

    A broker that refuses a password answers and closes at once. Without the answer, the refusal would look like a
    network error and be repeated for ever.
    """

    def __init__(self) -> None:
        self._made: list[KafkaNetClient] = []

    def __call__(self, **settings: Any) -> KafkaNetClient:
        client = KafkaNetClient(**settings)
        self._made.append(client)
        manager = client._manager  # noqa: SLF001  (there is no public way in)
        build = manager._build_transport  # noqa: SLF001

        async def build_transport(*arguments: Any, **options: Any) -> Any:
            transport = await build(*arguments, **options)
            transport._sock_recv = _with_last_words(transport._sock_recv)  # noqa: SLF001
            return transport

        manager._build_transport = build_transport  # noqa: SLF001
        return client

    def refuse(self, error: BaseException) -> None:
        """Try no further address: `error` would only be met again. Called on the client's thread."""
        for client in self._made:
            manager = client._manager  # noqa: SLF001
            for broker in manager.cluster.bootstrap_brokers():
                manager._auth_failures[broker.node_id] = error  # noqa: SLF001

    def close(self) -> None:
        for client in self._made:
            client.close()
            client._net.stop()  # noqa: SLF001  (what the admin client's own `close` does)


Received = tuple[bytes, Exception | None]


def _with_last_words(receive: Callable[[], Received]) -> Callable[[], Received]:
    """The same function, with the end given out some turns of the client's loop after the data that came with it, so
    that whoever waits for the data has taken it."""
    end: Exception | None = None
    turns = 20

    def receive_first() -> Received:
        nonlocal end, turns
        if end is None:
            data, error = receive()
            if not data or error is None:
                return data, error
            end = error
            return data, None
        turns -= 1
        return b"", None if turns else end

    return receive_first
