"""kafka-python's settings from our options, and its admin client for looking at topics and creating them."""

from __future__ import annotations

import ssl
from typing import Any

import kafka.errors as errors  # type: ignore[import-untyped]  # it has no types
from kafka.admin import ConfigResource, ConfigResourceType, KafkaAdminClient  # type: ignore[import-untyped]  # it has no types

from jetsocket_ingest.sink import SinkContext, SinkFailed, SinkUnavailable
from jetsocket_sinks.kafka.engine import Admin, TopicFacts
from jetsocket_sinks.kafka.engines.kafka_python_log import listen
from jetsocket_sinks.kafka.engines.kafka_python_net import DIRECT, Clients, ClosingTLSSocket
from jetsocket_sinks.kafka.options import CreateTopicsOptions, KafkaOptions

_NO_TRUST = "CERTIFICATE_VERIFY_FAILED"
RIGHTS = (errors.TopicAuthorizationFailedError, errors.ClusterAuthorizationFailedError)
_REFUSED_TOPIC = (
    errors.InvalidReplicationFactorError,
    errors.InvalidPartitionsError,
    errors.InvalidConfigurationError,
    errors.PolicyViolationError,
    errors.InvalidTopicError,
)
_SIGN_IN = (
    errors.SaslAuthenticationFailedError,
    errors.UnsupportedSaslMechanismError,
    errors.IllegalSaslStateError,
)


def client_settings(options: KafkaOptions) -> dict[str, Any]:
    """What every client of kafka-python needs: where, how protected, as whom. Secrets are read now."""
    settings: dict[str, Any] = {
        "bootstrap_servers": options.bootstrap_servers,
        "security_protocol": options.protocol,
        "proxy_url": DIRECT,
    }
    if options.protocol.endswith("SSL"):
        settings["ssl_context"] = _tls(options)
        settings["ssl_check_hostname"] = not options.security.dangerously_skip_verification
    if options.sasl is not None:
        settings["sasl_mechanism"] = options.sasl.mechanism
        settings["sasl_plain_username"] = options.sasl.username
        settings["sasl_plain_password"] = options.sasl.password.reveal()
    return settings


def _tls(options: KafkaOptions) -> ssl.SSLContext:
    security = options.security
    try:
        context = ssl.create_default_context(cafile=security.ca_file)
        context.sslsocket_class = ClosingTLSSocket
        if security.cert_file is not None:
            password = security.key_password.reveal() if security.key_password else None
            context.load_cert_chain(security.cert_file, security.key_file, password)
    except (OSError, ssl.SSLError) as error:
        files = ", ".join(filter(None, (security.ca_file, security.cert_file, security.key_file)))
        raise SinkFailed(f"the certificates or keys in {files} cannot be used: {error}") from error
    if security.dangerously_skip_verification:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def words_of(error: BaseException) -> str:
    """An error of kafka-python as a person would say it."""
    text = str(error).strip()
    name = type(error).__name__
    description = getattr(error, "description", "")
    return " ".join(filter(None, (text or description, f"({name})" if name not in text else "")))


