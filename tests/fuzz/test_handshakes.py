"""Mutated answers to the opening handshake: accepted, or refused in words, wherever they are cut."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.harness import DEFLATE, ENGINES, Outcome, Plan, play_answer
from tests.fuzz.streams import ANSWERS, Change, spoil
from tests.fuzz.test_frames import CALM, CHANGES

PLANS = st.builds(Plan, deflate=st.sampled_from(list(DEFLATE)), step=st.sampled_from([0, 2, 3, 100]))
HEADER = st.builds(
    lambda name, value: name + b": " + value + b"\r\n",
    st.sampled_from(
        [
            b"Sec-WebSocket-Accept",
            b"Sec-WebSocket-Extensions",
            b"Sec-WebSocket-Protocol",
            b"Connection",
            b"Upgrade",
            b"Content-Length",
            b"Transfer-Encoding",
            b"Location",
            b"X",
        ]
    ),
    st.sampled_from(
        [b"permessage-deflate; server_max_window_bits=", b"chunked", b"v1, v2", b"websocket", b"-1", b";"]
    )
    | st.binary(max_size=12),
)


def both(answer: bytes, *plans: Plan) -> Outcome:
    async def each() -> list[Outcome]:
        return [await play_answer(engine, answer, plan) for engine in ENGINES for plan in plans]

    outcomes = asyncio.run(each())
    assert all(outcome.agrees_with(outcomes[0]) for outcome in outcomes), outcomes
    return outcomes[0]


@CALM
@given(st.sampled_from(ANSWERS), CHANGES, PLANS)
def test_spoiled_answers_are_accepted_or_refused_in_words(
    answer: bytes, changes: list[Change], plan: Plan
) -> None:
    both(spoil(answer, changes), plan)


@CALM
@given(st.sampled_from(ANSWERS[:4]), st.lists(HEADER, max_size=4), PLANS)
def test_strange_headers_are_accepted_or_refused_in_words(
    answer: bytes, headers: list[bytes], plan: Plan
) -> None:
    both(answer.replace(b"\r\n", b"\r\n" + b"".join(headers), 1), plan)


@CALM
@given(st.sampled_from(ANSWERS), CHANGES, PLANS, st.integers(1, 9))
def test_where_the_answer_is_cut_makes_no_difference(
    answer: bytes, changes: list[Change], plan: Plan, step: int
) -> None:
    both(spoil(answer, changes), plan, Plan(plan.deflate, step=step))


@pytest.mark.parametrize("answer", ANSWERS, ids=range(len(ANSWERS)))
def test_an_answer_can_be_cut_or_end_at_any_byte(answer: bytes) -> None:
    async def each() -> None:
        for engine in ENGINES:
            whole = await play_answer(engine, answer, Plan("context"))
            assert await play_answer(engine, answer, Plan("context", step=1)) == whole
            for end in range(min(len(answer), 300)):
                await play_answer(engine, answer[:end], Plan("context"))

    asyncio.run(each())


def test_a_head_without_end_is_refused_after_64_kib() -> None:
    head = b"HTTP/1.1 200 OK\r\n" + b"X-Filler: yyyyyyyyyyyyyyyyyyyyyyyyyy\r\n" * 2000
    for step in (0, 100):
        outcome = both(head, Plan(step=step))
        assert outcome.refusal == ("DialError", 0)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("value", [b"\x0f", b"a\x7fb", b"\x00", b"a\x0bb"])
def test_a_header_with_a_control_character_is_refused_in_words(engine: str, value: bytes) -> None:
    answer = ANSWERS[0].replace(b"\r\n", b"\r\nX: " + value + b"\r\n", 1)
    assert asyncio.run(play_answer(engine, answer, Plan())).refusal == ("DialError", 0)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", ["Content-Length", "Retry-After", "Transfer-Encoding", "Location"])
@pytest.mark.parametrize("status", [302, 503])
def test_a_refusal_that_says_something_twice_is_told_all_the_same(
    engine: str, name: str, status: int
) -> None:
    answer = f"HTTP/1.1 {status} No\r\n{name}: 1\r\n{name}: 2\r\n\r\n".encode()
    refusal = asyncio.run(play_answer(engine, answer, Plan())).refusal
    assert refusal == ("HandshakeRedirected" if status == 302 else "HandshakeRefused", status)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    "line",
    ["Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Accept: x", "Sec-WebSocket-Protocol: v1"],
)
def test_an_acceptance_that_says_something_twice_is_no_crash(engine: str, line: str) -> None:
    answer = ANSWERS[1].replace(b"\r\n", f"\r\n{line}\r\n".encode(), 1)
    outcome = asyncio.run(play_answer(engine, answer, Plan()))
    assert outcome.refusal in (None, ("DialError", 0))
