"""Sinks are found through the entry-point group `jetsocket_ingest.sinks`, first-party ones like anyone else's."""

from __future__ import annotations

from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from jetsocket_ingest.errors import ConfigError
from jetsocket_ingest.sink.interface import Sink

GROUP = "jetsocket_ingest.sinks"


@cache
def installed_sinks() -> dict[str, EntryPoint]:
    """Name → entry point of every installed sink; nothing is imported yet."""
    return {entry.name: entry for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name)}


def load_sink(type_name: str) -> type[Sink[Any]]:
    """The class behind a `type:`; ConfigError where there is none or it cannot be imported."""
    entry = installed_sinks().get(type_name)
    if entry is None:
        known = ", ".join(installed_sinks()) or "none"
        raise ConfigError(f"unknown sink type {type_name!r}; installed are: {known}")
    try:
        loaded = entry.load()
    except ImportError as error:
        raise ConfigError(f"sink type {type_name!r} ({entry.value}) cannot be imported: {error}") from error
    if not (isinstance(loaded, type) and issubclass(loaded, Sink)):
        raise ConfigError(
            f"sink type {type_name!r}: {entry.value} is not a subclass of jetsocket_ingest.sink.Sink"
        )
    return loaded
