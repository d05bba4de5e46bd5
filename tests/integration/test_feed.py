"""The embedded feed behaves as its documentation says: protocol, numbering, pace, records."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl

import pytest
import trustme
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosedError, InvalidStatus

from jetsocket_ingest.errors import OperatorError
from jetsocket_ingest.testing.feed import FeedOptions, FeedServer
from tests.support.aio import run
from tests.support.feed import BTC, ETH, ask, client, manual, numbers


class StandingClock:
    """Always the same time."""

    def monotonic(self) -> float:
        return 1.0

    def wall_ns(self) -> int:
        return 1_760_000_000_123_456_789


# The protocol.


def test_a_subscription_is_acknowledged_before_its_numbered_messages_arrive() -> None:
    async def main() -> None:
        async with manual() as feed, client(feed, "/ws") as socket:
            reply = await ask(socket, {"op": "subscribe", "id": 7, "streams": [BTC]})
            assert reply == {"op": "subscribe", "id": 7, "ok": True, "streams": [BTC]}
            assert feed.subscribed() == {BTC: 1}
            assert await feed.publish(BTC, 3) == 3
            assert await numbers(socket, 3) == [1, 2, 3]

    run(main())


def test_a_message_carries_stream_number_time_price_and_size() -> None:
    async def main() -> None:
        feed = FeedServer(FeedOptions(rate=0, streams=[BTC]), clock=StandingClock())
        async with feed, client(feed, f"/ws/{BTC}") as socket:
            await feed.publish(BTC)
            message = json.loads(await socket.recv())
            assert list(message) == ["stream", "seq", "ts", "price", "size"]
            assert (message["stream"], message["seq"], message["ts"]) == (BTC, 1, 1_760_000_000_123)
            assert float(message["price"]) > 0
            assert float(message["size"]) > 0

    run(main())


@pytest.mark.parametrize(
    ("request_", "error"),
    [
        ("not json", "expected JSON"),
        ("[" * 100_000, "expected JSON"),
        ("[1]", 'expected an object with "op"'),
        ('{"op":5}', 'expected an object with "op"'),
        ('{"op":"buy"}', "unknown op: buy"),
        ('{"op":"subscribe"}', 'expected "streams" to be a list'),
        ('{"op":"subscribe","streams":[]}', 'expected "streams" to be a list'),
        ('{"op":"unsubscribe","streams":"all"}', 'expected "streams" to be a list'),
        (b'{"op":"ping"}', "expected a text message"),
    ],
)
def test_a_malformed_request_gets_an_error_that_says_what_was_expected(
    request_: str | bytes, error: str
) -> None:
    async def main() -> None:
        async with manual() as feed, client(feed, "/ws") as socket:
            reply = await ask(socket, request_)
            assert reply["op"] == "error"
            assert error in reply["error"]
            assert await ask(socket, {"op": "ping"}) == {"op": "pong"}

    run(main())


def test_one_bad_stream_refuses_the_whole_request() -> None:
    async def main() -> None:
        async with manual() as feed, client(feed, "/ws") as socket:
            reply = await ask(socket, {"op": "subscribe", "id": 1, "streams": [BTC, "X", "Y"]})
            assert reply == {
                "op": "subscribe",
                "id": 1,
                "ok": False,
                "error": "unknown stream: X, Y",
                "refused": ["X", "Y"],
            }
            assert not feed.subscribed()

    run(main())


def test_unsubscribing_ends_a_stream_and_only_works_for_one_that_is_subscribed() -> None:
    async def main() -> None:
        async with manual() as feed, client(feed, "/ws") as socket:
            await ask(socket, {"op": "subscribe", "id": 1, "streams": [BTC, ETH]})
            assert (await ask(socket, {"op": "unsubscribe", "id": 2, "streams": [BTC]}))["ok"] is True
            again = await ask(socket, {"op": "unsubscribe", "id": 3, "streams": [ETH, BTC]})
            assert (again["ok"], again["refused"]) == (False, [BTC])
            await feed.publish(BTC)
            await feed.publish(ETH)
            assert json.loads(await socket.recv())["stream"] == ETH
            assert feed.subscribed() == {ETH: 1}

    run(main())


def test_streams_beyond_a_connections_limit_are_refused() -> None:
    async def main() -> None:
        async with manual(max_streams_per_connection=1) as feed, client(feed, "/ws") as socket:
            reply = await ask(socket, {"op": "subscribe", "id": 1, "streams": [BTC, ETH]})
            assert (reply["ok"], reply["refused"]) == (False, [ETH])
            assert (await ask(socket, {"op": "subscribe", "streams": [BTC]}))["ok"] is True
            assert (await ask(socket, {"op": "subscribe", "streams": [BTC]}))["ok"] is True

    run(main())


def test_a_streams_own_path_and_all_need_no_subscribing() -> None:
    async def main() -> None:
        odd = "odd/name é"
        async with (
            manual(streams=[BTC, odd]) as feed,
            client(feed, "/ws/odd%2Fname%20%C3%A9") as one,
            client(feed, "/all?x=1") as everything,
        ):
            assert feed.subscribed() == {BTC: 1, odd: 2}
            await feed.publish(BTC)
            await feed.publish(odd)
            assert json.loads(await one.recv())["stream"] == odd
            assert [json.loads(await everything.recv())["stream"] for _ in range(2)] == [BTC, odd]

    run(main())


@pytest.mark.parametrize("path", ["/", "/ws/unknown", "/wss", "/ws/"])
def test_an_unknown_path_is_answered_with_404(path: str) -> None:
    async def main() -> None:
        async with manual() as feed:
            with pytest.raises(InvalidStatus) as caught:
                await connect(feed.url + path)
            assert caught.value.response.status_code == 404
            assert BTC.encode() in (caught.value.response.body or b"")
            assert [(seen.path, seen.status) for seen in feed.requests] == [(path, 404)]

    run(main())


def test_a_missing_or_wrong_token_is_answered_with_401() -> None:
    async def main() -> None:
        async with manual(require_token="s3cret") as feed:
            for headers in ({}, {"Authorization": "Bearer wrong"}):
                with pytest.raises(InvalidStatus) as caught:
                    await connect(feed.url + "/ws", additional_headers=headers)
                assert caught.value.response.status_code == 401
            async with client(feed, "/ws", additional_headers={"Authorization": "Bearer s3cret"}):
                assert feed.requests[-1].headers["authorization"] == "Bearer s3cret"
            assert "s3cret" not in repr(feed.options)

    run(main())


def test_subprotocols_and_compression_are_agreed_on() -> None:
    async def main() -> None:
        async with manual(subprotocols=["v2", "v1"]) as feed:
            async with client(feed, f"/ws/{BTC}", subprotocols=["v1"], compression="deflate") as socket:
                assert socket.subprotocol == "v1"
                assert feed.connections[0].compressed
                await feed.publish(BTC, 50)
                assert await numbers(socket, 50) == list(range(1, 51))
            with pytest.raises(InvalidStatus):
                await connect(feed.url + "/ws")
        async with manual(compression=False) as feed, client(feed, "/ws", compression="deflate"):
            assert not feed.connections[0].compressed

    run(main())


def test_it_serves_tls() -> None:
    async def main() -> None:
        authority = trustme.CA()
        served, trusted = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
        authority.issue_cert("127.0.0.1").configure_cert(served)
        authority.configure_trust(trusted)
        async with manual(tls=served) as feed, client(feed, f"/ws/{BTC}", ssl=trusted) as socket:
            assert feed.url.startswith("wss://")
            await feed.publish(BTC, 2)
            assert await numbers(socket, 2) == [1, 2]
            feed.faults.rst()
            with pytest.raises(ConnectionClosedError):
                await socket.recv()

    run(main())


def test_heartbeats_come_on_every_connection() -> None:
    async def main() -> None:
        async with manual(heartbeat=0.01) as feed, client(feed, "/ws") as one, client(feed, "/all") as two:
            for socket in (one, two, one, two):
                beat = json.loads(await socket.recv())
                assert beat["op"] == "heartbeat"
                assert beat["ts"] > 1_700_000_000_000

    run(main())


def test_pings_of_both_sides_are_answered_and_counted() -> None:
    async def main() -> None:
        async with manual() as feed, client(feed, "/ws") as socket:
            await (await socket.ping())
            await feed.connections[0].ping()
            assert (feed.connections[0].pings, feed.connections[0].pongs) == (1, 1)

    run(main())


# Numbering, pace, size.


def test_every_client_sees_the_same_numbers_and_they_go_on_unheard() -> None:
    async def main() -> None:
        async with manual() as feed:
            await feed.publish(BTC, 10)
            async with client(feed, f"/ws/{BTC}") as one:
                await feed.publish(BTC, 2)
                async with client(feed, f"/ws/{BTC}") as two:
                    await feed.publish(BTC)
                    assert await numbers(one, 3) == [11, 12, 13]
                    assert await numbers(two, 1) == [13]
            sent = feed.sent[BTC]
            assert (sent.count, sent.first, sent.last) == (3, 11, 13)

    run(main())


def test_numbers_continue_when_the_feed_is_stopped_or_killed_and_started_on_the_same_port() -> None:
    async def main() -> None:
        feed = manual()
        url = None
        for end, first in ((feed.stop, 1), (feed.kill, 3), (feed.stop, 5)):
            await feed.start()
            url = url or feed.url
            assert feed.url == url
            async with client(feed, f"/ws/{BTC}") as socket:
                await feed.publish(BTC, 2)
                assert await numbers(socket, 2) == [first, first + 1]
                await end()
                with pytest.raises(Exception, match="close frame" if end == feed.kill else "1001"):
                    await socket.recv()
            assert feed.connections == []
        assert len(feed.past) == feed.accepted == 3

    run(main())


def test_a_rate_is_kept_over_all_streams() -> None:
    async def main() -> None:
        async with FeedServer(FeedOptions(rate=2000, streams=4)) as feed, client(feed, "/all") as socket:
            loop = asyncio.get_running_loop()
            first = json.loads(await socket.recv())["ts"]
            began = loop.time()
            for _ in range(1000):
                last = json.loads(await socket.recv())["ts"]
            assert 0.4 < loop.time() - began < 1.5
            assert 400 < last - first < 1500

    run(main())


def test_a_stream_with_a_limit_waits_for_a_listener_and_then_sends_exactly_so_many() -> None:
    async def main() -> None:
        async with FeedServer(FeedOptions(rate=50_000, streams=[BTC, ETH], limit=500)) as feed:
            async with client(feed, f"/ws/{BTC}") as socket:
                first = await numbers(socket, 200)
            async with client(feed, f"/ws/{ETH}") as socket:
                assert await numbers(socket, 500) == list(range(1, 501))
                await feed.wait_for(lambda feed: feed.sent[ETH].count == 500)
            assert first == list(range(1, 201))
            assert feed.sent[BTC].count <= 500
            async with client(feed, "/all"):
                await feed.wait_for(lambda feed: feed.sent[BTC].count == 500)
            assert (feed.sent[BTC].last, feed.sent[ETH].last) == (500, 500)

    run(main())


# Records and errors.


def test_waiting_for_what_does_not_happen_tells_the_state_of_the_feed() -> None:
    async def main() -> None:
        async with manual() as feed:
            with pytest.raises(
                TimeoutError, match=r"0\.01 s: <FeedServer serving ws://127.0.0.1:\d+ connections=\[\]"
            ):
                await feed.wait_for(lambda feed: feed.connections, timeout=0.01)
            async with client(feed, "/ws") as socket:
                broken = asyncio.ensure_future(
                    feed.wait_for(lambda feed: feed.connections[0].requests and 1 / 0)
                )
                await socket.send('{"op":"ping"}')
                with pytest.raises(ZeroDivisionError):
                    await broken

    run(main())


def test_a_client_that_left_is_remembered_with_what_it_said_and_how_it_closed() -> None:
    async def main() -> None:
        async with manual(heartbeat=60, ack_delay=60) as feed:
            async with client(feed, f"/ws/{BTC}") as socket:
                await socket.send('{"op":"unsubscribe","streams":["X"]}')
                await feed.publish(BTC)
                await socket.recv()
                await ask(socket, '{"op":"ping"}')
                await socket.close(4001, "enough")
            await feed.wait_for(lambda feed: feed.past)
            (gone,) = feed.past
            assert (gone.close_code, gone.close_reason) == (4001, "enough")
            assert list(gone.requests) == ['{"op":"unsubscribe","streams":["X"]}', '{"op":"ping"}']
            assert not gone._timers
            assert gone.sent[BTC].last == 1
            assert not feed.subscribed()

    run(main())


def test_a_taken_port_is_the_operators_to_solve() -> None:
    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            feed = FeedServer(FeedOptions(port=taken.getsockname()[1]))
            with pytest.raises(OperatorError, match=f"port {feed.port}: .*[Cc]hoose another port"):
                await feed.start()
        async with feed:
            with pytest.raises(RuntimeError, match="already serves"):
                await feed.start()

    run(main())


def test_publishing_an_unknown_stream_names_the_known_ones() -> None:
    async def main() -> None:
        async with manual() as feed:
            with pytest.raises(ValueError, match=f"'X'; known are: {BTC}, {ETH}"):
                await feed.publish("X")

    run(main())
