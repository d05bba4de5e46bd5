"""The keys of a Kafka sink in the config."""

from __future__ import annotations

import re
from importlib.util import find_spec
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from jetsocket_ingest.sink import ConfigModel, Duration, Secret, SinkOptions, Template

ROUTE_NAMES = ("pipeline", "subscription", "stream", "connection", "kind")
"""What topic, key and partition may be made of; the same for many records, so that it is rendered once."""

RECORD_NAMES = ("received", "event_time", "sequence", "position")
"""What headers may be made of besides."""

HEADER_NAMES = ("kind", "pipeline", "subscription", "stream", "connection", *RECORD_NAMES)

MAX_TOPIC = 249
"""Characters in a topic's name, at most (Kafka's limit)."""

_LEGAL_TOPIC = re.compile(r"[a-zA-Z0-9._-]*")
_INSTALL_FAST = "pip install 'jetsocket-ingest[fast]'"

OURS = {
    "bootstrap.servers": "bootstrap_servers",
    "metadata.broker.list": "bootstrap_servers",
    "client.id": None,
    "acks": None,
    "request.required.acks": None,
    "enable.idempotence": None,
    "enable.gapless.guarantee": None,
    "transactional.id": None,
    "message.timeout.ms": None,
    "delivery.timeout.ms": None,
    "message.send.max.retries": None,
    "retries": None,
    "delivery.report.only.error": None,
    "partitioner": None,
    "batch.num.messages": None,
    "batch.size": None,
    "message.max.bytes": None,
    "queue.buffering.max.kbytes": None,
    "compression.codec": "compression",
    "compression.type": "compression",
    "linger.ms": "linger",
    "queue.buffering.max.ms": "linger",
    "security.protocol": "security.protocol",
    "ssl.ca.location": "security.ca_file",
    "ssl.certificate.location": "security.cert_file",
    "ssl.key.location": "security.key_file",
    "ssl.key.password": "security.key_password",
    "enable.ssl.certificate.verification": "security.dangerously_skip_verification",
    "sasl.username": "sasl.username",
    "sasl.password": "sasl.password",
}
"""Properties that `properties` may not hold: the key of ours that sets each, or None where it is fixed."""


class SecurityOptions(ConfigModel):
    """How connections to the brokers are protected."""

    protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] | None = Field(
        default=None,
        description="Kafka's name of the protocol. Left out: SASL_SSL where `sasl` is given, SSL where another key of "
        "this section is given, else PLAINTEXT.",
    )
    ca_file: str | None = Field(
        default=None,
        description="PEM file of the authorities that may sign the brokers' certificates; else the system's.",
    )
    cert_file: str | None = Field(
        default=None, description="PEM file of our certificate, where brokers ask for one."
    )
    key_file: str | None = Field(default=None, description="PEM file of that certificate's private key.")
    key_password: Secret | None = Field(default=None, description="Password of the private key.")
    dangerously_skip_verification: bool = Field(
        default=False,
        description="Accept any certificate: whoever answers is trusted with every record and password.",
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.cert_file is None) != (self.key_file is None):
            raise ValueError("cert_file and key_file belong together: give both or neither")
        if self.key_password is not None and self.key_file is None:
            raise ValueError("key_password is given without key_file")
        return self

    @property
    def has_tls(self) -> bool:
        """Whether any key says something about certificates."""
        return bool(self.ca_file or self.cert_file or self.dangerously_skip_verification)


class SaslOptions(ConfigModel):
    """How we sign in."""

    mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = Field(
        default="SCRAM-SHA-512", description="Which mechanism the brokers expect."
    )
    username: Annotated[str, Field(min_length=1)] = Field(description="User name.")
    password: Secret = Field(description="Password; read again whenever the client connects anew.")


class CreateTopicsOptions(ConfigModel):
    """Whether topics that do not exist are created, and how."""

    enabled: bool = Field(
        default=False, description="Create a missing topic; else it is an error that names it."
    )
    partitions: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="Partitions of a created topic; left out: the brokers' default."
    )
    replication: Annotated[int, Field(ge=1, le=32_767)] | None = Field(
        default=None, description="Copies of each partition; left out: the brokers' default."
    )


