"""docs/telemetry.md, made from the catalogue.

python -m jetsocket_ingest.telemetry.reference > docs/telemetry.md
"""

from __future__ import annotations

import sys
from collections.abc import Iterable

from jetsocket_ingest.telemetry.catalog import CONTEXT, EVENTS, METRICS, SPANS, Metric

_OPENING = """# Telemetry

Every log event, metric and span that jetsocket-ingest sends. This page is generated from
`jetsocket_ingest/telemetry/catalog.py` by `python -m jetsocket_ingest.telemetry.reference`; a test keeps page, list and code in step.

## Logs

One JSON object a line on standard error, or coloured columns on a terminal (`telemetry.logs.format: auto | json | console`,
`telemetry.logs.level: debug | info | warning | error`). Each line has `ts` (ISO 8601, UTC), `level` and `event`, then the facts.
Line breaks and control characters in values are always escaped, so that a message can neither break a line nor move the cursor; secrets print as `***`; an
exception is one more fact, `exception`. A value of more than 4,096 characters is cut. NO_COLOR turns colours off.

Beside the attributes below, an event carries those of {context} that apply to it.
`library.message` has the level that the library gave it, WARNING or higher.
"""

_METRICS = """## Metrics

At `/metrics` of the admin endpoint in the Prometheus text format, and by OTLP/HTTP where `telemetry.metrics.otlp` names a collector (`http://collector:4318` is
enough; an address with a path is taken as it is). Every Prometheus series has the label `pipeline`; dots in attribute names become underscores. The usual
variables `OTEL_EXPORTER_OTLP_HEADERS`, `OTEL_EXPORTER_OTLP_CERTIFICATE`, `OTEL_EXPORTER_OTLP_TIMEOUT`, `OTEL_SERVICE_NAME` and
`OTEL_RESOURCE_ATTRIBUTES` are obeyed. No metric is touched per message: counters and gauges are read when somebody asks, histograms are recorded once a batch.
"""

_SPANS = """## Spans

By OTLP/HTTP where `telemetry.traces.otlp` names a collector. `telemetry.traces.sample` is the share of the sampled spans that is kept; the others are all kept.
"""


def prometheus_name(metric: Metric) -> str:
    """What a scraper calls it: the unit behind the name, and `_total` behind a counter's."""
    units = {"By": "_bytes", "s": "_seconds", "ms": "_milliseconds"}
    name = metric.name.replace(".", "_") + units.get(metric.unit, "")
    return f"{name}_total" if metric.kind == "counter" else name


def markdown() -> str:
    """The whole page."""
    events = [
        (f"`{event.name}`", event.level, event.meaning, _names(event.attributes))
        for event in sorted(EVENTS, key=lambda event: event.name)
    ]
    metrics = [
        (
            f"`{metric.name}`",
            f"`{prometheus_name(metric)}`",
            metric.kind,
            f"`{metric.unit}`",
            metric.meaning,
            _names(metric.attributes),
        )
        for metric in sorted(METRICS, key=lambda metric: metric.name)
    ]
    spans = [
        (f"`{span.name}`", span.meaning, _names(span.attributes), "yes" if span.sampled else "no")
        for span in SPANS
    ]
    return "\n".join(
        [
            _OPENING.format(context=_names(CONTEXT)),
            _table(("event", "level", "meaning", "attributes"), events),
            _METRICS,
            _table(("metric", "Prometheus", "kind", "unit", "meaning", "attributes"), metrics),
            _SPANS,
            _table(("span", "meaning", "attributes", "sampled"), spans),
        ]
    )


def _names(names: tuple[str, ...]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


if __name__ == "__main__":
    sys.stdout.write(markdown())
