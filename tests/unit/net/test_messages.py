"""Frames to messages, for both sources of frames: bytes cut anywhere, rules broken, compression."""

from __future__ import annotations

import asyncio
import random
import tracemalloc
import zlib
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.frames import Frame
from websockets.protocol import CLIENT, Protocol

from jetsocket_ingest.net.engine_picows import PicowsFrames
from jetsocket_ingest.net.frames import FrameReader
from jetsocket_ingest.net.messages import FrameSource, Inflater, MessageAssembler, Violation
from jetsocket_ingest.net.transport import HANDOVER_BYTES, HANDOVER_MESSAGES
from jetsocket_ingest.testing.transport_cases.peers import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    close_frame,
    frame,
)

MakeFrames = Callable[[int, bool], FrameSource]
LIMIT = 1 << 20


@pytest.fixture(params=[FrameReader, PicowsFrames])
def make_frames(request: pytest.FixtureRequest) -> Iterator[MakeFrames]:
    """Both engines' frame sources, in a running loop, which picows asks for."""

    def make(limit: int, compressed: bool) -> FrameSource:
        source: FrameSource = request.param(limit, compressed)
        return source

    loop = asyncio.new_event_loop()
    asyncio._set_running_loop(loop)
    yield make
    asyncio._set_running_loop(None)
    loop.close()


class Outcome:
    """What came out of a stream of bytes."""

    def __init__(
        self, make_frames: MakeFrames, pieces: list[bytes], *, limit: int = LIMIT, compressed: bool = False
    ) -> None:
        inflater = Inflater(window_bits=15, context_takeover=True) if compressed else None
        self.assembler = MessageAssembler(make_frames(limit, compressed), limit, inflater)
        self.batches: list[tuple[list[bytes], bool, int]] = []
        self.violation: Violation | None = None
        for piece in pieces:
            self.assembler.feed(memoryview(piece))
            try:
                while (batch := self.assembler.next_batch()) is not None:
                    self.batches.append(batch)
            except Violation as violation:
                self.violation = violation
                break

    @property
    def messages(self) -> list[tuple[bytes, bool]]:
        return [(payload, binary) for payloads, binary, _ in self.batches for payload in payloads]

    @property
    def controls(self) -> list[tuple[int, bytes]]:
        return self.assembler.controls


payloads = st.one_of(
    st.binary(max_size=20),
    st.text(max_size=20).map(str.encode),
    st.sampled_from([0, 124, 125, 126, 127, 300, 65535, 65536, 70_000]).map(lambda size: b"x" * size),
)


@st.composite
def streams(draw: st.DrawFn) -> tuple[list[bytes], list[tuple[bytes, bool]], list[tuple[int, bytes]]]:
    """Frames of good messages, some in fragments with control frames between; the messages; the control frames."""
    frames: list[bytes] = []
    messages: list[tuple[bytes, bool]] = []
    controls: list[tuple[int, bytes]] = []
    for payload in draw(st.lists(payloads, max_size=12)):
        try:
            payload.decode()
            binary = draw(st.booleans())
        except UnicodeDecodeError:
            binary = True
        messages.append((payload, binary))
        cuts = sorted(draw(st.lists(st.integers(0, len(payload)), max_size=3)))
        bounds = [0, *cuts, len(payload)]
        for number in range(len(bounds) - 1):
            opcode = CONTINUATION if number else BINARY if binary else TEXT
            frames.append(
                frame(opcode, payload[bounds[number] : bounds[number + 1]], fin=number == len(bounds) - 2)
            )
            if draw(st.integers(0, 4)) == 0:
                control = (draw(st.sampled_from([PING, PONG])), draw(st.binary(max_size=125)))
                controls.append(control)
                frames.append(frame(*control))
    return frames, messages, controls


