"""A session without I/O: what it says, when it says it, and how it takes answers."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from jetsocket_ingest.config.fields import HEARTBEAT_NAMES, SUBSCRIBE_NAMES
from jetsocket_ingest.config.matching import Match
from jetsocket_ingest.config.paths import Path
from jetsocket_ingest.config.placeholders import TreeTemplate
from jetsocket_ingest.session.columns import DataRule
from jetsocket_ingest.session.rules import AckRule, HeartbeatRule, SessionRules, functions
from jetsocket_ingest.session.session import (
    Action,
    Live,
    Reconnect,
    Refused,
    Send,
    Session,
    Unmatched,
)
from jetsocket_ingest.testing.clock import START_NS

SUBSCRIBE = TreeTemplate.parse({"op": "sub", "id": "<request_id>", "args": "<streams>"}, SUBSCRIBE_NAMES)
EACH = TreeTemplate.parse({"op": "sub", "arg": "<stream>"}, SUBSCRIBE_NAMES)
BYE = TreeTemplate.parse({"op": "unsub", "args": "<streams>"}, SUBSCRIBE_NAMES)
PING = TreeTemplate.parse({"op": "ping"}, HEARTBEAT_NAMES)
ANSWER = Match.parse({"$.op": "sub"})
GRANTED = Match.parse({"$.ok": True})
PONG = Match.parse({"$.op": "pong"})
BY_ID = AckRule(ANSWER, Path.parse("$.id"), GRANTED, timeout=10.0)
IN_ORDER = AckRule(ANSWER, None, GRANTED, timeout=10.0)
HEARTBEAT = HeartbeatRule(PING, every=20.0, expect=PONG, timeout=5.0)
STREAMS = ("a", "b", "c")


def session(*streams: str, values: Mapping[str, Callable[[], object]] | None = None, **rules: Any) -> Session:
    rules = {"subscribe": SUBSCRIBE, "data": DataRule(stream=Path.parse("$.stream")), **rules}
    return Session(SessionRules(**rules), streams or STREAMS, None, values or {})


def said(actions: list[Action]) -> list[Any]:
    return [json.loads(action.text) for action in actions if isinstance(action, Send)]


def hear(talk: Session, *messages: object) -> list[Action]:
    return talk.received([json.dumps(message).encode() for message in messages], False, 0.0)[1]


# Subscribing


def test_one_message_asks_for_all_streams() -> None:
    assert said(session().connected(0)) == [{"op": "sub", "id": 1, "args": ["a", "b", "c"]}]


def test_messages_name_no_more_streams_than_the_provider_takes() -> None:
    sent = said(session(max_streams=2).connected(0))
    assert [message["args"] for message in sent] == [["a", "b"], ["c"]]
    assert [message["id"] for message in sent] == [1, 2]


def test_messages_are_split_until_they_fit_the_bytes_the_provider_takes() -> None:
    streams = tuple(f"stream-{number:03}" for number in range(64))
    actions = session(*streams, max_bytes=300).connected(0)
    texts = [action.text for action in actions if isinstance(action, Send)]
    assert max(len(text) for text in texts) <= 300
    assert [name for message in said(actions) for name in message["args"]] == list(streams)


def test_a_single_stream_may_exceed_the_bytes() -> None:
    assert len(said(session("x" * 500, max_bytes=100).connected(0))) == 1


def test_a_template_with_one_stream_makes_a_message_for_each() -> None:
    sent = said(session(subscribe=EACH).connected(0))
    assert [message["arg"] for message in sent] == ["a", "b", "c"]


def test_without_acks_streams_are_live_as_soon_as_they_were_asked_for() -> None:
    assert Live(STREAMS, acknowledged=False) in session().connected(0)


def test_an_address_that_sends_by_itself_is_live_at_once_and_nothing_is_said() -> None:
    talk = Session(SessionRules(), (), None, {})
    assert talk.connected(0) == [Live((), acknowledged=False)]
    assert talk.deadline() is None


def test_a_reconnect_asks_for_everything_again_with_fresh_ids() -> None:
    talk = session(ack=BY_ID)
    assert [message["id"] for message in said(talk.connected(0))] == [1]
    assert [message["id"] for message in said(talk.connected(30))] == [2]
    assert hear(talk, {"op": "sub", "id": 1, "ok": True}) == [
        Unmatched(1, '{"op": "sub", "id": 1, "ok": true}')
    ]


# Acks


def test_acks_are_told_apart_by_id_in_any_order() -> None:
    talk = session(max_streams=1, ack=BY_ID)
    talk.connected(0)
    assert hear(talk, {"op": "sub", "id": 3, "ok": True}, {"op": "sub", "id": "1", "ok": True}) == [
        Live(("c",), acknowledged=True),
        Live(("a",), acknowledged=True),
    ]
    assert talk.deadline() == 10.0


def test_acks_without_an_id_come_in_the_order_of_the_requests() -> None:
    talk = session(max_streams=1, ack=IN_ORDER)
    talk.connected(0)
    yes, no = {"op": "sub", "ok": True}, {"op": "sub", "ok": False}
    assert hear(talk, yes, no, yes) == [
        Live(("a",), acknowledged=True),
        Refused(("b",), '{"op": "sub", "ok": false}'),
        Live(("c",), acknowledged=True),
    ]


@pytest.mark.parametrize("answer", [{"op": "sub", "ok": True}, {"op": "sub", "id": None, "ok": True}])
def test_an_answer_without_the_id_it_should_repeat_answers_nothing(answer: object) -> None:
    talk = session(ack=BY_ID)
    talk.connected(0)
    assert [type(action) for action in hear(talk, answer)] == [Unmatched]
    assert talk.deadline() == 10.0


def test_a_refusal_shows_the_providers_words_cut_to_a_readable_length() -> None:
    talk = session(ack=BY_ID)
    talk.connected(0)
    (refused,) = hear(talk, {"op": "sub", "id": 1, "ok": False, "why": "x" * 1000})
    assert isinstance(refused, Refused)
    assert refused.streams == STREAMS
    assert len(refused.answer) == 200


def test_an_ack_without_a_success_rule_always_grants() -> None:
    talk = session(ack=AckRule(ANSWER, Path.parse("$.id")))
    talk.connected(0)
    assert hear(talk, {"op": "sub", "id": 1, "ok": False}) == [Live(STREAMS, acknowledged=True)]


def test_an_ack_that_does_not_come_in_time_asks_for_a_reconnect_once() -> None:
    talk = session(ack=BY_ID)
    talk.connected(100)
    assert talk.deadline() == 110.0
    assert talk.tick(109.9) == []
    assert talk.tick(110) == [Reconnect("no answer to the subscription of a, b, c within 10 s")]
    assert talk.tick(111) == []


def test_a_second_answer_to_the_same_request_is_unmatched() -> None:
    talk = session(ack=BY_ID)
    talk.connected(0)
    yes = {"op": "sub", "id": 1, "ok": True}
    assert [type(action) for action in hear(talk, yes, yes)] == [Live, Unmatched]


# Heartbeat


def test_a_heartbeat_goes_out_at_its_times_and_its_answer_is_no_data() -> None:
    talk = session(heartbeat=HEARTBEAT)
    talk.connected(0)
    assert talk.tick(19.9) == []
    assert said(talk.tick(20)) == [{"op": "ping"}]
    assert talk.deadline() == 25.0
    assert hear(talk, {"op": "pong"}) == []
    assert talk.deadline() == 40.0


def test_a_heartbeat_without_an_answer_asks_for_a_reconnect() -> None:
    talk = session(heartbeat=HEARTBEAT)
    talk.connected(0)
    talk.tick(20)
    assert talk.tick(25) == [Reconnect("no answer to the heartbeat within 5 s")]


def test_data_does_not_stand_in_for_the_answer_to_a_heartbeat() -> None:
    talk = session(heartbeat=HEARTBEAT)
    talk.connected(0)
    talk.tick(20)
    hear(talk, {"stream": "a"})
    assert talk.deadline() == 25.0


def test_a_heartbeat_may_expect_no_answer() -> None:
    talk = session(heartbeat=HeartbeatRule(PING, every=20.0))
    talk.connected(0)
    assert said(talk.tick(20)) == [{"op": "ping"}]
    assert talk.deadline() == 40.0


def test_a_plain_text_may_answer_a_heartbeat() -> None:
    ping = TreeTemplate.parse("ping", HEARTBEAT_NAMES)
    talk = session(heartbeat=HeartbeatRule(ping, 20.0, Match.parse({"$": "pong"}), 5.0))
    talk.connected(0)
    assert talk.tick(20) == [Send("ping")]
    assert talk.received([b"pong"], False, 0.0)[1] == []
    assert talk.deadline() == 40.0


def test_a_heartbeat_can_carry_a_request_id_of_its_own() -> None:
    ping = TreeTemplate.parse({"op": "ping", "id": "<request_id>"}, HEARTBEAT_NAMES)
    talk = session(heartbeat=HeartbeatRule(ping, every=20.0))
    assert said(talk.connected(0))[0]["id"] == 1
    assert said(talk.tick(20)) == [{"op": "ping", "id": 2}]
    assert said(talk.tick(40)) == [{"op": "ping", "id": 3}]


# Paused reading


def test_while_reading_is_paused_heartbeats_go_out_and_no_answer_is_late() -> None:
    talk = session(heartbeat=HEARTBEAT, ack=BY_ID)
    talk.connected(0)
    talk.suspend()
    for moment in (20, 40, 60):
        assert said(talk.tick(moment)) == [{"op": "ping"}]
        assert talk.tick(moment + 19) == []


def test_after_reading_resumes_answers_have_their_full_time_again() -> None:
    talk = session(heartbeat=HEARTBEAT, ack=BY_ID)
    talk.connected(0)
    talk.suspend()
    talk.tick(20)
    talk.resume(31)
    assert talk.tick(39.9) == []
    said(talk.tick(40))
    assert talk.tick(40.9) == []
    assert talk.tick(41) == [Reconnect("no answer to the subscription of a, b, c within 10 s")]
    assert talk.tick(45) == [Reconnect("no answer to the heartbeat within 5 s")]


def test_a_reconnect_while_reading_is_paused_awaits_no_ack() -> None:
    talk = session(ack=BY_ID)
    talk.connected(0)
    talk.suspend()
    talk.connected(5)
    assert talk.tick(1000) == []
    talk.resume(1000)
    assert talk.deadline() == 1010.0


# The rest


def test_goodbye_unsubscribes_and_answers_to_it_are_not_looked_at() -> None:
    talk = session(unsubscribe=BYE)
    talk.connected(0)
    assert said(talk.goodbye()) == [{"op": "unsub", "args": ["a", "b", "c"]}]
    assert hear(talk, {"op": "unsub", "ok": True}) == []


def test_what_nobody_knows_is_counted_and_the_first_of_it_shown() -> None:
    talk = session()
    talk.connected(0)
    columns, actions = talk.received([b'{"stream":"a"}', b'{"new":1}', b"\xc3("], False, 0.0)
    assert columns.payloads == [b'{"stream":"a"}']
    assert actions == [Unmatched(2, '{"new":1}')]


def test_placeholder_functions_are_asked_at_every_message() -> None:
    class Clock:
        def monotonic(self) -> float:
            return 0.0

        def wall_ns(self) -> int:
            return START_NS

    names = {
        "s": "<now_s>",
        "ms": "<now_ms>",
        "iso": "<now_iso>",
        "n": "<counter>",
        "u": "<uuid>",
        "x": "<streams>",
    }
    talk = session(
        subscribe=TreeTemplate.parse(names, SUBSCRIBE_NAMES), max_streams=2, values=functions(Clock())
    )
    first, second = said(talk.connected(0))
    assert (first["s"], first["ms"], first["iso"]) == (
        1_760_000_000,
        1_760_000_000_000,
        "2025-10-09T08:53:20.000Z",
    )
    assert (first["n"], second["n"]) == (1, 2)
    assert first["u"] != second["u"]
