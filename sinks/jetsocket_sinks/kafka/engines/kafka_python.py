"""The engine on kafka-python: works wherever Python does; its producer runs on threads of its own."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import kafka.errors as errors  # type: ignore[import-untyped]  # it has no types
from kafka import KafkaProducer
from kafka.partitioner import StickyPartitioner, murmur2  # type: ignore[import-untyped]  # it has no types

from jetsocket_ingest.sink import SinkContext, SinkUnavailable
from jetsocket_sinks.kafka.engine import SLICE, Engine, Notify
from jetsocket_sinks.kafka.engines.kafka_python_admin import client_settings, words_of
from jetsocket_sinks.kafka.engines.kafka_python_log import LastWords, listen
from jetsocket_sinks.kafka.engines.kafka_python_net import Clients
from jetsocket_sinks.kafka.flight import Failure, Flight, Verdict
from jetsocket_sinks.kafka.options import KafkaOptions
from jetsocket_sinks.kafka.routing import Route, Rows

LARGEST_RECORD = 64 * 1024 * 1024
"""Bytes of a request, at most; below it the topic's limit decides."""

START_TIMEOUT = 10.0
STOP_TIMEOUT = 5.0
"""Seconds that its threads have to find a broker, and to end."""

_RIGHTS = (errors.TopicAuthorizationFailedError, errors.ClusterAuthorizationFailedError)
_ABOUT_RECORDS = (
    errors.MessageSizeTooLargeError,
    errors.RecordListTooLargeError,
    errors.InvalidRecordError,
    errors.InvalidTimestampError,
)
_hash_of = lru_cache(maxsize=65_536)(murmur2)


