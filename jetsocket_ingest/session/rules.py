"""What a provider's session looks like: the compiled form of `session:` in the config."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import count

import msgspec

from jetsocket_ingest.clock import Clock
from jetsocket_ingest.config.matching import Match
from jetsocket_ingest.config.paths import Path
from jetsocket_ingest.config.placeholders import TreeTemplate
from jetsocket_ingest.session.columns import DataRule
from jetsocket_ingest.session.watch import StaleRule


@dataclass(slots=True, frozen=True)
class AckRule:
    """How the provider answers a request.

    Attributes:
        match: an answer to some request.
        correlate: where the answer repeats the request's id; without it, answers come in the order of the requests.
        success: what a granted request's answer says; None: every answer grants.
        timeout: seconds.
    """

    match: Match
    correlate: Path | None = None
    success: Match | None = None
    timeout: float = 10.0


@dataclass(slots=True, frozen=True)
class HeartbeatRule:
    """Something the provider wants to hear regularly, and what it answers; times in seconds."""

    send: TreeTemplate
    every: float
    expect: Match | None = None
    timeout: float = 10.0


@dataclass(slots=True, frozen=True)
class SessionRules:
    """A session as data."""

    subscribe: TreeTemplate | None = None
    unsubscribe: TreeTemplate | None = None
    max_streams: int = 100
    max_bytes: int = 65536
    ack: AckRule | None = None
    heartbeat: HeartbeatRule | None = None
    stale: StaleRule | None = None
    data: DataRule = field(default_factory=DataRule)


def encode_message(rendered: object) -> str:
    """What a rendered template says on the wire: text as it is, everything else as JSON."""
    return rendered if isinstance(rendered, str) else msgspec.json.encode(rendered).decode()


def functions(clock: Clock) -> Mapping[str, Callable[[], object]]:
    """The values of `<now_s> <now_ms> <now_iso> <uuid> <counter>`."""
    counter = count(1)

    def iso() -> str:
        return datetime.fromtimestamp(clock.wall_ns() / 1e9, UTC).isoformat(timespec="milliseconds")

    return {
        "now_s": lambda: clock.wall_ns() // 1_000_000_000,
        "now_ms": lambda: clock.wall_ns() // 1_000_000,
        "now_iso": lambda: iso().replace("+00:00", "Z"),
        "uuid": lambda: str(uuid.uuid4()),
        "counter": lambda: next(counter),
    }
