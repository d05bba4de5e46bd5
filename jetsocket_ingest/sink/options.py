"""The keys that every sink's config has."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from jetsocket_ingest.config.types import ByteSize, ConfigModel, Duration


class BatchOptions(ConfigModel):
    """How much a sink is given at once: whatever is reached first closes a batch."""

    max_records: Annotated[int, Field(ge=1, le=1_000_000)] = Field(
        default=10_000, description="Records in a batch, at most."
    )
    max_bytes: Annotated[ByteSize, Field(ge=1024)] = Field(
        default=4 * 1024 * 1024, description="Payload bytes in a batch, at most (one chunk may exceed it)."
    )
    max_age: Duration = Field(
        default=0.005, description="How long the first record of a batch may wait for company."
    )


class BacklogOptions(ConfigModel):
    """What may wait for this sink. When it is full, the subscriptions that feed it stop reading their sockets."""

    max_size: Annotated[ByteSize, Field(ge=64 * 1024)] = Field(
        default=64 * 1024 * 1024, description="Payload bytes that may wait or be in flight."
    )


class RetryOptions(ConfigModel):
    """How a sink that is away is tried again: exponential back-off with full jitter, for as long as it takes."""

    initial: Annotated[Duration, Field(gt=0)] = Field(
        default=0.5, description="Upper bound of the first wait."
    )
    maximum: Annotated[Duration, Field(gt=0)] = Field(
        default=30.0, description="Upper bound of every later wait."
    )


class MarkersElsewhere(ConfigModel):
    """Markers of this sink's subscriptions go to another sink."""

    sink: str = Field(description="Name of the sink that takes gap, connect and disconnect records.")


class SinkOptions(ConfigModel):
    """The keys that every sink has."""

    type: str = Field(
        description="Which sink: the name of an entry point in the group jetsocket_ingest.sinks."
    )
    encoding: Literal["envelope", "raw"] = Field(
        default="envelope",
        description="envelope: a JSON object with the payload and what is known about it; raw: the payload as it came.",
    )
    markers: Literal["inline", "none"] | MarkersElsewhere = Field(
        default="inline",
        description="Where gap, connect and disconnect records go: in line with the data, nowhere, or to another sink.",
    )
    batch: BatchOptions = Field(default_factory=BatchOptions, description="How much is written at once.")
    backlog: BacklogOptions = Field(
        default_factory=BacklogOptions, description="What may wait for this sink."
    )
    retry: RetryOptions = Field(
        default_factory=RetryOptions, description="How a sink that is away is tried again."
    )
