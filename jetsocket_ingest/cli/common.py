"""What commands share: loading a config, and telling what is wrong with it."""

from __future__ import annotations

import sys

import click

from jetsocket_ingest.app import load
from jetsocket_ingest.config.load import Loaded
from jetsocket_ingest.config.types import parse_duration
from jetsocket_ingest.errors import ConfigError


class DurationType(click.ParamType[float]):
    """`30s`, `5m`, `1h30m` → seconds."""

    name = "duration"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            seconds = float(str(parse_duration(value)))
        except ValueError as error:
            self.fail(str(error), param, ctx)
        if seconds <= 0:
            self.fail(f"expected a duration above zero, found {value!r}", param, ctx)
        return seconds


def load_or_exit(path: str) -> Loaded:
    """The config; or every problem on standard error and exit code 2."""
    try:
        return load(path)
    except ConfigError as error:
        tell_problems(error)
        sys.exit(2)


def tell_problems(error: ConfigError) -> None:
    """Each problem on a line of its own, and how many there are."""
    for problem in error.problems:
        click.echo(problem, err=True)
    count = len(error.problems)
    click.echo(f"{count} problem{'s' if count != 1 else ''} found.", err=True)
