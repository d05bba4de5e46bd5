"""What the feed has to say: numbered messages of each stream, and how many of them are due. No I/O."""

from __future__ import annotations

import json
import math
import random
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from jetsocket_ingest.testing.feed.wire import text_frames

QUOTES = 256
"""Prices come from a closed walk of so many steps, made once: the price of a number depends on nothing but the seed."""

REMEMBERED = 100
"""Messages of each stream kept for being sent again."""

MAX_BEHIND = 0.25
"""Seconds of production that late ticks are made up for. What is due beyond that is never made, as the loop would only
fall further behind."""

MAX_CATCH_UP = 0.02
"""Seconds of production that one tick makes at most; the next ones make the rest."""

MIN_TICK = 0.005
"""Seconds between two ticks at least: at high rates one tick makes several messages of a stream at once."""

CHUNK_BYTES = 256 * 1024
"""Made at once, at most: in between it shows who reads too slowly for more."""

_PADDING = b',"pad":""'
_PRICES = {
    "BTC": 64250.0,
    "ETH": 3120.0,
    "SOL": 148.0,
    "XRP": 2.1,
    "ADA": 0.72,
    "DOGE": 0.19,
    "LTC": 91.0,
    "LINK": 17.3,
}


def stream_names(count: int) -> tuple[str, ...]:
    """`count` market-like names, always the same and in the same order: trades.BTC-USD, book.BTC-USD, …"""
    symbols = [*_PRICES, *(f"C{number:04}" for number in range(len(_PRICES), (count + 1) // 2))]
    names = [f"{channel}.{symbol}-USD" for symbol in symbols for channel in ("trades", "book")]
    return tuple(names[:count])


@dataclass(slots=True, frozen=True)
class Burst:
    """Consecutive messages of one stream; `frames` is all of them as WebSocket frames, made once for all readers."""

    stream: str
    first: int
    payloads: list[bytes]
    frames: bytes

    def __len__(self) -> int:
        return len(self.payloads)

    @property
    def last(self) -> int:
        return self.first + len(self.payloads) - 1

    def without_first(self, count: int) -> Burst:
        """The rest after `count` messages; it may be empty."""
        return burst(self.stream, self.first + count, self.payloads[count:])


def burst(stream: str, first: int, payloads: list[bytes]) -> Burst:
    return Burst(stream, first, payloads, text_frames(payloads))


class Stream:
    """One numbered stream.

    Attributes:
        seq: the last number given out; the next message carries `seq + 1`.
        chunk: messages to make at once, at most.
        made: messages numbered so far. Skipped numbers do not count, so `seq` may run ahead of it.
    """

    __slots__ = ("_head", "_quotes", "_seed", "_sent", "_size", "chunk", "limit", "made", "name", "seq")

    def __init__(self, name: str, *, size: int, seed: int, limit: int | None) -> None:
        self.name = name
        self.limit = limit
        self.chunk = max(1, CHUNK_BYTES // max(size, 100 + len(name)))
        self.seq = 0
        self.made = 0
        self._size = size
        self._seed = seed
        self._head = b'{"stream":%b,"seq":' % json.dumps(name).encode()
        self._quotes: list[bytes] = []
        self._sent: deque[tuple[int, bytes]] = deque(maxlen=REMEMBERED)

    @property
    def remaining(self) -> float:
        """Messages until this stream falls quiet; infinite without a limit."""
        return math.inf if self.limit is None else max(0, self.limit - self.made)

    def skip(self, count: int) -> None:
        """Lose numbers: nobody will ever see the next `count`."""
        self.seq += count

    def pass_unheard(self, count: int) -> None:
        """Number messages that nobody listens to, without making them."""
        self.seq += count
        self.made += count

    def make(self, count: int, ts: int) -> Burst:
        """The next `count` messages, stamped `ts` (ms since 1970 UTC)."""
        self._quotes = quotes = self._quotes or _walk(self.name, self._seed)
        first = self.seq + 1
        payloads = [
            self._padded(b'%b%d,"ts":%d,%b' % (self._head, seq, ts, quotes[seq % QUOTES]))
            for seq in range(first, first + count)
        ]
        self.pass_unheard(count)
        self._sent.extend(zip(range(first, first + count), payloads, strict=True))
        return burst(self.name, first, payloads)

    def again(self, count: int) -> Burst:
        """The last `count` messages made (at most those remembered), to be sent a second time."""
        kept = list(self._sent)[-count:] if count else []
        # A gap among them would make them more than one burst; the youngest unbroken run is repeated.
        run = [entry for index, entry in enumerate(kept) if entry[0] - index == kept[-1][0] - len(kept) + 1]
        return burst(self.name, run[0][0] if run else self.seq + 1, [payload for _, payload in run])

    def _padded(self, body: bytes) -> bytes:
        room = self._size - len(body) - len(_PADDING) - 1
        if room < 0:
            return body + b"}"
        return b'%b,"pad":"%b"}' % (body, b"x" * room)


def _walk(name: str, seed: int) -> list[bytes]:
    """Price and size of each step of a random walk that ends where it began."""
    rng = random.Random(f"{seed}/{name}")
    symbol = name.partition(".")[2].partition("-")[0]
    base = _PRICES.get(symbol) or rng.uniform(1, 500)
    steps = [rng.gauss(0, base * 0.0002) for _ in range(QUOTES)]
    drift = sum(steps) / QUOTES
    digits = 2 if base >= 10 else 5
    quotes, price = [], base
    for step in steps:
        price += step - drift
        quotes.append(b'"price":"%.*f","size":"%.3f"' % (digits, price, rng.uniform(0.001, 2)))
    return quotes


class Market:
    """All streams, and whose turn it is."""

    def __init__(self, names: Sequence[str], *, size: int, seed: int, limit: int | None) -> None:
        self.streams = {name: Stream(name, size=size, seed=seed, limit=limit) for name in names}
        self._order = list(self.streams.values())
        self._turn = 0

    def __getitem__(self, name: str) -> Stream:
        return self.streams[name]

    def __iter__(self) -> Iterator[Stream]:
        return iter(self._order)

    def shares(self, due: int) -> list[tuple[Stream, int]]:
        """Deal `due` messages out to the streams, in turn, going on where the last call ended."""
        count = len(self._order)
        each, extra = divmod(due, count)
        ahead = [self._order[(self._turn + place) % count] for place in range(count if each else extra)]
        self._turn = (self._turn + extra) % count
        return [(stream, each + (place < extra)) for place, stream in enumerate(ahead)]


class Pacer:
    """How many messages are due: exactly `rate` a second on average, whatever the ticks do."""

    def __init__(self, rate: float, now: float) -> None:
        self._rate = rate
        self._since = now
        self._made = 0

    def due(self, now: float) -> int:
        """Messages to make at `now` (monotonic seconds). They count as made."""
        behind = (now - self._since) * self._rate - self._made
        most = max(1.0, MAX_BEHIND * self._rate)
        if behind > most:
            self._since += (behind - most) / self._rate
            behind = most
        # The timer may fire a rounding error before the message it was set for.
        due = max(0, math.floor(min(behind, max(1.0, MAX_CATCH_UP * self._rate)) + 1e-6))
        self._made += due
        return due

    def next_tick(self, now: float) -> float:
        """When to ask again: as the next message falls due, but not sooner than `MIN_TICK` from now."""
        return max(self._since + (self._made + 1) / self._rate, now + MIN_TICK)
