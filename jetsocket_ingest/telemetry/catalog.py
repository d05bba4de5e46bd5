"""The one written list of every log event, metric and span: what is not in here is never sent.

A test compares this list with the calls in the source, both ways, and `docs/telemetry.md` is generated from it.
Names are `subject.what_happened` for events, OpenTelemetry's form for metrics. The attribute names are the words of
the config, the same in logs, metrics and spans.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Level = Literal["debug", "info", "warning", "error"]
MetricKind = Literal["counter", "gauge", "histogram"]

CONTEXT: tuple[str, ...] = ("pipeline", "endpoint", "connection", "subscription", "sink")
"""Who speaks. Loggers are bound to these where they apply, so any event may carry them."""


@dataclass(frozen=True, slots=True)
class Event:
    """A log line. `attributes` are its own facts, beside `CONTEXT`."""

    name: str
    level: Level
    meaning: str
    attributes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Metric:
    """A counter or gauge, read by a callback when somebody asks, or a histogram, recorded once a batch."""

    name: str
    kind: MetricKind
    unit: str
    """UCUM: `s`, `ms`, `By`, or a thing counted in braces, `{record}`."""
    meaning: str
    attributes: tuple[str, ...] = ()
    buckets: tuple[float, ...] = field(default=(), repr=False)
    """Upper bounds of a histogram's buckets."""


@dataclass(frozen=True, slots=True)
class Span:
    """A timed piece of work. `sampled` ones are kept in the share that the config asks for, others always."""

    name: str
    meaning: str
    attributes: tuple[str, ...] = ()
    sampled: bool = False


