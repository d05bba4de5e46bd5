"""librdkafka's settings from our options, and its admin client for looking at topics and creating them."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future
from typing import Any, TypeVar

from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # its public names, which it does not list
    AclOperation,
    AdminClient,
    ConfigResource,
    NewTopic,
    ResourceType,
)

from jetsocket_ingest.sink import Secret, SinkContext, SinkFailed, SinkUnavailable
from jetsocket_sinks.kafka.engine import Admin, TopicFacts
from jetsocket_sinks.kafka.options import CreateTopicsOptions, KafkaOptions

AUTHENTICATION = {
    KafkaError._AUTHENTICATION,  # noqa: SLF001  (librdkafka's own codes start so)
    KafkaError.SASL_AUTHENTICATION_FAILED,
    KafkaError.UNSUPPORTED_SASL_MECHANISM,
}
RIGHTS = {KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.CLUSTER_AUTHORIZATION_FAILED}
_NOT_THERE = {KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC}  # noqa: SLF001
_REFUSED_TOPIC = {
    KafkaError.INVALID_REPLICATION_FACTOR,
    KafkaError.INVALID_PARTITIONS,
    KafkaError.INVALID_CONFIG,
    KafkaError.POLICY_VIOLATION,
    KafkaError.TOPIC_EXCEPTION,
}

ClientT = TypeVar("ClientT")
T = TypeVar("T")


class Silence:
    """Takes librdkafka's log lines, which would go to standard error: what matters comes as an error too."""

    def log(self, level: int, message: str, *arguments: object) -> None:
        """As `logging.Logger.log`."""


def client_settings(options: KafkaOptions, client_id: str) -> dict[str, Any]:
    """What every client of librdkafka needs: where, how protected, as whom. Secrets are read now."""
    security = options.security
    settings: dict[str, Any] = {
        name: value.reveal() if isinstance(value, Secret) else value
        for name, value in options.properties.items()
    }
    settings |= {
        "bootstrap.servers": ",".join(options.bootstrap_servers),
        "client.id": client_id,
        "security.protocol": options.protocol,
        "logger": Silence(),
    }
    files = {
        "ssl.ca.location": security.ca_file,
        "ssl.certificate.location": security.cert_file,
        "ssl.key.location": security.key_file,
        "ssl.key.password": security.key_password.reveal() if security.key_password else None,
    }
    settings |= {name: value for name, value in files.items() if value is not None}
    if security.dangerously_skip_verification:
        settings["enable.ssl.certificate.verification"] = False
    if options.sasl is not None:
        settings["sasl.mechanism"] = options.sasl.mechanism
        settings["sasl.username"] = options.sasl.username
        settings["sasl.password"] = options.sasl.password.reveal()
    return settings


def new_client(kind: type[ClientT], settings: Mapping[str, Any]) -> ClientT:
    """A client with these settings; SinkFailed where librdkafka does not accept them (a file, a property)."""
    try:
        return kind(dict(settings))  # type: ignore[call-arg]  # all clients are made so, which `type` does not say
    except KafkaException as error:
        raise SinkFailed(f"librdkafka does not accept its settings: {error.args[0].str()}") from error
    except (ValueError, TypeError) as error:
        raise SinkFailed(f"librdkafka does not accept its settings: {error}") from error


