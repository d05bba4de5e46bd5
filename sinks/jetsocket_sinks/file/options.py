"""The keys of a file sink's config."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from jetsocket_ingest.sink import ByteSize, ConfigModel, Duration, SinkOptions
from jetsocket_sinks.file.naming import PathTemplate

Compression = Literal["none", "gzip", "zstd"]
Framing = Literal["lines", "length_prefixed"]

_BY_ENDING: dict[str, Compression] = {".gz": "gzip", ".zst": "zstd"}
_LEVELS = {"gzip": (1, 9, 6), "zstd": (1, 19, 3)}

Mode = Annotated[str, Field(pattern="^0?[0-7]{3}$")]
"""Rights as octal digits in quotes, such as "0640"."""


class RotateOptions(ConfigModel):
    """When a file is finished and the next begins: whatever is reached first; null switches a limit off."""

    size: Annotated[ByteSize, Field(ge=1)] | None = Field(
        default=256 * 1024 * 1024,
        description="Bytes on disk; exceeded by one hand-over or compressed block at most.",
    )
    every: Annotated[Duration, Field(gt=0)] | None = Field(default=3600.0, description="Age of the file.")
    records: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="Records in the file, at most."
    )


class CheckpointOptions(ConfigModel):
    """When what was written is synced to disk and counts as delivered: whatever is reached first."""

    every: Annotated[Duration, Field(gt=0)] = Field(
        default=1.0, description="Longest time between two checkpoints."
    )
    size: Annotated[ByteSize, Field(ge=4096)] = Field(
        default=64 * 1024 * 1024,
        description="Payload bytes between two checkpoints; a quarter of the sink's backlog where that is less.",
    )


class FileOptions(SinkOptions):
    """Files on a local disk."""

    path: PathTemplate = Field(
        description="Where files go, with placeholders; relative to the working directory. Each file's name gets the "
        "start time of the run and the position of its first record before its extension."
    )
    compression: Compression | None = Field(
        default=None, description="none, gzip or zstd; by default what the path ends in (.gz, .zst) says."
    )
    level: int | None = Field(
        default=None, description="Compression level: gzip 1 to 9 (6), zstd 1 to 19 (3)."
    )
    framing: Framing = Field(
        default="lines",
        description="lines: a record ends with a line feed; length_prefixed (raw only): a record begins with its length "
        "in bytes, 4 bytes, big-endian.",
    )
    rotate: RotateOptions = Field(default_factory=RotateOptions, description="When a file is finished.")
    checkpoint: CheckpointOptions = Field(
        default_factory=CheckpointOptions, description="When records are on disk."
    )
    max_open_files: Annotated[int, Field(ge=2, le=100_000)] = Field(
        default=256,
        description="Files written at the same time; beyond it those unused for longest are finished.",
    )
    file_mode: Mode | None = Field(
        default=None, description='Rights of new files, such as "0640"; by default the umask\'s.'
    )
    folder_mode: Mode | None = Field(
        default=None, description='Rights of new folders, such as "0750"; by default the umask\'s.'
    )

    @property
    def codec(self) -> Compression:
        """The compression in effect."""
        return self.compression or _BY_ENDING.get(self._ending, "none")

    @property
    def codec_level(self) -> int:
        """The level in effect; 0 without compression."""
        return 0 if self.codec == "none" else self.level or _LEVELS[self.codec][2]

    @property
    def _ending(self) -> str:
        return "." + self.path.extension.rpartition(".")[2]

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.framing == "length_prefixed" and self.encoding != "raw":
            raise ValueError(
                "framing: length_prefixed goes with encoding: raw only; an envelope is always one line"
            )
        said = _BY_ENDING.get(self._ending)
        if said is not None and self.compression not in (None, said):
            raise ValueError(
                f"path ends in {self._ending}, which says {said}, but compression is {self.compression}: "
                "change one of them"
            )
        if self.level is not None:
            if self.codec == "none":
                raise ValueError(
                    "level needs a compression: add compression: gzip or zstd, or leave level out"
                )
            low, high, _ = _LEVELS[self.codec]
            if not low <= self.level <= high:
                raise ValueError(f"level of {self.codec}: expected {low} to {high}, found {self.level}")
        return self
