"""When a pool may hand out a connection again: moments in which something else happens too."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from jetsocket_ingest import ConnectionPool, ConnectionPoolConfig
from jetsocket_ingest.net.life import Changed, State, Timing
from jetsocket_ingest.testing.clock import LoopClock, run_virtual
from tests.support.network import Network


def make_pool(network: Network, **kwargs: Any) -> ConnectionPool[Any]:
    return ConnectionPool(
        ConnectionPoolConfig(max_connections=1),
        base_uri="ws://feed.test",
        manager_kwargs={"dial": network.dial, "timing": Timing(ping_every=None), **kwargs},
        clock=LoopClock(),
    )


class Quiet:
    def __init__(self) -> None:
        self.connected = 0

    def on_connected(self) -> None:
        self.connected += 1

    def on_changed(self, change: Changed) -> None: ...
    def on_messages(self, payloads: list[bytes], binary: bool, received_ns: int, size: int) -> None: ...


async def _acquire(pool: ConnectionPool[Any]) -> None:
    async with pool.acquire("/a"):
        pass


def at_serving(pool: ConnectionPool[Any], action: Callable[[], None]) -> None:
    """Do it the next time a waiter is assigned a connection, before the waiter can know."""
    serve = pool._serve

    def serve_and_act(waiter: int, key: int, *, fresh: bool) -> None:
        serve(waiter, key, fresh=fresh)
        pool._serve = serve  # type: ignore[method-assign]
        action()

    pool._serve = serve_and_act  # type: ignore[method-assign]


@pytest.mark.parametrize("event", ["lost", "ended", "message"])
def test_a_connection_to_which_something_happened_since_its_waiter_vanished_is_not_reused(event: str) -> None:
    network = Network()

    async def main() -> None:
        async with make_pool(network) as pool:
            first = await pool.acquire("/a")
            waiter = asyncio.create_task(_acquire(pool))
            await asyncio.sleep(0.1)
            peer = network.peers[0]

            def happen() -> None:
                peer.say(b"1") if event == "message" else peer.hang_up(1006 if event == "lost" else 1008)
                waiter.cancel()

            at_serving(pool, happen)
            await first.release()
            await asyncio.wait({waiter})
            assert waiter.cancelled()
            async with pool.acquire("/a") as conn:
                assert conn.socket.state is State.CONNECTED
                assert len(network.peers) == 2

    run_virtual(main())


def test_a_receiver_is_not_told_to_subscribe_on_a_connection_lost_on_the_way_to_it() -> None:
    network = Network()
    receiver = Quiet()

    async def main() -> None:
        async with make_pool(network) as pool:
            first = await pool.acquire("/a")
            acquiring = asyncio.ensure_future(_lease(pool, receiver))
            await asyncio.sleep(0.1)
            at_serving(pool, lambda: network.peers[0].hang_up(1006))
            await first.release()
            conn = await acquiring
            assert receiver.connected == 0
            await asyncio.sleep(5)
            assert receiver.connected == 1, "told when it was back"
            await conn.release()

    run_virtual(main())


def test_a_message_that_arrives_on_the_way_to_the_next_user_counts_as_theirs() -> None:
    network = Network()

    async def main() -> None:
        async with make_pool(network) as pool:
            first = await pool.acquire("/a")
            acquiring = asyncio.ensure_future(_lease(pool, None))
            await asyncio.sleep(0.1)
            at_serving(pool, lambda: network.peers[0].say(b"1"))
            await first.release()
            conn = await acquiring
            assert await conn.recv() == 1
            await conn.release()
            await asyncio.sleep(1)
            assert pool.stats().total_connections == 0, "it spoke unasked, so it is not known to be quiet"

    run_virtual(main())


def test_a_connection_given_back_before_its_on_open_is_done_is_not_reused() -> None:
    network = Network()

    async def on_open(made: Any) -> None:
        await asyncio.sleep(3)

    async def main() -> None:
        async with make_pool(network, on_open=on_open) as pool:
            conn = await _lease(pool, Quiet())
            await asyncio.sleep(1)
            await conn.release()
            async with pool.acquire("/a") as conn:
                assert conn.socket.up
                assert len(network.peers) == 2

    run_virtual(main())


async def _lease(pool: ConnectionPool[Any], receiver: Any) -> Any:
    return await pool.acquire("/a", receiver=receiver)
