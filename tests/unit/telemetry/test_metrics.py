"""Metrics: read when somebody asks, in a scraper's form and in a collector's."""

from __future__ import annotations

import asyncio
import math
import subprocess
import sys
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest
import structlog

from jetsocket_ingest.errors import ConfigError, InternalError
from jetsocket_ingest.telemetry import Metrics, Telemetry
from tests.support.aio import run
from tests.unit.telemetry.receiver import Receiver, attributes

ROOT = Path(__file__).parents[3]
Series = list[tuple[float, dict[str, str]]]


def scrape(metrics: Metrics) -> dict[str, float]:
    """Series by its text, without comments."""
    lines = metrics.render()[0].decode().splitlines()
    return {
        line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if not line.startswith("#")
    }


def test_counters_and_gauges_are_read_at_each_scrape_with_the_pipelines_label() -> None:
    metrics = Metrics("ticks")
    delivered = [5]
    metrics.observe(
        "jetsocket.records.delivered", lambda: [(delivered[0], {"sink": "lake", "subscription": "all"})]
    )
    metrics.observe("jetsocket.backlog.age", lambda: [(1.5, {"sink": "lake"})])
    name = 'jetsocket_records_delivered_total{pipeline="ticks",sink="lake",subscription="all"}'
    assert scrape(metrics)[name] == 5
    delivered[0] = 8
    assert scrape(metrics)[name] == 8
    assert scrape(metrics)['jetsocket_backlog_age_seconds{pipeline="ticks",sink="lake"}'] == 1.5
    metrics.abandon()


def test_several_callbacks_add_up_to_one_metric() -> None:
    metrics = Metrics("ticks")
    metrics.observe("jetsocket.backlog.age", lambda: [(1, {"sink": "a"})])
    metrics.observe("jetsocket.backlog.age", lambda: [(2, {"sink": "b"})])
    found = scrape(metrics)
    assert found['jetsocket_backlog_age_seconds{pipeline="ticks",sink="a"}'] == 1
    assert found['jetsocket_backlog_age_seconds{pipeline="ticks",sink="b"}'] == 2
    metrics.abandon()


def test_a_series_that_is_gone_is_no_longer_shown() -> None:
    metrics = Metrics("ticks")
    series: Series = [(1, {"endpoint": "desk", "state": "connected"})]
    metrics.observe("jetsocket.connections", lambda: series)
    assert any("jetsocket_connections" in name for name in scrape(metrics))
    series.clear()
    assert not any("jetsocket_connections" in name for name in scrape(metrics))
    metrics.abandon()


def test_histograms_have_the_catalogues_buckets() -> None:
    metrics = Metrics("ticks")
    histogram = metrics.histogram("jetsocket.delivery.batch")
    for records in (3, 60, 20_000, 1_000_000):
        histogram.record(records, {"sink": "lake"})
    found = scrape(metrics)
    label = 'pipeline="ticks",sink="lake"'
    assert found[f'jetsocket_delivery_batch_bucket{{le="10.0",{label}}}'] == 1
    assert found[f'jetsocket_delivery_batch_bucket{{le="50000.0",{label}}}'] == 3
    assert found[f'jetsocket_delivery_batch_bucket{{le="+Inf",{label}}}'] == 4
    assert found[f"jetsocket_delivery_batch_sum{{{label}}}"] == 1_020_063
    assert metrics.histogram("jetsocket.delivery.batch") is histogram
    metrics.abandon()


@pytest.mark.parametrize("prometheus", [True, False])
def test_names_and_attributes_that_the_catalogue_lacks_are_bugs(prometheus: bool) -> None:
    metrics = Metrics("ticks", prometheus=prometheus)
    with pytest.raises(InternalError, match="not in the telemetry catalogue"):
        metrics.observe("jetsocket.unheard", list)
    with pytest.raises(InternalError, match="is a histogram"):
        metrics.observe("jetsocket.delivery.latency", list)
    with pytest.raises(InternalError, match="is a gauge"):
        metrics.histogram("jetsocket.up")
    metrics.abandon()


def test_an_attribute_that_the_catalogue_lacks_is_a_bug() -> None:
    metrics = Metrics("ticks")
    with pytest.raises(InternalError, match="found 'stream'"):
        metrics.histogram("jetsocket.delivery.batch").record(1, {"stream": "one of a million"})
    metrics.abandon()