def cut(stream: bytes, seed: int) -> list[bytes]:
    """The stream in pieces, many of them tiny."""
    chance = random.Random(seed)
    pieces = []
    while stream:
        size = chance.choice([1, 2, 3, 5, 130, 9000, 100_000])
        pieces.append(stream[:size])
        stream = stream[size:]
    return pieces


def reference(pieces: list[bytes]) -> tuple[list[tuple[bytes, bool]], Exception | None]:
    """What the parser of websockets makes of it; it looks at neither UTF-8 nor the shortest form of a length."""
    protocol = Protocol(CLIENT, max_size=LIMIT)
    messages = []
    joined = b""
    binary = False
    for piece in pieces:
        protocol.receive_data(piece)
        for event in protocol.events_received():
            assert isinstance(event, Frame)
            if event.opcode in (TEXT, BINARY, CONTINUATION):
                binary = binary if event.opcode == CONTINUATION else event.opcode == BINARY
                joined += event.data
                if event.fin:
                    messages.append((joined, binary))
                    joined = b""
    error = protocol.parser_exc
    if "incomplete fragmented message" in str(error):
        error = None  # we let a peer close in the middle of a message
    return messages, error


class TestStreams:
    @settings(max_examples=150, deadline=None)
    @given(streams(), st.integers(0, 1 << 30))
    def test_good_streams_give_their_messages_however_they_are_cut(
        self,
        stream: tuple[list[bytes], list[tuple[bytes, bool]], list[tuple[int, bytes]]],
        seed: int,
    ) -> None:
        frames, messages, controls = stream

        async def check() -> None:
            for make in (FrameReader, PicowsFrames):
                outcome = Outcome(make, cut(b"".join(frames), seed))
                assert outcome.violation is None
                assert outcome.messages == messages
                assert outcome.controls == controls

        asyncio.run(check())

    @settings(max_examples=300, deadline=None)
    @given(
        streams(),
        st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=3),
        st.data(),
    )
    def test_broken_streams_end_alike_with_both_sources_and_in_the_reference(
        self,
        stream: tuple[list[bytes], list[tuple[bytes, bool]], list[tuple[int, bytes]]],
        changes: list[tuple[float, int]],
        data: st.DataObject,
    ) -> None:
        broken = bytearray(b"".join(stream[0]) + close_frame(1000))
        for place, value in changes:
            broken[int(place * (len(broken) - 1))] = value
        pieces = cut(bytes(broken), data.draw(st.integers(0, 1 << 30)))

        async def check() -> tuple[Outcome, Outcome]:
            return Outcome(FrameReader, pieces), Outcome(PicowsFrames, pieces)

        ours, picows = asyncio.run(check())
        assert picows.messages == ours.messages
        # picows may find it later: it looks at some bits of whole frames only.
        if picows.violation is not None:
            assert ours.violation is not None
            # Of a close frame with two faults, picows names the one in its payload, we the one in its first byte.
            if not picows.violation.reason.startswith("Received CLOSE"):
                assert picows.violation.code == ours.violation.code
        messages, error = reference(pieces)
        assert messages[: len(ours.messages)] == ours.messages
        if ours.violation is None:
            assert messages == ours.messages
            assert error is None

    def test_a_run_of_small_messages_is_split_by_count(self, make_frames: MakeFrames) -> None:
        sent = [b"%d" % number for number in range(2 * HANDOVER_MESSAGES + 1)]
        outcome = Outcome(make_frames, [b"".join(frame(TEXT, payload) for payload in sent)])
        assert [len(payloads) for payloads, _, _ in outcome.batches] == [
            HANDOVER_MESSAGES,
            HANDOVER_MESSAGES,
            1,
        ]
        assert [payload for payload, _ in outcome.messages] == sent

    def test_a_run_of_large_messages_is_split_by_bytes(self, make_frames: MakeFrames) -> None:
        outcome = Outcome(make_frames, [frame(BINARY, b"x" * 100_000) * 5 + frame(BINARY, b"y" * 600_000)])
        sizes = [sum(map(len, payloads)) for payloads, _, _ in outcome.batches]
        assert sizes == [200_000, 200_000, 100_000, 600_000]
        assert all(len(payloads) == 1 for payloads, _, size in outcome.batches if size > HANDOVER_BYTES)

    def test_fragments_and_whole_messages_share_a_batch(self, make_frames: MakeFrames) -> None:
        stream = frame(TEXT, b"1") + frame(TEXT, b"2", fin=False) + frame(PING) + frame(CONTINUATION, b"2")
        outcome = Outcome(make_frames, [stream + frame(TEXT, b"3")])
        assert [payloads for payloads, _, _ in outcome.batches] == [[b"1", b"22", b"3"]]

    def test_what_follows_a_close_frame_is_not_looked_at(self, make_frames: MakeFrames) -> None:
        outcome = Outcome(make_frames, [frame(TEXT, b"1") + close_frame(1000) + frame(TEXT, b"2"), frame(3)])
        assert (outcome.messages, outcome.controls) == ([(b"1", False)], [(CLOSE, b"\x03\xe8")])
        assert outcome.violation is None

    def test_only_the_messages_before_invalid_text_are_handed_over(self, make_frames: MakeFrames) -> None:
        stream = frame(TEXT, "ä".encode()) + frame(TEXT, b"\xc3") + frame(TEXT, b"\xa4")
        outcome = Outcome(make_frames, [stream, frame(TEXT, b"later")])
        assert outcome.messages == [("ä".encode(), False)]
        assert outcome.violation is not None
        assert outcome.violation.code == 1007
        with pytest.raises(Violation):
            outcome.assembler.next_batch()

    def test_text_is_checked_also_where_a_later_frame_of_the_read_is_bad(
        self, make_frames: MakeFrames
    ) -> None:
        for bad in (frame(3), frame(TEXT, b"x", rsv=2), frame(CONTINUATION), close_frame(999)):
            stream = frame(TEXT, b"good") + frame(TEXT, b"\xff") + bad
            outcome = Outcome(make_frames, [stream])
            assert outcome.messages == [(b"good", False)]
            assert outcome.violation is not None
            assert outcome.violation.code == 1007

    def test_bytes_fed_before_the_last_ones_were_taken_keep_their_order(
        self, make_frames: MakeFrames
    ) -> None:
        assembler = MessageAssembler(make_frames(LIMIT, False), LIMIT)
        stream = b"".join(frame(opcode, b"%d" % number) for number, opcode in enumerate([TEXT, BINARY] * 20))
        for begin in range(0, len(stream), 7):
            assembler.feed(memoryview(stream[begin : begin + 7]))
        seen = []
        while (batch := assembler.next_batch()) is not None:
            seen += batch[0]
        assert seen == [b"%d" % number for number in range(40)]

    def test_a_bad_header_is_refused_before_its_payload_came(self) -> None:
        for head, code in (
            (b"\x83\x05", 1002),
            (b"\x89\x7e", 1002),
            (b"\x81\x85", 1002),
            (b"\x81\xff", 1002),
        ):
            outcome = Outcome(FrameReader, [frame(TEXT, b"good") + head])
            assert outcome.messages == [(b"good", False)]
            assert outcome.violation is not None, head
            assert outcome.violation.code == code

    def test_a_large_message_in_many_reads_costs_no_repeated_copies(self, make_frames: MakeFrames) -> None:
        payload = bytes(range(256)) * (1 << 16)
        stream = frame(BINARY, payload)
        pieces = [stream[begin : begin + 4096] for begin in range(0, len(stream), 4096)]
        outcome = Outcome(make_frames, pieces, limit=1 << 24)
        assert outcome.messages == [(payload, True)]


