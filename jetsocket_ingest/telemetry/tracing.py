"""Spans of the few slow things that a pipeline does: dial, subscribe, deliver a batch. Nothing per message."""

from __future__ import annotations

from collections.abc import Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

from jetsocket_ingest.errors import InternalError
from jetsocket_ingest.telemetry.catalog import SPANS_BY_NAME
from jetsocket_ingest.telemetry.catalog import Span as CataloguedSpan

if TYPE_CHECKING:
    from opentelemetry.trace import SpanContext

    from jetsocket_ingest.telemetry.spans import SpanExport


class Span(Protocol):
    """A piece of work under way.

    Use it with `with`: an exception that leaves the block marks it failed. Work that ends elsewhere than it began calls
    `end` instead, exactly once.
    """

    @property
    def context(self) -> SpanContext | None:
        """What a later span links to; None where nobody keeps this one."""
        ...

    def set(self, **attributes: object) -> None:
        """Add facts that became known meanwhile; only those that the catalogue lists."""
        ...

    def fail(self, reason: str) -> None:
        """Mark the work failed where no exception tells."""
        ...

    def end(self, error: BaseException | None = None) -> None:
        """The work is over, by `error` if there is one."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Tracing:
    """Spans of one pipeline, with a tracer provider of its own. Without a collector, `span` costs a dictionary look-up.

    Args:
        pipeline: named in every span's resource.
        otlp: address of an OTLP/HTTP collector, or None. `http://host:4318` is enough.
        sample: the share, 0 to 1, of the spans that the catalogue calls sampled; the others are all kept.
    """

    def __init__(self, pipeline: str, *, otlp: str | None = None, sample: float = 0.01) -> None:
        self._export: SpanExport | None = None
        if otlp is not None:
            # Imported here: a run without a collector starts sooner.
            from jetsocket_ingest.telemetry.spans import SpanExport

            self._export = SpanExport(pipeline, otlp, sample)

    @property
    def enabled(self) -> bool:
        """Whether anybody keeps spans; to skip the work of finding attributes or links."""
        return self._export is not None

    def span(self, name: str, *, links: Iterable[SpanContext | None] = (), **attributes: object) -> Span:
        """Begin a span of the catalogue, under the one that is open in this task.

        `links` are the `context` of earlier spans that it follows from; None among them is left out.
        Raises InternalError for a name or attribute that the catalogue lacks.
        """
        known = SPANS_BY_NAME.get(name)
        if known is None:
            raise InternalError(f"span {name!r} is not in the telemetry catalogue; add it there first")
        if self._export is None:
            return NO_SPAN
        check_attributes(known, attributes)
        return self._export.start(known, links, attributes)

    async def flush(self) -> None:
        """Send what has ended so far; nothing without a collector. A failure is told, never raised."""
        if self._export is not None:
            await self._export.flush()

    async def close(self) -> None:
        """Send what is left and give everything up. Call once."""
        if self._export is not None:
            export, self._export = self._export, None
            await export.close()


def check_attributes(span: CataloguedSpan, attributes: Iterable[str]) -> None:
    """Raise InternalError for a name that the catalogue does not list for this span."""
    for name in attributes:
        if name not in span.attributes:
            raise InternalError(
                f"span {span.name!r} has the attributes {span.attributes} in the telemetry catalogue, "
                f"found {name!r}; add it there first"
            )


class _Nothing:
    """The span that nobody keeps; one for all."""

    __slots__ = ()
    context = None

    def set(self, **attributes: object) -> None: ...

    def fail(self, reason: str) -> None: ...

    def end(self, error: BaseException | None = None) -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...


NO_SPAN: Span = _Nothing()
