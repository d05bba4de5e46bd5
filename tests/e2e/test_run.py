"""`run`, from a real feed to standard output: bounds, signals, pipes, and who shares what."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from jetsocket_ingest.app import Pipeline
from jetsocket_ingest.testing.feed import FeedOptions, FeedServer
from tests.support.aio import run
from tests.support.feed import BTC, ETH, manual
from tests.support.program import DATA, Program, market, program, sequences, write_config

SCREEN: dict[str, Any] = {"screen": {"type": "stdout"}}
TICKS: dict[str, Any] = {"ticks": {"endpoint": "feed", "streams": [BTC, ETH], "sinks": ["screen"]}}


def ticks(folder: Path, feed: FeedServer, **rest: Any) -> Path:
    return write_config(folder, {"feed": market(feed.url)}, TICKS, SCREEN, **rest)


@asynccontextmanager
async def subscribed(folder: Path, feed: FeedServer, *arguments: str, **rest: Any) -> AsyncIterator[Program]:
    """A run that is subscribed to both streams."""
    async with program("run", ticks(folder, feed, **rest), *arguments) as running:
        await feed.wait_for(lambda feed: len(feed.subscribed()) == 2, 15)
        await running.event("subscription.acknowledged")
        yield running


def test_every_message_is_printed_once_and_in_order_and_sigterm_ends_with_a_report(tmp_path: Path) -> None:
    async def main() -> None:
        async with manual() as feed, subscribed(tmp_path, feed) as running:
            for _ in range(5):
                await feed.publish(BTC, 100)
                await feed.publish(ETH, 40)
            assert await running.stop(signal.SIGTERM) == 0
            assert sequences(running.rows) == {BTC: list(range(1, 501)), ETH: list(range(1, 201))}
            kinds = [row["kind"] for row in running.rows]
            assert (kinds[0], kinds[-1]) == ("connect", "disconnect")
            assert [row["position"] for row in running.rows] == list(range(702))
            assert "Stopped (SIGTERM)" in running.stderr
            assert "delivered 702 to screen (standard output)" in running.stderr
            # It left as the provider asks for.
            assert b'"op":"unsubscribe"' in b"".join(
                each if isinstance(each, bytes) else each.encode() for each in feed.past[0].requests
            )
            assert feed.past[0].close_code == 1000
            stopped = running.named("pipeline.stopped")[0]
            assert (stopped["delivered"], stopped["undelivered"]) == (702, 0)

    run(main(), 40)


def test_max_records_is_exact_under_a_flood(tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            FeedServer(FeedOptions(rate=20_000, streams=[BTC, ETH])) as feed,
            program("run", ticks(tmp_path, feed), "--max-records", "1234") as running,
        ):
            assert await running.exit() == 0
            assert sum(map(len, sequences(running.rows).values())) == 1234
            for numbers in sequences(running.rows).values():
                assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
            assert "1234 records accepted" in running.stderr

    run(main(), 40)


def test_a_duration_ends_the_run_with_0(tmp_path: Path) -> None:
    async def main() -> None:
        async with manual() as feed, program("run", ticks(tmp_path, feed), "--duration", "200ms") as running:
            assert await running.exit() == 0
            assert "ran for 0.2 s" in running.stderr

    run(main(), 40)


def test_a_reader_that_has_seen_enough_ends_the_run_quietly_with_0(tmp_path: Path) -> None:
    async def main() -> None:
        async with FeedServer(FeedOptions(rate=2000, streams=[BTC, ETH])) as feed:
            read, write = os.pipe()
            async with program("run", ticks(tmp_path, feed), stdout=write) as running:
                os.close(write)
                head = await asyncio.create_subprocess_exec(
                    "head", "-n", "3", stdin=read, stdout=asyncio.subprocess.PIPE
                )
                os.close(read)
                lines, _ = await head.communicate()
                assert lines.count(b"\n") == 3
                assert await running.exit() == 0
                assert "nobody reads standard output any more" in running.stderr
                assert not running.named("sink.failed")
                assert "lost" not in running.stderr

    run(main(), 40)


def test_sigint_delivers_what_was_accepted_and_a_second_one_leaves_at_once(tmp_path: Path) -> None:
    async def main() -> None:
        async with manual() as feed:
            read, write = os.pipe()  # nobody reads: the sink stalls
            try:
                async with program("run", ticks(tmp_path, feed), stdout=write) as running:
                    await feed.wait_for(lambda feed: len(feed.subscribed()) == 2, 15)
                    await feed.publish(BTC, 2000)
                    await asyncio.sleep(0)
                    running.signal(signal.SIGINT)
                    await running.event("pipeline.stopping")
                    running.signal(signal.SIGINT)
                    assert await running.exit(5) == 1
                    assert "leaving at once" in running.stderr
            finally:
                os.close(read)
                os.close(write)

    run(main(), 40)


def test_what_a_stalled_sink_does_not_take_in_time_is_reported_as_lost_with_1(tmp_path: Path) -> None:
    async def main() -> None:
        async with manual() as feed:
            read, write = os.pipe()
            try:
                config = ticks(tmp_path, feed, shutdown_timeout="300ms")
                async with program("run", config, stdout=write) as running:
                    await feed.wait_for(lambda feed: len(feed.subscribed()) == 2, 15)
                    await feed.publish(BTC, 2000)
                    # The pings prove that everything before them was read.
                    await feed.connections[0].ping()
                    assert await running.stop() == 1
                    stopped = running.named("pipeline.stopped")[0]
                    assert stopped["delivered"] + stopped["undelivered"] == 2002
                    assert stopped["undelivered"] > 0
                    assert (
                        f"{stopped['undelivered']:,} accepted records could not be delivered"
                        in running.stderr
                    )
            finally:
                os.close(read)
                os.close(write)

    run(main(), 40)


@pytest.mark.slow
def test_a_stalled_sink_stalls_no_other_subscription(tmp_path: Path) -> None:
    async def main() -> None:
        async with manual() as feed:
            read, write = os.pipe()
            config = write_config(
                tmp_path,
                {"feed": market(feed.url)},
                {
                    "stuck": {"endpoint": "feed", "streams": [BTC], "sinks": ["screen"]},
                    "fluent": {"endpoint": "feed", "streams": [ETH], "sinks": ["disk"]},
                },
                {
                    "screen": {"type": "stdout", "backlog": {"max_size": "64KiB"}},
                    "disk": {"type": "file", "path": str(tmp_path / "out" / "data.jsonl")},
                },
                shutdown_timeout="500ms",
                admin={"listen": "127.0.0.1:0"},
            )
            try:
                async with program("run", config, stdout=write) as running:
                    await feed.wait_for(lambda feed: len(feed.subscribed()) == 2, 15)
                    stuck = asyncio.create_task(feed.publish(BTC, 300_000))
                    for _ in range(50):
                        await feed.publish(ETH, 100)
                    fluent = next(each for each in feed.connections if ETH in each.subscriptions)
                    await fluent.ping()
                    assert not stuck.done()  # TCP holds the feed back
                    running.signal(signal.SIGTERM)
                    assert await running.exit() == 1
                    stuck.cancel()
                    await asyncio.wait([stuck])
            finally:
                os.close(read)
                os.close(write)
            rows = read_rows(tmp_path / "out")
            assert sequences(rows) == {ETH: list(range(1, 5001))}

    run(main(), 60)


def read_rows(folder: Path) -> list[dict[str, Any]]:
    files = sorted(folder.rglob("*.jsonl"))
    return [json.loads(line) for file in files for line in file.read_bytes().splitlines()]


# How streams are asked for


def test_via_url_opens_a_connection_for_each_stream(tmp_path: Path) -> None:
    async def main() -> None:
        async with manual() as feed:
            endpoint = {
                "url": feed.url,
                "session": {
                    "subscribe": {"via": "url", "path": "/ws/<stream>"},
                    "data": {"sequence": {"last": "$.seq"}},
                },
            }
            config = write_config(tmp_path, {"feed": endpoint}, TICKS, SCREEN)
            async with program("run", config, "--max-records", "6") as running:
                await feed.wait_for(lambda feed: len(feed.subscribed()) == 2, 15)
                assert sorted(each.path for each in feed.connections) == [f"/ws/{ETH}", f"/ws/{BTC}"]
                await feed.publish(BTC, 3)
                await feed.publish(ETH, 3)
                assert await running.exit() == 0
                # No path to it is declared: the stream is known by the connection.
                assert sequences(running.rows) == {BTC: [1, 2, 3], ETH: [1, 2, 3]}
                connections = {row["stream"]: row["connection"] for row in running.rows if row["stream"]}
                assert sorted(connections.values()) == ["feed-1", "feed-2"]

    run(main(), 40)


@pytest.mark.slow
def test_via_none_takes_what_the_address_sends(tmp_path: Path) -> None:
    async def main() -> None:
        async with manual() as feed:
            endpoint = {"url": feed.url + "/all", "session": {"data": DATA}}
            everything = {"everything": {"endpoint": "feed", "sinks": ["screen"]}}
            config = write_config(tmp_path, {"feed": endpoint}, everything, SCREEN)
            async with program("run", config, "--max-records", "4") as running:
                await feed.wait_for(lambda feed: len(feed.subscribed()) == 2, 15)
                await feed.publish(BTC, 2)
                await feed.publish(ETH, 2)
                assert await running.exit() == 0
                assert sequences(running.rows) == {BTC: [1, 2], ETH: [1, 2]}
                assert feed.past[0].requests == type(feed.past[0].requests)()  # nothing was asked for

    run(main(), 40)


def test_a_stream_of_two_subscriptions_is_subscribed_once_and_delivered_under_both(tmp_path: Path) -> None:
    async def main() -> None:
        async with manual() as feed:
            config = write_config(
                tmp_path,
                {"feed": market(feed.url)},
                {
                    "one": {"endpoint": "feed", "streams": [BTC], "sinks": ["screen"]},
                    "both": {"endpoint": "feed", "streams": [BTC, ETH], "sinks": ["screen"]},
                },
                SCREEN,
            )
            async with program("run", config) as running:
                await feed.wait_for(lambda feed: len(feed.subscribed()) == 2, 15)
                await running.event("subscription.acknowledged", 2)
                assert feed.subscribed() == {BTC: 1, ETH: 1}
                await feed.publish(BTC, 5)
                await feed.publish(ETH, 5)
                assert await running.stop() == 0
                by_name = {
                    name: sequences([row for row in running.rows if row["subscription"] == name])
                    for name in ("one", "both")
                }
                numbers = [1, 2, 3, 4, 5]
                assert by_name == {"one": {BTC: numbers}, "both": {BTC: numbers, ETH: numbers}}

    run(main(), 40)


@pytest.mark.slow
def test_markers_can_go_to_another_sink(tmp_path: Path) -> None:
    async def main() -> None:
        async with manual() as feed:
            config = write_config(
                tmp_path,
                {"feed": market(feed.url)},
                TICKS,
                {
                    "screen": {"type": "stdout", "encoding": "raw", "markers": {"sink": "losses"}},
                    "losses": {"type": "file", "path": str(tmp_path / "out" / "losses.jsonl")},
                },
            )
            async with program("run", config) as running:
                await feed.wait_for(lambda feed: len(feed.subscribed()) == 2, 15)
                await running.event("subscription.acknowledged")
                await feed.publish(BTC, 3)
                await running.until(lambda running: len(running.rows) == 3)
                feed.faults.fin()
                await running.event("subscription.acknowledged", 2)
                assert await running.stop() == 0
                assert [row["seq"] for row in running.rows] == [1, 2, 3]
            kinds = [row["kind"] for row in read_rows(tmp_path / "out")]
            assert kinds == ["connect", "disconnect", "connect", "gap", "gap", "disconnect"]

    run(main(), 40)


def test_the_python_interface_runs_a_config_file(tmp_path: Path) -> None:
    async def main() -> None:
        async with manual() as feed:
            sinks = {"screen": {"type": "discard"}}
            config = write_config(tmp_path, {"feed": market(feed.url)}, TICKS, sinks)
            async with Pipeline.from_file(config, max_records=10) as pipeline:
                await feed.wait_for(lambda feed: len(feed.subscribed()) == 2)
                await feed.publish(BTC, 25)
                outcome = await pipeline.wait()
                assert (outcome.reason, outcome.failed) == ("10 records accepted", False)
            sink = pipeline.deliveries["screen"].sink
            assert (sink.records, sink.markers) == (10, 2)  # type: ignore[attr-defined]  # a DiscardSink's
            assert feed.connections == []

    run(main())
