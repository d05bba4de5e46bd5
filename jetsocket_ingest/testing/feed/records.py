"""What the feed remembers for tests: handshakes seen, and what was handed to sockets."""

from __future__ import annotations

from dataclasses import dataclass, field

from websockets.datastructures import Headers

from jetsocket_ingest.testing.feed.market import Burst


@dataclass(slots=True)
class Sent:
    """Messages of one stream handed to a socket.

    Attributes:
        count: different messages; repeats are not among them.
        first, last: their lowest and highest number, 0 before the first. `last - first + 1 > count` tells a hole.
        repeats: messages sent a second time.
    """

    count: int = 0
    first: int = 0
    last: int = 0
    repeats: int = 0

    def add(self, messages: Burst) -> None:
        """Note messages; those up to the last number are repeats."""
        repeats = min(len(messages), max(0, self.last - messages.first + 1))
        self.repeats += repeats
        self.count += len(messages) - repeats
        self.first = self.first or messages.first
        self.last = max(self.last, messages.last)


@dataclass(slots=True)
class Handshake:
    """An opening handshake that arrived.

    Attributes:
        path: as asked for, with its query.
        headers: as sent; case-insensitive.
        status: the HTTP status answered; None until then.
    """

    path: str
    headers: Headers = field(repr=False)
    status: int | None = None
