"""`jetsocket-ingest run`: a pipeline until it is done or stopped."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import click

from jetsocket_ingest import measure
from jetsocket_ingest.app import Outcome, Pipeline
from jetsocket_ingest.cli.common import DurationType, load_or_exit, tell_problems
from jetsocket_ingest.config.models import PipelineConfig
from jetsocket_ingest.errors import ConfigError, JetSocketError
from jetsocket_ingest.telemetry.log import configure_logging, get_logger
from jetsocket_ingest.telemetry.status import StatusLine


@click.command()
@click.argument("config", type=click.Path(dir_okay=False))
@click.option("--duration", type=DurationType(), help="Stop after this time, for instance 30s or 5m.")
@click.option("--max-records", type=click.IntRange(min=1), help="Stop after so many data records.")
@click.option(
    "--live/--no-live",
    default=None,
    help="Keep a live line at the bottom of the terminal.  [default: on a terminal]",
)
def run(config: str, duration: float | None, max_records: int | None, live: bool | None) -> None:
    """Run the pipeline of a config file until it is done or stopped.

    The first Ctrl-C (SIGINT, SIGTERM) stops reading and delivers what was accepted, within shutdown_timeout; the
    second leaves at once.
    """
    loaded = load_or_exit(config)
    logs = loaded.config.telemetry.logs
    configure_logging(logs.format, logs.level)
    for warning in loaded.warnings:
        get_logger().warning("config.warning", warning=warning)
    live = sys.stderr.isatty() if live is None else live
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        code = runner.run(_run(loaded.config, duration, max_records, live=live))
    sys.exit(code)


async def _run(config: PipelineConfig, duration: float | None, max_records: int | None, *, live: bool) -> int:
    pipeline = Pipeline(config, max_records=max_records)
    _handle_signals(pipeline)
    try:
        await pipeline.start()
    except ConfigError as error:
        tell_problems(error)
        return 2
    except JetSocketError as error:
        click.echo(f"cannot start: {error}", err=True)
        return 1
    loop = asyncio.get_running_loop()
    if duration is not None:
        loop.call_later(duration, pipeline.finish, Outcome(f"ran for {duration:g} s"))
    drawing = asyncio.create_task(_draw(pipeline)) if live else None
    outcome = await pipeline.wait()
    await pipeline.stop()
    if drawing is not None:
        drawing.cancel()
        with suppress(asyncio.CancelledError):
            await drawing
    return _tell(pipeline, outcome)


async def _draw(pipeline: Pipeline) -> None:
    width: Callable[[], int] = lambda: shutil.get_terminal_size().columns  # noqa: E731
    await StatusLine(sys.stderr, width, lambda: measure.snapshot(pipeline)).run()


def _handle_signals(pipeline: Pipeline) -> None:
    loop = asyncio.get_running_loop()
    received: list[signal.Signals] = []

    def stop(number: signal.Signals) -> None:
        received.append(number)
        if len(received) > 1:
            click.echo("leaving at once; what was not delivered is lost", err=True)
            os._exit(1)
        pipeline.finish(Outcome(number.name))

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop, number)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's where it is installed."""
    try:
        import uvloop
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


def _tell(pipeline: Pipeline, outcome: Outcome) -> int:
    """The last words, on standard error, and the exit code."""
    totals: dict[str, Any] = measure.totals(pipeline)
    delivered = ", ".join(
        f"{delivery.counters.records.total():,} to {name} ({delivery.sink.describe()})"
        for name, delivery in pipeline.deliveries.items()
    )
    click.echo(
        f"Stopped ({outcome.reason}) after {totals['elapsed_s']:.1f} s: "
        f"{totals['messages']:,} messages received; delivered {delivered}.",
        err=True,
    )
    if totals["undelivered"]:
        click.echo(
            f"{totals['undelivered']:,} accepted records could not be delivered and are lost.", err=True
        )
    return 1 if outcome.failed or totals["undelivered"] else 0
