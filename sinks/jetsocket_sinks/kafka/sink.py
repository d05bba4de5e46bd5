"""The Kafka sink: batches in, delivery reports out, one client at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import ClassVar

from jetsocket_ingest.sink import Batch, Chunk, Sink, SinkContext, SinkFailed, SinkUnavailable
from jetsocket_sinks.kafka.engine import Engine, TopicFacts, check_topics, connect_admin, make_engine
from jetsocket_sinks.kafka.flight import Failure, Flight, Flights, Verdict
from jetsocket_sinks.kafka.options import KafkaOptions
from jetsocket_sinks.kafka.outage import Outage
from jetsocket_sinks.kafka.routing import Router, Rows

CONNECT_TIMEOUT = 10.0
"""Seconds for each step of connecting and looking at topics."""

WATCH_INTERVAL = 1.0
BATCH_BYTES = 1_000_000
"""Bytes sent to a partition at once, at most, where the topics take as much."""

_LEAST_OVERHEAD = 68
"""Bytes that a batch of one record takes at least besides its content (message format v2)."""

_USUAL_REST = 4096
"""Bytes left for key, headers and overhead where only the size of the value is looked at."""


class KafkaSink(Sink[KafkaOptions]):
    """Every record becomes a record of a Kafka topic; a batch is delivered when the brokers acknowledged all of it.

    A broker that is away makes records wait in the client, in order. Where the client itself gives up (a fatal error of
    the idempotent producer, credentials that ceased to hold), it is replaced by a new one and delivery writes again.
    """

    Options = KafkaOptions
    handles_markers: ClassVar[bool] = True

    def __init__(self, options: KafkaOptions, context: SinkContext) -> None:
        super().__init__(options, context)
        self._client_id = f"{context.pipeline}.{context.name}"
        self._router = Router(options, context.pipeline)
        self._topics: dict[str, TopicFacts] = {}
        self._flights = Flights()
        self._engine: Engine | None = None
        self._batch_bytes = BATCH_BYTES
        self._singly_until: int | None = None
        self._impossible: dict[int, str] = {}
        self._outage = Outage()
        self._watch: asyncio.TimerHandle | None = None
        self._earlier_reports = 0

    async def open(self) -> None:
        """Find the brokers, check the credentials, and check or create the topic, if it is one for all records."""
        await self._check(self._router.static_topics())
        await self._start()

    async def write(self, batch: Batch) -> Awaitable[None]:
        await self._prepare(batch)
        flight = self._flights.begin(batch)
        self._watch_soon()
        try:
            index = 0
            for chunk in batch.chunks:
                if flight.done.done():
                    break
                await self._send(chunk, index, flight)
                index += len(chunk)
        except BaseException:
            self._flights.withdraw(flight)
            raise
        flight.closed = True
        self._examine(flight)
        return flight.done

    async def close(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        await self._drop(
            SinkUnavailable("the Kafka sink was closed before the brokers acknowledged the batch")
        )

    def describe(self) -> str:
        return f"Kafka topic {self.options.topic} at {', '.join(self.options.bootstrap_servers)}"

    async def _prepare(self, batch: Batch) -> None:
        """A client that works and sends as this batch needs it, and topics that are there."""
        if self._engine is not None and self._engine.broken is not None:
            await self._drop(self._engine.broken.error())
        if self._singly_until is not None and batch.chunks[0].first_position > self._singly_until:
            self._singly_until = None
            await self._replace()
        for chunk in batch.chunks:
            self._router.note(chunk)
        self._router.unchecked -= self._topics.keys()
        if self._engine is None:
            # Whatever ended the last client may have changed topics and rights as well.
            await self._check(self._topics.keys() | self._router.static_topics() | self._router.unchecked)
            await self._start()
        elif self._router.unchecked:
            await self._check(set(self._router.unchecked))

    async def _send(self, chunk: Chunk, first_index: int, flight: Flight) -> None:
        rows = self._router.rows(chunk, first_index)
        if (
            self._router.has_problems
            or self._impossible
            or max(map(len, rows.values)) > self._batch_bytes - _USUAL_REST
        ):
            rows = self._without_impossible(rows, flight)
        engine = self._engine
        if engine is not None:
            await engine.produce(rows, flight)
        self._examine(flight)

    def _without_impossible(self, rows: Rows, flight: Flight) -> Rows:
        """The rows save those that can go nowhere, which the flight keeps for when it is delivered."""
        keep = []
        for i, route in enumerate(rows.routes):
            problem = route.problem or self._too_large(rows, i) or self._impossible.get(rows.positions[i])
            if problem is None:
                keep.append(i)
            else:
                flight.refused.append((rows.indices[i], problem))
        return rows.only(keep)

    def _too_large(self, rows: Rows, i: int) -> str | None:
        """Compressed, a record may be smaller than it looks: the broker decides then."""
        route = rows.routes[i]
        facts = self._topics.get(route.topic)
        if facts is None or facts.max_message_bytes is None or self.options.compression != "none":
            return None
        headers = rows.headers[i] if rows.headers is not None else ()
        size = _LEAST_OVERHEAD + len(rows.values[i]) + len(route.key or b"")
        size += sum(len(name) + len(value) + 2 for name, value in headers)
        if size <= facts.max_message_bytes:
            return None
        return (
            f"expected at most {facts.max_message_bytes} bytes, the limit of the topic {route.topic} "
            f"(max.message.bytes), found a record of {size} bytes with key and headers"
        )

    def _examine(self, flight: Flight | None) -> None:
        """Draw the consequences of what the client reported."""
        if flight is None:
            if self._engine is not None and self._engine.broken is not None:
                self._give_up(self._engine, self._engine.broken)
            return
        if flight.done.done():
            return
        while flight.failures:
            failure = flight.failures.popleft()
            if failure.verdict is not Verdict.REJECTED or failure.index is None:
                self._give_up(self._engine, failure)
                return
            # The flight may be aborted yet, and the record must not be tried again then.
            self._impossible[flight.position(failure.index)] = failure.reason
            flight.refused.append((failure.index, failure.reason))
        for landed in self._flights.land():
            # Told only now: a batch that is written again would tell it again.
            for index, reason in sorted(landed.refused):
                self._impossible.pop(landed.position(index), None)
                self.context.reject(landed.record(index), reason)
            if not landed.done.done():
                landed.done.set_result(None)

    def _give_up(self, engine: Engine | None, failure: Failure) -> None:
        """Nothing more goes out by this client, so that records that follow a failed one do not overtake it."""
        if failure.verdict is Verdict.SUSPECT:
            self._singly_until = self._flights.last_position()
        self._flights.abort(failure.error())
        if engine is not None:
            engine.broken = failure
            engine.abandon()

    async def _replace(self) -> None:
        """Let everything arrive, then begin anew with other settings."""
        await self._flights.empty()
        await self._drop(SinkUnavailable("the Kafka client was replaced"))
        await self._start()

    async def _start(self) -> None:
        engine = make_engine(self.options, self._client_id, self.context, self._examine)
        try:
            await engine.start(self._batch_bytes, singly=self._singly_until is not None)
        except BaseException:
            await engine.stop()
            raise
        self._engine = engine

    async def _drop(self, error: SinkUnavailable | SinkFailed) -> None:
        engine, self._engine = self._engine, None
        self._flights.abort(error)
        if engine is not None:
            self._earlier_reports += engine.reports
            await engine.stop()

    async def _check(self, names: set[str]) -> None:
        """Connect, and look at these topics; SinkFailed where they cannot be written."""

        def look() -> tuple[dict[str, TopicFacts], list[str]]:
            admin = connect_admin(self.options, self._client_id, self.context, CONNECT_TIMEOUT)
            try:
                return check_topics(admin, names, self.options)
            finally:
                admin.close()

        facts, created = await asyncio.to_thread(look)
        for name in created:
            self.context.log.info("sink.kafka.topic_created", topic=name)
        self._topics |= facts
        self._router.unchecked -= names
        limits = [fact.max_message_bytes for fact in facts.values() if fact.max_message_bytes is not None]
        if limits and min(limits) < self._batch_bytes:
            # librdkafka lets a whole batch fail that is larger than the topic takes.
            self._batch_bytes = min(limits)
            if self._engine is not None:
                await self._replace()

    def _watch_soon(self) -> None:
        if self._watch is None:
            self._watch = asyncio.get_running_loop().call_later(WATCH_INTERVAL, self._look)

    def _look(self) -> None:
        """Tell when records wait for a broker that does not answer, and when it answers again."""
        self._watch = None
        engine = self._engine
        reports = self._earlier_reports + (engine.reports if engine is not None else 0)
        told = self._outage.look(self.context.clock.monotonic(), reports, waiting=len(self._flights) > 0)
        if told == "unavailable":
            reason = (engine and engine.last_error) or "no answer"
            self.context.log.warning("kafka.unavailable", reason=reason)
        elif isinstance(told, float):
            self.context.log.info("kafka.recovered", after_s=round(told, 1))
        if len(self._flights) or self._outage.told:
            self._watch_soon()
