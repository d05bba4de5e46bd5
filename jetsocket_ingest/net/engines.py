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


def dial_for(engine: Engine) -> Dial:
    """The way to open connections with an engine.

    `auto` is `websockets`: our frame loop over a whole read costs half of what a callback from picows for each frame
    costs, once the callback has looked at what must be looked at (0.4 against 0.8 µs a message).

    Raises ConfigError for an engine that is unknown or not installed.
    """
    if engine in ("auto", "websockets"):
        return dial_websockets
    if engine != "picows":
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
