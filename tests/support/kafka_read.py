"""Reads a topic to its end, with either client library, so that what one wrote is judged by the other."""

from __future__ import annotations

import uuid
from typing import NamedTuple


class Row(NamedTuple):
    """One record of a topic; `timestamp` is ms since 1970."""

    partition: int
    offset: int
    key: bytes | None
    value: bytes
    headers: dict[str, bytes]
    timestamp: int


def read_topic(servers: str, topic: str, *, by: str) -> list[Row]:
    """All records that stand in the topic now, in the order of each partition. `by` is librdkafka or kafka-python."""
    rows = _by_librdkafka(servers, topic) if by == "librdkafka" else _by_kafka_python(servers, topic)
    return sorted(rows, key=lambda row: (row.partition, row.offset))


def other(engine: str) -> str:
    return "kafka-python" if engine == "librdkafka" else "librdkafka"


def values_by_key(rows: list[Row]) -> dict[bytes | None, list[bytes]]:
    """Key → values in order. A key that stands in two partitions is an error."""
    partitions: dict[bytes | None, int] = {}
    values: dict[bytes | None, list[bytes]] = {}
    for row in rows:
        assert partitions.setdefault(row.key, row.partition) == row.partition, (
            f"{row.key!r} is in two partitions"
        )
        values.setdefault(row.key, []).append(row.value)
    return values


def _by_librdkafka(servers: str, topic: str) -> list[Row]:
    from confluent_kafka import Consumer, TopicPartition

    consumer = Consumer(
        {"bootstrap.servers": servers, "group.id": uuid.uuid4().hex, "enable.auto.commit": False}
    )
    rows: list[Row] = []
    try:
        partitions = consumer.list_topics(topic, timeout=10).topics[topic].partitions
        assignment = [TopicPartition(topic, number, 0) for number in partitions]
        ends = {part.partition: consumer.get_watermark_offsets(part, timeout=10)[1] for part in assignment}
        consumer.assign(assignment)
        missing = sum(ends.values())
        while missing:
            messages = consumer.consume(min(missing, 10_000), timeout=10)
            assert messages, f"{missing} records of {topic} did not come within 10 s"
            for message in messages:
                assert message.error() is None, message.error()
                headers = dict(message.headers() or [])
                where = message.partition(), message.offset(), message.key(), message.value()
                rows.append(Row(*where, headers, message.timestamp()[1]))
            missing -= len(messages)
    finally:
        consumer.close()
    return rows


def _by_kafka_python(servers: str, topic: str) -> list[Row]:
    from kafka import KafkaConsumer, TopicPartition

    consumer = KafkaConsumer(
        bootstrap_servers=servers, enable_auto_commit=False, auto_offset_reset="earliest"
    )
    rows: list[Row] = []
    try:
        assignment = [TopicPartition(topic, number) for number in consumer.partitions_for_topic(topic)]
        ends = consumer.end_offsets(assignment)
        consumer.assign(assignment)
        consumer.seek_to_beginning(*assignment)
        missing = sum(ends.values())
        while missing:
            polled = consumer.poll(timeout_ms=10_000, max_records=10_000)
            assert polled, f"{missing} records of {topic} did not come within 10 s"
            for records in polled.values():
                for record in records:
                    where = record.partition, record.offset, record.key, record.value
                    rows.append(Row(*where, dict(record.headers), record.timestamp))
                missing -= len(records)
    finally:
        consumer.close()
    return rows