EVENTS: tuple[Event, ...] = (
    # The pipeline as a whole.
    Event("pipeline.starting", "info", "A run begins.", ("version",)),
    Event(
        "pipeline.started",
        "info",
        "Sinks are opening and connections are being made.",
        ("subscriptions", "sinks"),
    ),
    Event(
        "pipeline.stopping",
        "info",
        "The run is to end; what is accepted is delivered first.",
        ("reason", "timeout_s"),
    ),
    Event(
        "pipeline.stopped",
        "info",
        "The run is over, with its totals.",
        ("elapsed_s", "messages", "bytes", "delivered", "rejected", "unmatched", "undelivered"),
    ),
    Event("pipeline.failed", "error", "The run ends because something failed for good.", ("error",)),
    Event("config.warning", "warning", "The config works, but probably not as meant.", ("warning",)),
    Event("clock.reanchored", "warning", "The wall clock left ours, which now follows it.", ("step_ms",)),
    Event(
        "loop.lagging",
        "warning",
        "The event loop was kept busy; receive times are late by this.",
        ("late_ms",),
    ),
    # Connections.
    Event("connection.dialled", "debug", "A connection attempt begins.", ("host", "attempt")),
    Event("connection.connected", "info", "A WebSocket is open.", ("attempt", "engine", "subprotocol")),
    Event("connection.lost", "warning", "An open WebSocket is gone.", ("code", "reason", "lasted_s")),
    Event("connection.backing_off", "warning", "The next attempt waits.", ("reason", "delay_s", "attempt")),
    Event("connection.failed", "error", "A connection is given up for good.", ("reason", "attempts")),
    Event("connection.closed", "debug", "A connection is over, as it was meant to be.", ("code", "reason")),
    Event(
        "pool.exhausted", "warning", "No connection became free in time.", ("max_connections", "timeout_s")
    ),
    Event("pool.closing", "debug", "The pool closes one of its connections.", ("reason", "uri")),
    Event("pool.task_failed", "error", "A task of the pool ended with an error: a bug of ours."),
    # Subscriptions and what they bring.
    Event("subscription.requested", "debug", "Streams were asked for.", ("streams",)),
    Event("subscription.acknowledged", "info", "The provider confirmed streams.", ("streams",)),
    Event("subscription.refused", "error", "The provider rejected streams.", ("streams", "reason")),
    Event(
        "subscription.stale", "warning", "Streams were silent for too long; asked for again.", ("streams",)
    ),
    Event(
        "message.unmatched",
        "warning",
        "Messages fit no rule of the session; one of them.",
        ("count", "sample"),
    ),
    # Sinks.
    Event("sink.opened", "info", "A sink is ready.", ("type", "target")),
    Event(
        "sink.unavailable",
        "warning",
        "A sink cannot take records now; delivery tries again.",
        ("reason", "delay_s"),
    ),
    Event("sink.recovered", "info", "A sink takes records again.", ("after_s",)),
    Event("sink.failed", "error", "A sink is given up until somebody acts.", ("reason", "undelivered")),
    Event("sink.crashed", "error", "A sink raised what no sink should: a bug of the sink."),
    Event(
        "sink.record_rejected",
        "warning",
        "A record that this sink can never take.",
        ("stream", "position", "reason"),
    ),
    Event("sink.close_failed", "error", "A sink could not end in good order.", ("reason",)),
    Event("sink.closed", "info", "A sink is closed, with its totals.", ("records", "bytes", "undelivered")),
    Event("file.sealed", "debug", "A file is complete and has its final name.", ("path", "records", "size")),
    Event("file.unsealed", "warning", "Complete files wait for their final names.", ("error", "files")),
    Event(
        "file.salvaged",
        "warning",
        "A dead run's unfinished file was cut to what is whole and sealed.",
        ("temporary", "path", "size", "cut"),
    ),
    Event(
        "file.deleted", "error", "Somebody removed a file while it was being written.", ("path", "records")
    ),
    Event(
        "file.crowded",
        "warning",
        "More files than may be open at once; they take turns.",
        ("path", "max_open_files"),
    ),
    Event(
        "file.left_open",
        "error",
        "Files could not be completed; the next run salvages them.",
        ("error", "files"),
    ),
    Event("kafka.unavailable", "warning", "No broker answers; records wait in order.", ("reason",)),
    Event("kafka.recovered", "info", "A broker answers again.", ("after_s",)),
    Event("sink.kafka.topic_created", "info", "A topic that was missing was created.", ("topic",)),
    Event("sink.kafka.client", "debug", "The Kafka client's own words.", ("message",)),
    # The endpoint for operators, and telemetry about telemetry.
    Event("admin.listening", "info", "The admin endpoint answers.", ("url",)),
    Event("admin.request_failed", "error", "An admin page could not be made: a bug of ours.", ("path",)),
    Event(
        "telemetry.unavailable",
        "warning",
        "A collector takes nothing; the pipeline goes on.",
        ("signal", "url", "reason"),
    ),
    Event("telemetry.recovered", "info", "A collector takes telemetry again.", ("signal", "url")),
    Event("telemetry.incomplete", "warning", "The last telemetry could not be sent in time.", ("timeout_s",)),
    Event("telemetry.callback_failed", "error", "A metric could not be read: a bug of ours.", ("metric",)),
    Event("library.message", "warning", "A library's own words, at its own level.", ("logger", "message")),
)

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_RECORDS = (1.0, 10.0, 50.0, 100.0, 500.0, 1_000.0, 5_000.0, 10_000.0, 50_000.0)

