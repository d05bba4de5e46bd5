"""What the sink asks of a Kafka client library, and the words in which it hears about errors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from jetsocket_ingest.sink import SinkContext, SinkFailed
from jetsocket_sinks.kafka.flight import Failure, Flight
from jetsocket_sinks.kafka.options import CreateTopicsOptions, KafkaOptions
from jetsocket_sinks.kafka.routing import Rows

SLICE = 1_000
"""Records handed to a client before the event loop runs again: about 2 ms on librdkafka."""


@dataclass(slots=True, frozen=True)
class TopicFacts:
    """What a cluster tells about a topic. None where it does not tell.

    Attributes:
        may_write: whether our user may produce to it.
        max_message_bytes: the largest batch of records it takes, after compression.
        error: why nothing could be learnt, where rights were missing.
    """

    may_write: bool | None = None
    max_message_bytes: int | None = None
    error: str | None = None


class Admin(ABC):
    """A connection for looking at topics and creating them. Its methods block: call them on a thread.

    All raise SinkFailed where somebody must act and SinkUnavailable where waiting can help.
    """

    @abstractmethod
    def describe(self, names: list[str]) -> dict[str, TopicFacts]:
        """The topics of these that exist. Never creates one, whatever the cluster's settings."""

    @abstractmethod
    def create(self, names: list[str], options: CreateTopicsOptions) -> None:
        """Create topics and wait until they can be written; one that exists meanwhile is no error."""

    @abstractmethod
    def close(self) -> None:
        """Give up the connection."""


Notify = Callable[[Flight | None], None]


class Engine(ABC):
    """A producer. All methods are called on the event loop and none blocks it.

    Attributes:
        last_error: what the client complained about last, in words; None since the last acknowledgement.
        reports: how many records it has reported about; a number that rises as long as a broker answers.
        broken: why the client can do nothing more; another one is needed.
    """

    def __init__(self, options: KafkaOptions, client_id: str, context: SinkContext, notify: Notify) -> None:
        """`notify` is called on the event loop with a flight that has new failures or all its reports so far, and with
        None when `broken` is set."""
        self.options = options
        self.client_id = client_id
        self.context = context
        self.notify = notify
        self.last_error: str | None = None
        self.reports = 0
        self.broken: Failure | None = None

    @abstractmethod
    async def start(self, batch_bytes: int, *, singly: bool) -> None:
        """Begin to produce: at most `batch_bytes` to a partition at once, with `singly` one record."""

    @abstractmethod
    async def produce(self, rows: Rows, flight: Flight) -> None:
        """Take rows, in order, waiting while there is no room for them. Each is reported to the flight in time."""

    @abstractmethod
    def abandon(self) -> None:
        """Give up what is not acknowledged. Its reports, if any come, are of no interest any more."""

    @abstractmethod
    async def stop(self) -> None:
        """Release threads and sockets; what is still outstanding is abandoned. Never raises, may be called twice."""


def check_topics(
    admin: Admin, names: Iterable[str], options: KafkaOptions
) -> tuple[dict[str, TopicFacts], list[str]]:
    """Facts about topics that all exist and may be written, and which of them were created now.

    Raises SinkFailed naming all that are missing, or all that we may not write.
    """
    wanted = sorted(names)
    facts = admin.describe(wanted)
    missing = [name for name in wanted if name not in facts]
    if missing and options.create_topics.enabled:
        admin.create(missing, options.create_topics)
        facts |= admin.describe(missing)
    elif missing:
        raise SinkFailed(
            f"{_topics(missing)} not exist at {', '.join(options.bootstrap_servers)}, or our user may not see it. "
            "Create what is missing, or set create_topics: {enabled: true}"
        )
    denied = [name for name, fact in facts.items() if fact.may_write is False or fact.error]
    if denied:
        user = f"the user {options.sasl.username!r}" if options.sasl else "our user"
        raise SinkFailed(
            f"{user} lacks the right to write (WRITE and DESCRIBE) to the Kafka "
            f"topic{'s' if len(denied) > 1 else ''} {', '.join(denied)}. Grant it, or sign in as another user"
        )
    return facts, missing


def _topics(names: list[str]) -> str:
    return (
        f"the Kafka topic {names[0]} does" if len(names) == 1 else f"the Kafka topics {', '.join(names)} do"
    )


def connect_admin(options: KafkaOptions, client_id: str, context: SinkContext, timeout: float) -> Admin:
    """Connect within `timeout` seconds, with the library in effect. Blocks: call it on a thread. Errors as `Admin`'s.

    The library is imported here, not before: one takes 0.3 s.
    """
    if options.engine_name == "librdkafka":
        from jetsocket_sinks.kafka.engines.librdkafka_admin import LibrdkafkaAdmin

        return LibrdkafkaAdmin(options, client_id, context, timeout)
    from jetsocket_sinks.kafka.engines.kafka_python_admin import KafkaPythonAdmin

    return KafkaPythonAdmin(options, client_id, context, timeout)


def make_engine(options: KafkaOptions, client_id: str, context: SinkContext, notify: Notify) -> Engine:
    """The engine in effect, not started."""
    if options.engine_name == "librdkafka":
        from jetsocket_sinks.kafka.engines.librdkafka import LibrdkafkaEngine

        return LibrdkafkaEngine(options, client_id, context, notify)
    from jetsocket_sinks.kafka.engines.kafka_python import KafkaPythonEngine

    return KafkaPythonEngine(options, client_id, context, notify)