class KafkaOptions(SinkOptions):
    """Every record becomes one Kafka record, acknowledged by all in-sync replicas (`acks=all`, idempotent producer).

    The order of records with one key is kept, through retries and broker restarts too.
    """

    encoding: Literal["envelope", "raw"] = Field(
        default="raw",
        description="raw: the value is the payload as it came; envelope: a JSON object with the payload and what is "
        "known about it.",
    )
    bootstrap_servers: Annotated[list[str], Field(min_length=1)] = Field(
        description="Brokers to ask first, each as host:port."
    )
    topic: Annotated[str, Field(min_length=1)] = Field(
        description="Topic, with placeholders <pipeline> <subscription> <stream> <connection> <kind>. A character of a "
        "stream's name that Kafka does not allow becomes `__` and two hexadecimal digits for each of its bytes; a `__` "
        "in the name itself becomes `__5f_`, so that the name can be told from the topic."
    )
    key: str | None = Field(
        default="<stream>",
        description="Key, with the topic's placeholders. Records with one key stay in order. A key that comes out empty "
        "is replaced by the subscription's name. null: no key, and no order between partitions.",
    )
    headers: Literal["default", "none"] | dict[str, str] = Field(
        default="default",
        description="Name → template, with the topic's placeholders and <received> <event_time> <sequence> <position>; "
        "a header that is one placeholder without a value is left out. default: one header for each of these names, or "
        "none where the envelope carries them. none saves about half of the CPU time.",
    )
    partition: str | None = Field(
        default=None,
        description="Template that gives the partition's number. Left out: by the key's hash, as Kafka's Java client does.",
    )
    timestamp: Literal["received", "event", "none"] = Field(
        default="received",
        description="Kafka's timestamp of a record: our receive time, the provider's time (receive time where there is "
        "none), or when the Kafka client got it.",
    )
    engine: Literal["auto", "librdkafka", "kafka-python"] = Field(
        default="auto",
        description="Client library. auto: librdkafka where it is installed. librdkafka comes with "
        "`jetsocket-ingest[fast]` and needs about a twentieth of the CPU time.",
    )
    compression: Literal["none", "gzip", "snappy", "lz4", "zstd"] = Field(
        default="none", description="Compression of what is sent to a partition at once."
    )
    linger: Annotated[Duration, Field(ge=0, le=1)] = Field(
        default=0.005, description="How long a record may wait for company on its way to the broker."
    )
    security: SecurityOptions = Field(default_factory=SecurityOptions, description="TLS and protocol.")
    sasl: SaslOptions | None = Field(default=None, description="Credentials.")
    create_topics: CreateTopicsOptions = Field(
        default_factory=CreateTopicsOptions, description="What to do about missing topics."
    )
    properties: dict[str, bool | int | float | Secret] = Field(
        default_factory=dict,
        description="Further properties of librdkafka, by their names there. Those that a key of this sink sets, and "
        "those that delivery depends on, are refused.",
    )

    @property
    def protocol(self) -> str:
        """The security protocol in effect."""
        if self.security.protocol is not None:
            return self.security.protocol
        if self.sasl is not None:
            return "SASL_SSL"
        return "SSL" if self.security.has_tls else "PLAINTEXT"

    @property
    def engine_name(self) -> Literal["librdkafka", "kafka-python"]:
        """The engine in effect."""
        if self.engine != "auto":
            return self.engine
        return "librdkafka" if find_spec("confluent_kafka") else "kafka-python"

    @property
    def header_templates(self) -> dict[str, Template]:
        """The headers in effect, by name."""
        if self.headers == "none" or (self.headers == "default" and self.encoding == "envelope"):
            return {}
        texts = (
            {name: f"<{name}>" for name in HEADER_NAMES} if isinstance(self.headers, str) else self.headers
        )
        return {name: Template.parse(text, HEADER_NAMES) for name, text in texts.items()}

    @field_validator("bootstrap_servers")
    @classmethod
    def _check_servers(cls, servers: list[str]) -> list[str]:
        for server in servers:
            host, _, port = server.rpartition(":")
            if (
                not host
                or not port.isdecimal()
                or not 0 < int(port) < 65_536
                or "," in server
                or "/" in server
            ):
                raise ValueError(f"expected host:port, such as kafka.example.com:9092, found {server!r}")
        return servers

    @field_validator("topic")
    @classmethod
    def _check_topic(cls, text: str) -> str:
        literal = Template.parse(text, ROUTE_NAMES).render(dict.fromkeys(ROUTE_NAMES, ""))
        if not _LEGAL_TOPIC.fullmatch(literal):
            bad = sorted(set(_LEGAL_TOPIC.sub("", literal)))
            raise ValueError(
                f"expected a topic of letters, digits, '.', '_' and '-' and the placeholders "
                f"{' '.join(f'<{name}>' for name in ROUTE_NAMES)}, found {''.join(bad)!r} in {text!r}"
            )
        if literal == text and (text in {".", ".."} or len(text) > MAX_TOPIC):
            raise ValueError(
                f"expected a topic of 1 to {MAX_TOPIC} characters other than '.' and '..', found {text!r}"
            )
        return text

    @field_validator("partition")
    @classmethod
    def _check_partition(cls, text: str | None) -> str | None:
        if text is not None and not Template.parse(text, ROUTE_NAMES).fields and not text.isdecimal():
            raise ValueError(f"expected a number or a template that gives one, found {text!r}")
        return text

    @field_validator("headers")
    @classmethod
    def _check_headers(cls, headers: str | dict[str, str]) -> str | dict[str, str]:
        if isinstance(headers, dict) and not all(headers):
            raise ValueError("expected a name for each header, found an empty one")
        return headers

    @field_validator("properties")
    @classmethod
    def _check_properties(cls, properties: dict[str, object]) -> dict[str, object]:
        for name in properties:
            if name in OURS:
                instead = (
                    f"; set {OURS[name]} instead"
                    if OURS[name]
                    else ": delivery depends on the value it has here"
                )
                raise ValueError(f"the property {name} cannot be set{instead}")
            if name.endswith("_cb"):
                raise ValueError(f"the property {name} is a callback, which a config cannot hold")
        return properties

    @model_validator(mode="after")
    def _check(self) -> Self:
        for check in (self._check_engine, self._check_security, self._check_markers):
            check()
        return self

    def _check_engine(self) -> None:
        if self.engine == "librdkafka" and not find_spec("confluent_kafka"):
            raise ValueError(f"engine librdkafka is not installed; {_INSTALL_FAST}, or leave engine out")
        if self.engine_name == "librdkafka":
            return
        if self.properties:
            raise ValueError(f"properties are librdkafka's, and the engine is kafka-python; {_INSTALL_FAST}")
        needed = {
            "snappy": ("snappy", "python-snappy"),
            "lz4": ("lz4", "lz4"),
            "zstd": ("zstandard", "zstandard"),
        }
        module, package = needed.get(self.compression, ("gzip", ""))
        if not find_spec(module):
            raise ValueError(
                f"compression {self.compression} needs the package {package} with the engine kafka-python: "
                f"pip install {package}, or {_INSTALL_FAST}, or choose gzip or zstd"
            )

    def _check_security(self) -> None:
        signs_in = self.protocol.startswith("SASL_")
        elsewhere = "sasl.mechanism" in self.properties or "sasl.mechanisms" in self.properties
        if self.sasl is not None and not signs_in:
            raise ValueError(
                f"sasl is given, but security.protocol {self.protocol} does not sign in; expected SASL_SSL"
            )
        if self.sasl is not None and elsewhere:
            raise ValueError("sasl and the property sasl.mechanism are both given: keep one of them")
        if signs_in and self.sasl is None and not elsewhere:
            raise ValueError(
                f"security.protocol {self.protocol} needs a sasl section with username and password"
            )
        if self.security.has_tls and not self.protocol.endswith("SSL"):
            raise ValueError(
                f"security names certificates, but security.protocol {self.protocol} does not use TLS"
            )

    def _check_markers(self) -> None:
        if self.encoding == "envelope" or self.markers != "inline":
            return
        telling = [Template.parse(text, ROUTE_NAMES) for text in (self.topic, self.key) if text]
        if not any("kind" in template.fields for template in (*telling, *self.header_templates.values())):
            raise ValueError(
                "nothing would tell markers (gaps, connects, disconnects) from data: set markers: none or "
                "markers: {sink: NAME}, or encoding: envelope, or use <kind> in a header or in the topic"
            )
