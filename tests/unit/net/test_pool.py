"""`ConnectionPool` against peers in memory, in virtual time: every rule of its contract."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

import pytest

from jetsocket_ingest import ConnectionPool, ConnectionPoolConfig, PoolClosedError, PoolExhaustedError
from jetsocket_ingest.errors import ConnectionClosed, DialError
from jetsocket_ingest.net.life import ReconnectPolicy, State, Timing
from jetsocket_ingest.net.pool import ReleasedError
from jetsocket_ingest.net.websocket import MessageError
from jetsocket_ingest.testing.clock import LoopClock, run_virtual
from tests.support.cancel import cancelled_at
from tests.support.network import Network

BASE = "ws://feed.test"


def make_pool(network: Network, max_connections: int = 2, **limits: float) -> ConnectionPool[Any]:
    kwargs = {"dial": network.dial, "random": lambda: 0.5, "timing": Timing(ping_every=None)}
    kwargs.update(limits.pop("kwargs", {}))  # type: ignore[call-overload]
    return ConnectionPool(
        ConnectionPoolConfig(max_connections=max_connections, **limits),
        base_uri=BASE,
        manager_kwargs=kwargs,
        clock=LoopClock(),
    )


def counts(pool: ConnectionPool[Any]) -> tuple[int, int, int]:
    stats = pool.stats()
    return stats.total_connections, stats.active_connections, stats.idle_connections


@pytest.mark.parametrize(
    "field", ["max_connections", "max_idle_time", "health_check_interval", "acquire_timeout"]
)
@pytest.mark.parametrize("value", [0, -1, float("nan"), "5", True])
def test_a_limit_that_is_not_positive_is_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=field):
        ConnectionPoolConfig(**{field: value})


def test_the_number_of_connections_must_be_finite_and_whole() -> None:
    for value in (float("inf"), 1.5):
        with pytest.raises(ValueError, match="max_connections"):
            ConnectionPoolConfig(max_connections=value)  # type: ignore[arg-type]
    assert ConnectionPoolConfig(acquire_timeout=float("inf")).acquire_timeout == float("inf")


def test_construction_opens_nothing() -> None:
    network = Network()

    async def main() -> None:
        pool = make_pool(network)
        assert repr(pool) == "ConnectionPool(max_connections=2, active=0, idle=0, closed=False)"
        await pool.close()

    run_virtual(main())
    assert network.attempts == []


def test_acquire_works_with_await_and_with_async_with() -> None:
    network = Network(echo=True)

    async def main() -> None:
        async with make_pool(network) as pool:
            conn = await pool.acquire("/a")
            await conn.send({"n": 1})
            assert await conn.recv() == {"n": 1}
            await conn.release()
            async with pool.acquire("/a") as conn:
                await conn.send("plain text is not JSON")
                with pytest.raises(MessageError, match="expected a message that decodes to JSON"):
                    await conn.recv()
                await conn.send([1, 2])
                assert await conn.recv() == [1, 2]
            assert len(network.peers) == 1, "an idle connection of the same URI is reused"

    run_virtual(main())
    assert network.live == []


def test_a_relative_path_needs_a_base_uri() -> None:
    async def main() -> None:
        pool: ConnectionPool[Any] = ConnectionPool()
        with pytest.raises(ValueError, match="no base_uri"):
            pool.acquire("/ws/x")
        with pytest.raises(ValueError, match="expected a ws:// or wss://"):
            pool.acquire("http://feed.test/x")
        await pool.close()

    run_virtual(main())


def test_a_path_is_joined_before_the_query_of_the_base_uri() -> None:
    pool: ConnectionPool[Any] = ConnectionPool(base_uri="wss://feed.test/ws/?v=2")
    assert pool.resolve("/btc") == "wss://feed.test/ws/btc?v=2"
    assert pool.resolve("") == "wss://feed.test/ws/?v=2"


def test_an_idle_connection_of_another_uri_is_evicted_when_the_pool_is_full() -> None:
    network = Network()

    async def main() -> None:
        async with make_pool(network, max_connections=1) as pool:
            await (await pool.acquire("/a")).release()
            assert counts(pool) == (1, 0, 1)
            async with pool.acquire("/b"):
                assert counts(pool) == (1, 1, 0)
            assert network.most_open == 1, "the evicted socket was gone before the new one was dialled"

    run_virtual(main())


def test_waiters_are_served_in_the_order_they_came() -> None:
    network = Network()
    order: list[int] = []

    async def user(pool: ConnectionPool[Any], number: int) -> None:
        async with pool.acquire(f"/{number}"):
            order.append(number)
            await asyncio.sleep(0.1)

    async def main() -> None:
        async with make_pool(network, max_connections=1) as pool, asyncio.TaskGroup() as group:
            for number in range(6):
                group.create_task(user(pool, number))
                await asyncio.sleep(0.001)

    run_virtual(main())
    assert order == list(range(6))
    assert network.most_open == 1


def test_no_connection_within_the_time_is_exhaustion() -> None:
    network = Network()

    async def main() -> None:
        async with make_pool(network, max_connections=1, acquire_timeout=3.0) as pool:
            conn = await pool.acquire("/a")
            began = asyncio.get_running_loop().time()
            with pytest.raises(PoolExhaustedError) as caught:
                await pool.acquire("/b")
            assert asyncio.get_running_loop().time() - began == pytest.approx(3.0)
            assert (caught.value.max_connections, caught.value.timeout) == (1, 3.0)
            await conn.release()
            network.ignore()
            with pytest.raises(PoolExhaustedError) as caught:
                await pool.acquire("/c", timeout=0.5)
            assert caught.value.timeout == 0.5
            async with pool.acquire("/b"):
                pass

    run_virtual(main())


def test_a_failed_connect_is_raised_and_frees_its_slot() -> None:
    network = Network()
    network.refuse(DialError("connection refused"))

    async def main() -> None:
        async with make_pool(network, max_connections=1) as pool:
            with pytest.raises(DialError, match="connection refused"):
                await pool.acquire("/a")
            async with pool.acquire("/a"):
                pass

    run_virtual(main())


def test_releasing_twice_or_elsewhere_never_changes_the_limit() -> None:
    network = Network()

    async def main() -> None:
        async with (
            make_pool(network, max_connections=1) as pool,
            make_pool(network, max_connections=1) as other,
        ):
            conn = await pool.acquire("/a")
            await other.release(conn)
            assert counts(pool) == (1, 1, 0)
            await conn.release()
            await conn.release()
            await pool.release(conn)
            assert counts(pool) == (1, 0, 1)
            async with pool.acquire("/a"), asyncio.timeout(60):
                with pytest.raises(PoolExhaustedError):
                    await pool.acquire("/a", timeout=1.0)
                await conn.release()
                assert counts(pool) == (1, 1, 0)

    run_virtual(main())


def test_after_release_every_method_raises() -> None:
    network = Network()

    async def main() -> None:
        async with make_pool(network) as pool:
            conn = await pool.acquire("/a")
            await conn.release()
            for call in (conn.recv(), conn.send("x"), conn.__aenter__(), conn.__aiter__().__anext__()):
                with pytest.raises(ReleasedError, match="released"):
                    await call
            with pytest.raises(ReleasedError):
                _ = conn.socket

    run_virtual(main())


def test_a_reader_that_waits_when_its_connection_is_released_is_told() -> None:
    network = Network()

    async def main() -> None:
        async with make_pool(network) as pool:
            conn = await pool.acquire("/a")
            reader = asyncio.create_task(conn.recv())
            await asyncio.sleep(0.1)
            await conn.release()
            with pytest.raises(ReleasedError):
                await reader

    run_virtual(main())


def test_the_next_user_never_sees_what_arrived_for_the_last_one() -> None:
    network = Network()

    async def main() -> None:
        async with make_pool(network, max_connections=1) as pool:
            conn = await pool.acquire("/a")
            await conn.send({"subscribe": "trades"})
            network.peers[0].say(b'"ack"', b'"trade 1"')
            assert await conn.recv() == "ack"
            await conn.release()
            conn = await pool.acquire("/a")
            network.peers[0].say(b'"trade 2"')
            network.peers[1].say(b'"mine"')
            assert await conn.recv() == "mine"
            await conn.release()

    run_virtual(main())


def test_a_message_while_idle_shows_that_a_connection_is_not_quiet() -> None:
    network = Network()

    async def main() -> None:
        async with make_pool(network) as pool:
            await (await pool.acquire("/a")).release()
            assert counts(pool) == (1, 0, 1)
            network.peers[0].say(b'"unasked"')
            await asyncio.sleep(0.1)
            assert counts(pool) == (0, 0, 0)
            assert network.live == []

    run_virtual(main())


def test_a_released_connection_that_does_not_answer_a_ping_is_closed() -> None:
    network = Network()

    async def main() -> None:
        async with make_pool(network) as pool:
            conn = await pool.acquire("/a")
            network.peers[0].mute = True
            await conn.release()
            await asyncio.sleep(0.1)
            assert counts(pool) == (0, 0, 0)

    run_virtual(main())


def test_iteration_ends_when_the_peer_closes_for_good() -> None:
    network = Network()

    async def main() -> None:
        async with make_pool(network) as pool, pool.acquire("/a") as conn:
            network.peers[0].say(b"1", b"2")
            network.peers[0].hang_up(1000, "done")
            assert [message async for message in conn] == [1, 2]
            with pytest.raises(ConnectionClosed) as caught:
                await conn.recv()
            assert (caught.value.code, caught.value.reason) == (1000, "done")

    run_virtual(main())


def test_a_policy_close_ends_iteration_with_its_real_code() -> None:
    network = Network()

    async def main() -> None:
        async with make_pool(network) as pool, pool.acquire("/a") as conn:
            network.peers[0].hang_up(1008, "not you")
            with pytest.raises(ConnectionClosed) as caught:
                async for _ in conn:
                    pass
            assert caught.value.code == 1008
        assert len(network.attempts) == 1

    run_virtual(main())


def test_a_lost_connection_comes_back_within_its_lease() -> None:
    network = Network()
    subscribed: list[str] = []

    async def subscribe(socket: Any) -> None:
        subscribed.append(socket.uri)
        await socket.send("subscribe")

    async def main() -> None:
        async with make_pool(network, max_connections=1, kwargs={"on_open": subscribe}) as pool:
            async with pool.acquire("/a") as conn:
                network.peers[0].say(b"1")
                network.peers[0].hang_up(1006)
                assert counts(pool) == (1, 1, 0), "backing off holds the slot"
                assert await conn.recv() == 1
                await asyncio.sleep(5)
                network.peers[1].say(b"2")
                assert await conn.recv() == 2
            assert pool.stats().total_reconnects == 1
            assert subscribed == [f"{BASE}/a"] * 2
            assert [peer.received for peer in network.peers] == [[b"subscribe"], [b"subscribe"]]

    run_virtual(main())


def test_totals_never_fall_when_connections_close() -> None:
    network = Network(echo=True)

    async def main() -> None:
        async with make_pool(network) as pool:
            for round_ in range(1, 4):
                async with pool.acquire("/a") as conn:
                    await conn.send("1")
                    await conn.recv()
                    network.peers[-1].hang_up(1000)
                await asyncio.sleep(0.1)
                stats = pool.stats()
                assert (stats.total_messages_sent, stats.total_messages_received) == (round_, round_)
            assert stats.total_connections == 0

    run_virtual(main())


def test_idle_connections_are_closed_after_their_time_even_a_short_one() -> None:
    network = Network()

    async def main() -> None:
        async with make_pool(network, max_idle_time=0.05, health_check_interval=30.0) as pool:
            await (await pool.acquire("/a")).release()
            assert counts(pool) == (1, 0, 1)
            await asyncio.sleep(0.1)
            assert counts(pool) == (0, 0, 0)
            assert network.live == []

    run_virtual(main())


def test_a_health_check_proves_life_not_only_state() -> None:
    network = Network()

    async def main() -> None:
        async with make_pool(
            network, health_check_interval=1.0, kwargs={"timing": Timing(ping_timeout=0.5)}
        ) as pool:
            first = await pool.acquire("/a")
            second = await pool.acquire("/b")
            await first.release()
            await second.release()
            network.peers[0].mute = True  # half-open: its state still says connected
            await asyncio.sleep(2.0)
            assert counts(pool) == (1, 0, 1)
            assert network.live == [network.peers[1]]

    run_virtual(main())


def test_closing_turns_waiters_away_at_once_and_leaves_nothing() -> None:
    network = Network()

    async def main() -> None:
        pool = make_pool(network, max_connections=1)
        conn = await pool.acquire("/a")
        waiters = [asyncio.create_task(_acquire(pool, "/b")) for _ in range(3)]
        await asyncio.sleep(0.1)
        began = asyncio.get_running_loop().time()
        closing = asyncio.create_task(pool.close())
        for waiter in waiters:
            with pytest.raises(PoolClosedError):
                await waiter
        assert asyncio.get_running_loop().time() == began
        await closing
        await pool.close()
        assert pool.is_closed
        assert network.live == []
        await conn.release()
        with pytest.raises(PoolClosedError):
            await pool.acquire("/a")

    run_virtual(main())


def test_closing_is_bounded_when_the_peer_does_not_answer() -> None:
    network = Network()

    async def main() -> None:
        pool = make_pool(network, kwargs={"timing": Timing(close_timeout=2.0)})
        await pool.acquire("/a")
        network.peers[0].deaf_to_close = True
        began = asyncio.get_running_loop().time()
        await pool.close()
        assert asyncio.get_running_loop().time() - began == pytest.approx(2.0)
        assert network.live == []

    run_virtual(main())


def test_closing_while_connecting_raises_pool_closed_for_the_user() -> None:
    network = Network(latency=1.0)

    async def main() -> None:
        pool = make_pool(network)
        user = asyncio.create_task(_acquire(pool, "/a"))
        await asyncio.sleep(0.5)
        await pool.close()
        with pytest.raises(PoolClosedError):
            await user
        assert network.dialling == 0

    run_virtual(main())


def test_a_receiver_that_raises_ends_the_connection_failed_and_is_not_swallowed() -> None:
    class Broken:
        def on_connected(self) -> None: ...
        def on_changed(self, change: Any) -> None:
            seen.append(change.state)

        def on_messages(self, *_: Any) -> None:
            raise ZeroDivisionError("a bug")

    seen: list[State] = []
    network = Network()

    async def main() -> None:
        async with make_pool(network) as pool:
            conn = await pool.acquire("/a", receiver=Broken())
            await asyncio.sleep(0.1)
            network.peers[0].say(b"1")
            assert isinstance(conn.socket.error, ZeroDivisionError)
            assert seen[-1] is State.FAILED
            await conn.release()

    run_virtual(main())


def test_a_receiver_gets_its_lease_before_the_peer_can_be_reached() -> None:
    class Quiet:
        def on_connected(self) -> None:
            connected.append(asyncio.get_running_loop().time())

        def on_changed(self, change: Any) -> None: ...
        def on_messages(self, *_: Any) -> None: ...

    connected: list[float] = []
    network = Network()
    network.refuse(DialError("down"), DialError("down"))

    async def main() -> None:
        policy = ReconnectPolicy(retry_first=True)
        async with make_pool(network, kwargs={"policy": policy}) as pool:
            conn = await pool.acquire("/a", receiver=Quiet())
            assert connected == []
            await asyncio.sleep(10)
            assert len(connected) == 1
            await conn.release()

    run_virtual(main())


async def _acquire(pool: ConnectionPool[Any], path: str) -> None:
    async with pool.acquire(path):
        pass


def _assert_whole(network: Network, pool: ConnectionPool[Any]) -> None:
    assert network.most_open <= pool.stats().total_connections + 2
    assert counts(pool)[1] == 0, "no lease stays with nobody"


def _scenarios() -> dict[str, Callable[[ConnectionPool[Any], Network], Any]]:
    async def acquire(pool: ConnectionPool[Any], network: Network) -> None:
        async with pool.acquire("/x") as conn:
            await conn.send("1")

    async def wait_for_turn(pool: ConnectionPool[Any], network: Network) -> None:
        async with pool.acquire("/x"), pool.acquire("/y"), pool.acquire("/z"):
            raise AssertionError("three of two")

    async def reuse(pool: ConnectionPool[Any], network: Network) -> None:
        await (await pool.acquire("/x")).release()
        async with pool.acquire("/x"):
            pass

    async def evict(pool: ConnectionPool[Any], network: Network) -> None:
        await (await pool.acquire("/x")).release()
        await (await pool.acquire("/y")).release()
        async with pool.acquire("/z"):
            pass

    async def receive(pool: ConnectionPool[Any], network: Network) -> None:
        async with pool.acquire("/x") as conn:
            network.peers[-1].say(b"1")
            await conn.recv()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1):
                    await conn.recv()

    return {"acquire": acquire, "wait": wait_for_turn, "reuse": reuse, "evict": evict, "receive": receive}


@pytest.mark.parametrize("name", _scenarios())
def test_cancelled_at_any_await_nothing_is_lost(name: str) -> None:
    scenario = _scenarios()[name]
    at = 0
    while True:
        network = Network()
        reached = run_virtual(_cancel_one(scenario, network, at))
        if not reached:
            break
        at += 1
    assert at >= 2, "the scenario waits at several places"


async def _cancel_one(scenario: Callable[..., Any], network: Network, at: int) -> bool:
    async with make_pool(network, max_connections=2, acquire_timeout=1.0) as pool:
        try:
            reached, _ = await cancelled_at(scenario(pool, network), at)
        except PoolExhaustedError:
            reached = False
        await asyncio.sleep(10)
        _assert_whole(network, pool)
        assert network.most_open <= 2
        # Both slots can be had at once: none was lost.
        async with pool.acquire("/p"), pool.acquire("/q"):
            assert counts(pool) == (2, 2, 0)
    assert network.live == []
    assert network.dialling == 0
    return reached


@pytest.mark.parametrize("at", range(8))
def test_a_cancelled_release_or_close_finishes_all_the_same(at: int) -> None:
    network = Network()

    async def main() -> None:
        pool = make_pool(network)
        conn = await pool.acquire("/a")
        await cancelled_at(conn.release(), at)
        await asyncio.sleep(1)
        assert counts(pool) == (1, 0, 1)
        await cancelled_at(pool.close(), at)
        await asyncio.sleep(10)
        assert network.live == []
        await pool.close()

    run_virtual(main())


def test_a_waiter_cancelled_in_the_moment_it_is_served_passes_its_turn_on() -> None:
    network = Network()

    async def main() -> None:
        async with make_pool(network, max_connections=1) as pool:
            conn = await pool.acquire("/a")
            first = asyncio.create_task(_acquire(pool, "/a"))
            second = asyncio.create_task(_acquire(pool, "/a"))
            await asyncio.sleep(0.1)
            serve = pool._serve

            def serve_and_cancel(waiter: int, key: int, *, fresh: bool) -> None:
                serve(waiter, key, fresh=fresh)
                pool._serve = serve  # type: ignore[method-assign]
                first.cancel()

            pool._serve = serve_and_cancel  # type: ignore[method-assign]
            await conn.release()
            await second
            assert first.cancelled()
            assert len(network.peers) == 1

    run_virtual(main())
