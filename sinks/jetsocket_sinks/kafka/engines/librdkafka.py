"""The engine on librdkafka: native code does the work, and its reports are fetched on the event loop.

A thread that polls would be the usual way. But each report takes the interpreter lock by itself, so that a thread gets
few of them through while the loop is busy: measured beside a busy loop, half of 300,000 records were unreported when
the last one was produced, and a record cost 3.0 µs instead of 2.2. Polled from the loop, reports need no lock and no
wake-up; a timer sees to it while records wait.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Producer

from jetsocket_ingest.sink import SinkContext
from jetsocket_sinks.kafka.engine import SLICE, Engine, Notify
from jetsocket_sinks.kafka.engines.librdkafka_admin import AUTHENTICATION, RIGHTS, client_settings, new_client
from jetsocket_sinks.kafka.flight import Failure, Flight, Verdict
from jetsocket_sinks.kafka.options import KafkaOptions
from jetsocket_sinks.kafka.routing import Rows

POLL_BUSY = 0.005
POLL_IDLE = 0.5
"""Seconds between two looks for reports while records wait, and for errors while none does."""

LARGEST_RECORD = 64 * 1024 * 1024
"""Bytes of a record that the client itself lets pass; below it the topic's limit decides."""

QUEUE_RECORDS = 500_000
"""Records in the client's queue, at most: each costs some 300 bytes besides its content, which the backlog bounds."""

_ABOUT_RECORDS = {
    KafkaError.MSG_SIZE_TOO_LARGE,
    KafkaError.INVALID_MSG,
    KafkaError.INVALID_MSG_SIZE,
    KafkaError.INVALID_RECORD,
    KafkaError.INVALID_TIMESTAMP,
    KafkaError._INVALID_DIFFERENT_RECORD,  # noqa: SLF001  (its name)
    KafkaError._UNKNOWN_PARTITION,  # noqa: SLF001  (its name)
}


