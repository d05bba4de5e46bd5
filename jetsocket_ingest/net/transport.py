"""What an engine gives: one WebSocket, dialled once, that hands over batches of messages.

An engine knows nothing of reconnects, pools or heartbeats; `WebSocket` does. Both engines pass one contract suite
(`jetsocket_ingest.testing.transport_contract`).
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from jetsocket_ingest.clock import Clock, SystemClock

HANDOVER_MESSAGES = 1024
HANDOVER_BYTES = 256 * 1024
"""A hand-over holds at most so many messages and bytes, so that one busy socket cannot starve the others: measured,
unbounded ones reached 18,750 messages and made everything downstream slower (2.0 instead of 1.3 µs a message)."""

WRITE_HIGH_WATER = 256 * 1024
"""Bytes in the write buffer above which `Transport.drain` waits."""


@dataclass(slots=True, frozen=True)
class DialOptions:
    """Where and how to connect.

    Attributes:
        url: ws:// or wss:// URL.
        headers: extra headers of the handshake; values may be secret, so they are never part of `repr`. They are sent
            again where the same host redirects, and to no other host.
        subprotocols: offered, best first.
        tls: context for wss://; None means the system's trust store with verification on.
        server_name: name that the certificate is checked against, and that is sent as SNI; None means the URL's host.
        proxy: http://, socks5:// or socks5h:// URL of a proxy to go through, with user and password where it wants
            them; None goes directly.
        compression: offer permessage-deflate.
        max_message_size: bytes of a message after joining fragments and inflating; a longer one closes with 1009.
        clock: stamps hand-overs.
    """

    url: str = field(repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    subprotocols: Sequence[str] = ()
    tls: ssl.SSLContext | None = None
    server_name: str | None = None
    proxy: str | None = field(default=None, repr=False)
    compression: bool = False
    max_message_size: int = 16 * 1024 * 1024
    clock: Clock = field(default_factory=SystemClock)


class Listener(Protocol):
    """Hears what happens on a transport. Must not raise.

    Called on the event loop, never before `dial` returned and never after `on_close`. What came glued to the handshake
    follows on the next turn of the loop.
    """

    def on_messages(self, payloads: list[bytes], binary: bool, received_ns: int) -> None:
        """Complete messages of one read, in order, all text (valid UTF-8) or all binary; the list is the listener's."""
        ...

    def on_pong(self, payload: bytes) -> None:
        """A pong came. Its place among the messages of the same read is not kept."""
        ...

    def on_close(self, code: int, reason: str) -> None:
        """The socket is gone. `code` as received, or ours where we closed first or found a fault (1002, 1007, 1009);
        1005 where the peer gave none, 1006 where it vanished without closing. Everything that came before was handed
        over, unless `abort` was called. Called exactly once for each transport that `dial` returned."""
        ...


class Transport(Protocol):
    """An open WebSocket. Methods never raise for a connection that is already gone; `on_close` tells."""

    engine: str
    """`websockets` or `picows`."""
    subprotocol: str | None
    """What the peer chose of the subprotocols offered."""

    def send(self, payload: bytes, *, binary: bool) -> None:
        """Queue one message."""
        ...

    async def drain(self) -> None:
        """Wait until the write buffer has room, or the connection is gone."""
        ...

    def ping(self, payload: bytes) -> None:
        """Queue a ping with at most 125 bytes."""
        ...

    def close(self, code: int, reason: str) -> None:
        """Begin the closing handshake; messages still arrive until the peer answers. Idempotent. The owner calls
        `abort` when it takes too long. A reason is cut to the 123 bytes that a close frame has room for."""
        ...

    def abort(self) -> None:
        """Drop the socket at once, with what was not handed over yet. `on_close` follows on a later turn of the loop."""
        ...

    def pause_reading(self) -> None:
        """Stop taking bytes from the socket, so that TCP holds the peer back. Idempotent, like `resume_reading`.
        No message is handed over after it returns until reading resumes. Pings are not answered meanwhile, and the end
        of the connection may show only when reading resumes."""
        ...

    def resume_reading(self) -> None: ...


class Dial(Protocol):
    """Opens a transport. Cancelling it leaves no socket behind; it has no time-out of its own."""

    async def __call__(self, options: DialOptions, listener: Listener) -> Transport:
        """Raises DialError (HandshakeRefused with the status, where there was an answer; `fatal` where repeating
        cannot help: a URL or header that cannot be sent, a certificate that does not verify)."""
        ...
