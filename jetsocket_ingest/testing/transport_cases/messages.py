"""Scenarios: what messages arrive, in what hand-overs, and what breaks the rules."""

from __future__ import annotations

import random

from jetsocket_ingest.net.transport import HANDOVER_BYTES, HANDOVER_MESSAGES
from jetsocket_ingest.testing.transport_cases.peers import (
    BINARY,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    Heard,
    RawPeer,
    Scenarios,
    close_frame,
    frame,
    raw_server,
    scenario,
    until,
)


class MessageScenarios(Scenarios):
    """Frames to messages."""

    @scenario
    async def test_text_binary_and_empty_messages_arrive_in_order(self) -> None:
        heard = Heard()
        sent = [(b"a", False), (b"", False), (b"\xff\x00", True), (b"", True), ("ä€😀".encode(), False)]
        sent += [(b"x" * size, size % 2 == 0) for size in (125, 126, 65535, 65536, 300_000)]

        async def script(peer: RawPeer) -> None:
            peer.send(*[frame(BINARY if binary else TEXT, payload) for payload, binary in sent])

        async with self.open(script, heard):
            await heard.until_count(len(sent))
            assert heard.typed == sent

    @scenario
    async def test_messages_of_one_read_come_as_one_hand_over_with_one_time(self) -> None:
        heard = Heard()
        sent = [b"%d" % number for number in range(50)]

        async def script(peer: RawPeer) -> None:
            peer.send(*[frame(TEXT, payload) for payload in sent])

        async with self.open(script, heard):
            await heard.until_count(50)
            assert [payloads for payloads, _, _ in heard.batches] == [sent]

    @scenario
    async def test_hand_overs_are_bounded_whatever_a_read_brings(self) -> None:
        heard = Heard()
        small = [b"%d" % (number % 10) for number in range(30_000)]
        large = [b"y" * 1000] * 2000

        async def script(peer: RawPeer) -> None:
            peer.send(*[frame(TEXT, payload) for payload in small + large])

        async with self.open(script, heard):
            assert await heard.until_count(len(small + large)) == small + large
            assert max(len(payloads) for payloads, _, _ in heard.batches) <= HANDOVER_MESSAGES
            assert max(sum(map(len, payloads)) for payloads, _, _ in heard.batches) <= HANDOVER_BYTES

    @scenario
    async def test_a_change_of_type_within_a_read_splits_the_hand_over(self) -> None:
        heard = Heard()
        pattern = [TEXT, TEXT, BINARY, TEXT, BINARY, BINARY, TEXT]

        async def script(peer: RawPeer) -> None:
            peer.send(*[frame(opcode, b"%d" % number) for number, opcode in enumerate(pattern)])

        async with self.open(script, heard):
            await heard.until_count(len(pattern))
            assert [(payloads, binary) for payloads, binary, _ in heard.batches] == [
                ([b"0", b"1"], False),
                ([b"2"], True),
                ([b"3"], False),
                ([b"4", b"5"], True),
                ([b"6"], False),
            ]

    @scenario
    async def test_bytes_may_be_cut_anywhere(self) -> None:
        heard = Heard()
        sent = [b"", b"abc", b"z" * 126, b"w" * 70_000, b"end"]
        stream = b"".join(frame(TEXT, payload) for payload in sent)
        cuts = sorted(random.Random(7).sample(range(1, len(stream)), 40) + list(range(1, 12)))

        async def script(peer: RawPeer) -> None:
            for begin, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
                # The pong to a ping would not do as a sign that the piece was read: it may end within a frame.
                peer.send(stream[begin:end])
                await peer.writer.drain()

        async with self.open(script, heard):
            assert await heard.until_count(len(sent)) == sent

    @scenario
    async def test_messages_glued_to_the_handshake_are_not_lost(self) -> None:
        heard = Heard()

        async def script(peer: RawPeer) -> None:
            peer.accept(glued=frame(TEXT, b"early") + frame(TEXT, b"half")[:3])
            peer.send(frame(TEXT, b"half")[3:], frame(TEXT, b"late"))

        async with raw_server(script) as port:
            transport = await self.connect(port, heard)
            assert await heard.until_count(3) == [b"early", b"half", b"late"]
            await self.end(transport, heard)

    @scenario
    async def test_fragments_are_joined_with_control_frames_between_them(self) -> None:
        heard = Heard()
        text = "fragmented ä€😀".encode()
        cut = text.index(b"\xe2") + 1  # within a character

        async def script(peer: RawPeer) -> None:
            peer.send(frame(TEXT, b"before"))
            peer.send(
                frame(TEXT, text[:cut], fin=False), frame(PING, b"p1"), frame(CONTINUATION, b"", fin=False)
            )
            peer.send(frame(PONG, b"unasked"), frame(CONTINUATION, text[cut:]))
            peer.send(frame(BINARY, b"", fin=False), frame(CONTINUATION, b"\xff"), frame(TEXT, b"after"))
            assert await peer.receive() == (0x80 | PONG, b"p1")

        async with self.open(script, heard):
            await heard.until_count(4)
            assert heard.typed == [(b"before", False), (text, False), (b"\xff", True), (b"after", False)]
            assert heard.pongs == [b"unasked"]

    @scenario
    async def test_a_ping_is_answered_with_its_payload_and_a_pong_is_heard(self) -> None:
        heard = Heard()
        answered: list[bool] = []

        async def script(peer: RawPeer) -> None:
            peer.send(frame(PING), frame(PING, b"q" * 125))
            assert await peer.receive() == (0x80 | PONG, b"")
            assert await peer.receive() == (0x80 | PONG, b"q" * 125)
            answered.append(True)
            assert await peer.receive() == (0x80 | PING, b"are you there")
            peer.send(frame(PONG, b"are you there"))

        async with self.open(script, heard) as transport:
            await until(lambda: len(answered) == 1)
            transport.ping(b"are you there")
            await until(lambda: heard.pongs == [b"are you there"])

    @scenario
    async def test_what_is_sent_arrives_masked_and_whole(self) -> None:
        heard = Heard()
        sent = [
            (b"", False),
            ("grüß".encode(), False),
            (bytes(range(256)) * 300, True),
            (b"l" * 2_000_000, False),
        ]
        received = []

        async def script(peer: RawPeer) -> None:
            for _ in sent:
                first, payload = await peer.receive()
                received.append((payload, first == 0x80 | BINARY))
            peer.send(frame(TEXT, b"done"))

        async with self.open(script, heard) as transport:
            for payload, binary in sent:
                transport.send(payload, binary=binary)
            await heard.until_count(1)
            assert received == sent


