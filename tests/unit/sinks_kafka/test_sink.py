"""What the sink makes of each failure, told by a client that does as it is bidden."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from jetsocket_ingest.sink import Batch, SinkFailed, SinkUnavailable
from jetsocket_sinks.kafka import sink as sink_module
from jetsocket_sinks.kafka.engine import Admin, Engine, TopicFacts
from jetsocket_sinks.kafka.flight import Failure, Flight, Verdict
from jetsocket_sinks.kafka.options import CreateTopicsOptions
from jetsocket_sinks.kafka.routing import Rows
from tests.support.aio import run
from tests.support.kafka_sink import Bench, chunk, deliver, numbered


class Cluster:
    """Topics, every client made, every value delivered, and what goes wrong with which value."""

    def __init__(self) -> None:
        self.topics: dict[str, TopicFacts] = {"ticks": TopicFacts(may_write=True)}
        self.clients: list[Client] = []
        self.delivered: list[bytes] = []
        self.wrong: dict[bytes, Verdict] = {}
        self.answers = True


class Client(Engine):
    cluster: Cluster
    singly = False
    batch_bytes = 0
    abandoned = stopped = False

    async def start(self, batch_bytes: int, *, singly: bool) -> None:
        self.cluster.clients.append(self)
        self.batch_bytes, self.singly = batch_bytes, singly

    async def produce(self, rows: Rows, flight: Flight) -> None:
        for index, value in zip(rows.indices, rows.values, strict=True):
            flight.sent += 1
            if not self.cluster.answers:
                continue
            flight.reported += 1
            verdict = self.cluster.wrong.get(value)
            if verdict is Verdict.SUSPECT and self.singly:
                verdict = Verdict.REJECTED
            if verdict is None:
                self.cluster.delivered.append(value)
            else:
                flight.failures.append(Failure(verdict, f"wrong: {value!r}", index))
        await asyncio.sleep(0)

    def abandon(self) -> None:
        self.abandoned = True

    async def stop(self) -> None:
        self.stopped = True


class Desk(Admin):
    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster

    def describe(self, names: list[str]) -> dict[str, TopicFacts]:
        return {name: self.cluster.topics[name] for name in names if name in self.cluster.topics}

    def create(self, names: list[str], options: CreateTopicsOptions) -> None:
        self.cluster.topics |= dict.fromkeys(names, TopicFacts())

    def close(self) -> None:
        pass


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    made = Cluster()
    monkeypatch.setattr(sink_module, "connect_admin", lambda *_: Desk(made))
    kind = type("Client", (Client,), {"cluster": made})
    monkeypatch.setattr(sink_module, "make_engine", kind)
    yield made
    assert all(client.stopped for client in made.clients)


def bench(**keys: Any) -> Bench:
    return Bench(bootstrap_servers=["h:1"], **{"topic": "ticks"} | keys)


def test_a_client_that_gives_up_is_replaced_and_delivery_writes_again(cluster: Cluster) -> None:
    batches = [numbered(3, ["s"], first_position=0), numbered(3, ["s"], first_position=3)]

    async def main() -> int:
        cluster.wrong[b"s 1"] = Verdict.AWAY
        async with bench().opened() as sink:
            with pytest.raises(SinkUnavailable, match="wrong: b's 1'"):
                await (await sink.write(batches[0]))
            cluster.wrong.clear()
            return await deliver(sink, batches)

    assert run(main()) == 0
    assert cluster.delivered[-6:] == [b"s %d" % number for number in range(6)]
    assert [client.abandoned for client in cluster.clients] == [True, False]


def test_missing_rights_fail_for_good(cluster: Cluster) -> None:
    cluster.wrong[b"s 1"] = Verdict.REFUSED

    async def main() -> None:
        async with bench().opened() as sink:
            await (await sink.write(numbered(3, ["s"])))

    with pytest.raises(SinkFailed, match="wrong"):
        run(main())


def test_a_suspect_is_sent_singly_rejected_once_and_then_all_is_as_before(cluster: Cluster) -> None:
    cluster.wrong[b"s 1"] = Verdict.SUSPECT
    made = bench()

    async def main() -> None:
        async with made.opened() as sink:
            assert await deliver(sink, [numbered(3, ["s"])]) == 1
            assert await deliver(sink, [numbered(3, ["s"], first_position=3)]) == 0

    run(main())
    assert [(record.position, reason) for record, reason in made.rejected] == [(1, "wrong: b's 1'")]
    assert [client.singly for client in cluster.clients] == [False, True, False]
    assert cluster.delivered[-5:] == [b"s 0", b"s 2", b"s 3", b"s 4", b"s 5"]


def test_a_record_found_impossible_is_not_tried_again_after_an_abort(cluster: Cluster) -> None:
    cluster.wrong |= {b"s 0": Verdict.REJECTED, b"s 2": Verdict.AWAY}
    made = bench()

    async def main() -> None:
        async with made.opened() as sink:
            with pytest.raises(SinkUnavailable):
                await (await sink.write(numbered(3, ["s"])))
            assert made.rejected == []
            cluster.wrong = {b"s 0": Verdict.AWAY}  # it would give up on it now
            await deliver(sink, [numbered(3, ["s"])])

    run(main())
    assert [record.position for record, _ in made.rejected] == [0]
    assert cluster.delivered[-2:] == [b"s 1", b"s 2"]


def test_a_topic_with_a_lower_limit_lowers_what_is_sent_at_once(cluster: Cluster) -> None:
    cluster.topics |= {
        "small": TopicFacts(max_message_bytes=2000),
        "large": TopicFacts(max_message_bytes=10**7),
    }
    made = bench(topic="<stream>")

    async def main() -> None:
        async with made.opened() as sink:
            await deliver(sink, [Batch([chunk([b"1"], streams=["large"])])])
            await deliver(
                sink, [Batch([chunk([b"2", b"x" * 2000], streams=["small", "small"], first_position=1)])]
            )

    run(main())
    assert [client.batch_bytes for client in cluster.clients] == [sink_module.BATCH_BYTES, 2000]
    [(record, reason)] = made.rejected
    assert record.position == 2
    assert "expected at most 2000 bytes, the limit of the topic small" in reason


def test_a_topic_deleted_meanwhile_is_missed_by_the_next_client(cluster: Cluster) -> None:
    cluster.wrong[b"s 0"] = Verdict.AWAY

    async def main() -> None:
        async with bench().opened() as sink:
            with pytest.raises(SinkUnavailable):
                await (await sink.write(numbered(1, ["s"])))
            del cluster.topics["ticks"]
            with pytest.raises(SinkFailed, match="topic ticks does not exist"):
                await sink.write(numbered(1, ["s"]))

    run(main())


def test_a_topic_we_may_not_write_is_named_with_the_user(cluster: Cluster) -> None:
    cluster.topics |= {"ticks": TopicFacts(may_write=False)}
    credentials = {"username": "bob", "password": "x"}

    async def main() -> None:
        async with bench(sasl=credentials).opened():
            pass

    with pytest.raises(SinkFailed, match=r"'bob' lacks the right to write.*topic ticks\."):
        run(main())


def test_a_cancelled_write_holds_up_nothing(cluster: Cluster) -> None:
    async def main() -> None:
        async with bench().opened() as sink:
            writing = asyncio.ensure_future(sink.write(numbered(3, ["s"])))
            while not cluster.delivered:
                await asyncio.sleep(0)
            writing.cancel()
            with pytest.raises(asyncio.CancelledError):
                await writing
            await deliver(sink, [numbered(3, ["s"], first_position=3)])

    run(main())
    assert cluster.delivered[-3:] == [b"s 3", b"s 4", b"s 5"]


def test_closing_tells_the_writers_of_what_is_not_acknowledged(cluster: Cluster) -> None:
    cluster.answers = False

    async def main() -> None:
        async with bench().opened() as sink:
            written = await sink.write(numbered(3, ["s"]))
        with pytest.raises(SinkUnavailable, match="closed before"):
            await written

    run(main())


def test_a_batch_of_records_that_cannot_be_taken_is_delivered_all_the_same(cluster: Cluster) -> None:
    made = bench(topic="<stream>")

    async def main() -> None:
        async with made.opened() as sink:
            assert await deliver(sink, [Batch([chunk([b"1", b"2"], streams=["", ".."])])]) == 0

    run(main())
    assert len(made.rejected) == 2
    assert cluster.delivered == []


def test_where_records_go_is_described_without_secrets() -> None:
    made = bench(sasl={"username": "bob", "password": "canary"})
    assert made.sink.describe() == "Kafka topic ticks at h:1"
