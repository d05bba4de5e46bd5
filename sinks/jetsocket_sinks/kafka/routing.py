"""From chunks to columns for the client: topic, key, partition, headers and timestamp of each record."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import repeat

from jetsocket_ingest.sink import Chunk, EnvelopeEncoder, Template
from jetsocket_sinks.kafka.options import MAX_TOPIC, RECORD_NAMES, ROUTE_NAMES, KafkaOptions

Header = tuple[str, bytes]

MAX_TOPICS = 5_000
"""Topics that one run writes to, at most: a feed must not be able to fill a cluster with names of its choice."""

_MAX_ROUTES = 100_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_ILLEGAL = re.compile(rb"[^a-zA-Z0-9._-]|_(?=_)")


@dataclass(slots=True, frozen=True)
class Route:
    """Where records of one stream go. `problem` says why they can go nowhere.

    `partition` is -1 where the client chooses it by the key.
    """

    topic: str
    key: bytes | None
    partition: int
    headers: tuple[Header, ...]
    problem: str | None = None


@dataclass(slots=True)
class Rows:
    """Records for the client as columns of one length, in order.

    `indices` are the records' numbers within the batch, `positions` those in the buffer; `timestamps` are ms since 1970.
    """

    indices: Sequence[int]
    positions: Sequence[int]
    routes: list[Route]
    values: list[bytes]
    timestamps: Sequence[int] | None
    headers: list[list[Header]] | None

    def __len__(self) -> int:
        return len(self.values)

    def only(self, keep: list[int]) -> Rows:
        """The rows with these numbers."""
        return Rows(
            [self.indices[i] for i in keep],
            [self.positions[i] for i in keep],
            [self.routes[i] for i in keep],
            [self.values[i] for i in keep],
            None if self.timestamps is None else [self.timestamps[i] for i in keep],
            None if self.headers is None else [self.headers[i] for i in keep],
        )


class _Routes(dict[str | None, Route]):
    """Stream → route, made at the first record of a stream."""

    def __init__(self, make: Callable[[str | None], Route]) -> None:
        super().__init__()
        self._make = make

    def __missing__(self, stream: str | None) -> Route:
        route = self[stream] = self._make(stream)
        return route


class Router:
    """Renders chunks.

    Attributes:
        unchecked: topics of records seen so far, whose existence nobody has checked yet.
        has_problems: whether any record so far had nowhere to go.
    """

    def __init__(self, options: KafkaOptions, pipeline: str) -> None:
        self._pipeline = pipeline
        self._encoder = EnvelopeEncoder(pipeline) if options.encoding == "envelope" else None
        self._timestamp = options.timestamp
        self._topic = Template.parse(options.topic, ROUTE_NAMES)
        self._key = None if options.key is None else Template.parse(options.key, ROUTE_NAMES)
        self._partition = (
            None if options.partition is None else Template.parse(options.partition, ROUTE_NAMES)
        )
        templates = options.header_templates
        self._has_headers = bool(templates)
        self._route_headers = {n: t for n, t in templates.items() if not t.fields & set(RECORD_NAMES)}
        self._record_headers = {n: t for n, t in templates.items() if t.fields & set(RECORD_NAMES)}
        self._tables: dict[tuple[str, str, str], _Routes] = {}
        self._topics: set[str] = set()
        self.unchecked: set[str] = set()
        self.has_problems = False

    def static_topics(self) -> set[str]:
        """The topics known before the first record: the one topic, if it is the same for all."""
        if self._topic.fields - {"pipeline"}:
            return set()
        return {self._topic.render({"pipeline": escape_topic(self._pipeline)})}

    def note(self, chunk: Chunk) -> None:
        """Learn the topics of a chunk before it is sent."""
        table = self._table(chunk)
        for stream in set(chunk.streams):
            table[stream]

    def rows(self, chunk: Chunk, first_index: int) -> Rows:
        """The records of a chunk; `first_index` is the number of its first one within the batch."""
        table = self._table(chunk)
        routes = list(map(table.__getitem__, chunk.streams))
        values = chunk.payloads if self._encoder is None else self._encoder.encode(chunk)
        headers = self._headers(chunk, routes) if self._has_headers else None
        indices = range(first_index, first_index + len(values))
        positions = range(chunk.first_position, chunk.first_position + len(values))
        return Rows(indices, positions, routes, values, self._timestamps(chunk), headers)

    def _table(self, chunk: Chunk) -> _Routes:
        name = (chunk.subscription, chunk.connection, chunk.kind.value)
        table = self._tables.get(name)
        if table is None or len(table) > _MAX_ROUTES:
            if len(self._tables) > _MAX_ROUTES:
                self._tables.clear()

            def make(stream: str | None) -> Route:
                return self._route(*name, stream)

            table = self._tables[name] = _Routes(make)
        return table

    def _route(self, subscription: str, connection: str, kind: str, stream: str | None) -> Route:
        values = {
            "pipeline": self._pipeline,
            "subscription": subscription,
            "stream": stream,
            "connection": connection,
            "kind": kind,
        }
        topic = self._topic.render({name: escape_topic(value or "") for name, value in values.items()})
        problem = _topic_problem(topic)
        if problem is None and topic not in self._topics:
            if len(self._topics) >= MAX_TOPICS:
                problem = f"the topic {topic!r} would be number {MAX_TOPICS + 1}; one run writes to {MAX_TOPICS} at most"
            else:
                self._topics.add(topic)
                self.unchecked.add(topic)
        key = None
        if self._key is not None:
            # An empty key would be legal; records without a stream then share a key that says nothing.
            key = _utf8(self._key.render(values) or subscription)
        partition = -1
        if self._partition is not None:
            text = self._partition.render(values)
            if text.isdecimal() and len(text) < 10:
                partition = int(text)
            elif problem is None:
                problem = f"expected a partition's number from {self._partition.source!r}, it gives {text!r}"
        self.has_problems |= problem is not None
        return Route(topic, key, partition, tuple(_pairs(self._route_headers, values)), problem)

    def _headers(self, chunk: Chunk, routes: list[Route]) -> list[list[Header]]:
        columns = [self._column(name, template, chunk) for name, template in self._record_headers.items()]
        if not columns:
            return [[*route.headers] for route in routes]
        if chunk.event_times_ns is None and chunk.sequences is None:
            # No column has a hole then, save those that are empty throughout.
            filled = [column for column in columns if column is not _NOTHING]
            rows = zip(*filled, strict=False) if filled else repeat(())
            return [[*route.headers, *extra] for route, extra in zip(routes, rows, strict=False)]
        return [
            [*route.headers, *[header for header in extra if header is not None]]
            for route, extra in zip(routes, zip(*columns, strict=False), strict=False)
        ]

    def _column(self, name: str, template: Template, chunk: Chunk) -> Iterator[Header | None]:
        """A header for each record, None where it has no value; what is the same for all repeats for ever."""
        field = template.source[1:-1]
        if field not in RECORD_NAMES:
            return self._composed(name, template, chunk)
        if field == "received":
            return repeat((name, iso_time(chunk.received_ns) or b""))
        if field == "position":
            first = chunk.first_position
            return iter([(name, b"%d" % position) for position in range(first, first + len(chunk))])
        if field == "sequence":
            if chunk.sequences is None:
                return _NOTHING
            return iter([None if number is None else (name, b"%d" % number) for number in chunk.sequences])
        if chunk.event_times_ns is None:
            return _NOTHING
        times = [None if time is None else iso_time(time) for time in chunk.event_times_ns]
        return iter([None if time is None else (name, time) for time in times])

    def _composed(self, name: str, template: Template, chunk: Chunk) -> Iterator[Header]:
        for record in chunk.records():
            received, event_time = iso_time(record.received_ns), iso_time(record.event_time_ns)
            values = {
                "pipeline": self._pipeline,
                "subscription": record.subscription,
                "stream": record.stream,
                "connection": record.connection,
                "kind": record.kind.value,
                "received": received and received.decode(),
                "event_time": event_time and event_time.decode(),
                "sequence": record.sequence,
                "position": record.position,
            }
            yield name, _utf8(template.render(values))

    def _timestamps(self, chunk: Chunk) -> Sequence[int] | None:
        if self._timestamp == "none":
            return None
        received = chunk.received_ns // 1_000_000
        if self._timestamp == "received" or chunk.event_times_ns is None:
            return [received] * len(chunk)
        # Kafka knows no time before 1970.
        return [received if time is None or time < 0 else time // 1_000_000 for time in chunk.event_times_ns]


_NOTHING: Iterator[None] = repeat(None)


def escape_topic(name: str) -> str:
    """The name in characters that Kafka allows in a topic; `unescape_topic` gives it back."""
    return _ILLEGAL.sub(lambda match: b"__%02x" % match[0][0], _utf8(name)).decode()


def unescape_topic(topic: str) -> str:
    """The name that `escape_topic` was given."""
    return re.sub(rb"__([0-9a-f]{2})", lambda match: bytes([int(match[1], 16)]), topic.encode()).decode()


def _topic_problem(topic: str) -> str | None:
    if 0 < len(topic) <= MAX_TOPIC and topic not in {".", ".."}:
        return None
    return f"expected a topic of 1 to {MAX_TOPIC} characters other than '.' and '..', the record's would be {topic[:300]!r}"


def _pairs(templates: dict[str, Template], values: dict[str, str | None]) -> Iterator[Header]:
    for name, template in templates.items():
        field = template.source[1:-1]
        if template.source == f"<{field}>" and values.get(field, "") is None:
            continue
        yield name, _utf8(template.render(values))


def _utf8(text: str) -> bytes:
    """Half a surrogate pair, which JSON can express and UTF-8 cannot, becomes a question mark."""
    return text.encode("utf-8", "replace")


def iso_time(ns: int | None) -> bytes | None:
    """`2026-01-31T12:00:00.123456789Z`, as in the envelope; None for no time, or one outside the years 1 to 9999."""
    if ns is None:
        return None
    seconds, rest = divmod(ns, 1_000_000_000)
    try:
        return b"%b.%09dZ" % (_iso_second(seconds), rest)
    except OverflowError:
        return None


@lru_cache(maxsize=1024)
def _iso_second(seconds: int) -> bytes:
    return (_EPOCH + timedelta(seconds=seconds)).isoformat()[:19].encode()
