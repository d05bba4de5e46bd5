"""What the parts of a pipeline count, as metrics, as a status, as totals. Read when somebody asks, never per message."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from jetsocket_ingest.clock import Clock
from jetsocket_ingest.net.life import State
from jetsocket_ingest.pipeline.delivery import Delivery, DeliveryState
from jetsocket_ingest.pipeline.intake import Intake
from jetsocket_ingest.sink.record import Batch
from jetsocket_ingest.telemetry.metrics import Histogram
from jetsocket_ingest.telemetry.status import SinkStatus, Snapshot
from jetsocket_ingest.telemetry.tracing import NO_SPAN, Span

if TYPE_CHECKING:
    from jetsocket_ingest.app import Pipeline

Series = Iterable[tuple[float, dict[str, Any]]]
_CONSUMED = {"messaging.system": "websocket", "messaging.operation.name": "receive"}


def observe(pipeline: Pipeline) -> None:
    """Make every counter and gauge of the catalogue readable."""
    metrics = pipeline.telemetry.metrics
    for name, callback in (_incoming(pipeline) | _connections(pipeline) | _outgoing(pipeline)).items():
        metrics.observe(name, callback)
    metrics.observe("jetsocket.up", lambda: [(float(pipeline.running), {})])
    metrics.observe("jetsocket.loop.lag", lambda: [(pipeline.lag.worst, {})])


def delivery_recorder(
    sink: str, latency: Histogram, size: Histogram, clock: Clock
) -> Callable[[Batch], None]:
    """Records the two histograms of a sink, once for each batch."""
    attributes = {"sink": sink}

    def record(batch: Batch) -> None:
        latency.record((clock.wall_ns() - batch.chunks[0].received_ns) / 1e9, attributes)
        size.record(batch.count, attributes)

    return record


def delivery_span(sink: str, pipeline: Pipeline) -> Callable[[Batch], Span]:
    """Begins the span of a batch, linked to the subscribes that its records come from."""
    tracing = pipeline.telemetry.tracing

    def begin(batch: Batch) -> Span:
        if not tracing.enabled:
            return NO_SPAN
        connections = {chunk.connection for chunk in batch.chunks}
        links = [intake.trace_context for intake in pipeline.intakes if intake.planned.id in connections]
        return tracing.span("delivery.batch", links=links, sink=sink, records=batch.count, bytes=batch.size)

    return begin


def totals(pipeline: Pipeline) -> dict[str, Any]:
    """What the run did, for the last line."""
    sinks = [delivery.counters for delivery in pipeline.deliveries.values()]
    return {
        "elapsed_s": round(pipeline.clock.monotonic() - pipeline.started_at, 3),
        "messages": _received(pipeline, "messages_received"),
        "bytes": _received(pipeline, "bytes_received"),
        "delivered": sum(counters.records.total() for counters in sinks),
        "rejected": sum(counters.rejected.total() for counters in sinks),
        "unmatched": sum(intake.counters.unmatched for intake in pipeline.intakes),
        "undelivered": sum(delivery.undelivered for delivery in pipeline.deliveries.values()),
    }


def snapshot(pipeline: Pipeline) -> Snapshot:
    """What the live line shows."""
    failing: list[Exception] = [intake.error for intake in pipeline.intakes if intake.error is not None]
    failing += [delivery.error for delivery in pipeline.deliveries.values() if delivery.error is not None]
    return Snapshot(
        elapsed=pipeline.clock.monotonic() - pipeline.started_at,
        messages=_received(pipeline, "messages_received"),
        bytes=_received(pipeline, "bytes_received"),
        connections_up=sum(intake.state is State.CONNECTED for intake in pipeline.intakes),
        connections_wanted=sum(map(len, pipeline.plan.values())),
        sinks=tuple(
            SinkStatus(
                name,
                delivery.counters.records.total(),
                delivery.backlog.records,
                "ok" if delivery.state is DeliveryState.RUNNING else str(delivery.state),
            )
            for name, delivery in pipeline.deliveries.items()
        ),
        last_error=str(failing[-1]) if failing else None,
    )


def status(pipeline: Pipeline) -> dict[str, Any]:
    """What runs now, for `/status`."""
    return {
        "pipeline": pipeline.config.name,
        "totals": totals(pipeline),
        "connections": [_connection_status(intake) for intake in pipeline.intakes],
        "sinks": {name: _sink_status(delivery) for name, delivery in pipeline.deliveries.items()},
    }


def _connection_status(intake: Intake) -> dict[str, Any]:
    socket = intake.socket
    return {
        "id": intake.planned.id,
        "endpoint": intake.planned.endpoint,
        "subscriptions": intake.planned.subscriptions,
        "state": intake.state,
        "streams": {
            "wanted": len(intake.planned.streams),
            "live": len(intake.live),
            "refused": sorted(intake.refused),
        },
        "messages": socket.counters.messages_received if socket is not None else 0,
        "lost": dict(intake.lost),
        "error": str(intake.error) if intake.error is not None else None,
    }


def _sink_status(delivery: Delivery) -> dict[str, Any]:
    counters = delivery.counters
    return {
        "state": delivery.state,
        "delivered": dict(counters.records),
        "rejected": dict(counters.rejected),
        "backlog": {"records": delivery.backlog.records, "bytes": delivery.backlog.bytes},
        "error": str(delivery.error) if delivery.error is not None else None,
    }


# Series of the catalogue -----------------------------------------------------------------------------------------------


def _incoming(pipeline: Pipeline) -> dict[str, Callable[[], Series]]:
    def by_endpoint(count: Callable[[Intake], float], **attributes: str) -> Callable[[], Series]:
        return lambda: _by_endpoint(pipeline, count, attributes)

    return {
        "messaging.client.consumed.messages": by_endpoint(_counted("messages_received"), **_CONSUMED),
        "jetsocket.received": by_endpoint(_counted("bytes_received")),
        "jetsocket.read.pauses": by_endpoint(_counted("pauses")),
        "jetsocket.messages.unmatched": by_endpoint(lambda intake: intake.counters.unmatched),
        "jetsocket.subscriptions.refused": by_endpoint(lambda intake: intake.counters.subscriptions_refused),
        "jetsocket.subscriptions.stale": by_endpoint(lambda intake: intake.counters.stale),
        "jetsocket.records": lambda: _by_subscription(
            pipeline, lambda intake: {"": intake.counters.records}, None
        ),
        "jetsocket.gaps": lambda: _by_subscription(pipeline, lambda intake: intake.counters.gaps, "code"),
        "jetsocket.endpoint.silence": lambda: _silence(
            pipeline, lambda intake: (intake.planned.endpoint,), "endpoint"
        ),
        "jetsocket.subscription.silence": lambda: _silence(
            pipeline, lambda intake: intake.planned.subscriptions, "subscription"
        ),
    }


def _by_endpoint(pipeline: Pipeline, count: Callable[[Intake], float], attributes: dict[str, str]) -> Series:
    sums: dict[str, float] = dict.fromkeys(pipeline.plan, 0)
    for intake in pipeline.intakes:
        sums[intake.planned.endpoint] += count(intake)
    return [(value, {"endpoint": endpoint, **attributes}) for endpoint, value in sums.items()]


def _by_subscription(
    pipeline: Pipeline, counts: Callable[[Intake], Mapping[str, int]], label: str | None
) -> Series:
    sums: Counter[tuple[str, str, str]] = Counter()
    for intake in pipeline.intakes:
        for subscription in intake.planned.subscriptions:
            for key, count in counts(intake).items():
                sums[intake.planned.endpoint, subscription, key] += count
    return [
        (count, {"endpoint": endpoint, "subscription": subscription, **({label: key} if label else {})})
        for (endpoint, subscription, key), count in sums.items()
    ]


def _silence(pipeline: Pipeline, names: Callable[[Intake], Iterable[str]], label: str) -> Series:
    """Milliseconds since the last data, counted from the start where there was none."""
    now = pipeline.clock.monotonic()
    last: dict[str, float] = {}
    for intake in pipeline.intakes:
        heard = pipeline.started_at if intake.last_data is None else intake.last_data
        for name in names(intake):
            last[name] = max(last.get(name, heard), heard)
    return [((now - heard) * 1000, {label: name}) for name, heard in last.items()]


def _connections(pipeline: Pipeline) -> dict[str, Callable[[], Series]]:
    def states() -> Series:
        found = Counter((intake.planned.endpoint, intake.state) for intake in pipeline.intakes)
        return [
            (found[endpoint, state], {"endpoint": endpoint, "state": str(state)})
            for endpoint in pipeline.plan
            for state in State
        ]

    def wanted() -> Series:
        return [(len(planned), {"endpoint": endpoint}) for endpoint, planned in pipeline.plan.items()]

    def dials() -> Series:
        sums: Counter[tuple[str, str]] = Counter()
        for intake in pipeline.intakes:
            if (socket := intake.socket) is not None:
                dialling = intake.state in (State.CONNECTING, State.RECONNECTING)
                sums[intake.planned.endpoint, "connected"] += socket.connects
                sums[intake.planned.endpoint, "failed"] += (
                    socket.counters.attempts - socket.connects - dialling
                )
        return [
            (count, {"endpoint": endpoint, "outcome": outcome}) for (endpoint, outcome), count in sums.items()
        ]

    def lost() -> Series:
        sums: Counter[tuple[str, str]] = Counter()
        for intake in pipeline.intakes:
            for code, count in intake.lost.items():
                sums[intake.planned.endpoint, code] += count
        return [(count, {"endpoint": endpoint, "code": code}) for (endpoint, code), count in sums.items()]

    return {
        "jetsocket.connections": states,
        "jetsocket.connections.wanted": wanted,
        "jetsocket.dials": dials,
        "jetsocket.connections.lost": lost,
    }


def _outgoing(pipeline: Pipeline) -> dict[str, Callable[[], Series]]:
    def per_sink(value: Callable[[Delivery], float]) -> Callable[[], Series]:
        return lambda: [(value(delivery), {"sink": name}) for name, delivery in pipeline.deliveries.items()]

    def counted(counter: Callable[[Delivery], Counter[str]], label: str) -> Callable[[], Series]:
        return lambda: [
            (count, {"sink": name, label: key})
            for name, delivery in pipeline.deliveries.items()
            for key, count in counter(delivery).items()
        ]

    def age(delivery: Delivery) -> float:
        oldest = delivery.backlog.oldest_ns()
        return 0.0 if oldest is None else (pipeline.clock.wall_ns() - oldest) / 1e9

    return {
        "jetsocket.records.delivered": counted(lambda delivery: delivery.counters.records, "subscription"),
        "jetsocket.delivered": counted(lambda delivery: delivery.counters.bytes, "subscription"),
        "jetsocket.records.rejected": counted(lambda delivery: delivery.counters.rejected, "subscription"),
        "jetsocket.delivery.errors": counted(lambda delivery: delivery.counters.errors, "error.type"),
        "jetsocket.delivery.retries": per_sink(lambda delivery: delivery.counters.retries),
        "jetsocket.backlog.records": per_sink(lambda delivery: delivery.backlog.records),
        "jetsocket.backlog.size": per_sink(lambda delivery: delivery.backlog.bytes),
        "jetsocket.backlog.age": per_sink(age),
    }


def _counted(name: str) -> Callable[[Intake], float]:
    return lambda intake: getattr(intake.socket.counters, name) if intake.socket is not None else 0


def _received(pipeline: Pipeline, name: str) -> int:
    return int(sum(map(_counted(name), pipeline.intakes)))
