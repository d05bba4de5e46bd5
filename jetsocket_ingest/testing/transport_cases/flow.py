"""Scenarios: back-pressure both ways, and every way a connection ends."""

from __future__ import annotations

import asyncio
import socket
import tracemalloc
from collections.abc import Callable

from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from jetsocket_ingest.net.transport import HANDOVER_MESSAGES
from jetsocket_ingest.testing.transport_cases.peers import (
    BINARY,
    CLOSE,
    PING,
    PONG,
    TEXT,
    Heard,
    RawPeer,
    Scenarios,
    Script,
    close_frame,
    frame,
    scenario,
    turns,
    until,
)

MIB = 1024 * 1024


class FlowScenarios(Scenarios):
    """Slow readers and slow writers."""

    @scenario
    async def test_pausing_holds_the_peer_back_and_resuming_loses_nothing(self) -> None:
        heard = Heard()
        sent = [b"%07d" % number + b"." * 993 for number in range(20_000)]
        peers: list[RawPeer] = []

        async def script(peer: RawPeer) -> None:
            peers.append(peer)
            for payload in sent:
                peer.send(frame(TEXT, payload))

        async with self.open(script, heard) as transport:
            heard.react = transport.pause_reading
            await heard.until_count(1)
            count = len(heard.messages)
            await turns(300)
            waiting = peers[0].writer.transport.get_write_buffer_size()
            assert waiting > MIB, "the kernel's buffers are full, the rest waits at the peer"
            await turns(300)
            assert peers[0].writer.transport.get_write_buffer_size() == waiting
            assert len(heard.messages) == count, "messages were handed over while paused"
            heard.react = None
            transport.resume_reading()
            assert len(heard.messages) == count, "resuming hands over on a later turn"
            assert await heard.until_count(len(sent)) == sent

    @scenario
    async def test_pausing_within_a_read_holds_back_the_rest_of_it(self) -> None:
        heard = Heard()
        sent = [frame(opcode, b"%d" % number) for number, opcode in enumerate([TEXT, BINARY] * 50)]

        async def script(peer: RawPeer) -> None:
            peer.send(*sent)

        async with self.open(script, heard) as transport:
            heard.react = transport.pause_reading
            for count in range(1, len(sent) + 1):
                await heard.until_count(count)
                await turns(3)
                assert len(heard.messages) == count
                transport.resume_reading()
                transport.pause_reading()
                transport.resume_reading()
            assert heard.messages == [b"%d" % number for number in range(100)]

    @scenario
    async def test_pausing_before_the_first_message_holds_it_back(self) -> None:
        heard = Heard()

        async def script(peer: RawPeer) -> None:
            peer.send(frame(TEXT, b"first"))

        async with self.open(script, heard) as transport:
            transport.pause_reading()
            transport.pause_reading()
            await turns(100)
            assert heard.messages == []
            transport.resume_reading()
            assert await heard.until_count(1) == [b"first"]

    @scenario
    async def test_messages_before_the_end_are_handed_over_after_resuming_then_the_end_is_told(self) -> None:
        heard = Heard()

        async def script(peer: RawPeer) -> None:
            peer.send(frame(TEXT, b"1"), frame(BINARY, b"2"), frame(TEXT, b"3"), close_frame(4000, b"bye"))
            peer.writer.close()

        async with self.open(script, heard) as transport:
            heard.react = transport.pause_reading
            await heard.until_count(1)
            await turns(100)
            assert (heard.messages, heard.closed) == ([b"1"], None)
            heard.react = None
            transport.resume_reading()
            assert await heard.until_closed() == (4000, "bye")
            assert heard.messages == [b"1", b"2", b"3"]

    @scenario
    async def test_drain_waits_for_a_peer_that_does_not_read(self) -> None:
        heard = Heard()
        allowed = asyncio.Event()
        received = 0

        async def script(peer: RawPeer) -> None:
            nonlocal received
            peer.stop_reading()
            await allowed.wait()
            peer.start_reading()
            for _ in range(32):
                _, payload = await peer.receive()
                received += len(payload)
            peer.send(frame(TEXT, b"done"))

        async with self.open(script, heard) as transport:
            await transport.drain()
            for _ in range(32):
                transport.send(bytes(MIB), binary=True)
            draining = asyncio.ensure_future(transport.drain())
            await turns(100)
            assert not draining.done()
            allowed.set()
            await draining
            await heard.until_count(1)
            assert received == 32 * MIB

    @scenario
    async def test_drain_ends_with_the_connection(self) -> None:
        heard = Heard()

        async def script(peer: RawPeer) -> None:
            peer.stop_reading()
            await asyncio.Event().wait()

        async with self.open(script, heard) as transport:
            for _ in range(32):
                transport.send(bytes(MIB), binary=True)
            draining = [asyncio.ensure_future(transport.drain()) for _ in range(2)]
            await turns(100)
            assert not any(task.done() for task in draining)
            draining[0].cancel()
            transport.abort()
            await draining[1]
            await transport.drain()

    @scenario
    async def test_pings_of_a_peer_that_does_not_read_fill_no_memory(self) -> None:
        heard = Heard()
        flood = frame(PING, b"p" * 125) * 1000

        async def script(peer: RawPeer) -> None:
            raw = peer.writer.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
            peer.stop_reading()
            for _ in range(50):
                peer.send(flood)
                await peer.writer.drain()
            peer.send(frame(TEXT, b"done"))
            await peer.writer.drain()
            await asyncio.Event().wait()

        async with self.open(script, heard):
            tracemalloc.start()
            try:
                await heard.until_count(1)
                peak = tracemalloc.get_traced_memory()[1]
            finally:
                tracemalloc.stop()
            # The answers are 7 MB, of which the kernel takes four at most.
            assert peak < 2 * MIB, f"{peak} bytes"

    @scenario
    async def test_a_flood_leaves_the_loop_to_others(self) -> None:
        heard = Heard()
        count = 200_000
        a_turn: list[int] = []

        async def script(peer: RawPeer) -> None:
            peer.send(frame(TEXT, b"tiny") * count)

        async with self.open(script, heard):
            seen = 0
            while seen < count:
                await turns(1)
                total = sum(len(payloads) for payloads, _, _ in heard.batches)
                a_turn.append(total - seen)
                seen = total
            assert max(a_turn) <= 2 * HANDOVER_MESSAGES, max(a_turn)


