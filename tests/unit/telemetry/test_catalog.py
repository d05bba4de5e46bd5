"""The catalogue and the code say the same, both ways."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from jetsocket_ingest.telemetry import Metrics
from jetsocket_ingest.telemetry.catalog import (
    CONTEXT,
    EVENTS,
    EVENTS_BY_NAME,
    METRICS,
    METRICS_BY_NAME,
    SPANS,
    SPANS_BY_NAME,
    Metric,
)
from jetsocket_ingest.telemetry.reference import markdown, prometheus_name

ROOT = Path(__file__).parents[3]
CATALOG = ROOT / "jetsocket_ingest" / "telemetry" / "catalog.py"
DOTTED = re.compile(r"[a-z_]+(\.[a-z_]+)+")
LEVELS = {
    "debug": "debug",
    "info": "info",
    "warning": "warning",
    "error": "error",
    "exception": "error",
    "critical": "critical",
}
LOGGERS = {"log", "_log", "logger", "_logger"}


@dataclass(frozen=True)
class Call:
    """A call of a method with a literal name as its first argument."""

    method: str
    receiver: str
    name: str | None
    keywords: tuple[str, ...]
    where: str


@cache
def calls() -> tuple[Call, ...]:
    return tuple(call for path in sources() for call in calls_in(path))


def sources() -> list[Path]:
    folders = (ROOT / "jetsocket_ingest", ROOT / "sinks" / "jetsocket_sinks")
    return [path for folder in folders for path in sorted(folder.rglob("*.py")) if path != CATALOG]


def calls_in(path: Path) -> Iterator[Call]:
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute) or not node.args:
            continue
        first, receiver = node.args[0], node.func.value
        yield Call(
            node.func.attr,
            receiver.attr if isinstance(receiver, ast.Attribute) else getattr(receiver, "id", ""),
            first.value if isinstance(first, ast.Constant) and isinstance(first.value, str) else None,
            tuple(keyword.arg for keyword in node.keywords if keyword.arg is not None),
            f"{path.relative_to(ROOT)}:{node.lineno}",
        )


@cache
def literals() -> frozenset[str]:
    return frozenset(
        node.value
        for path in sources()
        for node in ast.walk(ast.parse(path.read_text(), str(path)))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    )


def event_calls() -> list[Call]:
    return [call for call in calls() if call.method in LEVELS and call.name and DOTTED.fullmatch(call.name)]


def named(*methods: str) -> list[Call]:
    return [call for call in calls() if call.method in methods and call.name and DOTTED.fullmatch(call.name)]


def test_every_event_in_the_code_is_in_the_catalogue() -> None:
    assert [f"{call.where}: {call.name}" for call in event_calls() if call.name not in EVENTS_BY_NAME] == []


def test_every_event_in_the_catalogue_is_in_the_code() -> None:
    # Libraries' lines are made by the handler that takes them in, at the level that they have.
    sent = {call.name for call in event_calls()} | ({"library.message"} & literals())
    assert [event.name for event in EVENTS if event.name not in sent] == []


def test_every_event_is_sent_at_its_level_and_with_its_attributes_only() -> None:
    wrong = []
    for call in event_calls():
        event = EVENTS_BY_NAME.get(call.name or "")
        if event is None:
            continue  # told by another test
        if LEVELS[call.method] != event.level:
            wrong.append(f"{call.where}: {event.name} at {call.method}, the catalogue says {event.level}")
        unknown = set(call.keywords) - {*event.attributes, *CONTEXT, "exc_info"}
        if unknown:
            wrong.append(f"{call.where}: {event.name} with {sorted(unknown)}, which the catalogue lacks")
    assert wrong == []


def test_every_logger_call_names_a_literal_event() -> None:
    unnamed = [
        call.where
        for call in calls()
        if call.method in LEVELS
        and call.receiver in LOGGERS
        and not (call.name and DOTTED.fullmatch(call.name))
    ]
    assert unnamed == []


def test_every_metric_in_the_code_is_in_the_catalogue() -> None:
    used = named("observe", "histogram")
    assert [f"{call.where}: {call.name}" for call in used if call.name not in METRICS_BY_NAME] == []


def test_every_metric_in_the_catalogue_is_in_the_code() -> None:
    # A table of names and callbacks is a natural way to register metrics, so any literal counts.
    assert [metric.name for metric in METRICS if metric.name not in literals()] == []


def test_every_span_in_the_code_is_in_the_catalogue_with_its_attributes() -> None:
    wrong = []
    for call in named("span"):
        span = SPANS_BY_NAME.get(call.name or "")
        if span is None:
            wrong.append(f"{call.where}: {call.name}")
        elif unknown := set(call.keywords) - {*span.attributes, "links"}:
            wrong.append(f"{call.where}: {span.name} with {sorted(unknown)}, which the catalogue lacks")
    assert wrong == []


def test_every_span_in_the_catalogue_is_in_the_code() -> None:
    sent = {call.name for call in named("span")}
    assert [span.name for span in SPANS if span.name not in sent] == []


def test_names_are_unique_and_dotted() -> None:
    for entries in (EVENTS, METRICS, SPANS):
        names = [entry.name for entry in entries]
        assert len(set(names)) == len(names)
        assert all(DOTTED.fullmatch(name) for name in names)


def test_every_meaning_is_a_sentence_and_every_histogram_has_rising_buckets() -> None:
    meanings = [entry.meaning for entries in (EVENTS, METRICS, SPANS) for entry in entries]
    assert [
        meaning for meaning in meanings if not (meaning.endswith(".") and meaning[0] == meaning[0].upper())
    ] == []
    for metric in METRICS:
        assert bool(metric.buckets) == (metric.kind == "histogram"), metric.name
        assert list(metric.buckets) == sorted(set(metric.buckets)), metric.name


def test_the_page_in_the_docs_is_the_one_that_the_catalogue_makes() -> None:
    page = ROOT / "docs" / "telemetry.md"
    assert page.read_text() == markdown(), (
        "run: python -m jetsocket_ingest.telemetry.reference > docs/telemetry.md"
    )


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_a_scraper_finds_each_metric_under_the_name_that_the_docs_give(metric: Metric) -> None:
    metrics = Metrics("ticks")
    labels = dict.fromkeys(metric.attributes, "x")
    if metric.kind == "histogram":
        metrics.histogram(metric.name).record(1, labels)
    else:
        metrics.observe(metric.name, lambda: [(1, labels)])
    text = metrics.render()[0].decode()
    metrics.abandon()
    name = prometheus_name(metric)
    shown = f"{name}_bucket{{" if metric.kind == "histogram" else f"{name}{{"
    assert any(line.startswith(shown) for line in text.splitlines()), text
    assert f"# HELP {name} {metric.meaning}" in text
