"""Each fault of the embedded feed does what its name says, to whom it should, as often as it should."""

from __future__ import annotations

import asyncio
import json

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, ConnectionClosedError, InvalidStatus, PayloadTooBig

from jetsocket_ingest.errors import ConfigError
from jetsocket_ingest.testing.feed import KINDS, FeedConnection, FeedOptions, FeedServer, ScheduledFault
from tests.support.aio import run
from tests.support.feed import BTC, ETH, ask, client, manual, numbers

STREAM = f"/ws/{BTC}"

# Ends of a connection.


def test_silence_keeps_the_connection_and_answers_nothing() -> None:
    async def main() -> None:
        async with manual() as feed, client(feed, STREAM, close_timeout=0.1) as socket:
            assert feed.faults.silence() == 1
            await feed.publish(BTC)
            pong = asyncio.ensure_future(await socket.ping())
            await socket.send('{"op":"ping"}')
            async with connect(feed.url + STREAM) as other:
                # The feed has had every chance to answer by the time that it has answered somebody else.
                await feed.wait_for(lambda feed: len(feed.connections) == 2)
                await feed.publish(BTC)
                assert await numbers(other, 1) == [2]
            assert not pong.done()
            silenced = feed.connections[0]
            assert (silenced.pings, list(silenced.requests), silenced.sent[BTC].count) == (0, [], 0)
            assert feed.faults.silence() == 0

    run(main())


def test_rst_ends_without_a_close_frame_and_fin_after_everything_was_sent() -> None:
    async def main() -> None:
        async with manual(size=50_000) as feed:
            async with client(feed, STREAM) as socket:
                assert feed.faults.rst() == 1
                with pytest.raises(ConnectionClosedError, match="no close frame") as caught:
                    await socket.recv()
                assert isinstance(caught.value.__cause__, ConnectionResetError)
            async with client(feed, STREAM) as socket:
                await feed.publish(BTC, 40)
                assert feed.faults.fin() == 1
                await socket.send('{"op":"ping"}')
                assert len(await numbers(socket, 40)) == 40
                with pytest.raises(ConnectionClosedError, match="no close frame") as caught:
                    await socket.recv()
                assert not isinstance(caught.value.__cause__, OSError)
            await feed.wait_for(lambda feed: len(feed.past) == 2)
            assert [gone.close_code for gone in feed.past] == [1006, 1006]

    run(main())


@pytest.mark.parametrize(("code", "seen"), [(1001, 1001), (4008, 4008), (None, 1005)])
def test_close_sends_its_code_and_reason(code: int | None, seen: int) -> None:
    async def main() -> None:
        async with manual() as feed, client(feed, "/ws") as socket:
            reason = "go away" if code else ""
            assert feed.faults.close(code, reason) == 1
            with pytest.raises(ConnectionClosed) as caught:
                await socket.recv()
            assert caught.value.rcvd is not None
            assert (caught.value.rcvd.code, caught.value.rcvd.reason) == (seen, reason)
            await feed.wait_for(lambda feed: feed.past)

    run(main())


@pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 2000, 5000])
def test_a_code_that_no_close_frame_carries_is_refused(code: int) -> None:
    with pytest.raises(ConfigError, match=f"found {code}; to end without a close frame"):
        manual().faults.close(code)


def test_a_fault_can_be_kept_to_one_connection() -> None:
    async def main() -> None:
        async with manual() as feed, client(feed, STREAM) as one, client(feed, STREAM) as two:
            assert feed.faults.rst(on=feed.connections[0]) == 1
            with pytest.raises(ConnectionClosedError):
                await one.recv()
            await feed.publish(BTC)
            assert await numbers(two, 1) == [1]

    run(main())


# Messages.


def test_raw_messages_arrive_as_they_were_given() -> None:
    async def main() -> None:
        async with manual() as feed, client(feed, "/ws") as socket:
            feed.faults.text("héllo")
            feed.faults.binary(b"\x00\xff")
            feed.faults.invalid_json()
            assert [await socket.recv() for _ in range(2)] == ["héllo", b"\x00\xff"]
            with pytest.raises(json.JSONDecodeError):
                json.loads(await socket.recv())
            feed.faults.invalid_utf8()
            with pytest.raises(ConnectionClosedError) as caught:
                await socket.recv()
            assert caught.value.sent is not None
            assert caught.value.sent.code == 1007

    run(main())


def test_an_oversize_message_has_exactly_its_size() -> None:
    async def main() -> None:
        async with manual() as feed, client(feed, "/ws", max_size=1000) as socket:
            feed.faults.oversize(1000)
            assert len(await socket.recv()) == 1000
            feed.faults.oversize(1001)
            with pytest.raises(ConnectionClosedError) as caught:
                await socket.recv()
            assert isinstance(caught.value.__cause__, PayloadTooBig)

    run(main())


