"""Counts records and drops them: for trials and benchmarks."""

from __future__ import annotations

from jetsocket_ingest.sink import Batch, Kind, Sink, SinkOptions


class DiscardOptions(SinkOptions):
    """Counts records and drops them, for trials and benchmarks."""


class DiscardSink(Sink[DiscardOptions]):
    """Takes everything at once and keeps nothing.

    Attributes:
        records: data records taken.
        markers: markers taken.
        bytes: payload bytes of both.
    """

    Options = DiscardOptions
    handles_markers = True
    records = 0
    markers = 0
    bytes = 0

    async def write(self, batch: Batch) -> None:
        markers = sum(len(chunk) for chunk in batch.chunks if chunk.kind is not Kind.DATA)
        self.records += batch.count - markers
        self.markers += markers
        self.bytes += batch.size

    def describe(self) -> str:
        return "nowhere: records are counted and dropped"
