"""jetsocket-ingest: WebSocket feeds as streams that data engineers can build on."""

from jetsocket_ingest.errors import (
    ConnectionClosed,
    JetSocketError,
    PoolClosedError,
    PoolError,
    PoolExhaustedError,
)
from jetsocket_ingest.net.life import ReconnectPolicy, State, Timing, Verdict
from jetsocket_ingest.net.pool import ConnectionPool, ConnectionPoolConfig, PooledConnection, PoolStats
from jetsocket_ingest.net.websocket import WebSocket

__all__ = [
    "ConnectionClosed",
    "ConnectionPool",
    "ConnectionPoolConfig",
    "JetSocketError",
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
