"""Envelopes: their keys, and payloads that survive them."""

from __future__ import annotations

import json
import sys
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jetsocket_ingest.sink import Chunk, EnvelopeEncoder, Kind, marker_payload
from jetsocket_ingest.testing.sink_support import AWKWARD, RECEIVED_NS, Chunks, Envelope, check_envelope

ENCODER = EnvelopeEncoder("ticks")


def encode(chunk: Chunk) -> list[bytes]:
    """The envelopes, after checking that both methods agree."""
    envelopes = ENCODER.encode(chunk)
    assert ENCODER.encode_lines(chunk) == b"".join(envelope + b"\n" for envelope in envelopes)
    return envelopes


def payload_of(payload: bytes) -> bytes:
    (envelope,) = encode(Chunks().make([payload]))
    return bytes(msgspec.json.decode(envelope, type=Envelope).payload)


def test_an_envelope_has_the_documented_keys_in_order() -> None:
    (envelope,) = encode(Chunks().make([b'{"a":1}']))
    assert envelope == (
        b'{"kind":"data","pipeline":"ticks","subscription":"trades","stream":"stream-0","connection":"demo-1",'
        b'"received":"2026-11-23T07:50:23.123456790Z","event_time":null,"sequence":null,"position":1,'
        b'"payload":{"a":1}}'
    )


@given(
    st.lists(
        st.one_of(st.binary(), st.text().map(str.encode), st.sampled_from([p for _, p in AWKWARD])),
        min_size=1,
    ),
    st.booleans(),
    st.booleans(),
    st.lists(st.one_of(st.none(), st.text()), min_size=1, max_size=5),
)
def test_any_payload_and_name_survives(
    payloads: list[bytes], binary: bool, numbered: bool, streams: list[str | None]
) -> None:
    if not binary:
        payloads = [payload for payload in payloads if is_text(payload)] or [b""]
    chunk = Chunks().make(
        payloads, binary=binary, numbered=numbered, streams=lambda index: streams[index % len(streams)]
    )
    for envelope, record in zip(encode(chunk), chunk.records(), strict=True):
        check_envelope(envelope, record)


def is_text(payload: bytes) -> bool:
    try:
        payload.decode()
    except UnicodeDecodeError:
        return False
    return True


json_values = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text()
    ),
    lambda inner: st.one_of(st.lists(inner), st.dictionaries(st.text(), inner)),
)


@given(json_values, st.sampled_from([None, 0, 2]), st.sampled_from(["", "\n", "\r\n ", "\t"]))
def test_json_stays_the_same_json_on_one_line(value: Any, indent: int | None, around: str) -> None:
    source = json.dumps(value, indent=indent, ensure_ascii=False)
    assert json.loads(payload_of(f"{around}{source}{around}".encode())) == value


def test_numbers_keep_every_digit() -> None:
    payload = b'{"id":9007199254740993,"big":123456789012345678901234567890,"price":1.10000000000000000001,"e":1E400}'
    assert payload_of(payload) == payload


@pytest.mark.parametrize(
    "payloads",
    [
        [b"[1,", b"2]", b"3 4"],
        [b"1 2"],
        [b"1", b"2 3", b""],
        [b'{"a":1}{"b":2}', b" "],
        [b'1},"kind":{"x":1', b"2"],
    ],
)
def test_payloads_that_are_json_only_together_stay_apart(payloads: list[bytes]) -> None:
    chunk = Chunks().make(payloads)
    for envelope, record in zip(encode(chunk), chunk.records(), strict=True):
        check_envelope(envelope, record)


REFUSED = [
    *(b"NaN", b"[Infinity]", b"-", b"01", b"1.", b".5", b"+1", b"1e", b"0x1", b"tru", b"1\x00", b""),
    *(b'{"a":1,}', b"[1,]", b"{'a':1}", b'{"a":1} x', b"/**/1", b"\xef\xbb\xbf1"),
    *(b'"\\ud800"', b'"\\udc00x"', b'"\x01"', b'"\\x"'),
]


@pytest.mark.parametrize("payload", REFUSED)
def test_what_json_refuses_becomes_a_string(payload: bytes) -> None:
    assert json.loads(payload_of(payload)) == payload.decode()


def test_text_that_is_not_utf8_is_kept_as_base64() -> None:
    (envelope,) = encode(Chunks().make([b'"\xff"']))
    assert json.loads(envelope)["payload_base64"] == "Iv8i"


def test_halves_of_a_character_do_not_heal_each_other() -> None:
    envelopes = encode(Chunks().make([b'"\xc3', b'\xa9"']))
    assert ["payload_base64" in json.loads(envelope) for envelope in envelopes] == [True, True]


def test_deep_nesting_is_carried_as_text() -> None:
    deep = b"[" * 100_000 + b"]" * 100_000
    assert json.loads(payload_of(deep)) == deep.decode()


def test_deep_nesting_raises_nothing_near_the_recursion_limit() -> None:
    def sink_down(levels: int) -> bytes:
        return sink_down(levels - 1) if levels else payload_of(b"[" * 500 + b"]" * 500)

    depth = len(_frames())
    assert sink_down(sys.getrecursionlimit() - depth - 100).startswith((b"[[", b'"[['))


def _frames() -> list[Any]:
    frames = []
    frame: Any = sys._getframe()
    while frame is not None:
        frames.append(frame)
        frame = frame.f_back
    return frames


@pytest.mark.parametrize(
    ("time_ns", "text"),
    [
        (0, "1970-01-01T00:00:00.000000000Z"),
        (-1, "1969-12-31T23:59:59.999999999Z"),
        (RECEIVED_NS, "2026-11-23T07:50:23.123456789Z"),
        (253_402_300_799_999_999_999, "9999-12-31T23:59:59.999999999Z"),
        (253_402_300_800_000_000_000, None),
        (-(10**30), None),
        (None, None),
    ],
)
def test_event_times_are_iso_8601_or_null(time_ns: int | None, text: str | None) -> None:
    chunk = Chunks().make([b"{}"], numbered=True)
    chunk.event_times_ns = [time_ns]
    assert json.loads(encode(chunk)[0])["event_time"] == text


def test_half_a_surrogate_pair_in_a_name_becomes_a_question_mark() -> None:
    (envelope,) = encode(Chunks().make([b"{}"], streams=lambda _: "a\ud800b"))
    assert json.loads(envelope)["stream"] == "a?b"


def test_a_marker_tells_its_kind_and_facts() -> None:
    payload = marker_payload(Kind.GAP, {"from": "x\ny", "count": None, "stream": "é"})
    assert payload == '{"kind":"gap","from":"x\\ny","count":null,"stream":"é"}'.encode()


def test_a_marker_survives_text_that_is_no_text() -> None:
    assert json.loads(marker_payload(Kind.DISCONNECT, {"reason": "\udcff"})) == {
        "kind": "disconnect",
        "reason": "?",
    }
