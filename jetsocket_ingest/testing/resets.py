"""Ending a TCP connection with RST, whatever event loop holds its socket."""

from __future__ import annotations

import asyncio
import os
import socket
import struct


def reset(transport: asyncio.WriteTransport) -> None:
    """Throw the socket away, so that the peer's next read fails with ECONNRESET. What was not sent yet is lost."""
    raw = transport.get_extra_info("socket")
    if raw is not None and raw.fileno() >= 0:
        # The option belongs to the open socket, which a duplicate shares; event loops hand out different proxies.
        with socket.socket(fileno=os.dup(raw.fileno())) as shared:
            shared.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()
