"""The feed goes away in every way it can: what was sent arrives once and in order, what was not is a gap."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from signal import SIGINT
from typing import Any

import pytest

from jetsocket_ingest.testing.feed import FeedOptions, FeedServer
from tests.support.aio import run
from tests.support.feed import BTC, ETH, manual
from tests.support.program import Program, market, program, sequences, write_config

SCREEN: dict[str, Any] = {"screen": {"type": "stdout"}}
TICKS: dict[str, Any] = {"ticks": {"endpoint": "feed", "streams": [BTC, ETH], "sinks": ["screen"]}}


async def arrived(running: Program, count: int) -> None:
    """So many data records are out."""
    await running.until(lambda running: sum(row["kind"] == "data" for row in running.rows) >= count)


def gaps(running: Program) -> list[dict[str, Any]]:
    return [row["payload"] for row in running.rows if row["kind"] == "gap"]


ENDS: dict[str, Callable[[FeedServer], object]] = {
    "RST": lambda feed: feed.faults.rst(),
    "FIN": lambda feed: feed.faults.fin(),
    "close 1000": lambda feed: feed.faults.close(1000),
    "close 1001": lambda feed: feed.faults.close(1001),
    "close 1011": lambda feed: feed.faults.close(1011, "internal error"),
    "close 4000": lambda feed: feed.faults.close(4000, "custom"),
    "close without a code": lambda feed: feed.faults.close(None),
}


def test_every_way_to_lose_a_connection_is_a_gap_of_each_stream_and_the_rest_is_exact(tmp_path: Path) -> None:
    async def main() -> None:
        async with manual() as feed:
            config = write_config(tmp_path, {"feed": market(feed.url)}, TICKS, SCREEN)
            async with program("run", config) as running:
                for number, end in enumerate([*ENDS.values(), None], 1):
                    await running.event("subscription.acknowledged", number)
                    await feed.publish(BTC, 10)
                    await feed.publish(ETH, 5)
                    await arrived(running, 15 * number)
                    if end is not None:
                        assert end(feed) == 1
                assert await running.stop(SIGINT) == 0
                rounds = len(ENDS) + 1
                assert sequences(running.rows) == {
                    BTC: list(range(1, 10 * rounds + 1)),
                    ETH: list(range(1, 5 * rounds + 1)),
                }
                assert [gap["stream"] for gap in gaps(running)] == [BTC, ETH] * len(ENDS)
                codes = [line["code"] for line in running.named("connection.lost")]
                assert codes == [1006, 1006, 1000, 1001, 1011, 4000, 1005]
                # A gap spans the outage, no more and no less.
                times = [(gap["from"], gap["to"]) for gap in gaps(running)[::2]]
                assert times == sorted(times)
                assert all(start < end for start, end in times)
                assert all(a[1] <= b[0] for a, b in itertools.pairwise(times))

    run(main(), 60)


@pytest.mark.slow
def test_under_load_each_message_that_was_sent_arrives_once_and_in_order_across_orderly_ends(
    tmp_path: Path,
) -> None:
    async def main() -> None:
        async with FeedServer(FeedOptions(rate=5000, streams=[BTC, ETH])) as feed:
            config = write_config(tmp_path, {"feed": market(feed.url)}, TICKS, SCREEN)
            async with program("run", config) as running:
                for number in range(1, 11):
                    await running.event("subscription.acknowledged", number)
                    await arrived(running, 500 * number)
                    # FIN and a close: all that was sent before still arrives.
                    feed.faults.fin() if number % 2 else feed.faults.close(1001)
                await running.event("subscription.acknowledged", 11)
                assert await running.stop() == 0
                everyone = feed.past
                for stream, numbers in sequences(running.rows).items():
                    runs = [each.sent[stream] for each in everyone if each.sent[stream].count]
                    assert all(sent.last - sent.first + 1 == sent.count for sent in runs)
                    sent = [number for each in runs[:-1] for number in range(each.first, each.last + 1)]
                    assert numbers[: len(sent)] == sent
                    # At our own goodbye the last few may still be on their way.
                    rest = numbers[len(sent) :]
                    assert rest == list(range(runs[-1].first, runs[-1].first + len(rest)))

    run(main(), 100)


@pytest.mark.slow
def test_a_feed_that_crashes_and_comes_back_is_found_again_and_nothing_comes_twice(tmp_path: Path) -> None:
    async def main() -> None:
        async with FeedServer(FeedOptions(rate=5000, streams=[BTC, ETH])) as feed:
            config = write_config(tmp_path, {"feed": market(feed.url)}, TICKS, SCREEN)
            async with program("run", config) as running:
                for number in range(1, 6):
                    await running.event("subscription.acknowledged", number)
                    await arrived(running, 500 * number)
                    await (feed.kill() if number % 2 else feed.stop())
                    await running.event("connection.backing_off", 2 * number)  # one attempt at least fails
                    await feed.start()
                await running.event("subscription.acknowledged", 6)
                await arrived(running, 3000)
                assert await running.stop() == 0
                for stream, numbers in sequences(running.rows).items():
                    assert numbers == sorted(set(numbers))
                    holes = [b for a, b in itertools.pairwise(numbers) if b != a + 1]
                    told = [gap for gap in gaps(running) if gap["stream"] == stream]
                    assert len(told) == 5
                    assert len(holes) <= 5
                kinds = [row["kind"] for row in running.rows if row["kind"] in ("connect", "disconnect")]
                assert kinds == ["connect", "disconnect"] * 6

    run(main(), 100)


@pytest.mark.slow
def test_a_peer_that_accepts_and_closes_at_once_is_dialled_with_growing_waits(tmp_path: Path) -> None:
    async def main() -> None:
        async with manual() as feed:
            feed.faults.accept_then_close(1013, "try later")
            backoff = {"initial": "100ms", "maximum": "30s"}
            endpoint = market(feed.url, policy={"backoff": backoff})
            config = write_config(tmp_path, {"feed": endpoint}, TICKS, SCREEN)
            async with program("run", config, "--duration", "3s") as running:
                assert await running.exit() == 0
                # With full jitter the waits average 50, 100, 200, 400 ms and so on.
                assert 2 <= feed.accepted <= 20

    run(main(), 40)


@pytest.mark.slow
def test_a_peer_that_falls_silent_is_noticed_and_replaced(tmp_path: Path) -> None:
    async def main() -> None:
        async with manual() as feed:
            endpoint = market(feed.url, ping={"every": "200ms", "timeout": "200ms"}, close_timeout="100ms")
            config = write_config(tmp_path, {"feed": endpoint}, TICKS, SCREEN)
            async with program("run", config) as running:
                await running.event("subscription.acknowledged")
                feed.faults.silence()
                lost = await running.event("connection.lost")
                assert "no pong within 0.2 s" in lost["reason"]
                await running.event("subscription.acknowledged", 2)
                await feed.publish(BTC, 3)
                await arrived(running, 3)
                assert await running.stop() == 0

    run(main(), 40)