@pytest.mark.parametrize("compression", [None, "deflate"])
def test_a_fragmented_message_is_the_next_of_its_stream_with_a_ping_in_between(
    compression: str | None,
) -> None:
    async def main() -> None:
        async with (
            manual() as feed,
            client(feed, STREAM, compression=compression) as one,
            client(feed, STREAM, compression=compression) as two,
        ):
            await feed.publish(BTC)
            assert feed.faults.fragmented(4, on=feed.connections[0]) == 1
            await feed.publish(BTC)
            assert await numbers(one, 1) == [1]
            pieces = [piece async for piece in one.recv_streaming()]
            assert len(pieces) == 4
            assert json.loads("".join(map(str, pieces)))["seq"] == 2
            await feed.wait_for(lambda feed: feed.connections[0].pongs == 1)
            assert await numbers(one, 1) == [3]
            assert await numbers(two, 3) == [1, 2, 3]
            assert feed.connections[1].pongs == 0

    run(main())


def test_nothing_is_fragmented_or_repeated_where_nobody_listens() -> None:
    async def main() -> None:
        async with manual() as feed, client(feed, "/ws"):
            assert feed.faults.fragmented(2) == 0
            assert feed.faults.duplicate(2) == 0
            assert feed.sent[BTC].last == 0
            assert await feed.publish(BTC) == 1

    run(main())


# Numbering.


def test_a_gap_skips_numbers_for_all_or_messages_for_one() -> None:
    async def main() -> None:
        async with manual() as feed, client(feed, "/all") as one, client(feed, "/all") as two:
            await feed.publish(BTC)
            assert feed.faults.gap(2, BTC) == 1
            await feed.publish(BTC)
            assert feed.faults.gap(1, on=feed.connections[0]) == 2
            await feed.publish(BTC, 2)
            await feed.publish(ETH)
            await feed.publish(ETH)
            assert await numbers(one, 4) == [1, 4, 6, 2]
            assert await numbers(two, 6) == [1, 4, 5, 6, 1, 2]
            sent = feed.connections[0].sent[BTC]
            assert (sent.count, sent.first, sent.last) == (3, 1, 6)
            assert feed.sent[BTC].count == 4

    run(main())


def test_duplicates_are_the_last_messages_as_they_were_and_are_told_from_new_ones() -> None:
    async def main() -> None:
        async with manual() as feed, client(feed, STREAM) as socket:
            await feed.publish(BTC, 2)
            feed.faults.gap(1, BTC)
            await feed.publish(BTC, 3)
            before = [await socket.recv() for _ in range(5)]
            assert feed.faults.duplicate(2, BTC) == 2
            assert feed.faults.duplicate(50, BTC) == 3
            assert [await socket.recv() for _ in range(5)] == [*before[-2:], *before[-3:]]
            sent = feed.sent[BTC]
            assert (sent.count, sent.last, sent.repeats) == (5, 6, 5)
            await feed.publish(BTC)
            assert await numbers(socket, 1) == [7]

    run(main())


# The next handshakes and requests.


def test_handshakes_are_refused_as_often_as_asked_for() -> None:
    async def main() -> None:
        async with manual() as feed:
            feed.faults.refuse_handshakes(429, "slow down", retry_after=7, headers={"X-Limit": "5"}, times=2)
            for _ in range(2):
                with pytest.raises(InvalidStatus) as caught:
                    await connect(feed.url + "/ws")
                response = caught.value.response
                assert (response.status_code, response.body) == (429, b"slow down")
                assert (response.headers["Retry-After"], response.headers["X-Limit"]) == ("7", "5")
            async with client(feed, "/ws"):
                assert [seen.status for seen in feed.requests] == [429, 429, 101]
            feed.faults.refuse_handshakes(599)
            for _ in range(3):
                with pytest.raises(InvalidStatus, match="599"):
                    await connect(feed.url + "/ws")
            feed.faults.clear()
            async with client(feed, "/ws"):
                pass

    run(main())


def test_a_slow_handshake_holds_its_client_and_no_other() -> None:
    async def main() -> None:
        async with manual() as feed:
            feed.faults.slow_handshakes(30, times=1)
            waiting = asyncio.ensure_future(connect(feed.url + "/ws"))
            await feed.wait_for(lambda feed: feed.requests)
            async with client(feed, "/ws"):
                assert not waiting.done()
                assert [seen.status for seen in feed.requests] == [None, 101]
            await feed.stop()
            with pytest.raises(Exception, match=r"valid HTTP response|closed|reset"):
                await waiting

    run(main(), timeout=10)


def test_a_slow_handshake_ends_in_a_connection() -> None:
    async def main() -> None:
        async with manual() as feed:
            feed.faults.slow_handshakes(0.05, times=1)
            loop = asyncio.get_running_loop()
            began = loop.time()
            async with client(feed, "/ws"):
                assert loop.time() - began >= 0.05

    run(main())


