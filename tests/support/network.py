"""A network in memory: a `dial` whose peers do what a test tells them, in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from jetsocket_ingest.net.transport import DialOptions, Listener

START_NS = 1


class Peer:
    """The far end of one connection, and the `Transport` of the near end."""

    engine = "memory"
    subprotocol = None

    def __init__(self, network: Network, options: DialOptions, listener: Listener) -> None:
        self.network = network
        self.url = options.url
        self.listener = listener
        self.received: list[bytes] = []
        self.open = True
        self.reading = True
        self.mute = False
        self.deaf_to_close = False
        network.peers.append(self)

    # The near end

    def send(self, payload: bytes, *, binary: bool) -> None:
        if self.open:
            self.received.append(payload)
            if self.network.echo:
                asyncio.get_running_loop().call_later(self.network.latency, self.say, payload)

    async def drain(self) -> None:
        await asyncio.sleep(0)

    def ping(self, payload: bytes) -> None:
        if self.open and not self.mute:
            asyncio.get_running_loop().call_later(self.network.latency, self._pong, payload)

    def close(self, code: int, reason: str) -> None:
        if self.open and not self.deaf_to_close:
            asyncio.get_running_loop().call_later(self.network.latency, self.hang_up, code, reason)

    def abort(self) -> None:
        asyncio.get_running_loop().call_soon(self.hang_up, 1006, "")

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    # The far end

    def say(self, *payloads: bytes) -> None:
        if self.open:
            self.listener.on_messages(list(payloads), False, START_NS)

    def hang_up(self, code: int = 1006, reason: str = "") -> None:
        if self.open:
            self.open = False
            self.listener.on_close(code, reason)

    def _pong(self, payload: bytes) -> None:
        if self.open:
            self.listener.on_pong(payload)


class Network:
    """Where `dial` leads. `answers` decides, one call for each attempt, what becomes of it; by default it succeeds."""

    def __init__(self, *, latency: float = 0.01, echo: bool = False) -> None:
        self.latency = latency
        self.echo = echo
        self.peers: list[Peer] = []
        self.attempts: list[tuple[float, str]] = []
        self.dialling = 0
        self.most_open = 0
        self.answers: list[Callable[[], Awaitable[None]]] = []

    async def dial(self, options: DialOptions, listener: Listener) -> Peer:
        self.attempts.append((asyncio.get_running_loop().time(), options.url))
        self.dialling += 1
        self.most_open = max(self.most_open, self.dialling + len(self.live))
        try:
            await asyncio.sleep(self.latency)
            if self.answers:
                await self.answers.pop(0)()
            return Peer(self, options, listener)
        finally:
            self.dialling -= 1

    def refuse(self, *errors: Exception) -> None:
        """The next attempts fail, one with each error."""

        def raiser(error: Exception) -> Callable[[], Awaitable[None]]:
            async def answer() -> None:
                raise error

            return answer

        self.answers += [raiser(error) for error in errors]

    def ignore(self) -> None:
        """The next attempt is never answered."""

        async def answer() -> None:
            await asyncio.Event().wait()

        self.answers.append(answer)

    @property
    def live(self) -> list[Peer]:
        return [peer for peer in self.peers if peer.open]