class LibrdkafkaAdmin(Admin):
    """See `Admin`; `timeout` seconds bound each of its steps."""

    def __init__(self, options: KafkaOptions, client_id: str, context: SinkContext, timeout: float) -> None:
        self._clock = context.clock
        self._servers = ", ".join(options.bootstrap_servers)
        self._timeout = timeout
        self._error: KafkaError | None = None
        settings = client_settings(options, client_id) | {"error_cb": self._complain}
        self._client: AdminClient = new_client(AdminClient, settings)
        self._result(self._client.describe_cluster(request_timeout=timeout))

    def describe(self, names: list[str]) -> dict[str, TopicFacts]:
        if not names:
            return {}
        found: dict[str, TopicFacts] = {}
        answers = self._client.describe_topics(
            TopicCollection(names), include_authorized_operations=True, request_timeout=self._timeout
        )
        for name, future in answers.items():
            try:
                description = self._result(future)
            except _RefusalError as refusal:
                if refusal.error.code() in RIGHTS:
                    found[name] = TopicFacts(error=refusal.error.str())
                elif refusal.error.code() not in _NOT_THERE:
                    raise SinkUnavailable(
                        f"Kafka tells nothing about topic {name}: {refusal.error.str()}"
                    ) from refusal
                continue
            operations = description.authorized_operations
            may_write = (
                None if not operations else AclOperation.WRITE in operations or AclOperation.ALL in operations
            )
            found[name] = TopicFacts(may_write=may_write)
        limits = self._limits([name for name, facts in found.items() if facts.error is None])
        return {
            name: TopicFacts(facts.may_write, limits.get(name), facts.error) for name, facts in found.items()
        }

    def _limits(self, names: list[str]) -> dict[str, int]:
        """Topic → its max.message.bytes, where we may look."""
        if not names:
            return {}
        limits = {}
        resources = [ConfigResource(ResourceType.TOPIC, name) for name in names]
        answers = self._client.describe_configs(resources, request_timeout=self._timeout)
        for resource, future in answers.items():
            try:
                entry = self._result(future).get("max.message.bytes")
            except _RefusalError:
                continue
            if entry is not None:
                limits[resource.name] = int(entry.value)
        return limits

    def create(self, names: list[str], options: CreateTopicsOptions) -> None:
        topics = [NewTopic(name, options.partitions or -1, options.replication or -1) for name in names]
        for name, future in self._client.create_topics(topics, request_timeout=self._timeout).items():
            try:
                self._result(future)
            except _RefusalError as refusal:
                code, words = (
                    refusal.error.code(),
                    f"the Kafka topic {name} cannot be created: {refusal.error.str()}",
                )
                if code in RIGHTS:
                    raise SinkFailed(f"{words} Create it yourself, or grant our user CREATE") from refusal
                if code in _REFUSED_TOPIC:
                    raise SinkFailed(words) from refusal
                if code != KafkaError.TOPIC_ALREADY_EXISTS:
                    raise SinkUnavailable(words) from refusal
        self._await_leaders(names)

    def _await_leaders(self, names: list[str]) -> None:
        """A topic is created before it can be written; brokers learn of it one after the other."""
        deadline = self._clock.monotonic() + self._timeout
        while True:
            answers = self._client.describe_topics(TopicCollection(names), request_timeout=self._timeout)
            try:
                if all(
                    p.leader is not None
                    for future in answers.values()
                    for p in self._result(future).partitions
                ):
                    return
            except _RefusalError as refusal:
                if refusal.error.code() not in _NOT_THERE:
                    raise SinkUnavailable(
                        f"Kafka created topics and hides them: {refusal.error.str()}"
                    ) from refusal
            if self._clock.monotonic() > deadline:
                raise SinkUnavailable(f"the created Kafka topics {', '.join(names)} have no leader yet")
            self._client.poll(0.1)

    def close(self) -> None:
        # It has no way to be closed but this.
        del self._client

    def _complain(self, error: KafkaError) -> None:
        self._error = error

    def _result(self, future: Future[T]) -> T:
        """The outcome of a request. Errors of ours where there is no cluster to speak with, _RefusalError where it refuses."""
        deadline = self._clock.monotonic() + self._timeout
        while not future.done() and self._clock.monotonic() < deadline:
            self._client.poll(0.05)
            if self._error is not None and self._error.code() in AUTHENTICATION:
                raise SinkFailed(
                    f"the Kafka brokers at {self._servers} do not let us in: {self._error.str()}. Check sasl.mechanism, "
                    "sasl.username and sasl.password"
                )
            if self._error is not None and "certificate" in self._error.str():
                raise SinkFailed(
                    f"no TLS with the Kafka brokers at {self._servers}: {self._error.str()}. Check security.ca_file and "
                    "the host names in bootstrap_servers"
                )
        if not future.done():
            raise SinkUnavailable(self._nobody())
        try:
            return future.result()
        except KafkaException as raised:
            error: KafkaError = raised.args[0]
            if error.code() not in _NOT_THERE and (error.retriable() or error.code() < 0):
                raise SinkUnavailable(self._nobody()) from raised
            raise _RefusalError(error) from raised

    def _nobody(self) -> str:
        cause = f": {self._error.str()}" if self._error is not None else ""
        return f"no Kafka broker answers at {self._servers} within {self._timeout:g} s{cause}"


class _RefusalError(Exception):
    """The cluster answered, and the answer is an error."""

    def __init__(self, error: KafkaError) -> None:
        super().__init__(error.str())
        self.error = error
