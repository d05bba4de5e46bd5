"""`run`, from a real feed to a real broker, read back with the other client library."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.aio import run
from tests.support.feed import BTC, ETH, manual
from tests.support.kafka import KafkaBroker
from tests.support.kafka_read import Row, other, read_topic, values_by_key
from tests.support.program import market, program, write_config

pytestmark = pytest.mark.slow

TICKS: dict[str, Any] = {"ticks": {"endpoint": "feed", "streams": [BTC, ETH], "sinks": ["bus"]}}
ENGINES = ["librdkafka", "kafka-python"]


def bus(servers: str, topic: str, engine: str = "librdkafka", **keys: Any) -> dict[str, Any]:
    return {
        "bus": {
            "type": "kafka",
            "engine": engine,
            "bootstrap_servers": [servers],
            "topic": topic,
            "key": "<stream>",
            "markers": "none",
            **keys,
        }
    }


def numbers(rows: list[Row]) -> dict[bytes | None, list[int]]:
    """Key → sequence numbers of its records, in order."""
    return {
        key: [json.loads(value)["seq"] for value in values] for key, values in values_by_key(rows).items()
    }


@pytest.mark.parametrize("engine", ENGINES)
def test_each_stream_is_in_its_topic_complete_and_in_order_whatever_happens_to_feed_and_broker(
    tmp_path: Path, kafka: KafkaBroker, engine: str
) -> None:
    async def main() -> None:
        topic = await asyncio.to_thread(kafka.new_topic, partitions=3)
        async with manual() as feed:
            sinks = bus(kafka.bootstrap_servers, topic, engine)
            config = write_config(tmp_path, {"feed": market(feed.url)}, TICKS, sinks, shutdown_timeout="60s")
            async with program("run", config) as running:
                await running.event("sink.opened")
                await running.event("subscription.acknowledged")

                async def publish() -> None:
                    for _ in range(10):
                        await feed.publish(BTC, 200)
                        await feed.publish(ETH, 100)

                await publish()
                feed.faults.fin()  # all that was sent before still arrives
                await running.event("subscription.acknowledged", 2)
                await publish()
                if kafka.owned:
                    await asyncio.to_thread(kafka.kill)
                    await publish()
                    await asyncio.to_thread(kafka.restart)
                await publish()
                assert await running.stop() == 0
                rounds = 4 if kafka.owned else 3
                stopped = running.named("pipeline.stopped")[0]
                assert (stopped["delivered"], stopped["undelivered"]) == (3000 * rounds, 0)
        rows = await asyncio.to_thread(read_topic, kafka.bootstrap_servers, topic, by=other(engine))
        assert numbers(rows) == {
            BTC.encode(): list(range(1, 2000 * rounds + 1)),
            ETH.encode(): list(range(1, 1000 * rounds + 1)),
        }

    run(main(), 115)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_topic_that_is_not_there_ends_the_run_with_1_and_is_named(
    tmp_path: Path, kafka: KafkaBroker, engine: str
) -> None:
    async def main() -> None:
        async with manual() as feed:
            sinks = bus(kafka.bootstrap_servers, "no-such-topic", engine)
            config = write_config(tmp_path, {"feed": market(feed.url)}, TICKS, sinks)
            async with program("run", config) as running:
                assert await running.exit(40) == 1
                (failed,) = running.named("sink.failed")
                assert "no-such-topic" in failed["reason"]

    run(main(), 60)


@pytest.mark.parametrize("engine", ENGINES)
def test_wrong_credentials_end_the_run_with_1_and_never_show(
    tmp_path: Path, kafka: KafkaBroker, engine: str
) -> None:
    if not kafka.owned:
        pytest.skip("the given broker has no listener that asks for a password")

    async def main() -> None:
        topic = await asyncio.to_thread(kafka.new_topic)
        async with manual() as feed:
            sasl = {"mechanism": "SCRAM-SHA-256", "username": "writer", "password": "w0ng-canary"}
            security = {"protocol": "SASL_PLAINTEXT"}
            sinks = bus(kafka.sasl_servers, topic, engine, sasl=sasl, security=security)
            config = write_config(tmp_path, {"feed": market(feed.url)}, TICKS, sinks)
            async with program("run", config) as running:
                assert await running.exit(40) == 1
                (failed,) = running.named("sink.failed")
                assert "writer" in failed["reason"] or "uthentication" in failed["reason"]
                assert "w0ng-canary" not in running.stderr

    run(main(), 60)


def test_a_broker_that_is_not_there_at_the_start_is_waited_for_and_stopping_does_not_hang(
    tmp_path: Path,
) -> None:
    async def main() -> None:
        async with manual() as feed:
            await feed.stop()  # neither feed nor broker: nothing is accepted
            sinks = bus("127.0.0.1:1", "ticks")
            config = write_config(tmp_path, {"feed": market(feed.url)}, TICKS, sinks, shutdown_timeout="60s")
            async with program("run", config) as running:
                await running.event("sink.unavailable")
                assert await running.stop() == 0

    run(main(), 40)
