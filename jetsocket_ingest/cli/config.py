"""`jetsocket-ingest config`: tools for config files."""

from __future__ import annotations

import json

import click

from jetsocket_ingest.config.reference import reference as write_reference
from jetsocket_ingest.config.schema import json_schema
from jetsocket_ingest.sink.registry import installed_sinks, load_sink


@click.group()
def config() -> None:
    """Tools for config files."""


@config.command()
def schema() -> None:
    """Print the JSON Schema of the config, with every installed sink, for editors.

    Save it and name it in the first line of a config: `# yaml-language-server: $schema=jetsocket.schema.json`
    """
    models = {name: load_sink(name).Options for name in installed_sinks()}
    click.echo(json.dumps(json_schema(models), indent=2))


@config.command()
def reference() -> None:
    """Print the reference of all keys, as Markdown."""
    click.echo(write_reference({name: load_sink(name).Options for name in installed_sinks()}), nl=False)