@pytest.mark.parametrize("code", [1013, 4001, None])
def test_connections_are_accepted_and_ended_at_once(code: int | None) -> None:
    async def main() -> None:
        async with manual() as feed:
            feed.faults.accept_then_close(code, "full" if code else "", times=1)
            async with client(feed, STREAM) as socket:
                with pytest.raises(ConnectionClosedError) as caught:
                    await socket.recv()
                assert (caught.value.rcvd.code if caught.value.rcvd else None) == code
            async with client(feed, STREAM) as socket:
                await feed.publish(BTC)
                assert await numbers(socket, 1) == [1]

    run(main())


def test_streams_and_requests_are_refused_until_cleared() -> None:
    async def main() -> None:
        async with manual() as feed, client(feed, "/ws") as socket:
            both, one = ({"op": "subscribe", "id": 1, "streams": streams} for streams in ([BTC, ETH], [BTC]))
            feed.faults.refuse_streams(ETH)
            reply = await ask(socket, both)
            assert (reply["ok"], reply["error"], reply["refused"]) == (False, f"refused stream: {ETH}", [ETH])
            feed.faults.refuse_requests(times=1)
            assert await ask(socket, {"op": "ping"}) == {"op": "pong"}
            assert (await ask(socket, one))["refused"] == [BTC]
            assert (await ask(socket, one))["ok"] is True
            feed.faults.clear()
            assert (await ask(socket, both))["ok"] is True

    run(main())


def test_data_overtakes_a_late_ack_and_pings_do_not_wait_for_it() -> None:
    async def main() -> None:
        async with manual() as feed, client(feed, "/ws") as socket:
            feed.faults.late_acks(0.1, times=1)
            await socket.send(json.dumps({"op": "subscribe", "id": 1, "streams": [BTC]}))
            await feed.wait_for(lambda feed: feed.subscribed())
            await feed.publish(BTC)
            assert await numbers(socket, 1) == [1]
            assert await ask(socket, {"op": "ping"}) == {"op": "pong"}
            assert json.loads(await socket.recv())["ok"] is True
            assert (await ask(socket, {"op": "subscribe", "id": 2, "streams": [ETH]}))["id"] == 2

    run(main())


def test_the_ack_delay_of_the_options_holds_for_every_request() -> None:
    async def main() -> None:
        async with manual(ack_delay=0.05) as feed, client(feed, "/ws") as socket:
            loop = asyncio.get_running_loop()
            began = loop.time()
            await ask(socket, {"op": "subscribe", "streams": [BTC]})
            await ask(socket, {"op": "unsubscribe", "streams": [BTC]})
            assert loop.time() - began >= 0.1

    run(main())


def test_requests_without_acks_are_obeyed() -> None:
    async def main() -> None:
        async with manual() as feed, client(feed, "/ws") as socket:
            feed.faults.no_acks(times=2)
            await socket.send(json.dumps({"op": "subscribe", "id": 1, "streams": [BTC]}))
            await socket.send(json.dumps({"op": "subscribe", "id": 2, "streams": ["X"]}))
            assert await ask(socket, {"op": "ping"}) == {"op": "pong"}
            assert feed.subscribed() == {BTC: 1}
            assert (await ask(socket, {"op": "unsubscribe", "id": 3, "streams": [BTC]}))["id"] == 3

    run(main())


# Faults by name.


def test_a_scheduled_fault_strikes_again_and_again_and_is_told() -> None:
    async def main() -> None:
        told: list[tuple[str, int]] = []

        def tell(fault: str, connection: FeedConnection) -> None:
            told.append((fault, connection.number))

        options = FeedOptions(rate=0, faults=[ScheduledFault("binary", every=0.01)])
        async with FeedServer(options, on_fault=tell) as feed, client(feed, "/ws") as socket:
            assert [await socket.recv() for _ in range(3)] == [b"\x00\x01\x02\xff"] * 3
            assert told[:3] == [("binary", 1)] * 3

    run(main())


@pytest.mark.parametrize("name", sorted(KINDS))
def test_every_named_fault_can_strike(name: str) -> None:
    async def main() -> None:
        fault = ScheduledFault(name, every=3600)
        async with manual(faults=[fault]) as feed, client(feed, STREAM, close_timeout=0.1):
            await feed.publish(BTC)
            fault.strike(feed.faults, feed.connections[0])
            if KINDS[name].about.startswith("reset"):
                await feed.wait_for(lambda feed: feed.past)

    run(main())


def test_the_fault_http_resets_and_refuses_the_next_handshake() -> None:
    async def main() -> None:
        async with manual() as feed, client(feed, "/ws") as socket:
            ScheduledFault("http:429").strike(feed.faults, feed.connections[0])
            with pytest.raises(ConnectionClosedError):
                await socket.recv()
            with pytest.raises(InvalidStatus, match="429"):
                await connect(feed.url + "/ws")
            async with client(feed, "/ws"):
                pass

    run(main())