def deflate(compressor: zlib._Compress, payload: bytes) -> bytes:
    return (compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]


class TestCompression:
    @settings(max_examples=100, deadline=None)
    @given(st.lists(st.tuples(payloads, st.booleans()), max_size=10), st.integers(0, 1 << 30))
    def test_compressed_messages_come_back_however_they_are_fragmented(
        self, sent: list[tuple[bytes, bool]], seed: int
    ) -> None:
        chance = random.Random(seed)
        compressor = zlib.compressobj(wbits=-15)
        stream = b""
        for payload, squeeze in sent:
            packed = deflate(compressor, payload) if squeeze else payload
            place = chance.randint(0, len(packed))
            stream += frame(BINARY, packed[:place], fin=False, rsv=4 * squeeze) + frame(
                CONTINUATION, packed[place:]
            )

        async def check() -> None:
            for make in (FrameReader, PicowsFrames):
                outcome = Outcome(make, cut(stream, seed), compressed=True)
                assert outcome.violation is None
                assert outcome.messages == [(payload, True) for payload, _ in sent]

        asyncio.run(check())

    def test_a_message_of_exactly_the_limit_passes_and_one_byte_more_does_not(
        self, make_frames: MakeFrames
    ) -> None:
        noise = random.Random(1).randbytes(5000)
        for content in (b"x" * 5000, noise):
            for fragments in (1, 2):
                for extra, expected in ((b"", None), (b"!", 1009)):
                    packed = deflate(zlib.compressobj(wbits=-15), content + extra)
                    middle = len(packed) // 2
                    stream = frame(BINARY, packed, rsv=4)
                    if fragments == 2:
                        stream = frame(BINARY, packed[:middle], rsv=4, fin=False) + frame(
                            CONTINUATION, packed[middle:]
                        )
                    outcome = Outcome(make_frames, [stream], limit=5000, compressed=True)
                    assert (outcome.violation and outcome.violation.code) == expected
                    assert outcome.messages == ([] if expected else [(content, True)])

    def test_a_final_block_may_end_a_message_and_a_fragment(self) -> None:
        inflater = Inflater(window_bits=15, context_takeover=True)
        final = zlib.compressobj(wbits=-15)
        packed = final.compress(b"final") + final.flush(zlib.Z_FINISH)
        assert inflater.inflate(packed + b"\0", last=True, limit=100) == b"final"
        assert inflater.inflate(packed, last=True, limit=100) == b"final"
        assert inflater.inflate(packed, last=False, limit=100) == b"final"
        assert inflater.inflate(packed + b"\0", last=True, limit=100) == b"final"
        assert inflater.inflate(packed * 30 + b"\0", last=True, limit=100) is None

    @pytest.mark.parametrize("limit", [1 << 20, 3 << 20, 16 << 20])
    def test_a_bomb_costs_no_more_than_twice_the_limit(self, limit: int) -> None:
        bomb = deflate(zlib.compressobj(wbits=-15), bytes(64 << 20))
        inflater = Inflater(window_bits=15, context_takeover=True)
        tracemalloc.start()
        try:
            assert inflater.inflate(bomb, last=True, limit=limit) is None
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak <= 2 * limit

    def test_output_is_bounded_without_context_takeover_too(self) -> None:
        inflater = Inflater(window_bits=15, context_takeover=False)
        bomb = deflate(zlib.compressobj(wbits=-15), bytes(10_000_000))
        assert inflater.inflate(bomb, last=True, limit=9_999_999) is None
        assert Inflater(window_bits=15, context_takeover=False).inflate(
            bomb, last=True, limit=10**7
        ) == bytes(10**7)
        assert Inflater(window_bits=15, context_takeover=False).inflate(b"", last=True, limit=0) == b""

    def test_corrupt_data_is_a_violation_in_words(self) -> None:
        with pytest.raises(Violation, match="corrupt compressed message") as raised:
            Inflater(window_bits=15, context_takeover=True).inflate(b"\xff" * 20, last=True, limit=100)
        assert raised.value.code == 1002
