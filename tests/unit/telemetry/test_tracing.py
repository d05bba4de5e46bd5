"""Spans: all of the rare ones, a share of the frequent ones, none without a collector."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
import structlog

from jetsocket_ingest.config.types import Secret
from jetsocket_ingest.errors import ConfigError, InternalError
from jetsocket_ingest.telemetry import Tracing
from tests.support.aio import run
from tests.unit.telemetry.receiver import Receiver, attributes

ERROR = 2


def record(work: Callable[[Tracing], object], sample: float = 1.0) -> Receiver:
    """Do the work with a collector listening; returns what it received."""
    with Receiver() as receiver:

        async def traced() -> None:
            tracing = Tracing("ticks", otlp=receiver.url, sample=sample)
            try:
                work(tracing)
            finally:
                await tracing.close()

        run(traced())
    return receiver


def test_a_span_arrives_with_name_attributes_and_resource() -> None:
    def work(tracing: Tracing) -> None:
        with tracing.span("connection.dial", endpoint="desk", attempt=2) as span:
            span.set(engine="picows")

    receiver = record(work)
    (span,) = receiver.spans
    assert span.name == "connection.dial"
    assert attributes(span) == {"endpoint": "desk", "attempt": 2, "engine": "picows"}
    assert span.status.code != ERROR
    assert receiver.resource["pipeline"] == "ticks"
    assert receiver.paths == ["/v1/traces"]


def test_a_span_links_to_those_that_it_follows_from() -> None:
    def work(tracing: Tracing) -> None:
        with tracing.span("connection.dial") as dial:
            pass
        with tracing.span("subscription.subscribe", links=[dial.context, None, dial.context]):
            pass

    dial, subscribe = record(work).spans
    assert [link.span_id for link in subscribe.links] == [dial.span_id]
    assert subscribe.trace_id != dial.trace_id


def test_a_span_inside_another_is_its_child() -> None:
    def work(tracing: Tracing) -> None:
        with tracing.span("connection.dial"), tracing.span("subscription.subscribe"):
            pass

    subscribe, dial = record(work).spans
    assert subscribe.parent_span_id == dial.span_id


def test_a_span_that_ends_elsewhere_than_it_began_is_nobodys_parent() -> None:
    def work(tracing: Tracing) -> None:
        first = tracing.span("delivery.batch", sink="lake")
        tracing.span("delivery.batch", sink="lake").end()
        first.end(OSError("disk full"))

    second, first = record(work).spans
    assert (first.parent_span_id, second.parent_span_id) == (b"", b"")
    assert (first.status.code, first.status.message) == (ERROR, "OSError: disk full")


def test_an_exception_marks_the_span_failed_and_goes_on() -> None:
    def work(tracing: Tracing) -> None:
        with pytest.raises(ValueError, match="refused"), tracing.span("connection.dial"):
            raise ValueError("refused")

    (span,) = record(work).spans
    assert (span.status.code, span.status.message) == (ERROR, "ValueError: refused")


def test_cancellation_is_no_failure() -> None:
    def work(tracing: Tracing) -> None:
        with pytest.raises(asyncio.CancelledError), tracing.span("connection.dial"):
            raise asyncio.CancelledError

    assert record(work).spans[0].status.code != ERROR


def test_a_failure_without_exception_is_marked() -> None:
    def work(tracing: Tracing) -> None:
        with tracing.span("subscription.subscribe") as span:
            span.fail("unknown stream")

    (span,) = record(work).spans
    assert (span.status.code, span.status.message) == (ERROR, "unknown stream")


def test_only_the_sampled_kind_is_thinned_out() -> None:
    def work(tracing: Tracing) -> None:
        for _ in range(20):
            with tracing.span("connection.dial"):
                pass
            with tracing.span("delivery.batch", sink="lake") as span:
                assert span.context is None

    assert {span.name for span in record(work, sample=0.0).spans} == {"connection.dial"}


def test_the_share_kept_is_about_the_one_asked_for() -> None:
    def work(tracing: Tracing) -> None:
        for _ in range(400):
            tracing.span("delivery.batch", sink="lake").end()

    # 400 draws at one half: outside 120 to 280 is eight standard deviations away.
    assert 120 < len(record(work, sample=0.5).spans) < 280


def test_secrets_and_strange_values_become_harmless_text() -> None:
    def work(tracing: Tracing) -> None:
        with tracing.span("connection.dial", endpoint=Secret("canary"), engine=["a", 1], attempt=10**400):
            pass

    (span,) = record(work).spans
    found = attributes(span)
    assert "***" in found["endpoint"]
    assert "canary" not in str(span)
    assert found["engine"] == "['a', 1]"
    assert found["attempt"].startswith("0x")


def test_names_and_attributes_that_the_catalogue_lacks_are_bugs() -> None:
    def work(tracing: Tracing) -> None:
        with pytest.raises(InternalError, match="found 'stream'"):
            tracing.span("connection.dial", stream="x")
        with pytest.raises(InternalError, match="found 'stream'"), tracing.span("connection.dial") as span:
            span.set(stream="x")

    record(work)
    with pytest.raises(InternalError, match="not in the telemetry catalogue"):
        Tracing("ticks").span("unheard.of")


def test_without_a_collector_every_span_is_the_same_nothing() -> None:
    tracing = Tracing("ticks")
    assert not tracing.enabled
    first = tracing.span("connection.dial", endpoint="desk")
    assert first is tracing.span("delivery.batch")
    with first as span:
        span.set(engine="picows")
        span.fail("x")
        span.end()
        assert span.context is None
    run(tracing.flush())
    run(tracing.close())


def test_flush_sends_what_has_ended() -> None:
    with Receiver() as receiver:

        async def work() -> None:
            tracing = Tracing("ticks", otlp=receiver.url)
            assert tracing.enabled
            with tracing.span("connection.dial"):
                pass
            await tracing.flush()
            assert len(receiver.spans) == 1
            await tracing.close()

        run(work())


def test_an_outage_of_the_collector_is_told_once() -> None:
    with Receiver() as receiver, structlog.testing.capture_logs() as captured:
        receiver.status = 401

        async def work() -> None:
            tracing = Tracing("ticks", otlp=receiver.url)
            for _ in range(2):
                tracing.span("connection.dial").end()
                await tracing.flush()
            await tracing.close()

        run(work())
    assert [(line["event"], line["signal"]) for line in captured] == [("telemetry.unavailable", "traces")]


def test_an_address_that_is_none_is_the_configs_mistake() -> None:
    with pytest.raises(ConfigError, match=r"telemetry\.traces\.otlp"):
        Tracing("ticks", otlp="collector")
