"""Make before break inside the pool's limit, and one connect budget for all its connections."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from jetsocket_ingest import ConnectionPool, PoolExhaustedError
from jetsocket_ingest.errors import DialError
from jetsocket_ingest.net.budget import ConnectBudget
from jetsocket_ingest.net.life import ReconnectPolicy
from jetsocket_ingest.testing.clock import run_virtual
from tests.support.network import Network
from tests.unit.net.test_pool import counts, make_pool


class Feed:
    """A receiver that keeps what comes."""

    def __init__(self) -> None:
        self.heard: list[bytes] = []
        self.connects = 0

    def on_connected(self) -> None:
        self.connects += 1

    def on_changed(self, change: Any) -> None: ...

    def on_messages(self, payloads: list[bytes], *_: Any) -> None:
        self.heard += payloads


def test_the_new_connection_is_up_before_the_old_one_goes() -> None:
    network = Network()

    async def main() -> None:
        feed = Feed()
        async with make_pool(network, max_connections=2) as pool:
            old = await pool.acquire("/a", receiver=feed)
            await asyncio.sleep(0.1)
            new = await pool.replace(old, receiver=feed)
            assert feed.connects == 2
            network.peers[1].say(b"on the new one")
            await asyncio.sleep(0.1)
            assert feed.heard == [b"on the new one"]
            assert network.live == [network.peers[1]]
            assert counts(pool) == (1, 1, 0)
            await new.release()
        assert network.most_open == 2

    run_virtual(main())


def test_without_a_spare_slot_the_old_connection_stays() -> None:
    network = Network()

    async def main() -> None:
        async with make_pool(network, max_connections=1) as pool:
            conn = await pool.acquire("/a")
            with pytest.raises(PoolExhaustedError):
                await pool.replace(conn, 1.0)
            await conn.send("still mine")
            assert network.peers[0].received == [b"still mine"]
            await conn.release()
        assert network.most_open == 1

    run_virtual(main())


def test_a_replacement_that_cannot_connect_leaves_the_old_connection_and_no_slot() -> None:
    network = Network()

    async def main() -> None:
        async with make_pool(network, max_connections=2) as pool:
            conn = await pool.acquire("/a")
            network.refuse(DialError("down"))
            with pytest.raises(DialError, match="down"):
                await pool.replace(conn)
            network.ignore()
            with pytest.raises(PoolExhaustedError):
                await pool.replace(conn, 0.5, receiver=Feed())
            await asyncio.sleep(10)
            assert counts(pool) == (1, 1, 0)
            await conn.release()

    run_virtual(main())


def test_replacements_take_turns_so_that_one_spare_slot_serves_all() -> None:
    network = Network(latency=0.5)

    async def main() -> None:
        async with make_pool(network, max_connections=4, acquire_timeout=60.0) as pool:
            feed = Feed()
            old = [await pool.acquire("/a", receiver=feed) for _ in range(3)]
            await asyncio.sleep(2)
            new = await asyncio.gather(*(pool.replace(conn, receiver=feed) for conn in old))
            await asyncio.sleep(5)
            assert counts(pool) == (3, 3, 0)
            for conn in new:
                await conn.release()
        assert network.most_open == 4

    run_virtual(main())


def test_a_restart_of_many_connections_stays_inside_the_budget() -> None:
    network = Network()

    async def main() -> None:
        budget = ConnectBudget(10, 60.0)
        kwargs = {"budget": budget, "policy": ReconnectPolicy(retry_first=True)}
        pool: ConnectionPool[Any] = make_pool(network, max_connections=200, kwargs=kwargs)
        async with pool:
            for _ in range(200):
                await pool.acquire("/a", receiver=Feed())
            await asyncio.sleep(1300)
            assert len(network.live) == 200
            for peer in network.live:
                peer.hang_up(1012)
            await asyncio.sleep(1300)
            assert len(network.live) == 200
        moments = [moment for moment, _ in network.attempts]
        assert len(moments) == 400
        for start in moments:
            assert sum(start <= moment < start + 59.999 for moment in moments) <= 10

    run_virtual(main())
