"""Logs, metrics and traces; `catalog` lists every one of them."""

from __future__ import annotations

import asyncio

from jetsocket_ingest.telemetry.log import configure_logging, get_logger
from jetsocket_ingest.telemetry.metrics import Metrics
from jetsocket_ingest.telemetry.tracing import Tracing

__all__ = ["Metrics", "Telemetry", "Tracing", "configure_logging", "get_logger"]


class Telemetry:
    """Metrics and traces of one pipeline.

    Args:
        pipeline: the pipeline's name.
        metrics_otlp: address of an OTLP/HTTP collector for metrics, or None.
        metrics_every: seconds between two exports of metrics.
        traces_otlp: address of an OTLP/HTTP collector for traces, or None.
        traces_sample: the share, 0 to 1, of batch deliveries that are traced.
        prometheus: whether metrics are going to be scraped (the admin endpoint is on).

    Raises ConfigError for an address that is none.
    """

    def __init__(
        self,
        *,
        pipeline: str,
        metrics_otlp: str | None = None,
        metrics_every: float = 10.0,
        traces_otlp: str | None = None,
        traces_sample: float = 0.01,
        prometheus: bool = True,
    ) -> None:
        self._log = get_logger(pipeline=pipeline)
        self.metrics = Metrics(pipeline, prometheus=prometheus, otlp=metrics_otlp, every=metrics_every)
        self.tracing = Tracing(pipeline, otlp=traces_otlp, sample=traces_sample)
        self._pushing: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to export metrics now and then, where a collector is configured; call it on the running loop."""
        if self._pushing is None:
            self._pushing = asyncio.get_running_loop().create_task(
                self.metrics.push_forever(), name="telemetry push"
            )

    async def shutdown(self, timeout: float = 5.0) -> None:
        """Send what is left within `timeout` seconds and give everything up. Idempotent. Nothing is read afterwards."""
        if self._pushing is not None:
            self._pushing.cancel()
            await asyncio.gather(self._pushing, return_exceptions=True)
            self._pushing = None
        try:
            async with asyncio.timeout(timeout):
                await asyncio.gather(self.metrics.close(), self.tracing.close())
        except TimeoutError:
            self._log.warning("telemetry.incomplete", timeout_s=timeout)
        finally:
            self.metrics.abandon()
