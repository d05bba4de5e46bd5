"""A TCP proxy that plays a bad network, for tests and for trying things out."""

from jetsocket_ingest.testing.proxy.connection import ProxiedConnection
from jetsocket_ingest.testing.proxy.line import Rules
from jetsocket_ingest.testing.proxy.server import Counters, FaultProxy, Way

__all__ = ["Counters", "FaultProxy", "ProxiedConnection", "Rules", "Way"]
