"""Which of a chunk's records go to which place."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import repeat

from jetsocket_ingest.sink import Chunk
from jetsocket_sinks.file.naming import PathTemplate, Place

HOUR_NS = 3_600_000_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_REMEMBERED = 10_000

Key = tuple[str | None, str | None, int | None, str | None, int | None]
"""Subscription, connection, hour of receipt, stream, hour of the event; None for what the path does not name."""


class Router:
    """Finds the places of records; the path is rendered once for each distinct set of values."""

    def __init__(self, template: PathTemplate, pipeline: str) -> None:
        self._template = template
        self._pipeline = pipeline
        self._fields = template.fields
        self._by_subscription = "subscription" in self._fields
        self._by_connection = "connection" in self._fields
        self._by_stream = "stream" in self._fields
        self._by_received = not self._fields.isdisjoint(("received.date", "received.hour"))
        self._by_event = not self._fields.isdisjoint(("event.date", "event.hour"))
        self._places: dict[Key, Place] = {}

    def split(self, chunk: Chunk) -> list[tuple[Place, Sequence[int]]]:
        """Places with the indexes of their records in the chunk, in order."""
        groups: dict[tuple[str | None, int | None], list[int]] = {}
        for index, key in enumerate(self._record_keys(chunk)):
            groups.setdefault(key, []).append(index)
        return [(self._place(self._chunk_key(chunk) + key), indexes) for key, indexes in groups.items()]

    def single_place(self, chunk: Chunk) -> Place | None:
        """The place of all records, where they share one and it takes no work to see that."""
        if self._by_event:
            return None
        stream = None
        if self._by_stream:
            stream = chunk.streams[0]
            if len(chunk.streams) > 1 and len(set(chunk.streams)) > 1:
                return None
        return self._place((*self._chunk_key(chunk), stream, None))

    def _chunk_key(self, chunk: Chunk) -> tuple[str | None, str | None, int | None]:
        return (
            chunk.subscription if self._by_subscription else None,
            chunk.connection if self._by_connection else None,
            chunk.received_ns // HOUR_NS if self._by_received else None,
        )

    def _record_keys(self, chunk: Chunk) -> Iterable[tuple[str | None, int | None]]:
        count = len(chunk)
        streams = chunk.streams if self._by_stream else repeat(None, count)
        if not self._by_event or chunk.event_times_ns is None:
            return zip(streams, repeat(None, count), strict=True)
        hours = (None if time_ns is None else time_ns // HOUR_NS for time_ns in chunk.event_times_ns)
        return zip(streams, hours, strict=True)

    def _place(self, key: Key) -> Place:
        place = self._places.get(key)
        if place is None:
            if len(self._places) >= _REMEMBERED:
                self._places.clear()
            place = self._places[key] = self._rendered(key)
        return place

    def _rendered(self, key: Key) -> Place:
        subscription, connection, received, stream, event = key
        values = {
            "pipeline": self._pipeline,
            "subscription": subscription,
            "connection": connection,
            "stream": stream,
        }
        ends = []
        for source, hour in (("received", received), ("event", event)):
            values[f"{source}.date"], values[f"{source}.hour"] = _date_and_hour(hour)
            if hour is not None and f"{source}.hour" in self._fields:
                ends.append((hour + 1) * HOUR_NS)
            elif hour is not None and f"{source}.date" in self._fields:
                ends.append((hour // 24 + 1) * 24 * HOUR_NS)
        return self._template.place(values, max(ends, default=None))


@lru_cache(maxsize=1024)
def _date_and_hour(hour: int | None) -> tuple[str | None, str | None]:
    """`2026-11-23` and `07` for an hour since 1970 UTC; None for no time, or one that no calendar has."""
    if hour is None:
        return None, None
    try:
        time = _EPOCH + timedelta(hours=hour)
    except OverflowError:
        return None, None
    return time.date().isoformat(), f"{time.hour:02d}"