# What breaks the rules: name, bytes after a good message, the code due.
_VIOLATIONS = [
    ("text that is not UTF-8", frame(TEXT, b"\xff"), 1007),
    ("a surrogate", frame(TEXT, b"\xed\xa0\x80"), 1007),
    (
        "fragments that together are not UTF-8",
        frame(TEXT, b"\xe2", fin=False) + frame(CONTINUATION, b"x"),
        1007,
    ),
    ("one oversize frame", frame(TEXT, b"x" * 5001), 1009),
    ("the header of an oversize frame", frame(BINARY, b"x" * 5001)[:4], 1009),
    ("the header of a huge frame", b"\x82\x7f\x7f" + b"\xff" * 7, 1009),
    ("oversize fragments", frame(TEXT, b"x" * 3000, fin=False) + frame(CONTINUATION, b"x" * 2001), 1009),
    (
        "endless fragments",
        frame(TEXT, b"x", fin=False) + frame(CONTINUATION, b"x" * 1000, fin=False) * 6,
        1009,
    ),
    ("RSV1 without compression", frame(TEXT, b"x", rsv=4), 1002),
    ("RSV2", frame(TEXT, b"x", rsv=2), 1002),
    ("RSV3 on a ping", frame(PING, b"x", rsv=1), 1002),
    ("opcode 3", frame(3, b"x"), 1002),
    ("opcode 11", frame(11, b""), 1002),
    ("a fragmented ping", frame(PING, b"x", fin=False), 1002),
    ("a ping of 126 bytes", frame(PING, b"x" * 126), 1002),
    ("a masked frame", frame(TEXT, b"x", mask=True), 1002),
    ("a continuation of nothing", frame(CONTINUATION, b"x"), 1002),
    ("a message within a message", frame(TEXT, b"x", fin=False) + frame(TEXT, b"y"), 1002),
    ("a fragment within a message", frame(TEXT, b"x", fin=False) + frame(BINARY, b"y", fin=False), 1002),
    ("a 16-bit length of 125", b"\x81\x7e\x00\x7d" + b"x" * 125, 1002),
    ("a 64-bit length of 65535", b"\x81\x7f\x00\x00\x00\x00\x00\x00\xff\xff" + b"x" * 10, 1002),
    ("a close frame of one byte", frame(8, b"\x03"), 1002),
    ("a close code of 999", close_frame(999), 1002),
    ("a close code of 1005", close_frame(1005), 1002),
    ("a close code of 1006", close_frame(1006), 1002),
    ("a close code of 5000", close_frame(5000), 1002),
    ("a close reason that is not UTF-8", close_frame(1000, b"\xff"), 1007),
]


class ViolationScenarios(Scenarios):
    """Broken rules: what came before is handed over, the peer is told the code, and so is the listener."""

    @scenario
    async def test_a_violation_ends_the_connection_with_its_code(self) -> None:
        for name, stream, code in _VIOLATIONS:
            heard = Heard()
            told: list[tuple[int, str]] = []

            async def script(
                peer: RawPeer, stream: bytes = stream, told: list[tuple[int, str]] = told
            ) -> None:
                peer.send(frame(TEXT, b"good"), stream, frame(TEXT, b"never seen"))
                told.append(await peer.closing())
                peer.writer.close()

            async with self.open(script, heard, max_message_size=5000):
                closed = await heard.until_closed()
                assert heard.messages == [b"good"], name
                assert closed[0] == code, (name, closed)
                assert closed[1], name
                assert [told_code for told_code, _ in told] == [code], name

    @scenario
    async def test_a_message_of_exactly_the_limit_is_taken(self) -> None:
        heard = Heard()
        sent = [b"x" * 5000, b"y" * 5000]

        async def script(peer: RawPeer) -> None:
            peer.send(frame(TEXT, sent[0]))
            peer.send(frame(TEXT, sent[1][:4000], fin=False), frame(CONTINUATION, sent[1][4000:]))

        async with self.open(script, heard, max_message_size=5000):
            assert await heard.until_count(2) == sent
