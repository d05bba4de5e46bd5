"""Metrics by OpenTelemetry: numbers that the program keeps anyway, read when a scraper or a collector wants them."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Protocol

from jetsocket_ingest.errors import InternalError
from jetsocket_ingest.telemetry.catalog import METRICS_BY_NAME, Metric, MetricKind
from jetsocket_ingest.telemetry.log import get_logger

if TYPE_CHECKING:
    from opentelemetry.metrics import CallbackOptions, Observation
    from opentelemetry.metrics import Histogram as OtelHistogram
    from opentelemetry.sdk.metrics import MeterProvider
    from prometheus_client import CollectorRegistry

    from jetsocket_ingest.telemetry.push import MetricsPush

Attributes = Mapping[str, str]
Callback = Callable[[], Iterable[tuple[float, Attributes]]]
"""Yields (value, attributes) for each series. A counter's value is its total so far."""


class Histogram(Protocol):
    """Counts values by size. Record once a batch, never once a message."""

    def record(self, value: float, attributes: Attributes) -> None: ...


class Metrics:
    """The instruments of one pipeline, with a meter provider of its own: nothing global is set.

    All callbacks run on the thread that calls `render` or `push`, which is the event loop's, so they may read the
    program's state as it is. With neither `prometheus` nor `otlp` nothing is kept, and recording does nothing.

    Args:
        pipeline: becomes the label `pipeline` of every series.
        prometheus: whether `render` is going to be asked.
        otlp: address of an OTLP/HTTP collector, or None. `http://host:4318` is enough.
        every: seconds between two exports to the collector.
    """

    def __init__(
        self, pipeline: str, *, prometheus: bool = True, otlp: str | None = None, every: float = 10.0
    ) -> None:
        self._log = get_logger(pipeline=pipeline)
        self._callbacks: dict[str, list[Callback]] = {}
        self._histograms: dict[str, Histogram] = {}
        self._registry: CollectorRegistry | None = None
        self._push: MetricsPush | None = None
        self._provider: MeterProvider | None = None
        if prometheus or otlp is not None:
            self._provider = self._build(pipeline, prometheus=prometheus, otlp=otlp, every=every)

    def _build(self, pipeline: str, *, prometheus: bool, otlp: str | None, every: float) -> MeterProvider:
        # Imported here: together these take longer than all else that a run without metrics needs.
        from opentelemetry.sdk.metrics import AlwaysOffExemplarFilter, MeterProvider
        from opentelemetry.sdk.metrics.export import MetricReader

        from jetsocket_ingest.telemetry.resource import resource

        readers: list[MetricReader] = []
        if prometheus:
            from opentelemetry.exporter.prometheus import PrometheusMetricReader
            from prometheus_client import CollectorRegistry

            self._registry = CollectorRegistry()
            readers.append(
                PrometheusMetricReader(
                    scope_info_enabled=False,
                    resource_attribute_filter=lambda key: key == "pipeline",
                    registry=self._registry,
                )
            )
        if otlp is not None:
            from jetsocket_ingest.telemetry.push import MetricsPush

            self._push = MetricsPush(otlp, every)
            readers.append(self._push.reader)
        return MeterProvider(
            metric_readers=readers,
            resource=resource(pipeline),
            exemplar_filter=AlwaysOffExemplarFilter(),
            shutdown_on_exit=False,
        )

    def observe(self, name: str, callback: Callback) -> None:
        """Read a counter or gauge of the catalogue through `callback`; several callbacks add up to one metric.

        Raises InternalError for a name that the catalogue lacks or has as a histogram.
        """
        metric = _known(name, ("counter", "gauge"))
        if name in self._callbacks:
            self._callbacks[name].append(callback)
            return
        self._callbacks[name] = [callback]
        if self._provider is None:
            return
        meter = self._provider.get_meter("jetsocket_ingest")
        create = (
            meter.create_observable_counter if metric.kind == "counter" else meter.create_observable_gauge
        )
        create(name, [lambda _: self._read(metric, _)], unit=metric.unit, description=metric.meaning)

    def histogram(self, name: str) -> Histogram:
        """The histogram of that name; always the same object. Raises InternalError like `observe`."""
        metric = _known(name, ("histogram",))
        if name not in self._histograms:
            self._histograms[name] = self._create_histogram(metric)
        return self._histograms[name]

    def _create_histogram(self, metric: Metric) -> Histogram:
        if self._provider is None:
            return _Nothing()
        created = self._provider.get_meter("jetsocket_ingest").create_histogram(
            metric.name,
            unit=metric.unit,
            description=metric.meaning,
            explicit_bucket_boundaries_advisory=metric.buckets,
        )
        return _Recorder(metric, created)

    def _read(self, metric: Metric, _: CallbackOptions) -> list[Observation]:
        """Every series of a metric; a callback that fails is told, and costs only its own series."""
        from opentelemetry.metrics import Observation

        found: list[Observation] = []
        for callback in self._callbacks[metric.name]:
            try:
                for value, attributes in callback():
                    _check_attributes(metric, attributes)
                    if math.isfinite(value):
                        found.append(Observation(value, attributes))
            except Exception:  # noqa: BLE001  (one metric's bug must not take the others away; it is reported)
                self._log.exception("telemetry.callback_failed", metric=metric.name)
        return found

    def render(self) -> tuple[bytes, str]:
        """(text, content type) in the form that Prometheus scrapes. Raises InternalError without `prometheus`."""
        if self._registry is None:
            raise InternalError("metrics were asked for, but Metrics was made with prometheus=False")
        from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest

        return generate_latest(self._registry), CONTENT_TYPE_PLAIN_0_0_4

    async def push(self) -> None:
        """Send one export to the collector now; nothing without one. A failure is told, never raised."""
        if self._push is not None:
            await self._push.send()

    async def push_forever(self, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        """Send an export every so often, until cancelled; ends at once without a collector."""
        while self._push is not None:
            await sleep(self._push.every)
            await self._push.send()

    async def close(self) -> None:
        """Send a last export and give everything up. Call once."""
        if self._push is not None:
            await self._push.send()
        self.abandon()

    def abandon(self) -> None:
        """Give everything up at once. Idempotent."""
        if self._push is not None:
            self._push.close()
            self._push = None
        if self._provider is not None:
            self._provider.shutdown()
            self._provider = None


class _Recorder:
    __slots__ = ("_created", "_metric")

    def __init__(self, metric: Metric, created: OtelHistogram) -> None:
        self._metric = metric
        self._created = created

    def record(self, value: float, attributes: Attributes) -> None:
        _check_attributes(self._metric, attributes)
        self._created.record(value, attributes)


class _Nothing:
    __slots__ = ()

    def record(self, value: float, attributes: Attributes) -> None:
        """Nobody is going to ask."""


def _known(name: str, kinds: tuple[MetricKind, ...]) -> Metric:
    metric = METRICS_BY_NAME.get(name)
    if metric is None:
        raise InternalError(f"metric {name!r} is not in the telemetry catalogue; add it there first")
    if metric.kind not in kinds:
        raise InternalError(
            f"metric {name!r} is a {metric.kind} in the telemetry catalogue, not a {' or '.join(kinds)}"
        )
    return metric


def _check_attributes(metric: Metric, attributes: Attributes) -> None:
    for name in attributes:
        if name not in metric.attributes:
            raise InternalError(
                f"metric {metric.name!r} has the attributes {metric.attributes} in the telemetry catalogue, "
                f"found {name!r}; add it there first"
            )