class EndScenarios(Scenarios):
    """Closing handshakes, and ends without one."""

    @scenario
    async def test_a_close_by_the_peer_is_answered_and_told(self) -> None:
        for code, reason in ((1000, ""), (1001, "going"), (1013, "later"), (3000, "ü" * 61), (4999, "x")):
            heard = Heard()
            answers: list[tuple[int, str]] = []

            async def script(
                peer: RawPeer,
                code: int = code,
                reason: str = reason,
                answers: list[tuple[int, str]] = answers,
            ) -> None:
                peer.send(frame(TEXT, b"last"), close_frame(code, reason.encode()), frame(TEXT, b"too late"))
                answers.append(await peer.closing())
                peer.writer.close()

            async with self.open(script, heard):
                assert await heard.until_closed() == (code, reason)
                assert heard.messages == [b"last"]
                assert answers == [(code, reason)]

    @scenario
    async def test_a_close_without_a_code_is_1005(self) -> None:
        heard = Heard()

        async def script(peer: RawPeer) -> None:
            peer.send(frame(CLOSE))
            assert await peer.receive() == (0x80 | CLOSE, b"")
            peer.writer.close()

        async with self.open(script, heard):
            assert await heard.until_closed() == (1005, "")

    @scenario
    async def test_our_close_is_answered_by_a_real_server(self) -> None:
        heard = Heard()
        ends: list[ConnectionClosed] = []

        async def handler(server: ServerConnection) -> None:
            try:
                await server.recv()
            except ConnectionClosed as error:
                ends.append(error)

        async with serve(handler, "127.0.0.1", 0) as server:
            transport = await self.connect(server.sockets[0].getsockname()[1], heard)
            transport.close(3001, "enough")
            transport.close(1000, "again")
            transport.send(b"after closing", binary=False)
            transport.ping(b"after closing")
            assert await heard.until_closed() == (3001, "enough")
            await until(lambda: len(ends) == 1)
            assert ends[0].rcvd is not None
            assert (ends[0].rcvd.code, ends[0].rcvd.reason) == (3001, "enough")

    @scenario
    async def test_messages_arrive_until_the_peer_answers_our_close(self) -> None:
        heard = Heard()

        async def script(peer: RawPeer) -> None:
            assert await peer.closing() == (1000, "")
            peer.send(frame(TEXT, b"on its way"), close_frame(1000), frame(TEXT, b"too late"))
            peer.writer.close()

        async with self.open(script, heard) as transport:
            transport.close(1000, "")
            assert await heard.until_closed() == (1000, "")
            assert heard.messages == [b"on its way"]

    @scenario
    async def test_a_long_reason_is_cut_at_a_character(self) -> None:
        heard = Heard()
        seen: list[tuple[int, str]] = []

        async def script(peer: RawPeer) -> None:
            seen.append(await peer.closing())
            peer.send(close_frame(1000))
            peer.writer.close()

        async with self.open(script, heard) as transport:
            transport.close(1000, "x" + "€" * 100)
            await heard.until_closed()
            assert seen == [(1000, "x" + "€" * 40)]

    @scenario
    async def test_a_code_that_no_frame_may_hold_is_the_callers_mistake(self) -> None:
        heard = Heard()

        async def script(peer: RawPeer) -> None:
            pass

        async with self.open(script, heard) as transport:
            mistakes: list[Callable[[], None]] = [
                lambda: transport.close(1006, ""),
                lambda: transport.ping(b"x" * 126),
            ]
            for call in mistakes:
                try:
                    call()
                except ValueError:
                    continue
                raise AssertionError("expected ValueError")

    @scenario
    async def test_a_peer_that_does_not_answer_our_close_is_dropped_by_abort(self) -> None:
        heard = Heard()

        async def script(peer: RawPeer) -> None:
            await peer.closing()

        async with self.open(script, heard) as transport:
            transport.close(1000, "bye")
            await turns(50)
            assert heard.closed is None
            transport.abort()
            assert heard.closed is None, "the end is told on a later turn"
            assert await heard.until_closed() == (1000, "bye")

    @scenario
    async def test_an_end_without_a_close_frame_is_1006(self) -> None:
        for rst in (False, True):
            heard = Heard()

            async def script(peer: RawPeer, rst: bool = rst) -> None:
                peer.send(frame(TEXT, b"whole"))
                assert await peer.receive() == (0x80 | BINARY, b"got it")
                peer.send(frame(TEXT, b"cut off")[:4])
                await peer.writer.drain()
                if rst:
                    peer.reset()
                else:
                    peer.writer.close()

            async with self.open(script, heard) as transport:
                await heard.until_count(1)
                transport.send(b"got it", binary=True)
                code, reason = await heard.until_closed()
                assert code == 1006
                assert reason
                assert heard.messages == [b"whole"]

    @scenario
    async def test_a_peer_that_does_not_hang_up_after_the_end_is_dropped(self) -> None:
        async def closes(peer: RawPeer) -> None:
            peer.send(close_frame(1001, b"bye"))

        async def violates(peer: RawPeer) -> None:
            peer.send(frame(TEXT, b"\xff"))

        async def half_closes(peer: RawPeer) -> None:
            peer.stop_reading()
            peer.writer.write_eof()
            await asyncio.Event().wait()

        async def ended(script: Script) -> int:
            heard = Heard()
            async with self.open(script, heard) as transport:
                for _ in range(16):
                    transport.send(bytes(MIB), binary=True)
                return (await heard.until_closed())[0]

        codes = await asyncio.gather(ended(closes), ended(violates), ended(half_closes))
        assert list(codes) == [1001, 1007, 1006]

    @scenario
    async def test_abort_hands_over_nothing_more(self) -> None:
        heard = Heard()

        async def script(peer: RawPeer) -> None:
            peer.send(*[frame(opcode, b"x") for opcode in [TEXT, BINARY] * 20], frame(PONG, b"late"))

        async with self.open(script, heard) as transport:
            heard.react = transport.abort
            closed = await heard.until_closed()
            await turns(20)
            assert closed[0] == 1006
            assert heard.messages == [b"x"]
            assert heard.pongs == []
            # Whatever is called on a connection that is gone does nothing.
            transport.send(b"x", binary=False)
            transport.ping(b"")
            transport.close(1000, "")
            transport.pause_reading()
            transport.resume_reading()
            transport.abort()
            await transport.drain()
            await turns(20)

    @scenario
    async def test_a_connection_lost_while_paused_ends_after_what_was_held_back_or_by_abort(self) -> None:
        for resume in (True, False):
            heard = Heard()
            broken = asyncio.Event()

            async def script(peer: RawPeer, broken: asyncio.Event = broken) -> None:
                peer.send(frame(TEXT, b"1"), frame(BINARY, b"2"), frame(TEXT, b"3"))
                await broken.wait()
                peer.reset()

            async with self.open(script, heard) as transport:
                heard.react = transport.pause_reading
                await heard.until_count(1)
                broken.set()
                for _ in range(50):
                    # Only writing shows that the peer is gone.
                    transport.send(b"x", binary=False)
                    await turns(2)
                assert (heard.messages, heard.closed) == ([b"1"], None)
                heard.react = None
                if resume:
                    transport.resume_reading()
                else:
                    transport.abort()
                    assert heard.closed is None, "the end is told on a later turn"
                assert (await heard.until_closed())[0] == 1006
                assert heard.messages == ([b"1", b"2", b"3"] if resume else [b"1"])

    @scenario
    async def test_abort_while_paused_tells_the_end_without_what_was_held_back(self) -> None:
        heard = Heard()

        async def script(peer: RawPeer) -> None:
            peer.send(frame(TEXT, b"1"), frame(BINARY, b"2"))

        async with self.open(script, heard) as transport:
            heard.react = transport.pause_reading
            await heard.until_count(1)
            transport.abort()
            assert (await heard.until_closed())[0] == 1006
            assert heard.messages == [b"1"]