class KafkaPythonAdmin(Admin):
    """See `Admin`; `timeout` seconds bound each of its steps."""

    def __init__(self, options: KafkaOptions, client_id: str, context: SinkContext, timeout: float) -> None:
        self._servers = ", ".join(options.bootstrap_servers)
        self._timeout = timeout
        self._timeout_ms = int(timeout * 1000)
        self._heard: list[str] = []
        self._clients = Clients()
        name = f"{client_id}-admin"
        self._words = listen(name, context.log, self._hear)
        try:
            self._client = KafkaAdminClient(
                client_id=name,
                bootstrap_timeout_ms=self._timeout_ms,
                request_timeout_ms=self._timeout_ms,
                kafka_client=self._clients,
                **client_settings(options),
            )
        except Exception as error:
            self._clients.close()
            self._words.stop()
            if isinstance(error, errors.KafkaError):
                raise self._unreached(error) from error
            raise

    def describe(self, names: list[str]) -> dict[str, TopicFacts]:
        if not names:
            return {}
        try:
            answers = self._client.describe_topics(names)
        except errors.KafkaError as error:
            raise self._unreached(error) from error
        found: dict[str, TopicFacts] = {}
        for answer in answers:
            kind = errors.for_code(answer["error_code"])
            if kind in RIGHTS:
                found[answer["name"]] = TopicFacts(error=words_of(kind()))
            elif kind is errors.NoError or kind is errors.LeaderNotAvailableError:
                operations = answer.get("authorized_operations")
                may_write = None if not operations else bool({"WRITE", "ALL"} & set(operations))
                found[answer["name"]] = TopicFacts(may_write=may_write)
            elif kind not in (errors.UnknownTopicOrPartitionError, errors.InvalidTopicError):
                raise SinkUnavailable(f"Kafka tells nothing about topic {answer['name']}: {words_of(kind())}")
        limits = self._limits([name for name, facts in found.items() if facts.error is None])
        return {
            name: TopicFacts(facts.may_write, limits.get(name), facts.error) for name, facts in found.items()
        }

    def _limits(self, names: list[str]) -> dict[str, int]:
        """Topic → its max.message.bytes, where we may look."""
        if not names:
            return {}
        resources = [
            ConfigResource(ConfigResourceType.TOPIC, name, {"max.message.bytes": None}) for name in names
        ]
        try:
            answers = self._client.describe_configs(resources, config_filter="all").get("topic", {})
        except errors.KafkaError:
            return {}
        return {
            name: int(entries["max.message.bytes"]["value"])
            for name, entries in answers.items()
            if "max.message.bytes" in entries
        }

    def create(self, names: list[str], options: CreateTopicsOptions) -> None:
        spec = {"num_partitions": options.partitions or -1, "replication_factor": options.replication or -1}
        try:
            answer = self._client.create_topics(
                {name: dict(spec) for name in names}, timeout_ms=self._timeout_ms, raise_errors=False
            )
            for topic in answer["topics"]:
                self._check_created(topic)
            self._client.wait_for_topics(names, timeout_ms=self._timeout_ms)
        except errors.KafkaError as error:
            raise self._unreached(error) from error

    def _check_created(self, topic: dict[str, Any]) -> None:
        kind = errors.for_code(topic["error_code"])
        if kind in (errors.NoError, errors.TopicAlreadyExistsError):
            return
        words = (
            f"the Kafka topic {topic['name']} cannot be created: {words_of(kind(topic.get('error_message')))}"
        )
        if kind in RIGHTS:
            raise SinkFailed(f"{words}. Create it yourself, or grant our user CREATE")
        if kind in _REFUSED_TOPIC:
            raise SinkFailed(words)
        raise SinkUnavailable(words)

    def close(self) -> None:
        self._client.close()
        self._words.stop()

    def _hear(self, words: str, cause: BaseException | None) -> None:
        if isinstance(cause, _SIGN_IN) or (cause is not None and _NO_TRUST in words):
            self._clients.refuse(cause)
        if (
            not isinstance(cause, errors.KafkaTimeoutError) and "not ready" not in words
        ):  # which say nothing new
            self._heard = [*self._heard[-9:], words]

    def _unreached(self, error: Exception) -> SinkFailed | SinkUnavailable:
        """The error of ours for one of its: some tell the cause in the log only."""
        if isinstance(error, _SIGN_IN):
            return SinkFailed(
                f"the Kafka brokers at {self._servers} do not let us in: {words_of(error)}. Check sasl.mechanism, "
                "sasl.username and sasl.password"
            )
        if _NO_TRUST in str(error):
            return SinkFailed(
                f"no TLS with the Kafka brokers at {self._servers}: {words_of(error)}. Check security.ca_file and the "
                "host names in bootstrap_servers"
            )
        cause = self._heard[-1] if self._heard else words_of(error)
        return SinkUnavailable(
            f"no Kafka broker answers at {self._servers} within {self._timeout:g} s: {cause}"
        )
