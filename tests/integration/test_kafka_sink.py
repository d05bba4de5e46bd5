"""The Kafka sink against a real broker, on both engines; what one client wrote, the other reads."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jetsocket_ingest.sink import Batch, Kind, SinkFailed, SinkUnavailable, marker_payload
from jetsocket_sinks.kafka import sink as sink_module
from jetsocket_sinks.kafka.options import HEADER_NAMES
from jetsocket_sinks.kafka.outage import Outage
from tests.support.aio import run
from tests.support.kafka import USERS, KafkaBroker
from tests.support.kafka_read import other, read_topic, values_by_key
from tests.support.kafka_sink import Bench, chunk, deliver, numbered

pytestmark = [pytest.mark.slow, pytest.mark.parametrize("engine", ["librdkafka", "kafka-python"])]

STREAMS = [f"stream-{number}" for number in range(20)]


@pytest.fixture
def own(kafka: KafkaBroker) -> KafkaBroker:
    """A broker that this run started, with listeners for TLS and SASL, and that a test may kill."""
    if not kafka.owned:
        pytest.skip(
            "KAFKA_BOOTSTRAP_SERVERS names a broker that is not ours: it is not killed, and its users are unknown"
        )
    return kafka


def expected(batches: list[Batch]) -> dict[bytes | None, list[bytes]]:
    values: dict[bytes | None, list[bytes]] = {}
    for batch in batches:
        for record in batch.records():
            values.setdefault((record.stream or "").encode(), []).append(record.payload)
    return values


def test_every_record_arrives_once_in_the_order_of_its_key(kafka: KafkaBroker, engine: str) -> None:
    topic = kafka.new_topic(partitions=3)
    batches = [numbered(1500, STREAMS, first_position=1500 * number) for number in range(4)]

    async def main() -> None:
        async with Bench(
            bootstrap_servers=[kafka.bootstrap_servers], topic=topic, engine=engine
        ).opened() as sink:
            written = [await sink.write(batch) for batch in batches]
            for each in written:
                await each

    run(main())
    rows = read_topic(kafka.bootstrap_servers, topic, by=other(engine))
    assert values_by_key(rows) == expected(batches)
    assert {row.partition for row in rows} == {0, 1, 2}


def test_both_engines_send_a_key_to_the_same_partition(kafka: KafkaBroker, engine: str) -> None:
    topic = kafka.new_topic(partitions=5)
    batches = [numbered(100, STREAMS), numbered(100, STREAMS, first_position=100)]

    async def main() -> None:
        for name, batch in zip((engine, other(engine)), batches, strict=True):
            async with Bench(
                bootstrap_servers=[kafka.bootstrap_servers], topic=topic, engine=name
            ).opened() as sink:
                await deliver(sink, [batch])

    run(main())
    # A key in two partitions fails here.
    assert values_by_key(read_topic(kafka.bootstrap_servers, topic, by="librdkafka")) == expected(batches)


def test_awaitables_complete_in_the_order_of_the_writes(kafka: KafkaBroker, engine: str) -> None:
    topic = kafka.new_topic(partitions=3)
    order: list[int] = []

    async def main() -> None:
        async with Bench(
            bootstrap_servers=[kafka.bootstrap_servers], topic=topic, engine=engine
        ).opened() as sink:
            written = []
            for number in range(10):
                count = 2000 if number % 2 == 0 else 1
                written.append(await sink.write(numbered(count, STREAMS, first_position=2000 * number)))
                written[-1].add_done_callback(lambda _, number=number: order.append(number))  # type: ignore[attr-defined]
            await asyncio.gather(*written)

    run(main())
    assert order == list(range(10))


def test_headers_tell_what_the_raw_value_does_not(kafka: KafkaBroker, engine: str) -> None:
    topic = kafka.new_topic()
    received = 1_790_000_000_123_456_789
    data = chunk([b'{"p":1}', b"\xff\x00"], first_position=41, received_ns=received, event_times_ns=[1_500_000_000_000_000_000, None], sequences=[7, 8])  # fmt: skip
    gap = chunk(
        [marker_payload(Kind.GAP, {"count": 3})],
        streams=[None],
        first_position=43,
        kind=Kind.GAP,
        received_ns=received,
    )

    async def main() -> None:
        async with Bench(
            bootstrap_servers=[kafka.bootstrap_servers], topic=topic, engine=engine
        ).opened() as sink:
            await deliver(sink, [Batch([data, gap])])

    run(main())
    first, second, marker = read_topic(kafka.bootstrap_servers, topic, by=other(engine))
    assert first.headers == {
        "kind": b"data",
        "pipeline": b"pipe",
        "subscription": b"trades",
        "stream": b"BTC-USD",
        "connection": b"feed-1",
        "received": b"2026-09-21T14:13:20.123456789Z",
        "event_time": b"2017-07-14T02:40:00.000000000Z",
        "sequence": b"7",
        "position": b"41",
    }
    assert set(first.headers) == set(HEADER_NAMES)
    assert (first.value, first.key, first.timestamp) == (b'{"p":1}', b"BTC-USD", received // 1_000_000)
    assert second.value == b"\xff\x00"
    assert (second.headers["sequence"], "event_time" in second.headers) == (b"8", False)
    assert (marker.headers["kind"], json.loads(marker.value)["count"]) == (b"gap", 3)
    assert (marker.key, "stream" in marker.headers) == (b"trades", False)


def test_headers_of_ones_own_and_a_partition_by_template(kafka: KafkaBroker, engine: str) -> None:
    topic = kafka.new_topic(partitions=3)
    keys: dict[str, Any] = {
        "headers": {"what": "<kind>/<stream>", "at": "<position>"},
        "partition": "<stream>",
        "key": None,
        "timestamp": "event",
    }

    async def main() -> Bench:
        bench = Bench(bootstrap_servers=[kafka.bootstrap_servers], topic=topic, engine=engine, **keys)
        async with bench.opened() as sink:
            records = chunk(
                [b"a", b"b", b"c"], streams=["2", "0", "two"], event_times_ns=[10**18, None, None]
            )
            await deliver(sink, [Batch([records])])
        return bench

    bench = run(main())
    zero, two = read_topic(kafka.bootstrap_servers, topic, by=other(engine))
    assert (two.partition, two.key, two.value) == (2, None, b"a")
    assert two.headers == {"what": b"data/2", "at": b"0"}
    assert two.timestamp == 10**12
    assert (zero.partition, zero.headers["at"]) == (0, b"1")
    [(record, reason)] = bench.rejected
    assert record.payload == b"c"
    assert "two" in reason


def test_a_partition_that_is_not_there_rejects_only_its_record(kafka: KafkaBroker, engine: str) -> None:
    topic = kafka.new_topic(partitions=2)

    async def main() -> Bench:
        bench = Bench(
            bootstrap_servers=[kafka.bootstrap_servers], topic=topic, engine=engine, partition="<stream>"
        )
        async with bench.opened() as sink:
            await deliver(sink, [Batch([chunk([b"a", b"b", b"c"], streams=["0", "9", "1"])])])
        return bench

    bench = run(main())
    assert [record.payload for record, _ in bench.rejected] == [b"b"]
    assert {row.value for row in read_topic(kafka.bootstrap_servers, topic, by=other(engine))} == {b"a", b"c"}


def test_without_headers_and_timestamps_whole_batches_go_out(kafka: KafkaBroker, engine: str) -> None:
    prefix = kafka.new_topic(partitions=2)
    names = {stream: f"{prefix}.{stream}" for stream in STREAMS[:2]}
    keys: dict[str, Any] = {
        "headers": "none",
        "markers": "none",
        "timestamp": "none",
        "create_topics": {"enabled": True},
    }
    batch = numbered(2500, STREAMS[:2], per_chunk=1024)

    async def main() -> None:
        bench = Bench(
            bootstrap_servers=[kafka.bootstrap_servers], topic=f"{prefix}.<stream>", engine=engine, **keys
        )
        async with bench.opened() as sink:
            await deliver(sink, [batch])

    before = time.time() * 1000
    run(main())
    for stream, topic in names.items():
        rows = read_topic(kafka.bootstrap_servers, topic, by=other(engine))
        assert values_by_key(rows) == {stream.encode(): expected([batch])[stream.encode()]}
        assert all(not row.headers and row.timestamp >= before - 1000 for row in rows)


def test_the_envelope_is_the_value_where_it_is_asked_for(kafka: KafkaBroker, engine: str) -> None:
    topic = kafka.new_topic()

    async def main() -> None:
        bench = Bench(
            bootstrap_servers=[kafka.bootstrap_servers], topic=topic, engine=engine, encoding="envelope"
        )
        async with bench.opened() as sink:
            await deliver(sink, [Batch([chunk([b'{"p":1}'], first_position=5)])])

    run(main())
    [row] = read_topic(kafka.bootstrap_servers, topic, by=other(engine))
    envelope = json.loads(row.value)
    assert (envelope["payload"], envelope["position"], envelope["pipeline"]) == ({"p": 1}, 5, "pipe")
    assert row.headers == {}


@pytest.mark.parametrize("compression", ["gzip", "snappy", "lz4", "zstd"])
def test_compressed_records_can_be_read(kafka: KafkaBroker, engine: str, compression: str) -> None:
    topic = kafka.new_topic()
    batch = numbered(500, STREAMS)
    reader = other(engine)
    if compression == "snappy":
        if engine == "kafka-python":
            with pytest.raises(ValueError, match="needs the package python-snappy"):
                Bench(bootstrap_servers=["h:1"], topic="t", engine=engine, compression=compression)
            return
        reader = "librdkafka"  # the other engine has no snappy without another package

    async def main() -> None:
        bench = Bench(
            bootstrap_servers=[kafka.bootstrap_servers], topic=topic, engine=engine, compression=compression
        )
        async with bench.opened() as sink:
            await deliver(sink, [batch])

    run(main())
    assert values_by_key(read_topic(kafka.bootstrap_servers, topic, by=reader)) == expected([batch])


# Topics and rights


def test_a_missing_topic_is_named_and_not_created(kafka: KafkaBroker, engine: str) -> None:
    async def main() -> None:
        async with Bench(
            bootstrap_servers=[kafka.bootstrap_servers], topic="no-such.<pipeline>", engine=engine
        ).opened():
            pass

    with pytest.raises(
        SinkFailed, match=r"topic no-such\.pipe does not exist.*create_topics: \{enabled: true\}"
    ):
        run(main())
    assert "no-such.pipe" not in kafka.topics()


def test_a_missing_topic_of_a_record_is_named(kafka: KafkaBroker, engine: str) -> None:
    async def main() -> None:
        async with Bench(
            bootstrap_servers=[kafka.bootstrap_servers], topic="nowhere.<stream>", engine=engine
        ).opened() as sink:
            with pytest.raises(SinkFailed, match=r"topics nowhere\.a, nowhere\.b do not exist"):
                await sink.write(Batch([chunk([b"1", b"2"], streams=["a", "b"])]))

    run(main())
    assert "nowhere.a" not in kafka.topics()


def test_topics_are_created_where_that_is_asked_for(kafka: KafkaBroker, engine: str) -> None:
    prefix = kafka.new_topic()
    create = {"enabled": True, "partitions": 4, "replication": 1}

    async def main() -> Bench:
        bench = Bench(
            bootstrap_servers=[kafka.bootstrap_servers],
            topic=f"{prefix}.<stream>",
            engine=engine,
            create_topics=create,
        )
        async with bench.opened() as sink:
            await deliver(sink, [Batch([chunk([b"1", b"2"], streams=["btc@trade", "eth@trade"])])])
        return bench

    bench = run(main())
    names = {f"{prefix}.btc__40trade", f"{prefix}.eth__40trade"}
    assert names <= kafka.topics()
    assert {
        facts["topic"] for event, facts in bench.log.lines if event == "sink.kafka.topic_created"
    } == names
    [row] = read_topic(kafka.bootstrap_servers, f"{prefix}.eth__40trade", by=other(engine))
    assert (row.key, row.value) == (b"eth@trade", b"2")


def test_a_topic_that_cannot_be_created_says_why(kafka: KafkaBroker, engine: str) -> None:
    create = {"enabled": True, "replication": 9}

    async def main() -> None:
        topic = f"{kafka.new_topic()}.<pipeline>"
        async with Bench(
            bootstrap_servers=[kafka.bootstrap_servers], topic=topic, engine=engine, create_topics=create
        ).opened():
            pass

    with pytest.raises(SinkFailed, match=r"cannot be created.*[Rr]eplication"):
        run(main())


def sasl(user: str, password: str | None = None, mechanism: str = "SCRAM-SHA-256") -> dict[str, Any]:
    credentials = {"mechanism": mechanism, "username": user, "password": password or USERS[user]}
    return {"security": {"protocol": "SASL_PLAINTEXT"}, "sasl": credentials}


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])
def test_signs_in_with_each_mechanism(own: KafkaBroker, engine: str, mechanism: str) -> None:
    topic = own.new_topic()
    keys = sasl("writer", mechanism=mechanism)

    async def main() -> None:
        async with Bench(
            bootstrap_servers=[own.sasl_servers], topic=topic, engine=engine, **keys
        ).opened() as sink:
            await deliver(sink, [numbered(10, STREAMS)])

    run(main())
    assert len(read_topic(own.bootstrap_servers, topic, by=other(engine))) == 10


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-512"])
def test_a_wrong_password_fails_for_good_and_is_not_told(
    own: KafkaBroker, engine: str, mechanism: str
) -> None:
    keys = sasl("writer", "hunter2-canary", mechanism)
    bench = Bench(bootstrap_servers=[own.sasl_servers], topic="any", engine=engine, **keys)

    async def main() -> None:
        async with bench.opened():
            pass

    with pytest.raises(SinkFailed, match=r"do not let us in.*sasl\.password") as caught:
        run(main())
    assert "canary" not in f"{caught.value} {bench.log.lines} {bench.sink.options}"


def test_missing_rights_are_named(own: KafkaBroker, engine: str) -> None:
    topic = own.new_topic()

    async def main() -> None:
        async with Bench(
            bootstrap_servers=[own.sasl_servers], topic=topic, engine=engine, **sasl("guest")
        ).opened():
            pass

    with pytest.raises(SinkFailed, match=rf"'guest' lacks the right to write.*{topic}"):
        run(main())


def test_tls_with_the_right_authority_and_a_client_certificate(own: KafkaBroker, engine: str) -> None:
    topic = own.new_topic()
    folder = own.folder
    security = {
        "ca_file": str(own.ca_file),
        "cert_file": str(folder / "client.pem"),
        "key_file": str(folder / "client-key.pem"),
    }

    async def main() -> None:
        async with Bench(
            bootstrap_servers=[own.tls_servers], topic=topic, engine=engine, security=security
        ).opened() as sink:
            await deliver(sink, [numbered(10, STREAMS)])

    run(main())
    assert len(read_topic(own.bootstrap_servers, topic, by=other(engine))) == 10


def test_tls_is_refused_where_the_certificate_does_not_verify(
    own: KafkaBroker, engine: str, tmp_path: Path
) -> None:
    import trustme

    trustme.CA().cert_pem.write_to_path(tmp_path / "stranger.pem")
    security: dict[str, Any] = {"ca_file": str(tmp_path / "stranger.pem")}
    topic = own.new_topic()

    async def main() -> None:
        async with Bench(
            bootstrap_servers=[own.tls_servers], topic=topic, engine=engine, security=security
        ).opened() as sink:
            await deliver(sink, [numbered(10, STREAMS)])

    with pytest.raises(SinkFailed, match=r"no TLS with the Kafka brokers.*certificate"):
        run(main())
    security["dangerously_skip_verification"] = True
    run(main())
    assert len(read_topic(own.bootstrap_servers, topic, by=other(engine))) == 10


# Records that cannot be taken


def test_a_record_over_the_topics_limit_is_rejected_alone(kafka: KafkaBroker, engine: str) -> None:
    topic = kafka.new_topic(max_message_bytes="2000")
    payloads = [b"%d" % number + b"." * (3000 if number == 50 else 500) for number in range(100)]

    async def main() -> tuple[Bench, int]:
        bench = Bench(bootstrap_servers=[kafka.bootstrap_servers], topic=topic, engine=engine)
        async with bench.opened() as sink:
            return bench, await deliver(sink, [Batch([chunk(payloads)])])

    bench, again = run(main())
    [(record, reason)] = bench.rejected
    assert record.payload == payloads[50]
    assert "2000 bytes" in reason
    assert again == 0
    rows = read_topic(kafka.bootstrap_servers, topic, by=other(engine))
    assert [row.value for row in rows] == payloads[:50] + payloads[51:]


def test_a_record_too_large_for_the_broker_is_found_and_rejected_once(
    kafka: KafkaBroker, engine: str
) -> None:
    """Compressed, its size is known to the broker only, which refuses whatever was sent together with it."""
    topic = kafka.new_topic(max_message_bytes="4000")
    payloads = [os.urandom(8000) if number == 50 else b"%d" % number for number in range(100)]
    batches = [
        Batch([chunk(payloads)]),
        Batch([chunk([b"next"], first_position=100)]),
        Batch([chunk([b"last"], first_position=101)]),
    ]

    async def main() -> Bench:
        bench = Bench(
            bootstrap_servers=[kafka.bootstrap_servers], topic=topic, engine=engine, compression="zstd"
        )
        async with bench.opened() as sink:
            for batch in batches:
                await deliver(sink, [batch])
        return bench

    bench = run(main())
    assert [record.payload for record, _ in bench.rejected] == [payloads[50]], bench.rejected[:3]
    rows = read_topic(kafka.bootstrap_servers, topic, by=other(engine))
    values = list(dict.fromkeys(row.value for row in rows))  # written again, records may stand there twice
    assert values == [*payloads[:50], *payloads[51:], b"next", b"last"]


# Brokers that go away


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Outage, "PATIENCE", 0.3)
    monkeypatch.setattr(sink_module, "WATCH_INTERVAL", 0.1)


@pytest.mark.usefixtures("impatient")
def test_a_killed_broker_costs_neither_records_nor_order(own: KafkaBroker, engine: str) -> None:
    topic = own.new_topic(partitions=3)
    batches = [numbered(1000, STREAMS, first_position=1000 * number) for number in range(12)]

    async def main() -> Bench:
        bench = Bench(bootstrap_servers=[own.bootstrap_servers], topic=topic, engine=engine)
        async with bench.opened() as sink:
            written = [await sink.write(batch) for batch in batches[:4]]
            await asyncio.to_thread(own.kill)
            written += [await sink.write(batch) for batch in batches[4:8]]
            while "kafka.unavailable" not in bench.log.events():
                await asyncio.sleep(0.02)
            await asyncio.to_thread(own.restart)
            written += [await sink.write(batch) for batch in batches[8:]]
            for each in written:
                await each
            while "kafka.recovered" not in bench.log.events():
                await asyncio.sleep(0.02)
        return bench

    bench = run(main(), timeout=60)
    rows = read_topic(own.bootstrap_servers, topic, by=other(engine))
    assert values_by_key(rows) == expected(batches)
    told = [event for event in bench.log.events() if event.startswith("kafka.")]
    assert told == ["kafka.unavailable", "kafka.recovered"]


@pytest.mark.usefixtures("impatient")
def test_a_frozen_broker_does_not_hold_up_the_loop(own: KafkaBroker, engine: str) -> None:
    topic = own.new_topic()
    batch = numbered(3000, STREAMS)
    keys: dict[str, Any] = (
        {"properties": {"queue.buffering.max.messages": 500}} if engine == "librdkafka" else {}
    )

    async def main() -> float:
        bench = Bench(bootstrap_servers=[own.bootstrap_servers], topic=topic, engine=engine, **keys)
        async with bench.opened() as sink:
            await deliver(sink, [numbered(1, STREAMS, first_position=9999)])
            own.pause()
            try:
                writing = asyncio.ensure_future(sink.write(batch))
                loop, longest = asyncio.get_running_loop(), 0.0
                last = loop.time()
                while "kafka.unavailable" not in bench.log.events():
                    await asyncio.sleep(0.01)
                    longest, last = max(longest, loop.time() - last), loop.time()
            finally:
                own.resume()
            await (await writing)
            return longest

    longest = run(main(), timeout=30)
    rows = read_topic(own.bootstrap_servers, topic, by=other(engine))
    first = {
        key: values[1:] if values[0].endswith(b" 9999") else values
        for key, values in values_by_key(rows).items()
    }
    assert first == expected([batch])
    assert longest < 0.25


def test_closing_with_records_in_flight_ends_soon_and_tells_their_writer(
    own: KafkaBroker, engine: str
) -> None:
    topic = own.new_topic()

    async def main() -> float:
        bench = Bench(bootstrap_servers=[own.bootstrap_servers], topic=topic, engine=engine)
        async with bench.opened() as sink:
            await deliver(sink, [numbered(1, STREAMS, first_position=9999)])
            own.pause()
            try:
                written = [
                    await sink.write(numbered(500, STREAMS, first_position=500 * number))
                    for number in range(3)
                ]
                started = time.monotonic()
                await sink.close()
                for each in written:
                    with pytest.raises(SinkUnavailable, match="closed before"):
                        await each
            finally:
                own.resume()
        return time.monotonic() - started

    assert run(main(), timeout=30) < 7


def test_nobody_at_the_address_is_unavailable_not_failed(
    engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sink_module, "CONNECT_TIMEOUT", 0.7)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"  # bound, not listening: refused

        async def main() -> None:
            async with Bench(bootstrap_servers=[address], topic="any", engine=engine).opened():
                pass

        with pytest.raises(SinkUnavailable, match=f"no Kafka broker answers at {address} within 0.7 s"):
            run(main())


@pytest.fixture(autouse=True)
def _broker_is_left_alive(request: pytest.FixtureRequest) -> Iterator[None]:
    """A test that fails while the broker is down must not fail the others."""
    yield
    if "own" in request.fixturenames:
        broker: KafkaBroker = request.getfixturevalue("kafka")
        if broker.owned and not broker.alive():
            broker.restart()
