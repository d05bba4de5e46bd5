"""Spans to an OTLP collector: the SDK samples, batches and sends them, on a thread of its own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Self

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import (
    ALWAYS_ON,
    ParentBased,
    Sampler,
    SamplingResult,
    TraceIdRatioBased,
)
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceState
from opentelemetry.util.types import Attributes, AttributeValue

from jetsocket_ingest.telemetry.catalog import SPANS_BY_NAME
from jetsocket_ingest.telemetry.catalog import Span as CataloguedSpan
from jetsocket_ingest.telemetry.otlp import Outage, in_thread, signal_url
from jetsocket_ingest.telemetry.render import plain
from jetsocket_ingest.telemetry.resource import resource
from jetsocket_ingest.telemetry.tracing import check_attributes


class SpanExport:
    """One collector and the tracer that feeds it."""

    def __init__(self, pipeline: str, otlp: str, sample: float) -> None:
        url = signal_url(otlp, "traces")
        self._outage = Outage("traces", url, "opentelemetry.exporter.otlp.proto.http.trace_exporter")
        self._provider = TracerProvider(
            sampler=ParentBased(_ByCatalogue(sample)), resource=resource(pipeline), shutdown_on_exit=False
        )
        self._provider.add_span_processor(
            BatchSpanProcessor(_Told(OTLPSpanExporter(endpoint=url), self._outage))
        )
        self._tracer = self._provider.get_tracer("jetsocket_ingest")

    def start(
        self, known: CataloguedSpan, links: Iterable[SpanContext | None], attributes: Mapping[str, object]
    ) -> RecordedSpan:
        span = self._tracer.start_span(
            known.name,
            kind=SpanKind.CLIENT,
            attributes={name: _value(value) for name, value in attributes.items()},
            links=[
                Link(context)
                for context in {link.span_id: link for link in links if link is not None}.values()
            ],
            record_exception=False,
            set_status_on_exception=False,
        )
        return RecordedSpan(known, span)

    async def flush(self) -> None:
        await in_thread(self._provider.force_flush)

    async def close(self) -> None:
        try:
            await in_thread(self._provider.shutdown)
        finally:
            self._outage.close()


class RecordedSpan:
    """A span under way. What is started inside its `with` block, in the same task, becomes its child."""

    __slots__ = ("_current", "_known", "_span")

    def __init__(self, known: CataloguedSpan, span: trace.Span) -> None:
        self._known = known
        self._span = span
        self._current: AbstractContextManager[trace.Span] | None = None

    @property
    def context(self) -> SpanContext | None:
        """None for a span that sampling dropped: a link to it would lead nowhere."""
        context = self._span.get_span_context()
        return context if context.trace_flags.sampled else None

    def set(self, **attributes: object) -> None:
        check_attributes(self._known, attributes)
        for name, value in attributes.items():
            self._span.set_attribute(name, _value(value))

    def fail(self, reason: str) -> None:
        self._span.set_status(Status(StatusCode.ERROR, reason))

    def __enter__(self) -> Self:
        self._current = trace.use_span(self._span, record_exception=False, set_status_on_exception=False)
        self._current.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._current is not None:
            self._current.__exit__(None, None, None)
        self.end(error)

    def end(self, error: BaseException | None = None) -> None:
        # A cancelled task did not fail: it was told to stop.
        if isinstance(error, Exception):
            self.fail(str(plain(error)))
        self._span.end()


class _ByCatalogue(Sampler):
    """Keeps all spans but those that the catalogue calls sampled; of these the given share."""

    def __init__(self, share: float) -> None:
        self._some = TraceIdRatioBased(share)

    def should_sample(
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        attributes: Attributes = None,
        links: Sequence[Link] | None = None,
        trace_state: TraceState | None = None,
    ) -> SamplingResult:
        sampler = self._some if SPANS_BY_NAME[name].sampled else ALWAYS_ON
        return sampler.should_sample(parent_context, trace_id, name, kind, attributes, links, trace_state)

    def get_description(self) -> str:
        return f"ByCatalogue({self._some.get_description()})"


class _Told(SpanExporter):
    """An exporter whose outages are told."""

    def __init__(self, inner: SpanExporter, outage: Outage) -> None:
        self._inner = inner
        self._outage = outage

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = self._inner.export(spans)
        self._outage.report(success=result is SpanExportResult.SUCCESS)
        return result

    def shutdown(self) -> None:
        self._inner.shutdown()


def _value(value: object) -> AttributeValue:
    """An attribute as OpenTelemetry takes it; whatever it has no form for becomes text, secrets as `***`."""
    simple = plain(value)
    return simple if isinstance(simple, str | bool | int | float) else str(simple)
