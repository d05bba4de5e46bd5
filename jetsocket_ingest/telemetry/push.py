"""Metrics to an OTLP collector: collected on the event loop, sent on a thread."""

from __future__ import annotations

import threading
from typing import Any

from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.sdk.metrics.export import MetricExportResult, MetricReader, MetricsData

from jetsocket_ingest.telemetry.otlp import Outage, in_thread, signal_url


class MetricsPush:
    """One collector.

    The SDK's own periodic reader calls back from its thread, where the program's state may change under a callback;
    this one collects where `send` is called, and only the request leaves for a thread.
    """

    def __init__(self, otlp: str, every: float) -> None:
        url = signal_url(otlp, "metrics")
        self.every = every
        self.reader = _Reader()
        self._one_at_a_time = threading.Lock()
        self._exporter = OTLPMetricExporter(endpoint=url)
        self._outage = Outage("metrics", url, "opentelemetry.exporter.otlp.proto.http.metric_exporter")

    async def send(self) -> None:
        """Export once. A collector that takes nothing is told by `telemetry.unavailable`."""
        self.reader.collect()
        data, self.reader.collected = self.reader.collected, None
        if data is not None:
            await in_thread(lambda: self._export(data))

    def _export(self, data: MetricsData) -> None:
        with self._one_at_a_time:
            self._outage.report(success=self._exporter.export(data) is MetricExportResult.SUCCESS)

    def close(self) -> None:
        """Give up the connection; a request under way ends on its own."""
        self._exporter.shutdown()
        self._outage.close()


class _Reader(MetricReader):
    """Keeps what was collected last, for `MetricsPush` to send."""

    def __init__(self) -> None:
        super().__init__()
        self.collected: MetricsData | None = None

    def _receive_metrics(
        self, metrics_data: MetricsData, timeout_millis: float = 10_000, **kwargs: Any
    ) -> None:
        self.collected = metrics_data

    def shutdown(self, timeout_millis: float = 30_000, **kwargs: Any) -> None:
        """Nothing of its own to give up."""
