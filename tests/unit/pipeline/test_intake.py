"""Intake: messages become chunks, losses become gaps, pressure pauses, and the session is spoken."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from structlog.testing import capture_logs

from jetsocket_ingest.config.fields import HEARTBEAT_NAMES, SUBSCRIBE_NAMES
from jetsocket_ingest.config.matching import Match
from jetsocket_ingest.config.paths import Path
from jetsocket_ingest.config.placeholders import TreeTemplate
from jetsocket_ingest.config.types import Interpolated
from jetsocket_ingest.errors import DialError, OperatorError, SubscriptionRefused
from jetsocket_ingest.net.life import ReconnectPolicy, State, Timing
from jetsocket_ingest.net.websocket import WebSocket
from jetsocket_ingest.pipeline.intake import Allowance, Intake
from jetsocket_ingest.plan.plan import PlannedConnection
from jetsocket_ingest.session.columns import DataRule
from jetsocket_ingest.session.rules import AckRule, HeartbeatRule, SessionRules
from jetsocket_ingest.session.session import Session
from jetsocket_ingest.sink import Chunk, Kind
from jetsocket_ingest.telemetry.tracing import Tracing
from jetsocket_ingest.testing.clock import START_NS, LoopClock, run_virtual
from tests.support.network import Network, Peer

SUBSCRIBE = TreeTemplate.parse({"op": "sub", "id": "<request_id>", "args": "<streams>"}, SUBSCRIBE_NAMES)
ACK = AckRule(Match.parse({"$.op": "sub"}), Path.parse("$.id"), Match.parse({"$.ok": True}), timeout=10.0)
BY_STREAM = DataRule(stream=Path.parse("$.s"))
PING = TreeTemplate.parse({"op": "ping"}, HEARTBEAT_NAMES)
POLICY = ReconnectPolicy(initial=1.0, maximum=1.0, retry_first=True)


class Rig:
    """A connection of a pipeline in virtual time: back-off takes 1 s, a dial 0.01 s, nothing else any."""

    def __init__(self, rules: SessionRules, streams: tuple[str, ...], **settings: Any) -> None:
        self.network = Network()
        self.chunks: list[Chunk] = []
        self.ended: list[Exception | None] = []
        self.spent = 0
        subscriptions = settings.pop("subscriptions", ("sub",))
        self.allowance = Allowance(settings.pop("allowed", None), self._note_spent)
        self.intake = Intake(
            PlannedConnection("feed-1", "feed", "", streams, subscriptions),
            "example.com",
            Session(rules, streams, streams[0] if len(streams) == 1 else None, {}),
            self.chunks.append,
            self.allowance,
            LoopClock(),
            lambda _, error: self.ended.append(error),
            Tracing("pipe"),
        )
        self.socket: WebSocket[Any] = WebSocket(
            "ws://example.com",
            receiver=self.intake,
            dial=self.network.dial,
            clock=LoopClock(),
            random=lambda: 1.0,
            policy=settings.pop("policy", POLICY),
            timing=settings.pop("timing", Timing(ping_every=None)),
        )
        self.intake.socket = self.socket
        assert not settings

    def _note_spent(self) -> None:
        self.spent += 1

    @property
    def peer(self) -> Peer:
        return self.network.peers[-1]

    def say(self, *messages: object) -> None:
        payloads = [each if isinstance(each, bytes) else json.dumps(each).encode() for each in messages]
        self.peer.listener.on_messages(payloads, False, LoopClock().wall_ns())

    def grant(self, ok: bool = True) -> None:
        """Answer the last request."""
        self.say({"op": "sub", "id": json.loads(self.peer.received[-1])["id"], "ok": ok})

    def kinds(self) -> list[str]:
        return [str(chunk.kind) for chunk in self.chunks]

    def markers(self, kind: Kind) -> list[dict[str, Any]]:
        return [
            json.loads(payload) for chunk in self.chunks if chunk.kind is kind for payload in chunk.payloads
        ]

    def data(self) -> list[bytes]:
        return [payload for chunk in self.chunks if chunk.kind is Kind.DATA for payload in chunk.payloads]


@asynccontextmanager
async def rig(
    *streams: str, ack: AckRule | None = None, connected: bool = True, **options: Any
) -> AsyncIterator[Rig]:
    known = {"subscribe", "heartbeat", "unsubscribe", "data"}
    rules = {key: options.pop(key) for key in known & options.keys()}
    rules.setdefault("data", BY_STREAM)
    if streams:
        rules.setdefault("subscribe", SUBSCRIBE)
    bench = Rig(SessionRules(ack=ack, max_streams=1 if ack else 100, **rules), streams, **options)
    bench.socket.start()
    try:
        if connected:
            await asyncio.sleep(0.02)
        yield bench
    finally:
        await bench.socket.close()


def seconds(ns: int) -> float:
    return (ns - START_NS) / 1e9


# Data


def test_messages_become_one_chunk_a_hand_over_for_each_subscription() -> None:
    async def main() -> None:
        async with rig("a", "b", subscriptions=("one", "two")) as bench:
            bench.say({"s": "a", "n": 1}, {"s": "b", "n": 2})
            one, two = [chunk for chunk in bench.chunks if chunk.kind is Kind.DATA]
            assert (one.subscription, two.subscription) == ("one", "two")
            assert one.payloads == two.payloads == [b'{"s": "a", "n": 1}', b'{"s": "b", "n": 2}']
            assert list(one.streams) == ["a", "b"]
            assert one.size == sum(map(len, one.payloads))
            assert one.connection == "feed-1"
            assert bench.intake.counters.records == 2
            assert bench.intake.last_data is not None

    run_virtual(main())


def test_a_chunk_is_as_large_as_its_data_without_what_else_came_along() -> None:
    async def main() -> None:
        async with rig("a") as bench:
            bench.say({"s": "a"}, {"strange": "x" * 100})
            (chunk,) = [chunk for chunk in bench.chunks if chunk.kind is Kind.DATA]
            assert chunk.size == len(b'{"s": "a"}')

    run_virtual(main())


@pytest.mark.parametrize("parts", [[5], [2, 3], [1, 1, 1, 1, 1], [3, 4], [0, 9]])
def test_a_bounded_run_takes_exactly_its_number_of_records(parts: list[int]) -> None:
    async def main() -> None:
        async with rig("a", allowed=5) as bench:
            number = 0
            for part in parts:
                if part:
                    bench.say(*({"s": "a", "n": number + each} for each in range(part)))
                number += part
            bench.say({"s": "a", "n": 99})
            assert [json.loads(payload)["n"] for payload in bench.data()] == [0, 1, 2, 3, 4]
            assert bench.intake.counters.records == 5
            assert bench.spent == 1

    run_virtual(main())


def test_a_cut_chunk_keeps_its_columns_in_step() -> None:
    async def main() -> None:
        rule = DataRule(stream=Path.parse("$.s"), event_time=Path.parse("$.t"), sequence=Path.parse("$.n"))
        async with rig("a", "b", allowed=2, data=rule) as bench:
            bench.say(*({"s": "ab"[number % 2], "t": number, "n": number} for number in range(5)))
            (chunk,) = [chunk for chunk in bench.chunks if chunk.kind is Kind.DATA]
            assert len(chunk.payloads) == 2
            assert list(chunk.streams) == ["a", "b"]
            assert list(chunk.event_times_ns or ()) == [0, 1_000_000]
            assert list(chunk.sequences or ()) == [0, 1]
            assert chunk.size == sum(map(len, chunk.payloads))

    run_virtual(main())


def test_an_allowance_is_shared_by_all_who_draw_on_it() -> None:
    told: list[bool] = []
    allowance = Allowance(5, lambda: told.append(True))
    assert [allowance.grant(wanted) for wanted in (3, 3, 3)] == [3, 2, 0]
    assert told == [True]
    assert Allowance().grant(10**9) == 10**9


def test_unmatched_messages_are_all_counted_and_now_and_then_told() -> None:
    async def main() -> None:
        with capture_logs() as log:
            async with rig("a") as bench:
                for moment in range(25):
                    bench.say({"what": moment}, {"is": "this"})
                    await asyncio.sleep(1)
        told = [line for line in log if line["event"] == "message.unmatched"]
        assert bench.intake.counters.unmatched == 50
        assert [line["count"] for line in told] == [2, 20, 20]
        assert told[0]["sample"] == '{"what": 0}'
        assert bench.data() == []

    run_virtual(main())


# Markers


def test_connect_and_disconnect_are_told_to_every_subscription() -> None:
    async def main() -> None:
        async with rig("a", subscriptions=("one", "two")) as bench:
            pass
        assert bench.kinds() == ["connect", "connect", "disconnect", "disconnect"]
        assert {chunk.subscription for chunk in bench.chunks} == {"one", "two"}
        assert bench.markers(Kind.CONNECT)[0] == {"kind": "connect", "connection": "feed-1"}
        assert bench.markers(Kind.DISCONNECT)[0]["reason"] == "closed by us"
        assert bench.ended == [None]
        assert bench.intake.lost == {}

    run_virtual(main())


def test_a_loss_is_a_gap_from_the_last_thing_heard_to_the_streams_return() -> None:
    async def main() -> None:
        async with rig("a", "b") as bench:
            await asyncio.sleep(4.98)
            bench.say({"s": "a"})
            await asyncio.sleep(5)
            bench.peer.hang_up(1011, "internal error")
            await asyncio.sleep(2)
            gaps = bench.markers(Kind.GAP)
            assert [gap["stream"] for gap in gaps] == ["a", "b"]
            for gap in gaps:
                assert seconds(gap["from"]) == pytest.approx(5)
                assert seconds(gap["to"]) == pytest.approx(11.01)
                assert gap["reason"] == "connection closed with code 1011: internal error"
                assert gap["count"] is None
                assert gap["connection"] == "feed-1"
            assert bench.kinds() == ["connect", "data", "disconnect", "connect", "gap"]
            assert bench.intake.counters.gaps == {"1011": 2}
            assert bench.intake.lost == {"1011": 1}

    run_virtual(main())


def test_a_loss_before_anything_was_heard_is_a_gap_from_the_connect_on() -> None:
    async def main() -> None:
        async with rig("a") as bench:
            await asyncio.sleep(100)
            bench.peer.hang_up()
            await asyncio.sleep(2)
            (gap,) = bench.markers(Kind.GAP)
            assert seconds(gap["from"]) == pytest.approx(0.01)

    run_virtual(main())


def test_two_losses_without_data_between_are_gaps_that_do_not_overlap() -> None:
    async def main() -> None:
        async with rig("a") as bench:
            for _ in range(2):
                bench.peer.hang_up()
                await asyncio.sleep(10)
            first, second = bench.markers(Kind.GAP)
            assert first["to"] <= second["from"] < second["to"]

    run_virtual(main())


def test_a_stream_confirmed_late_has_a_longer_gap_than_one_confirmed_at_once() -> None:
    async def main() -> None:
        async with rig("a", "b", ack=ACK) as bench:
            bench.say({"op": "sub", "id": 1, "ok": True}, {"op": "sub", "id": 2, "ok": True})
            bench.peer.hang_up()
            await asyncio.sleep(1.5)
            bench.say({"op": "sub", "id": 3, "ok": True})
            await asyncio.sleep(3)
            bench.say({"op": "sub", "id": 4, "ok": True})
            a, b = bench.markers(Kind.GAP)
            assert (a["stream"], b["stream"]) == ("a", "b")
            assert a["from"] == b["from"]
            assert seconds(b["to"] - a["to"] + START_NS) == pytest.approx(3)

    run_virtual(main())


def test_a_second_loss_before_all_streams_are_back_lengthens_only_the_gap_of_those_that_were_not() -> None:
    async def main() -> None:
        async with rig("a", "b", ack=ACK) as bench:
            bench.say({"op": "sub", "id": 1, "ok": True}, {"op": "sub", "id": 2, "ok": True})
            bench.peer.hang_up(1001)
            await asyncio.sleep(2)
            bench.say({"op": "sub", "id": 3, "ok": True})
            await asyncio.sleep(2)
            bench.peer.hang_up(1012)
            await asyncio.sleep(2)
            bench.say({"op": "sub", "id": 5, "ok": True}, {"op": "sub", "id": 6, "ok": True})
            first_a, second_a, b = bench.markers(Kind.GAP)
            assert [gap["stream"] for gap in (first_a, second_a, b)] == ["a", "a", "b"]
            assert first_a["to"] <= second_a["from"] < second_a["to"]
            assert b["from"] == first_a["from"]
            assert b["to"] == second_a["to"]
            assert bench.intake.counters.gaps == {"1001": 2, "1012": 1}

    run_virtual(main())


def test_what_an_address_sends_by_itself_has_gaps_without_a_stream() -> None:
    async def main() -> None:
        async with rig(data=DataRule()) as bench:
            bench.peer.hang_up()
            await asyncio.sleep(2)
            (gap,) = bench.markers(Kind.GAP)
            assert gap["stream"] is None
            assert bench.kinds() == ["connect", "disconnect", "connect", "gap"]

    run_virtual(main())


def test_attempts_that_fail_add_no_markers() -> None:
    async def main() -> None:
        async with rig("a") as bench:
            bench.network.refuse(*[DialError("refused")] * 3)
            bench.peer.hang_up()
            await asyncio.sleep(10)
            assert bench.kinds() == ["connect", "disconnect", "connect", "gap"]

    run_virtual(main())


def test_stopping_while_it_reconnects_tells_no_second_disconnect() -> None:
    async def main() -> None:
        async with rig("a") as bench:
            bench.network.ignore()
            bench.peer.hang_up()
            await asyncio.sleep(2)
            assert bench.socket.state is State.RECONNECTING
        assert bench.kinds() == ["connect", "disconnect"]
        assert bench.intake.lost == {"1006": 1}

    run_virtual(main())


def test_a_connection_that_fails_for_good_is_told_with_its_reason() -> None:
    async def main() -> None:
        with capture_logs() as log:
            async with rig("a") as bench:
                bench.peer.hang_up(1008, "banned")
                await asyncio.sleep(1)
                assert bench.intake.state is State.FAILED
                assert [str(error) for error in bench.ended] == ["connection closed with code 1008: banned"]
        assert bench.kinds() == ["connect", "disconnect"]
        assert "connection.failed" in [line["event"] for line in log]

    run_virtual(main())


# The session


def test_streams_are_live_when_they_are_acknowledged() -> None:
    async def main() -> None:
        async with rig("a", "b", ack=ACK) as bench:
            assert not bench.intake.complete
            bench.say({"op": "sub", "id": 1, "ok": True})
            assert bench.intake.live == {"a"}
            bench.say({"op": "sub", "id": 2, "ok": True})
            assert bench.intake.complete

    run_virtual(main())


def test_a_refused_stream_is_told_and_the_others_live_on() -> None:
    async def main() -> None:
        with capture_logs() as log:
            async with rig("a", "b", ack=ACK) as bench:
                bench.say({"op": "sub", "id": 1, "ok": False, "error": "no such stream"})
                bench.say({"op": "sub", "id": 2, "ok": True})
                assert bench.intake.refused == {"a"}
                assert bench.intake.state is State.CONNECTED
                assert bench.intake.complete
        (refused,) = [line for line in log if line["event"] == "subscription.refused"]
        assert refused["streams"] == "a"
        assert "no such stream" in refused["reason"]

    run_virtual(main())


def test_a_refused_stream_has_no_gap_when_the_connection_is_lost() -> None:
    async def main() -> None:
        async with rig("a", "b", ack=ACK) as bench:
            bench.say({"op": "sub", "id": 1, "ok": False}, {"op": "sub", "id": 2, "ok": True})
            bench.peer.hang_up()
            await asyncio.sleep(2)
            bench.say({"op": "sub", "id": 3, "ok": True}, {"op": "sub", "id": 4, "ok": True})
            assert [gap["stream"] for gap in bench.markers(Kind.GAP)] == ["b"]

    run_virtual(main())


def test_a_connection_all_of_whose_streams_are_refused_fails() -> None:
    async def main() -> None:
        async with rig("a", ack=ACK) as bench:
            bench.grant(False)
            assert bench.intake.state is State.FAILED
            assert isinstance(bench.intake.error, SubscriptionRefused)
            assert [type(error) for error in bench.ended] == [SubscriptionRefused]
            assert bench.intake.counters.subscriptions_refused == 1

    run_virtual(main())


def test_a_subscription_that_is_never_acknowledged_is_tried_on_a_new_connection() -> None:
    async def main() -> None:
        async with rig("a", ack=ACK) as bench:
            await asyncio.sleep(10)
            assert bench.markers(Kind.DISCONNECT)[0]["reason"].endswith(
                "no answer to the subscription of a within 10 s"
            )
            await asyncio.sleep(2)
            bench.grant()
            assert bench.intake.complete
            await asyncio.sleep(60)
            assert bench.socket.connects == 2

    run_virtual(main())


def test_heartbeats_go_out_and_a_missing_answer_makes_a_new_connection() -> None:
    async def main() -> None:
        beat = HeartbeatRule(PING, every=20.0, expect=Match.parse({"$.op": "pong"}), timeout=5.0)
        async with rig("a", heartbeat=beat) as bench:
            await asyncio.sleep(20)
            assert bench.peer.received[-1] == b'{"op":"ping"}'
            bench.say({"op": "pong"})
            await asyncio.sleep(24)
            assert bench.socket.connects == 1
            await asyncio.sleep(3)
            assert bench.socket.connects == 2
            assert bench.markers(Kind.DISCONNECT)[0]["reason"].endswith(
                "no answer to the heartbeat within 5 s"
            )

    run_virtual(main())


def test_goodbye_is_said_only_on_an_open_connection() -> None:
    async def main() -> None:
        bye = TreeTemplate.parse({"op": "unsub", "args": "<streams>"}, SUBSCRIBE_NAMES)
        async with rig("a", unsubscribe=bye, connected=False) as bench:
            bench.intake.goodbye()
            await asyncio.sleep(0.02)
            bench.intake.goodbye()
            assert [json.loads(each)["op"] for each in bench.peer.received] == ["sub", "unsub"]

    run_virtual(main())


def unreadable() -> str:
    raise OperatorError("cannot read /run/secrets/token")


def test_a_secret_that_cannot_be_read_for_the_moment_costs_a_reconnect_and_not_the_connection() -> None:
    async def main() -> None:
        outcomes: list[bool] = []
        token = Interpolated(
            "${file:/run/secrets/token}",
            (lambda: "t" if not outcomes or outcomes.pop(0) else unreadable(),),
        )
        secret = TreeTemplate.parse({"op": "sub", "token": token, "args": "<streams>"}, SUBSCRIBE_NAMES)
        ping = TreeTemplate.parse({"op": "ping", "token": token}, HEARTBEAT_NAMES)
        async with rig("a", connected=False, subscribe=secret, heartbeat=HeartbeatRule(ping, 20.0)) as bench:
            outcomes += [False, True, False]
            await asyncio.sleep(0.02)
            assert bench.socket.connects == 1
            assert bench.network.peers[0].received == []
            await asyncio.sleep(2)
            assert json.loads(bench.peer.received[0])["op"] == "sub"
            await asyncio.sleep(22)
            assert bench.socket.connects == 3
            assert bench.socket.state is State.CONNECTED
            reasons = [marker["reason"] for marker in bench.markers(Kind.DISCONNECT)]
            assert len(reasons) == 2
            assert all("cannot read /run/secrets/token" in reason for reason in reasons)

    run_virtual(main())


def test_a_goodbye_with_an_unreadable_secret_is_left_unsaid() -> None:
    async def main() -> None:
        readable = [True, True]
        token = Interpolated("${file:t}", (lambda: "t" if readable else unreadable(),))
        bye = TreeTemplate.parse({"op": "unsub", "token": token, "args": "<streams>"}, SUBSCRIBE_NAMES)
        async with rig("a", unsubscribe=bye) as bench:
            readable.clear()
            bench.intake.goodbye()
            assert len(bench.peer.received) == 1

    run_virtual(main())


# Pressure


def test_reading_pauses_while_any_of_its_subscriptions_is_pressed() -> None:
    async def main() -> None:
        async with rig("a", subscriptions=("one", "two")) as bench:
            bench.intake.press("one", True)
            bench.intake.press("two", True)
            assert not bench.peer.reading
            bench.intake.press("one", False)
            assert not bench.peer.reading
            bench.intake.press("two", False)
            assert bench.peer.reading
            assert bench.socket.counters.pauses == 1

    run_virtual(main())


def test_a_paused_connection_outlives_heartbeats_pings_and_acks_that_cannot_be_answered() -> None:
    async def main() -> None:
        beat = HeartbeatRule(PING, every=20.0, expect=Match.parse({"$.op": "pong"}), timeout=5.0)
        async with rig(
            "a", ack=ACK, heartbeat=beat, timing=Timing(ping_every=7.0, ping_timeout=3.0)
        ) as bench:
            bench.peer.mute = True
            bench.intake.press("sub", True)
            await asyncio.sleep(200)
            assert bench.socket.connects == 1
            assert bench.peer.received.count(b'{"op":"ping"}') == 10
            bench.peer.mute = False
            bench.intake.press("sub", False)
            bench.say({"op": "sub", "id": 1, "ok": True})
            await asyncio.sleep(5)
            assert bench.socket.connects == 1
            assert bench.intake.complete

    run_virtual(main())


def test_a_connection_lost_while_paused_says_backpressure_and_its_successor_is_paused_too() -> None:
    async def main() -> None:
        async with rig("a", ack=ACK) as bench:
            bench.grant()
            bench.intake.press("sub", True)
            bench.peer.hang_up(1008 + 3, "too slow")
            await asyncio.sleep(60)
            assert bench.markers(Kind.DISCONNECT)[0]["reason"] == "backpressure"
            assert not bench.peer.reading
            assert bench.socket.connects == 2
            bench.intake.press("sub", False)
            assert bench.peer.reading
            bench.grant()
            assert bench.markers(Kind.GAP)[0]["reason"] == "backpressure"

    run_virtual(main())