class LibrdkafkaEngine(Engine):
    def __init__(self, options: KafkaOptions, client_id: str, context: SinkContext, notify: Notify) -> None:
        super().__init__(options, client_id, context, notify)
        self._loop = asyncio.get_running_loop()
        self._producer: Producer | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._polled = asyncio.Event()
        self._singly = False
        self._room = QUEUE_RECORDS

    async def start(self, batch_bytes: int, *, singly: bool) -> None:
        self._singly = singly
        settings = client_settings(self.options, self.client_id) | {
            "acks": "all",
            "enable.idempotence": True,
            # A broker that is away makes records wait, in order, for as long as it takes.
            "message.timeout.ms": 0,
            "linger.ms": self.options.linger * 1000,
            "compression.type": self.options.compression,
            "message.max.bytes": LARGEST_RECORD,
            "batch.size": batch_bytes,
            "partitioner": "murmur2_random",
            # The backlog bounds the bytes, so that only the count can fill the queue.
            "queue.buffering.max.kbytes": 2_147_483_647,
            "error_cb": self._complain,
        }
        self._room = int(settings.setdefault("queue.buffering.max.messages", QUEUE_RECORDS))
        if singly:
            settings["batch.num.messages"] = 1
        self._producer = new_client(Producer, settings)
        self._polled.set()
        self._tick()

    async def produce(self, rows: Rows, flight: Flight) -> None:
        start = 0
        while start < len(rows) and self._producer is not None and not flight.done.done():
            taken = self._queue(self._producer, rows, start, min(start + SLICE, len(rows)), flight)
            self._producer.poll(0)
            self._poll_soon()
            start += taken
            if taken:
                await asyncio.sleep(0)
            else:  # no room until something is reported
                self._polled.clear()
                await self._polled.wait()

    def _queue(self, producer: Producer, rows: Rows, start: int, stop: int, flight: Flight) -> int:
        """Queue what there is room for; how many records were taken."""
        room = self._room - len(producer)
        stop = min(stop, start + room)
        if stop <= start:
            return 0
        if rows.headers is None and rows.timestamps is None and not self._singly:
            return self._queue_at_once(producer, rows, start, stop, flight)
        return self._queue_each(producer, rows, start, stop, flight)

    def _queue_at_once(self, producer: Producer, rows: Rows, start: int, stop: int, flight: Flight) -> int:
        """One call for a run of records of one topic; it takes neither headers nor timestamps.

        There must be room for all: it would leave out what finds none and go on with the next, out of order.
        """
        routes = rows.routes
        topic = routes[start].topic
        end = start + 1
        while end < stop and routes[end].topic == topic:
            end += 1
        messages: list[dict[str, Any]] = [
            {"value": value, "key": route.key, "partition": route.partition}
            for value, route in zip(rows.values[start:end], routes[start:end], strict=True)
        ]
        try:
            producer.produce_batch(topic, messages, on_delivery=self._reporter(flight))
        except KafkaException as raised:
            flight.failures.append(self._failure(raised.args[0], None))
            return end - start
        flight.sent += len(messages)
        for index, message in zip(rows.indices[start:end], messages, strict=True):
            if "_error" in message:
                flight.sent -= 1
                flight.failures.append(self._failure(message["_error"], index))
        return end - start

    def _queue_each(self, producer: Producer, rows: Rows, start: int, stop: int, flight: Flight) -> int:
        report = self._reporter(flight)
        headers = rows.headers
        times = rows.timestamps
        for i in range(start, stop):
            route = rows.routes[i]
            if self._singly:
                report = self._reporter(flight, rows.indices[i])
            try:
                producer.produce(
                    route.topic,
                    rows.values[i],
                    route.key,
                    route.partition,
                    report,
                    timestamp=0 if times is None else times[i],
                    headers=None if headers is None else headers[i],  # type: ignore[arg-type]  # lists are invariant
                )
            except BufferError:
                return i - start
            except KafkaException as raised:
                flight.failures.append(self._failure(raised.args[0], rows.indices[i]))
            else:
                flight.sent += 1
        return stop - start

    def _reporter(
        self, flight: Flight, index: int | None = None
    ) -> Callable[[KafkaError | None, object], None]:
        def report(error: KafkaError | None, message: object) -> None:
            if self._producer is None:  # the thread that closes it asks; nobody waits for the answer any more
                return
            flight.reported += 1
            self.reports += 1
            if error is not None:
                if not flight.failures:
                    # Not from within a callback: giving up the producer there would wait for itself.
                    self._loop.call_soon(self.notify, flight)
                flight.failures.append(self._failure(error, index))
            elif flight.landed:
                self.last_error = None
                self.notify(flight)

        return report

    def _failure(self, error: KafkaError, index: int | None) -> Failure:
        code, words = error.code(), f"Kafka says: {error.str()} ({error.name()})"
        if code in AUTHENTICATION:
            # A password may have been changed since the client read it: a new client reads it again.
            return Failure(Verdict.AWAY, words)
        if code in RIGHTS:
            return Failure(Verdict.REFUSED, words)
        if code in _ABOUT_RECORDS:
            return Failure(Verdict.SUSPECT if index is None else Verdict.REJECTED, words, index)
        return Failure(Verdict.AWAY, words)

    def _complain(self, error: KafkaError) -> None:
        """librdkafka's own errors: most it mends itself; a fatal one, or a wrong password, it cannot."""
        if self._producer is None:
            return
        self.last_error = f"{error.str()} ({error.name()})"
        if error.fatal() or error.code() in AUTHENTICATION:
            self.broken = Failure(Verdict.AWAY, f"the Kafka client cannot go on: {self.last_error}")
            self._loop.call_soon(self.notify, None)

    def _tick(self) -> None:
        if self._producer is None:
            return
        self._producer.poll(0)
        self._polled.set()
        self._timer = self._loop.call_later(self._interval(), self._tick)

    def _interval(self) -> float:
        return POLL_BUSY if len(self._producer or ()) else POLL_IDLE

    def _poll_soon(self) -> None:
        """Records wait: an idle timer is too slow for them."""
        loop = self._loop
        if self._timer is not None and self._timer.when() > loop.time() + POLL_BUSY:
            self._timer.cancel()
            self._timer = loop.call_later(POLL_BUSY, self._tick)

    def abandon(self) -> None:
        if self._producer is not None:
            self._producer.purge(blocking=False)

    async def stop(self) -> None:
        producer, self._producer = self._producer, None
        if self._timer is not None:
            self._timer.cancel()
        self._polled.set()
        if producer is not None:
            producer.purge(blocking=False)
            await asyncio.to_thread(producer.close)