def test_a_callback_that_fails_is_told_and_costs_only_its_own_series() -> None:
    metrics = Metrics("ticks")

    def fail() -> Iterable[tuple[float, Mapping[str, str]]]:
        yield 1, {"sink": "seen"}
        raise KeyError("lost")

    metrics.observe("jetsocket.backlog.age", fail)
    metrics.observe("jetsocket.backlog.age", lambda: [(2, {"stream": "wrong"})])
    metrics.observe("jetsocket.backlog.age", lambda: [(3, {"sink": "other"})])
    metrics.observe("jetsocket.up", lambda: [(1, {})])
    with structlog.testing.capture_logs() as captured:
        found = scrape(metrics)
    assert 'jetsocket_backlog_age_seconds{pipeline="ticks",sink="seen"}' in found
    assert 'jetsocket_backlog_age_seconds{pipeline="ticks",sink="other"}' in found
    assert found['jetsocket_up{pipeline="ticks"}'] == 1
    assert [(line["event"], line["metric"]) for line in captured] == [
        ("telemetry.callback_failed", "jetsocket.backlog.age")
    ] * 2
    metrics.abandon()


def test_a_value_that_is_no_number_yet_is_left_out() -> None:
    metrics = Metrics("ticks")
    metrics.observe(
        "jetsocket.endpoint.silence", lambda: [(math.inf, {"endpoint": "a"}), (3, {"endpoint": "b"})]
    )
    found = [name for name in scrape(metrics) if "silence" in name]
    assert found == ['jetsocket_endpoint_silence_milliseconds{endpoint="b",pipeline="ticks"}']
    metrics.abandon()


def test_hostile_label_values_stay_inside_their_quotes() -> None:
    metrics = Metrics("ticks")
    metrics.observe("jetsocket.backlog.age", lambda: [(1, {"sink": 'a"} 9\njetsocket_up 0\n'})])
    assert "\njetsocket_up" not in metrics.render()[0].decode()
    metrics.abandon()


def test_two_pipelines_in_one_process_do_not_meet() -> None:
    first, second = Metrics("first"), Metrics("second")
    first.observe("jetsocket.up", lambda: [(1, {})])
    second.observe("jetsocket.up", lambda: [(0, {})])
    assert 'jetsocket_up{pipeline="second"}' not in scrape(first)
    assert scrape(second)['jetsocket_up{pipeline="second"}'] == 0
    first.abandon()
    second.abandon()


def test_metrics_that_nobody_asks_for_cost_nothing_and_say_so_when_asked() -> None:
    metrics = Metrics("ticks", prometheus=False)
    metrics.observe("jetsocket.up", lambda: pytest.fail("nobody asked"))
    metrics.histogram("jetsocket.delivery.batch").record(1, {"sink": "lake"})
    with pytest.raises(InternalError, match="prometheus=False"):
        metrics.render()
    run(metrics.push())
    run(metrics.push_forever())
    run(metrics.close())


def test_a_collector_receives_names_units_values_and_resource() -> None:
    with Receiver() as receiver:

        async def export() -> None:
            metrics = Metrics("ticks", prometheus=False, otlp=receiver.url)
            metrics.observe("jetsocket.records", lambda: [(7, {"endpoint": "desk", "subscription": "all"})])
            metrics.histogram("jetsocket.delivery.latency").record(0.02, {"sink": "lake"})
            await metrics.push()
            await metrics.close()

        run(export())
    assert receiver.paths == ["/v1/metrics", "/v1/metrics"]
    records = receiver.metrics["jetsocket.records"]
    assert (records.unit, records.sum.is_monotonic) == ("{record}", True)
    (point,) = records.sum.data_points
    assert (point.as_int, attributes(point)) == (7, {"endpoint": "desk", "subscription": "all"})
    assert receiver.metrics["jetsocket.delivery.latency"].histogram.data_points[0].count == 1
    assert receiver.resource["service.name"] == "jetsocket-ingest"
    assert receiver.resource["pipeline"] == "ticks"


def test_an_address_with_a_path_is_taken_as_it_is() -> None:
    with Receiver() as receiver:
        metrics = Metrics("ticks", prometheus=False, otlp=f"{receiver.url}/tenant/v1/metrics")
        metrics.observe("jetsocket.up", lambda: [(1, {})])
        run(metrics.close())
    assert receiver.paths == ["/tenant/v1/metrics"]