class KafkaPythonEngine(Engine):
    def __init__(self, options: KafkaOptions, client_id: str, context: SinkContext, notify: Notify) -> None:
        super().__init__(options, client_id, context, notify)
        self._loop = asyncio.get_running_loop()
        self._producer: KafkaProducer | None = None
        self._singly = False
        self._failing = False
        # `send` waits for metadata now and then, so that it needs a thread; one keeps the order.
        self._sender = ThreadPoolExecutor(1, thread_name_prefix=f"{client_id}-send")
        self._words: LastWords = listen(client_id, context.log, self._hear)

    async def start(self, batch_bytes: int, *, singly: bool) -> None:
        self._singly = singly
        settings = client_settings(self.options) | {
            "client_id": self.client_id,
            "acks": "all",
            "enable_idempotence": True,
            # A broker that is away makes records wait, in order, for as long as it takes.
            "delivery_timeout_ms": float("inf"),
            "bootstrap_timeout_ms": int(START_TIMEOUT * 1000),
            "max_block_ms": 1_000,
            "linger_ms": self.options.linger * 1000,
            "compression_type": None if self.options.compression == "none" else self.options.compression,
            "max_request_size": LARGEST_RECORD,
            "batch_size": 0 if singly else min(batch_bytes, 256 * 1024),
            "allow_auto_create_topics": False,
            "reconnect_backoff_max_ms": 1_000,
            "partitioner": StickyPartitioner(),
            "metrics_enabled": False,
        }

        def make() -> KafkaProducer:
            clients = Clients()
            try:
                return KafkaProducer(kafka_client=clients, **settings)
            except Exception:
                clients.close()
                raise

        try:
            self._producer = await self._loop.run_in_executor(self._sender, make)
        except errors.KafkaError as error:
            servers = ", ".join(self.options.bootstrap_servers)
            raise SinkUnavailable(f"no Kafka broker answers at {servers}: {words_of(error)}") from error

    async def produce(self, rows: Rows, flight: Flight) -> None:
        for start in range(0, len(rows), SLICE):
            if self._producer is None or flight.done.done():
                return
            stop = min(start + SLICE, len(rows))
            await self._loop.run_in_executor(
                self._sender, self._send, self._producer, rows, start, stop, flight
            )

    def _send(self, producer: KafkaProducer, rows: Rows, start: int, stop: int, flight: Flight) -> None:
        """On the sending thread."""
        counts: dict[str, int] = {}
        i = start
        while i < stop and self._producer is not None and not flight.done.done():
            route, index = rows.routes[i], rows.indices[i]
            try:
                future = producer.send(
                    route.topic,
                    rows.values[i],
                    route.key,
                    [] if rows.headers is None else rows.headers[i],
                    _partition(producer, route, counts),
                    None if rows.timestamps is None else rows.timestamps[i],
                )
            except errors.KafkaTimeoutError:
                continue  # no broker told it about the topic yet; it has taken nothing
            except (errors.MessageSizeTooLargeError, ValueError) as error:
                flight.failures.append(Failure(Verdict.REJECTED, _words(error), index))
            except errors.KafkaError as error:
                flight.failures.append(self._failure(error, index))
                return
            else:
                flight.sent += 1
                future.add_callback(self._landed, flight)
                future.add_errback(self._failed, flight, index)
            i += 1

    def _landed(self, flight: Flight, metadata: object) -> None:
        """On the producer's thread, for each record. The loop is told when all that was sent so far is reported:
        once for an answer of the broker, not once for a record."""
        flight.reported += 1
        self.reports += 1
        if flight.reported >= flight.sent:
            self.last_error = None
            self._tell(flight)

    def _failed(self, flight: Flight, index: int, error: Exception) -> None:
        flight.reported += 1
        self.reports += 1
        flight.failures.append(self._failure(error, index))
        if len(flight.failures) == 1 or flight.reported >= flight.sent:
            self._tell(flight)

    def _failure(self, error: Exception, index: int) -> Failure:
        first, self._failing = not self._failing, True
        if isinstance(error, _RIGHTS):
            return Failure(Verdict.REFUSED, _words(error))
        # After one record failed its idempotent producer is dead, and fails all others with the same error.
        if first and (isinstance(error, _ABOUT_RECORDS) or "part of a batch" in str(error)):
            return Failure(Verdict.REJECTED if self._singly else Verdict.SUSPECT, _words(error), index)
        return Failure(Verdict.AWAY, _words(error))

    def _tell(self, flight: Flight | None) -> None:
        try:
            self._loop.call_soon_threadsafe(self.notify, flight)
        except RuntimeError:
            # The loop is closed: nobody waits for this any more.
            pass

    def _hear(self, words: str, cause: BaseException | None) -> None:
        """What its threads log is the only way to learn that it cannot connect."""
        self.last_error = words
        if (
            isinstance(cause, errors.SaslAuthenticationFailedError)
            and self._producer is not None
            and not self.broken
        ):
            # It would try for ever. A password may have been changed: a new client reads it again.
            self.broken = Failure(Verdict.AWAY, f"the Kafka client cannot go on: {words}")
            self._tell(None)

    def abandon(self) -> None:
        if self._producer is not None:
            # `close` would wait for records first, and raise where they cannot be sent.
            self._producer._sender.force_close()  # noqa: SLF001  (there is no public way to give up)

    async def stop(self) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            producer._sender.force_close()  # noqa: SLF001  (as above)
            await asyncio.to_thread(_end, producer)
        self._sender.shutdown(wait=False)
        self._words.stop()


def _words(error: Exception) -> str:
    return f"Kafka says: {words_of(error)}"


def _end(producer: KafkaProducer) -> None:
    producer._sender.join(STOP_TIMEOUT)  # noqa: SLF001  (its thread; `close` waits for records)
    try:
        producer.close(timeout=0)
    except errors.KafkaError:
        # Its thread still ends the records; it is a daemon and has been told to end.
        pass


def _partition(producer: KafkaProducer, route: Route, counts: dict[str, int]) -> int | None:
    """The partition that the producer would choose by the key, from a hash that is remembered: it takes 20 µs."""
    if route.partition >= 0:
        return route.partition
    if route.key is None:
        return None
    count = counts.get(route.topic)
    if count is None:
        count = counts[route.topic] = len(producer.partitions_for(route.topic) or ())
    return (_hash_of(route.key) & 0x7FFFFFFF) % count if count else None
