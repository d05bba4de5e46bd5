"""jetsocket-ingest: WebSocket feeds as streams that data engineers can build on."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jetsocket_ingest.app import Outcome, Pipeline
    from jetsocket_ingest.errors import (
        ConfigError,
        ConnectionClosed,
        JetSocketError,
        PoolClosedError,
        PoolError,
        PoolExhaustedError,
    )
    from jetsocket_ingest.net.budget import ConnectBudget
    from jetsocket_ingest.net.life import ReconnectPolicy, State, Timing, Verdict
    from jetsocket_ingest.net.pool import ConnectionPool, ConnectionPoolConfig, PooledConnection, PoolStats
    from jetsocket_ingest.net.websocket import MessageError, WebSocket

_HOME = {
    "app": ("Outcome", "Pipeline"),
    "errors": (
        "ConfigError",
        "ConnectionClosed",
        "JetSocketError",
        "PoolClosedError",
        "PoolError",
        "PoolExhaustedError",
    ),
    "net.budget": ("ConnectBudget",),
    "net.life": ("ReconnectPolicy", "State", "Timing", "Verdict"),
    "net.pool": ("ConnectionPool", "ConnectionPoolConfig", "PoolStats", "PooledConnection"),
    "net.websocket": ("MessageError", "WebSocket"),
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}

__all__ = [
    "ConfigError",
    "ConnectBudget",
    "ConnectionClosed",
    "ConnectionPool",
    "ConnectionPoolConfig",
    "JetSocketError",
    "MessageError",
    "Outcome",
    "Pipeline",
    "PoolClosedError",
    "PoolError",
    "PoolExhaustedError",
    "PoolStats",
    "PooledConnection",
    "ReconnectPolicy",
    "State",
    "Timing",
    "Verdict",
    "WebSocket",
]


def __getattr__(name: str) -> Any:
    # Whatever is asked for is imported then: `--help` and the health probe need none of it.
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    return value


def __dir__() -> list[str]:
    return __all__
