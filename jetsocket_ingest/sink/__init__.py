"""The public interface for sinks: everything that the author of a sink may import."""

from jetsocket_ingest.config.placeholders import Template
from jetsocket_ingest.config.types import ByteSize, ConfigModel, Duration, Secret
from jetsocket_ingest.errors import ConfigError, OutputClosed, SinkFailed, SinkUnavailable
from jetsocket_ingest.sink.encoding import EnvelopeEncoder, marker_payload
from jetsocket_ingest.sink.interface import Sink, SinkContext
from jetsocket_ingest.sink.options import (
    BacklogOptions,
    BatchOptions,
    MarkersElsewhere,
    RetryOptions,
    SinkOptions,
)
from jetsocket_ingest.sink.record import Batch, Chunk, Kind, Record
from jetsocket_ingest.sink.registry import installed_sinks, load_sink

__all__ = [
    "BacklogOptions",
    "Batch",
    "BatchOptions",
    "ByteSize",
    "Chunk",
    "ConfigError",
    "ConfigModel",
    "Duration",
    "EnvelopeEncoder",
    "Kind",
    "MarkersElsewhere",
    "OutputClosed",
    "Record",
    "RetryOptions",
    "Secret",
    "Sink",
    "SinkContext",
    "SinkFailed",
    "SinkOptions",
    "SinkUnavailable",
    "Template",
    "installed_sinks",
    "load_sink",
    "marker_payload",
]
