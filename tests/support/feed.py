"""A plain client of the embedded feed, and a feed that sends only what it is told to."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, cast

from websockets.asyncio.client import ClientConnection, connect

from jetsocket_ingest.testing.feed import FeedOptions, FeedServer

BTC, ETH = "trades.BTC-USD", "book.ETH-USD"


@contextlib.asynccontextmanager
async def client(feed: FeedServer, path: str, **options: Any) -> AsyncIterator[ClientConnection]:
    """A client that has been seen by the feed; it reads whether it is asked to or not, so that closing is quick."""
    before = feed.accepted
    settings = {"compression": None, "ping_interval": None, "max_queue": None, **options}
    async with connect(feed.url + path, **settings) as socket:
        await feed.wait_for(lambda feed: feed.accepted > before)
        yield socket


async def ask(socket: ClientConnection, request: object) -> Any:
    await socket.send(request if isinstance(request, str | bytes) else json.dumps(request))
    return json.loads(await socket.recv())


async def numbers(socket: ClientConnection, count: int) -> list[int]:
    return [json.loads(await socket.recv())["seq"] for _ in range(count)]


def manual(**options: Any) -> FeedServer:
    return FeedServer(FeedOptions(**{"rate": 0, "streams": [BTC, ETH], **options}))


@dataclass(slots=True)
class SlowClient:
    """A client that reads only when told to. It holds the writer, which closes the socket when nobody does."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    @property
    def transport(self) -> asyncio.Transport:
        return cast("asyncio.Transport", self.writer.transport)


async def unread(feed: FeedServer, path: str) -> SlowClient:
    """A client that completes its handshake and reads nothing more."""
    reader, writer = await asyncio.open_connection("127.0.0.1", feed.port, limit=1024)
    key = "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13"
    writer.write(
        f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n{key}\r\n\r\n".encode()
    )
    assert b" 101 " in await reader.readuntil(b"\r\n\r\n")
    client = SlowClient(reader, writer)
    client.transport.pause_reading()
    return client
