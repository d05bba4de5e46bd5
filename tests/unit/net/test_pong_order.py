"""A ping is answered before the messages that came with it are handed over."""

from __future__ import annotations

from jetsocket_ingest.net.engines import dial_for
from jetsocket_ingest.net.transport import Dial, Transport
from jetsocket_ingest.testing.transport_cases.peers import (
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    Heard,
    RawPeer,
    Scenarios,
    close_frame,
    frame,
    scenario,
    until,
)


class PongOrder(Scenarios):
    def dial(self) -> Dial:
        return dial_for(self.engine)  # type: ignore[arg-type]  # the subclasses below name engines

    async def answers(self, stream: bytes, count: int) -> list[tuple[int, bytes]]:
        """What a client that echoes its messages sends to a peer that sends `stream` in one write."""
        heard = Heard()
        answered: list[tuple[int, bytes]] = []
        echoing: list[Transport] = []

        def echo() -> None:
            for payload in heard.batches[-1][0]:
                echoing[0].send(payload, binary=False)

        async def script(peer: RawPeer) -> None:
            peer.send(stream)
            while len(answered) < count:
                answered.append(await peer.receive())

        heard.react = echo
        async with self.open(script, heard) as transport:
            echoing.append(transport)
            await until(lambda: len(answered) == count)
        return answered

    @scenario
    async def test_a_ping_between_fragments_is_answered_before_the_message_that_they_make(self) -> None:
        stream = frame(TEXT, b"ab", fin=False) + frame(PING, b"p") + frame(CONTINUATION, b"cd")
        assert await self.answers(stream, 2) == [(0x80 | PONG, b"p"), (0x80 | TEXT, b"abcd")]

    @scenario
    async def test_messages_glued_to_a_close_frame_are_answered_before_it(self) -> None:
        stream = frame(TEXT, b"a") + frame(PING, b"p") + frame(TEXT, b"b") + close_frame(1000)
        assert await self.answers(stream, 4) == [
            (0x80 | PONG, b"p"),
            (0x80 | TEXT, b"a"),
            (0x80 | TEXT, b"b"),
            (0x80 | CLOSE, b"\x03\xe8"),
        ]


class TestWebsockets(PongOrder):
    engine = "websockets"


class TestPicows(PongOrder):
    engine = "picows"
