"""The command line: one file for each command; no logic here."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import click

COMMANDS = {
    "run": ("jetsocket_ingest.cli.run", "Run a pipeline until it is done or stopped."),
    "validate": ("jetsocket_ingest.cli.validate", "Check config files and show what they guarantee."),
    "config": ("jetsocket_ingest.cli.config", "Tools for config files: JSON Schema, reference of all keys."),
    "demo": ("jetsocket_ingest.cli.demo", "Serve the embedded feed, well or badly."),
}


class LazyGroup(click.Group):
    """Imports a command only when it is asked for: `--help` must not load Kafka."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = getattr(import_module(COMMANDS[cmd_name][0]), cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, about) for name, (_, about) in COMMANDS.items()])


def _print_version(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value:
        # Imported here: reading the installed version takes longer than the rest of --help.
        from jetsocket_ingest.telemetry.version import package_version

        click.echo(f"jetsocket-ingest {package_version()}")
        ctx.exit()


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 done or stopped by request; 1 failed while running; 2 wrong usage or config.",
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Show the version and exit.",
)
def main(**_: Any) -> None:
    """Turn WebSocket feeds into streams that data engineers can build on."""
