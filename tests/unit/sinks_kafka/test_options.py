"""What a Kafka sink's config accepts, and how it says no."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from jetsocket_sinks.kafka import KafkaOptions
from jetsocket_sinks.kafka import options as options_module
from jetsocket_sinks.kafka.options import HEADER_NAMES

LEAST = {"type": "kafka", "bootstrap_servers": ["localhost:9092"], "topic": "ticks"}
SASL = {"username": "me", "password": "canary"}


def options(**keys: Any) -> KafkaOptions:
    return KafkaOptions.model_validate(LEAST | keys)


REFUSED = {
    "no brokers": ({"bootstrap_servers": []}, "at least 1 item"),
    "a broker without port": ({"bootstrap_servers": ["kafka"]}, "expected host:port"),
    "a broker with a scheme": ({"bootstrap_servers": ["kafka://h:9092"]}, "expected host:port"),
    "two brokers in one": ({"bootstrap_servers": ["a:1,b:2"]}, "expected host:port"),
    "a port that is none": ({"bootstrap_servers": ["a:70000"]}, "expected host:port"),
    "an empty topic": ({"topic": ""}, "at least 1 character"),
    "a character that topics cannot have": ({"topic": "ticks/<stream>"}, "found '/'"),
    "a misspelt placeholder in the topic": ({"topic": "ticks.<streams>"}, "found '<>'"),
    "a topic of dots": ({"topic": ".."}, "other than '.' and '..'"),
    "a topic that is too long": ({"topic": "x" * 250}, "1 to 249 characters"),
    "a partition that is no number": ({"partition": "first"}, "expected a number or a template"),
    "a header without a name": ({"headers": {"": "x"}}, "found an empty one"),
    "a linger without unit": ({"linger": 5}, "with its unit"),
    "a linger that is too long": ({"linger": "2s"}, "less than or equal to 1"),
    "an unknown mechanism": ({"sasl": SASL | {"mechanism": "GSSAPI"}}, "'PLAIN'"),
    "credentials without a protocol for them": ({"sasl": SASL, "security": {"protocol": "SSL"}}, "does not sign in"),
    "a protocol without its credentials": ({"security": {"protocol": "SASL_SSL"}}, "needs a sasl section"),
    "certificates without TLS": ({"security": {"protocol": "PLAINTEXT", "ca_file": "ca.pem"}}, "does not use TLS"),
    "a certificate without its key": ({"security": {"cert_file": "c.pem"}}, "give both or neither"),
    "a password without a key": ({"security": {"key_password": "x"}}, "without key_file"),
    "a property that a key sets": ({"properties": {"linger.ms": 5}}, "set linger instead"),
    "a property that delivery needs": ({"properties": {"acks": 1}}, "delivery depends on"),
    "a callback as a property": ({"properties": {"error_cb": "x"}}, "a callback"),
    "properties for the other engine": ({"engine": "kafka-python", "properties": {"debug": "all"}}, "are librdkafka's"),
    "two ways to sign in": ({"sasl": SASL, "properties": {"sasl.mechanism": "GSSAPI"}}, "keep one of them"),
    "markers that nothing tells from data": ({"headers": "none"}, "set markers: none"),
    "headers of one's own without the kind": ({"headers": {"at": "<position>"}}, "set markers: none"),
    "no partitions": ({"create_topics": {"partitions": 0}}, "greater than or equal to 1"),
    "an unknown key": ({"topik": "x"}, "Extra inputs"),
}  # fmt: skip


@pytest.mark.parametrize(("keys", "words"), REFUSED.values(), ids=REFUSED.keys())
def test_refuses(keys: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError) as caught:
        options(**keys)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    "keys",
    [
        {"headers": "none", "markers": "none"},
        {"headers": "none", "markers": {"sink": "elsewhere"}},
        {"headers": "none", "encoding": "envelope"},
        {"headers": "none", "topic": "ticks.<kind>"},
        {"headers": {"kind": "<kind>"}},
    ],
)
def test_takes_markers_wherever_something_tells_them_from_data(keys: dict[str, Any]) -> None:
    options(**keys)


def test_the_protocol_follows_from_the_other_keys() -> None:
    assert options().protocol == "PLAINTEXT"
    assert options(sasl=SASL).protocol == "SASL_SSL"
    assert options(security={"ca_file": "ca.pem"}).protocol == "SSL"
    assert options(sasl=SASL, security={"protocol": "SASL_PLAINTEXT"}).protocol == "SASL_PLAINTEXT"
    kerberos = {"sasl.mechanism": "GSSAPI"}
    assert options(security={"protocol": "SASL_SSL"}, properties=kerberos).protocol == "SASL_SSL"


def test_the_envelope_needs_no_headers_and_raw_has_them_all() -> None:
    assert set(options().header_templates) == set(HEADER_NAMES)
    assert options(encoding="envelope").header_templates == {}


def test_secrets_do_not_print() -> None:
    shown = options(sasl=SASL, properties={"sasl.oauthbearer.client.secret": "canary"})
    assert "canary" not in f"{shown!r} {shown} {shown.model_dump()} {shown.model_dump_json()}"
    with pytest.raises(ValidationError) as caught:
        options(sasl=SASL | {"mechanism": "x"})
    assert "canary" not in str(caught.value.errors(include_input=False))


def test_without_librdkafka_auto_takes_kafka_python_and_says_how_to_get_the_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        options_module, "find_spec", lambda name: None if name == "confluent_kafka" else object()
    )
    assert options().engine_name == "kafka-python"
    with pytest.raises(ValidationError, match=r"pip install 'jetsocket-ingest\[fast\]'"):
        options(engine="librdkafka")


def test_compression_that_kafka_python_lacks_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(options_module, "find_spec", lambda name: None if name == "snappy" else object())
    with pytest.raises(ValidationError, match="pip install python-snappy"):
        options(engine="kafka-python", compression="snappy")
    assert options(engine="kafka-python", compression="lz4").compression == "lz4"
