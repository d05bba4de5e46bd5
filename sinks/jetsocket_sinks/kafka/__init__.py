"""The Kafka sink: idempotent, acknowledged by all replicas, on librdkafka or kafka-python."""

from jetsocket_sinks.kafka.options import KafkaOptions
from jetsocket_sinks.kafka.sink import KafkaSink

__all__ = ["KafkaOptions", "KafkaSink"]
