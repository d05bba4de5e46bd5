"""Scenarios: permessage-deflate, its bombs included."""

from __future__ import annotations

import tracemalloc
import zlib

from websockets.asyncio.server import ServerConnection, serve
from websockets.extensions.permessage_deflate import ServerPerMessageDeflateFactory

from jetsocket_ingest.testing.transport_cases.peers import (
    BINARY,
    CONTINUATION,
    PING,
    TEXT,
    Heard,
    RawPeer,
    Scenarios,
    frame,
    raw_server,
    scenario,
)


class CompressionScenarios(Scenarios):
    """permessage-deflate."""

    @scenario
    async def test_compressed_messages_go_both_ways_with_and_without_context_takeover(self) -> None:
        sent = [b'{"price":%d,"text":"\xc3\xa4"}' % number for number in range(300)] + [b"", b"x" * 200_000]
        for keep in (True, False):
            for bits in (15, 10):
                heard = Heard()
                received: list[bytes] = []

                async def handler(server: ServerConnection, received: list[bytes] = received) -> None:
                    for payload in sent:
                        await server.send(payload, text=True)
                        await server.send(payload)
                    async for message in server:
                        received.append(message if isinstance(message, bytes) else message.encode())
                        if len(received) == len(sent):
                            return

                factory = ServerPerMessageDeflateFactory(
                    server_no_context_takeover=not keep,
                    client_no_context_takeover=not keep,
                    server_max_window_bits=bits,
                    client_max_window_bits=bits,
                )
                async with serve(handler, "127.0.0.1", 0, extensions=[factory], compression=None) as server:
                    port = server.sockets[0].getsockname()[1]
                    transport = await self.connect(port, heard, compression=True)
                    for payload in sent:
                        transport.send(payload, binary=False)
                    await heard.until_closed()
                    assert heard.messages == [payload for payload in sent for _ in range(2)]
                    assert received == sent

    @scenario
    async def test_what_is_sent_is_compressed_as_agreed(self) -> None:
        text = b"the same words again and again, " * 10
        for agreed in ("", "; client_no_context_takeover"):
            heard = Heard()
            sizes: list[int] = []

            async def script(peer: RawPeer, agreed: str = agreed, sizes: list[int] = sizes) -> None:
                peer.accept(f"Sec-WebSocket-Extensions: permessage-deflate{agreed}")
                inflater = zlib.decompressobj(wbits=-15)
                for _ in range(3):
                    first, payload = await peer.receive()
                    assert first == 0x80 | 0x40 | TEXT, "RSV1 marks a compressed message"
                    if agreed:
                        inflater = zlib.decompressobj(wbits=-15)
                    assert inflater.decompress(payload + b"\0\0\xff\xff") == text
                    sizes.append(len(payload))
                peer.send(frame(TEXT, b"done"))

            async with raw_server(script) as port:
                transport = await self.connect(port, heard, compression=True)
                for _ in range(3):
                    transport.send(text, binary=False)
                await heard.until_count(1)
                await self.end(transport, heard)
            assert sizes[0] < len(text) // 2
            assert (sizes[1] == sizes[0]) is bool(agreed), (
                "a message refers to earlier ones only with context takeover"
            )

    @scenario
    async def test_a_peer_without_context_takeover_may_not_refer_to_earlier_messages(self) -> None:
        heard = Heard()
        compressor = zlib.compressobj(wbits=-15)
        first, second = (_deflate(compressor, b"words that repeat") for _ in range(2))

        async def script(peer: RawPeer) -> None:
            peer.accept("Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover")
            peer.send(frame(TEXT, first, rsv=4), frame(TEXT, second, rsv=4))
            await peer.closing()
            peer.writer.close()

        async with raw_server(script) as port:
            await self.connect(port, heard, compression=True)
            assert (await heard.until_closed())[0] == 1002
            assert heard.messages == [b"words that repeat"]

    @scenario
    async def test_compression_is_used_only_where_the_peer_agrees(self) -> None:
        heard = Heard()

        async def script(peer: RawPeer) -> None:
            offer = peer.header("Sec-WebSocket-Extensions") or ""
            assert offer.startswith("permessage-deflate"), offer
            assert "client_max_window_bits" in offer
            peer.accept()
            assert await peer.receive() == (0x80 | TEXT, b"plain")
            peer.send(frame(TEXT, b"plain too"), frame(TEXT, b"x", rsv=4))
            await peer.closing()
            peer.writer.close()

        async with raw_server(script) as port:
            transport = await self.connect(port, heard, compression=True)
            transport.send(b"plain", binary=False)
            assert (await heard.until_closed())[0] == 1002
            assert heard.messages == [b"plain too"]

    @scenario
    async def test_compressed_fragments_and_plain_messages_mix(self) -> None:
        heard = Heard()
        compressor = zlib.compressobj(wbits=-15)
        first, second = b"hello " * 100, b"again " * 100
        packed = [_deflate(compressor, first), _deflate(compressor, second)]

        async def script(peer: RawPeer) -> None:
            peer.accept("Sec-WebSocket-Extensions: permessage-deflate")
            peer.send(
                frame(TEXT, packed[0][:5], rsv=4, fin=False), frame(PING), frame(CONTINUATION, packed[0][5:])
            )
            peer.send(frame(TEXT, b"plain"), frame(TEXT, b"pl", fin=False), frame(CONTINUATION, b"ain"))
            peer.send(frame(TEXT, packed[1], rsv=4))

        async with raw_server(script) as port:
            transport = await self.connect(port, heard, compression=True)
            assert await heard.until_count(4) == [first, b"plain", b"plain", second]
            await self.end(transport, heard)

    @scenario
    async def test_a_final_deflate_block_does_not_silence_what_follows(self) -> None:
        heard = Heard()
        final = zlib.compressobj(wbits=-15)
        packed = final.compress(b"final") + final.flush(zlib.Z_FINISH) + b"\0"

        async def script(peer: RawPeer) -> None:
            peer.accept("Sec-WebSocket-Extensions: permessage-deflate")
            peer.send(frame(TEXT, packed, rsv=4), frame(TEXT, packed, rsv=4))
            peer.send(frame(TEXT, _deflate(zlib.compressobj(wbits=-15), b"usual"), rsv=4))

        async with raw_server(script) as port:
            transport = await self.connect(port, heard, compression=True)
            assert await heard.until_count(3) == [b"final", b"final", b"usual"]
            await self.end(transport, heard)

    @scenario
    async def test_corrupt_and_oversize_compressed_messages_are_refused(self) -> None:
        good = _deflate(zlib.compressobj(wbits=-15), b"x" * 5000)
        long = _deflate(zlib.compressobj(wbits=-15), b"x" * 5001)
        compressor = zlib.compressobj(wbits=-15)
        parts = [
            frame(
                TEXT, compressor.compress(b"x" * 5000) + compressor.flush(zlib.Z_SYNC_FLUSH), rsv=4, fin=False
            ),
            frame(CONTINUATION, _deflate(compressor, b"y")),
        ]
        for stream, code in (
            (frame(TEXT, b"\xff\xff\xff", rsv=4), 1002),
            (frame(TEXT, long, rsv=4), 1009),
            (b"".join(parts), 1009),
            (frame(TEXT, _deflate(zlib.compressobj(wbits=-15), b"\xff"), rsv=4), 1007),
            (frame(TEXT, b"", fin=False) + frame(CONTINUATION, b"", rsv=4), 1002),
        ):
            heard = Heard()

            async def script(peer: RawPeer, stream: bytes = stream) -> None:
                peer.accept("Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover")
                peer.send(frame(TEXT, good, rsv=4), stream)
                await peer.closing()
                peer.writer.close()

            async with raw_server(script) as port:
                await self.connect(port, heard, compression=True, max_message_size=5000)
                closed = await heard.until_closed()
                assert closed[0] == code, (stream[:20], closed)
                assert heard.messages == [b"x" * 5000]

    @scenario
    async def test_a_compression_bomb_ends_with_1009_in_bounded_memory(self) -> None:
        heard = Heard()
        limit = 8 * 1024 * 1024
        compressor = zlib.compressobj(level=9, wbits=-15)
        zeros = bytes(1 << 20)
        bomb = (
            b"".join(compressor.compress(zeros) for _ in range(200))
            + compressor.flush(zlib.Z_SYNC_FLUSH)[:-4]
        )

        async def script(peer: RawPeer) -> None:
            peer.accept("Sec-WebSocket-Extensions: permessage-deflate")
            peer.send(frame(BINARY, bomb, rsv=4))
            await peer.closing()
            peer.writer.close()

        async with raw_server(script) as port:
            await self.connect(port, heard, compression=True, max_message_size=limit)
            tracemalloc.start()
            try:
                closed = await heard.until_closed()
                peak = tracemalloc.get_traced_memory()[1]
            finally:
                tracemalloc.stop()
            assert closed[0] == 1009
            assert heard.messages == []
            assert peak <= 2 * limit, f"{peak} bytes for a limit of {limit}"

    @scenario
    async def test_many_messages_that_inflate_far_are_handed_over_in_bounded_pieces(self) -> None:
        heard = Heard()
        message = bytes(200_000)
        packed = _deflate(zlib.compressobj(wbits=-15), message)

        async def script(peer: RawPeer) -> None:
            peer.accept("Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover")
            peer.send(frame(BINARY, packed, rsv=4) * 100)

        async with raw_server(script) as port:
            transport = await self.connect(port, heard, compression=True)
            assert await heard.until_count(100) == [message] * 100
            assert max(len(payloads) for payloads, _, _ in heard.batches) <= 2
            await self.end(transport, heard)


def _deflate(compressor: zlib._Compress, payload: bytes) -> bytes:
    """A message as permessage-deflate sends it."""
    return (compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]
