"""Texts and sink models that the tests of the config share."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from pydantic import Field

from jetsocket_ingest.config.load import Loaded, loads
from jetsocket_ingest.config.types import ConfigModel, Secret
from jetsocket_ingest.errors import ConfigError
from jetsocket_ingest.sink.options import SinkOptions


class NullOptions(SinkOptions):
    """Nowhere."""


class VaultOptions(SinkOptions):
    """A sink with a password and a free text."""

    password: Secret = Field(description="A password.")
    text: str = Field(default="x", description="A text.")
    port: int = Field(default=1, description="A number.")


SINKS: dict[str, type[ConfigModel]] = {"null": NullOptions, "vault": VaultOptions}

GOOD = """\
version: 1
name: ticks
endpoints:
  desk:
    url: wss://feed.example.com/ws
    session:
      subscribe: {via: message, message: {op: subscribe, args: <streams>}}
      data: {stream: $.topic}
subscriptions:
  trades: {endpoint: desk, streams: [btc, eth], sinks: [out]}
sinks:
  out: {type: "null"}
"""


def sink_options(kind: str) -> type[ConfigModel]:
    if kind not in SINKS:
        raise ConfigError(f"unknown sink type {kind!r}; installed are: {', '.join(SINKS)}")
    return SINKS[kind]


def read(text: str | bytes, environ: Mapping[str, str] | None = None) -> Loaded:
    return loads(text, source="c.yaml", sink_options=sink_options, environ=environ or {})


def problems(text: str | bytes, environ: Mapping[str, str] | None = None) -> list[str]:
    """What is wrong with a text, which must be something."""
    with pytest.raises(ConfigError) as caught:
        read(text, environ)
    return caught.value.problems


def edited(*changes: tuple[str, str]) -> str:
    """GOOD with replacements, each of which must apply."""
    text = GOOD
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    return text
