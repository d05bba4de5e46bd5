"""The engine that needs nothing native: handshake, compression and masking of `websockets`, frames cut by our loop."""

from __future__ import annotations

from jetsocket_ingest.net.connection import Connection
from jetsocket_ingest.net.dialling import open_connection
from jetsocket_ingest.net.frames import FrameReader
from jetsocket_ingest.net.transport import DialOptions, Listener, Transport


async def dial(options: DialOptions, listener: Listener) -> Transport:
    """See `Dial`."""
    return await open_connection(
        lambda options: Connection("websockets", options, listener, FrameReader), options
    )
