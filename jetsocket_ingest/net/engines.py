"""Which engine opens a connection."""

from __future__ import annotations

from importlib import metadata
from typing import Literal

from jetsocket_ingest.errors import ConfigError
from jetsocket_ingest.net.engine_websockets import dial as dial_websockets
from jetsocket_ingest.net.transport import Dial

Engine = Literal["auto", "websockets", "picows"]

PICOWS = "2.3."
"""The releases of picows whose parser `engine_picows` drives; the extra `[fast]` installs one."""


def dial_for(engine: Engine, *, compression: bool) -> Dial:
    """The way to open connections with an engine.

    Raises ConfigError for an engine that is unknown or not installed. Both engines do compression; the argument is
    there for engines that do not.
    """
    if engine == "websockets" or (engine == "auto" and _installed_picows() is None):
        return dial_websockets
    if engine not in ("auto", "picows"):
        raise ConfigError(f"engine: expected auto, websockets or picows, found {engine!r}")
    if _installed_picows() is None:
        raise ConfigError(
            f"engine: picows {PICOWS}x is not installed; run: pip install 'jetsocket-ingest[fast]', "
            "or write engine: websockets"
        )
    from jetsocket_ingest.net.engine_picows import dial as dial_picows

    return dial_picows


def _installed_picows() -> str | None:
    """The version, where it is one that we can use."""
    try:
        version = metadata.version("picows")
    except metadata.PackageNotFoundError:
        return None
    return version if version.startswith(PICOWS) else None
