"""A real WebSocket server that plays a market-like provider, for tests and for trying things out."""

from jetsocket_ingest.testing.feed.connection import FeedConnection
from jetsocket_ingest.testing.feed.faults import Faults
from jetsocket_ingest.testing.feed.options import FeedOptions, demo_options, demo_path
from jetsocket_ingest.testing.feed.records import Handshake, Sent
from jetsocket_ingest.testing.feed.schedule import KINDS, ScheduledFault, schedule
from jetsocket_ingest.testing.feed.server import FeedServer

__all__ = [
    "KINDS",
    "Faults",
    "FeedConnection",
    "FeedOptions",
    "FeedServer",
    "Handshake",
    "ScheduledFault",
    "Sent",
    "demo_options",
    "demo_path",
    "schedule",
]
