"""Lateness of the event loop: kept for readers, told when it matters."""

from __future__ import annotations

import asyncio

import pytest
import structlog

from jetsocket_ingest.telemetry.lag import INTERVAL, WINDOW, LagMonitor, watch_lag
from jetsocket_ingest.telemetry.log import get_logger
from tests.support.aio import run


def test_lateness_over_the_threshold_is_told_and_under_it_kept() -> None:
    monitor = LagMonitor(threshold=0.25)
    assert monitor.woke(due=100.0, now=100.2) is None
    assert monitor.worst == pytest.approx(0.2)
    assert monitor.woke(due=101.0, now=101.4) == pytest.approx(0.4)
    assert monitor.worst == pytest.approx(0.4)


def test_a_long_stall_is_told_at_most_once_in_the_quiet_time() -> None:
    monitor = LagMonitor(threshold=0.1, quiet=10.0)
    told = [now for now in range(100, 130) if monitor.woke(due=now - 1.0, now=now) is not None]
    assert told == [100, 110, 120]


def test_a_timer_that_fires_early_is_not_late() -> None:
    monitor = LagMonitor(threshold=0.0)
    assert monitor.woke(due=100.0, now=99.9) is None
    assert monitor.worst == 0.0


def test_the_worst_is_forgotten_after_one_to_two_windows() -> None:
    monitor = LagMonitor()
    monitor.woke(due=1000.0, now=1000.5)
    monitor.woke(due=1000.5 + WINDOW, now=1000.5 + WINDOW)
    assert monitor.worst == pytest.approx(0.5)
    monitor.woke(due=1000.5 + 2 * WINDOW, now=1000.5 + 2 * WINDOW)
    assert monitor.worst == 0.0


def test_after_a_silence_of_two_windows_nothing_old_counts() -> None:
    monitor = LagMonitor()
    monitor.woke(due=1000.0, now=1000.5)
    later = 1000.5 + 2 * WINDOW
    monitor.woke(due=later, now=later)
    assert monitor.worst == 0.0


def test_the_task_measures_each_sleep_and_tells_a_stall() -> None:
    class Clock:
        now = 50.0

        def monotonic(self) -> float:
            return self.now

        def wall_ns(self) -> int:
            return 0

    clock, slept = Clock(), []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 3:
            raise asyncio.CancelledError
        clock.now += seconds + (0.5 if len(slept) == 2 else 0.0)

    monitor = LagMonitor()
    with structlog.testing.capture_logs() as captured, pytest.raises(asyncio.CancelledError):
        run(watch_lag(monitor, clock, sleep=sleep, log=get_logger(pipeline="ticks")))
    assert slept == [INTERVAL] * 3
    assert monitor.worst == pytest.approx(0.5)
    assert captured == [
        {"event": "loop.lagging", "log_level": "warning", "pipeline": "ticks", "late_ms": 500}
    ]