METRICS: tuple[Metric, ...] = (
    Metric("jetsocket.up", "gauge", "1", "1 while the pipeline runs, 0 while it starts or stops."),
    # What comes in.
    Metric(
        "messaging.client.consumed.messages",
        "counter",
        "{message}",
        "WebSocket messages received.",
        ("endpoint", "messaging.system", "messaging.operation.name"),
    ),
    Metric("jetsocket.received", "counter", "By", "Payload bytes received.", ("endpoint",)),
    Metric(
        "jetsocket.records",
        "counter",
        "{record}",
        "Records accepted for delivery.",
        ("endpoint", "subscription"),
    ),
    Metric(
        "jetsocket.messages.unmatched",
        "counter",
        "{message}",
        "Messages that fit no rule of the session.",
        ("endpoint",),
    ),
    Metric(
        "jetsocket.gaps",
        "counter",
        "{gap}",
        "Gap records written, by close code of the loss.",
        ("endpoint", "subscription", "code"),
    ),
    Metric(
        "jetsocket.subscriptions.refused", "counter", "{stream}", "Streams that were refused.", ("endpoint",)
    ),
    Metric(
        "jetsocket.subscriptions.stale",
        "counter",
        "{stream}",
        "Streams that were silent for too long.",
        ("endpoint",),
    ),
    Metric("jetsocket.endpoint.silence", "gauge", "ms", "Since an endpoint's last message.", ("endpoint",)),
    Metric(
        "jetsocket.subscription.silence",
        "gauge",
        "ms",
        "Since a subscription's last record.",
        ("subscription",),
    ),
    Metric(
        "jetsocket.read.pauses",
        "counter",
        "{pause}",
        "Times reading stopped for want of room.",
        ("endpoint",),
    ),
    # Connections.
    Metric(
        "jetsocket.connections",
        "gauge",
        "{connection}",
        "Connections in each state now.",
        ("endpoint", "state"),
    ),
    Metric(
        "jetsocket.connections.wanted",
        "gauge",
        "{connection}",
        "Connections that the plan asks for.",
        ("endpoint",),
    ),
    Metric("jetsocket.dials", "counter", "{attempt}", "Connection attempts.", ("endpoint", "outcome")),
    Metric(
        "jetsocket.connections.lost",
        "counter",
        "{connection}",
        "Connections lost, by close code (1006: without one).",
        ("endpoint", "code"),
    ),
    # What goes out.
    Metric(
        "jetsocket.records.delivered",
        "counter",
        "{record}",
        "Records a sink confirmed.",
        ("sink", "subscription"),
    ),
    Metric(
        "jetsocket.delivered", "counter", "By", "Payload bytes a sink confirmed.", ("sink", "subscription")
    ),
    Metric(
        "jetsocket.records.rejected",
        "counter",
        "{record}",
        "Records a sink can never take.",
        ("sink", "subscription"),
    ),
    Metric(
        "jetsocket.backlog.records",
        "gauge",
        "{record}",
        "Records waiting or in flight.",
        ("sink",),
    ),
    Metric(
        "jetsocket.backlog.size",
        "gauge",
        "By",
        "Payload bytes waiting or in flight.",
        ("sink",),
    ),
    Metric(
        "jetsocket.backlog.age", "gauge", "s", "How long the oldest undelivered record has waited.", ("sink",)
    ),
    Metric("jetsocket.delivery.errors", "counter", "{error}", "Writes that failed.", ("sink", "error.type")),
    Metric("jetsocket.delivery.retries", "counter", "{retry}", "Batches written again.", ("sink",)),
    Metric(
        "jetsocket.delivery.latency",
        "histogram",
        "s",
        "From receiving a batch's oldest record until the sink confirmed the batch.",
        ("sink",),
        _SECONDS,
    ),
    Metric("jetsocket.delivery.batch", "histogram", "{record}", "Records in a batch.", ("sink",), _RECORDS),
    # Ourselves.
    Metric(
        "jetsocket.loop.lag",
        "gauge",
        "s",
        "How late timers fired at worst, over the last half to whole minute.",
    ),
)

SPANS: tuple[Span, ...] = (
    Span(
        "connection.dial",
        "Name resolution, TCP, TLS and opening handshake.",
        ("endpoint", "attempt", "engine"),
    ),
    Span(
        "subscription.subscribe",
        "From asking for streams until all are confirmed or refused; linked to the connection's dial.",
        ("endpoint", "connection", "streams"),
    ),
    Span(
        "delivery.batch",
        "From handing a batch to a sink until it confirmed; linked to the subscribes its records come from.",
        ("sink", "records", "bytes"),
        sampled=True,
    ),
)

EVENTS_BY_NAME = {event.name: event for event in EVENTS}
METRICS_BY_NAME = {metric.name: metric for metric in METRICS}
SPANS_BY_NAME = {span.name: span for span in SPANS}
