"""The client under test: echoes every message with the type that it came in, until the server closes."""

from __future__ import annotations

import asyncio
import json

from jetsocket_ingest.net.transport import Dial, DialOptions, Transport


class _Echo:
    """A `Listener` that sends back what it hears, and keeps it."""

    def __init__(self, *, echo: bool) -> None:
        self.transport: Transport
        self.closed: asyncio.Future[tuple[int, str]] = asyncio.get_running_loop().create_future()
        self.heard: list[bytes] = []
        self._echo = echo

    def on_messages(self, payloads: list[bytes], binary: bool, received_ns: int) -> None:
        if not self._echo:
            self.heard += payloads
            return
        for payload in payloads:
            self.transport.send(payload, binary=binary)

    def on_pong(self, payload: bytes) -> None:
        pass

    def on_close(self, code: int, reason: str) -> None:
        self.closed.set_result((code, reason))


async def echo(dial: Dial, url: str, timeout: float) -> tuple[int, str]:
    """Echo until the connection is gone; its close code and reason.

    Raises DialError, and TimeoutError where the connection is still there after `timeout` seconds.
    """
    return (await _converse(dial, url, timeout, echo=True)).closed.result()


async def ask(dial: Dial, url: str, timeout: float) -> object:
    """The JSON that the server says before it closes, None where it says nothing. Raises like `echo`."""
    heard = (await _converse(dial, url, timeout, echo=False)).heard
    return json.loads(heard[0]) if heard else None


async def _converse(dial: Dial, url: str, timeout: float, *, echo: bool) -> _Echo:
    listener = _Echo(echo=echo)
    async with asyncio.timeout(timeout):
        listener.transport = await dial(DialOptions(url, compression=echo), listener)
        try:
            await asyncio.shield(listener.closed)
        except asyncio.CancelledError:
            listener.transport.abort()
            await listener.closed
            raise
    return listener
