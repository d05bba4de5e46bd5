"""The live line: true, never wider than the terminal, gone at the end."""

from __future__ import annotations

import asyncio
import io
import unicodedata
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jetsocket_ingest.telemetry.log import CLEAR_LINE
from jetsocket_ingest.telemetry.status import INTERVAL, RateMeter, SinkStatus, Snapshot, StatusLine, render
from tests.support.aio import run

SNAPSHOT = Snapshot(
    elapsed=83.4,
    messages=100,
    bytes=2000,
    connections_up=9,
    connections_wanted=10,
    sinks=(SinkStatus("lake", 1_234_567, 345), SinkStatus("bus", 99_999, 12_000_000, "waiting")),
    message_rate=12345.6,
    byte_rate=2_400_000.0,
)


def test_the_line_shows_rates_connections_sinks_and_time() -> None:
    assert render(SNAPSHOT, 200) == (
        "01:23  12,346 msg/s  2.4 MB/s  9/10 connected  lake 1.23M (+345)  bus 99,999 (+12M) WAITING"
    )


def test_the_last_error_is_shown_on_one_line_and_cut_first() -> None:
    snapshot = replace(SNAPSHOT, sinks=(), last_error="desk-1: refused\n\x1b[2Jtoken")
    assert render(snapshot, 200).endswith(r"9/10 connected  ! desk-1: refused\n\x1b[2Jtoken")
    assert render(snapshot, 60) == "01:23  12,346 msg/s  2.4 MB/s  9/10 connected  ! desk-1: r…"


@pytest.mark.parametrize(
    ("rate", "shown"),
    [(0, "0"), (0.5, "0.5"), (9.94, "9.9"), (42.4, "42"), (99_999, "99,999"), (123_456, "123k"), (2e9, "2G")],
)
def test_rates_are_readable_at_every_size(rate: float, shown: str) -> None:
    assert f"  {shown} msg/s  " in render(replace(SNAPSHOT, message_rate=rate), 200)


@pytest.mark.parametrize(
    ("rate", "shown"),
    [(0, "0 B/s"), (999, "999 B/s"), (1500, "1.5 kB/s"), (7.25e9, "7.2 GB/s"), (5e12, "5,000.0 GB/s")],
)
def test_byte_rates_are_readable_at_every_size(rate: float, shown: str) -> None:
    assert f"  {shown}  " in render(replace(SNAPSHOT, byte_rate=rate), 200)


def test_hours_appear_when_there_are_any() -> None:
    assert render(replace(SNAPSHOT, elapsed=3 * 3600 + 62.0), 200).startswith("3:01:02  ")


@given(
    width=st.integers(0, 120),
    error=st.none() | st.text(max_size=200),
    names=st.lists(st.text(max_size=30), max_size=4),
    number=st.integers(0, 10**18),
)
def test_the_line_never_reaches_the_last_column_nor_moves_the_cursor(
    width: int, error: str | None, names: list[str], number: int
) -> None:
    sinks = tuple(SinkStatus(name, number, number, "failed") for name in names)
    line = render(
        replace(SNAPSHOT, sinks=sinks, last_error=error, message_rate=number, byte_rate=number), width
    )
    columns = sum(2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in line)
    assert columns <= max(0, width - 1)
    assert line.isprintable()


def test_rates_are_taken_over_the_last_two_seconds() -> None:
    meter = RateMeter()
    assert meter.update(0.0, 0, 0) == (0.0, 0.0)
    assert meter.update(1.0, 100, 1000) == (100.0, 1000.0)
    for quarter in range(5, 17):
        rates = meter.update(quarter / 4, 100, 1000)
    assert rates == (0.0, 0.0)


def test_the_task_draws_four_times_a_second_and_clears_the_line_at_the_end() -> None:
    stream = io.StringIO()
    slept: list[float] = []
    snapshots = iter(
        [replace(SNAPSHOT, elapsed=0.0, messages=0), replace(SNAPSHOT, elapsed=0.25, messages=500)]
    )

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 2:
            raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        run(StatusLine(stream, lambda: 100, lambda: next(snapshots), sleep=sleep).run())
    assert slept == [INTERVAL] * 2
    empty, first, second, last = stream.getvalue().split(CLEAR_LINE)
    assert (empty, last) == ("", "")
    assert "  0 msg/s" in first
    assert "  2,000 msg/s" in second


def test_a_terminal_that_hung_up_ends_the_line_and_nothing_else() -> None:
    class Gone(io.StringIO):
        def write(self, _: str) -> int:
            raise BrokenPipeError

    async def sleep(_: float) -> None:
        pytest.fail("it went on drawing")

    run(StatusLine(Gone(), lambda: 80, lambda: SNAPSHOT, sleep=sleep).run())


def test_a_terminal_without_unicode_gets_ascii() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, "ascii")
    assert StatusLine(stream, lambda: 20, lambda: SNAPSHOT).draw()
    assert raw.getvalue().endswith(b"?")


def test_a_mistake_in_the_snapshot_is_not_taken_for_a_lost_terminal() -> None:
    def broken() -> Snapshot:
        raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        run(StatusLine(io.StringIO(), lambda: 80, broken).run())
