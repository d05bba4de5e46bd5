"""The watchdog for silence: who is watched, when it barks, and when it must not."""

from __future__ import annotations

import json
from typing import Any

from jetsocket_ingest.config.matching import Match
from jetsocket_ingest.config.paths import Path
from jetsocket_ingest.config.placeholders import TreeTemplate
from jetsocket_ingest.session.columns import DataRule
from jetsocket_ingest.session.rules import HeartbeatRule, SessionRules
from jetsocket_ingest.session.session import Action, Live, Reconnect, Send, Session, Stale
from jetsocket_ingest.session.watch import StaleRule

SUBSCRIBE = TreeTemplate.parse({"op": "subscribe", "args": "<streams>"}, {"streams", "stream"})
UNSUBSCRIBE = TreeTemplate.parse({"op": "unsubscribe", "args": "<streams>"}, {"streams", "stream"})


def session(rule: StaleRule, **more: Any) -> Session:
    rules = SessionRules(
        subscribe=SUBSCRIBE,
        unsubscribe=UNSUBSCRIBE,
        stale=rule,
        data=DataRule(stream=Path.parse("$.s")),
        **more,
    )
    talk = Session(rules, ("a@trade", "b@trade", "c@depth"), None, {})
    talk.connected(0.0)
    return talk


def data(talk: Session, now: float, *streams: str) -> None:
    talk.received([json.dumps({"s": stream}).encode() for stream in streams], False, now)


def sent(actions: list[Action]) -> list[Any]:
    return [json.loads(action.text) for action in actions if isinstance(action, Send)]


def test_a_connection_without_data_is_given_up_after_its_time() -> None:
    talk = session(StaleRule(connection=30.0))
    assert talk.deadline() == 30.0
    data(talk, 20.0, "a@trade")
    assert talk.tick(30.0) == []
    assert talk.deadline() == 50.0
    (action,) = talk.tick(50.0)
    assert isinstance(action, Reconnect)


def test_heartbeats_and_answers_are_no_data() -> None:
    beat = HeartbeatRule(TreeTemplate.parse("ping", set()), 10.0, Match.parse({"$": "pong"}), 5.0)
    talk = session(StaleRule(connection=25.0), heartbeat=beat)
    for now in (10.0, 20.0):
        assert isinstance(talk.tick(now)[0], Send)
        talk.received([b"pong"], False, now)
    assert isinstance(talk.tick(25.0)[0], Reconnect)


def test_only_streams_that_a_pattern_fits_are_watched_and_are_asked_for_again_alone() -> None:
    talk = session(StaleRule(streams={"*@trade": 60.0}))
    data(talk, 30.0, "a@trade")
    actions = talk.tick(60.0)
    assert actions[0] == Stale(("b@trade",))
    assert sent(actions) == [
        {"op": "unsubscribe", "args": ["b@trade"]},
        {"op": "subscribe", "args": ["b@trade"]},
    ]
    assert actions[-1] == Live(("b@trade",), acknowledged=False)
    # a@trade has until 90, b@trade its full time again, c@depth all the time in the world
    assert talk.deadline() == 90.0
    assert talk.tick(90.0)[0] == Stale(("a@trade",))
    assert talk.tick(120.0)[0] == Stale(("b@trade",))


def test_the_first_pattern_that_fits_counts() -> None:
    rule = StaleRule(streams={"a@*": 10.0, "*": 99.0})
    assert [rule.limit(name) for name in ("a@trade", "b@trade")] == [10.0, 99.0]


def test_where_streams_come_by_url_a_silent_one_is_connected_anew() -> None:
    talk = Session(SessionRules(stale=StaleRule(streams={"*": 10.0})), ("a",), "a", {})
    talk.connected(0.0)
    actions = talk.tick(10.0)
    assert actions[0] == Stale(("a",))
    assert isinstance(actions[1], Reconnect)


def test_while_reading_is_paused_silence_is_ours() -> None:
    talk = session(StaleRule(connection=30.0, streams={"*": 40.0}))
    talk.suspend()
    assert talk.deadline() is None
    talk.resume(100.0)
    assert talk.tick(100.0) == []
    assert talk.deadline() == 130.0


def test_a_tick_that_comes_late_gives_the_peer_one_more_moment() -> None:
    talk = session(StaleRule(connection=30.0, streams={"a*": 30.0}))
    assert talk.tick(33.0) == []
    assert talk.deadline() == 33.5
    data(talk, 33.1, "a@trade")
    assert talk.tick(33.5) == []
    assert talk.deadline() == 63.1


def test_a_peer_that_stays_silent_after_our_stall_is_given_up() -> None:
    talk = session(StaleRule(connection=30.0))
    assert talk.tick(33.0) == []
    assert isinstance(talk.tick(33.5)[0], Reconnect)