def test_the_usual_variables_name_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SERVICE_NAME", "desk-feed")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment=test")
    with Receiver() as receiver:
        metrics = Metrics("ticks", prometheus=False, otlp=receiver.url)
        metrics.observe("jetsocket.up", lambda: [(1, {})])
        run(metrics.close())
    assert receiver.resource["service.name"] == "desk-feed"
    assert receiver.resource["deployment.environment"] == "test"


def test_callbacks_run_on_the_event_loops_thread() -> None:
    seen: list[str] = []

    def callback() -> Series:
        seen.append(threading.current_thread().name)
        return [(1, {})]

    with Receiver() as receiver:
        metrics = Metrics("ticks", otlp=receiver.url)
        metrics.observe("jetsocket.up", callback)
        metrics.render()
        run(metrics.close())
    assert set(seen) == {threading.main_thread().name}
    assert len(seen) >= 2


def test_exports_follow_each_other_at_the_interval() -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 4:
            raise asyncio.CancelledError

    with Receiver() as receiver:

        async def export() -> None:
            metrics = Metrics("ticks", prometheus=False, otlp=receiver.url, every=7.0)
            metrics.observe("jetsocket.up", lambda: [(1, {})])
            with pytest.raises(asyncio.CancelledError):
                await metrics.push_forever(sleep)
            metrics.abandon()

        run(export())
    assert slept == [7.0] * 4
    assert len(receiver.paths) == 3


def test_an_outage_of_the_collector_is_told_once_and_so_is_its_end() -> None:
    with Receiver() as receiver, structlog.testing.capture_logs() as captured:

        async def export() -> None:
            metrics = Metrics("ticks", prometheus=False, otlp=receiver.url.replace("//", "//user:canary@"))
            metrics.observe("jetsocket.up", lambda: [(1, {})])
            receiver.status = 400
            await metrics.push()
            await metrics.push()
            receiver.status = 200
            await metrics.push()
            await metrics.close()

        run(export())
    assert [line["event"] for line in captured] == ["telemetry.unavailable", "telemetry.recovered"]
    assert "400" in captured[0]["reason"]
    assert captured[0]["url"] == f"{receiver.url}/v1/metrics"
    assert "canary" not in str(captured)


@pytest.mark.parametrize("url", ["collector:4317", "grpc://collector:4317", "http://", "ftp://user:canary@x"])
def test_an_address_that_is_none_is_the_configs_mistake(url: str) -> None:
    with pytest.raises(ConfigError, match=r"telemetry\.metrics\.otlp: expected") as caught:
        Metrics("ticks", otlp=url)
    assert "canary" not in str(caught.value)


def test_the_bundle_exports_at_shutdown_what_was_never_exported() -> None:
    with Receiver() as receiver:

        async def use() -> None:
            telemetry = Telemetry(
                pipeline="ticks",
                metrics_otlp=receiver.url,
                metrics_every=3600.0,
                traces_otlp=receiver.url,
                traces_sample=1.0,
            )
            telemetry.start()
            telemetry.start()
            telemetry.metrics.observe("jetsocket.up", lambda: [(1, {})])
            with telemetry.tracing.span("delivery.batch", sink="lake"):
                pass
            await telemetry.shutdown()
            await telemetry.shutdown()

        run(use())
    assert sorted(receiver.paths) == ["/v1/metrics", "/v1/traces"]


def test_a_collector_that_hangs_holds_the_shutdown_up_no_longer_than_allowed() -> None:
    release = threading.Event()
    with Receiver() as receiver:
        receiver.before_answer = lambda: release.wait(30)

        async def use() -> None:
            telemetry = Telemetry(pipeline="ticks", metrics_otlp=receiver.url)
            telemetry.metrics.observe("jetsocket.up", lambda: [(1, {})])
            with structlog.testing.capture_logs() as captured:
                await telemetry.shutdown(0.05)
            assert [line["event"] for line in captured] == ["telemetry.incomplete"]

        run(use(), timeout=5)
        release.set()
        for thread in threading.enumerate():
            if thread.name == "jetsocket-otlp":
                thread.join(10)


def test_what_is_not_configured_is_not_imported() -> None:
    code = (
        "import sys; from jetsocket_ingest.telemetry import Telemetry; Telemetry(pipeline='p', prometheus=False);"
        "print([name for name in ('opentelemetry', 'prometheus_client', 'requests') if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert found.stdout.strip() == "[]", found.stdout
