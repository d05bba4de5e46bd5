"""`jetsocket-ingest validate`: are these configs right, and what do they guarantee?"""

from __future__ import annotations

import sys

import click

from jetsocket_ingest.app import load
from jetsocket_ingest.cli.common import tell_problems
from jetsocket_ingest.config.load import Loaded
from jetsocket_ingest.errors import ConfigError
from jetsocket_ingest.plan.plan import plan
from jetsocket_ingest.sink.options import SinkOptions


@click.command()
@click.argument("configs", nargs=-1, required=True, type=click.Path(dir_okay=False))
def validate(configs: tuple[str, ...]) -> None:
    """Check config files without opening a socket, and show each route with its guarantee.

    Exits with 2 where any of them cannot work; every problem is told, with its line and column.
    """
    wrong = False
    for path in configs:
        try:
            loaded = load(path)
        except ConfigError as error:
            wrong = True
            tell_problems(error)
        else:
            _show(path, loaded)
    sys.exit(2 if wrong else 0)


def _show(path: str, loaded: Loaded) -> None:
    config = loaded.config
    connections = sum(map(len, plan(config).values()))
    click.echo(f"{path}: ok, {connections} connection{'s' if connections != 1 else ''}")
    for name, subscription in config.subscriptions.items():
        count = len(subscription.streams)
        streams = f"{count} stream{'s' if count != 1 else ''} of " if count else "all of "
        for sink in subscription.sinks:
            options = config.sinks[sink]
            assert isinstance(options, SinkOptions)
            click.echo(f"  {name}: {streams}{subscription.endpoint} -> {sink} ({options.type})")
            click.echo(
                "    guarantee: at least once while the process runs; a crash loses what is in memory "
                f"(at most {options.backlog.max_size / 2**20:g} MiB and one read a connection)"
            )
    for warning in loaded.warnings:
        click.echo(f"  warning: {warning}", err=True)
