"""One direction through the fault proxy, without sockets: when bytes come out, and which."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jetsocket_ingest.testing.proxy.line import DELAY_LINE, READ_AHEAD, Event, Line, Rules

DATA = bytes(range(256)) * 8


def emptied(line: Line, now: float) -> tuple[bytes, list[Event], float]:
    """Everything that comes out from now on, and when the last of it does."""
    out, events = b"", []
    while (due := line.due) is not None:
        now = max(now, due)
        content = line.take(now)
        if isinstance(content, bytes):
            out += content
        elif content is not None:
            events.append(content)
    return out, events, now


def line(rules: Rules | None = None, seed: int = 0) -> Line:
    return Line(rules or Rules(), Random(seed))


def test_without_rules_everything_comes_out_at_once_and_unchanged() -> None:
    plain = line()
    plain.put(DATA, 5.0)
    plain.put(Event.END, 5.0)
    assert plain.take(5.0) == DATA
    assert plain.take(5.0) is Event.END
    assert plain.due is None


def test_bytes_come_out_after_the_latency_and_not_before() -> None:
    slow = line(Rules(latency=0.2))
    slow.put(DATA, 10.0)
    assert slow.due == pytest.approx(10.2)
    assert slow.take(10.19) is None
    assert slow.take(10.2) == DATA


def test_the_end_takes_its_time_as_bytes_do() -> None:
    slow = line(Rules(latency=0.2))
    slow.put(Event.END, 10.0)
    assert slow.take(10.1) is None
    assert slow.take(10.2) is Event.END


@given(st.lists(st.binary(min_size=1, max_size=50), max_size=20), st.integers(0, 1000))
def test_jitter_keeps_the_order(pieces: list[bytes], seed: int) -> None:
    jittery = line(Rules(latency=0.1, jitter=5.0), seed)
    for number, piece in enumerate(pieces):
        jittery.put(piece, number * 0.01)
    out, _, last = emptied(jittery, 0.0)
    assert out == b"".join(pieces)
    assert last <= 0.2 + 5.1


@pytest.mark.parametrize("rate", [1, 100, 10_000, 1_000_000])
def test_a_throttled_line_lets_its_rate_through_and_no_more(rate: float) -> None:
    throttled = line(Rules(rate=rate))
    throttled.put(bytes(int(rate * 10) + 1), 100.0)
    out, _, last = emptied(throttled, 100.0)
    assert len(out) == int(rate * 10) + 1
    assert last - 100.0 == pytest.approx(10, abs=max(0.1, 1 / rate))


def test_a_rule_that_is_taken_back_lets_what_waits_go() -> None:
    throttled = line(Rules(rate=1, latency=60))
    throttled.put(DATA, 0.0)
    throttled.rules.rate, throttled.rules.latency = None, 0.0
    assert throttled.take(0.0) == DATA


def test_a_swallowing_line_loses_what_is_under_way_what_comes_and_the_end() -> None:
    hole = line(Rules(latency=1.0))
    hole.put(b"before", 0.0)
    hole.swallow()
    hole.put(b"after", 0.0)
    assert (hole.due, hole.swallowed, hole.end_swallowed) == (None, 11, False)
    hole.put(Event.END, 0.0)
    assert (hole.due, hole.end_swallowed) == (None, True)


def test_after_a_hole_bytes_pass_again() -> None:
    hole = line()
    hole.swallow()
    hole.put(b"lost", 0.0)
    hole.rules.swallow = False
    hole.put(b"found", 0.0)
    assert hole.take(0.0) == b"found"


def test_what_comes_after_the_end_disappears() -> None:
    ended = line()
    ended.put(Event.END, 0.0)
    ended.put(b"late", 0.0)
    assert emptied(ended, 0.0)[:2] == (b"", [Event.END])
    assert ended.swallowed == 4


@given(st.integers(0, 100), st.lists(st.binary(min_size=1, max_size=30), min_size=5, max_size=10))
def test_a_cut_comes_right_after_its_bytes(after: int, pieces: list[bytes]) -> None:
    whole = b"".join(pieces)
    cut = line(Rules(cut_in=after))
    for piece in pieces:
        cut.put(piece, 0.0)
    seen = b""
    while isinstance(content := cut.take(0.0), bytes):
        seen += content
    if after <= len(whole):
        assert content is Event.CUT
        assert seen == whole[:after]
    else:
        assert content is None
        assert seen == whole


@given(st.integers(0, 100), st.lists(st.binary(min_size=1, max_size=30), min_size=5, max_size=10))
def test_one_bit_of_the_byte_asked_for_flips(at: int, pieces: list[bytes]) -> None:
    corrupt = line(Rules(flip_in=at))
    for piece in pieces:
        corrupt.put(piece, 0.0)
    whole, out = b"".join(pieces), emptied(corrupt, 0.0)[0]
    changed = [place for place, (a, b) in enumerate(zip(whole, out, strict=True)) if a != b]
    assert changed == ([at] if at < len(whole) else [])
    assert all((whole[place] ^ out[place]).bit_count() == 1 for place in changed)
    assert corrupt.flipped == len(changed)


@pytest.mark.parametrize(
    ("rate", "low", "high"), [(1.0, 200_000, 200_000), (0.01, 1800, 2200), (1e-4, 5, 40)]
)
def test_bits_flip_at_the_rate_asked_for(rate: float, low: int, high: int) -> None:
    corrupt = line(Rules(flips=rate), seed=1)
    for _ in range(200):
        corrupt.put(bytes(1000), 0.0)
    out = emptied(corrupt, 0.0)[0]
    assert low <= corrupt.flipped <= high
    assert sum(byte.bit_count() for byte in out) == corrupt.flipped


def test_the_same_seed_flips_the_same_bits_however_the_bytes_are_cut() -> None:
    outs = []
    for size in (1, 7, 2048):
        corrupt = line(Rules(flips=0.01), seed=3)
        for start in range(0, len(DATA), size):
            corrupt.put(DATA[start : start + size], 0.0)
        outs.append(emptied(corrupt, 0.0)[0])
    assert outs[0] == outs[1] == outs[2] != DATA


def test_a_line_is_full_at_its_bound_which_is_wider_where_bytes_are_under_way() -> None:
    plain, delayed = line(), line(Rules(latency=1.0))
    for each in (plain, delayed):
        each.put(bytes(READ_AHEAD), 0.0)
    assert (plain.full, delayed.full) == (True, False)
    delayed.put(bytes(DELAY_LINE - READ_AHEAD), 0.0)
    assert delayed.full
    emptied(plain, 0.0)
    assert not plain.full
