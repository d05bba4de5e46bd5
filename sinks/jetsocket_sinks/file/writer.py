"""The files of a sink: which are open, when they are synced, finished, and taken back after an error."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from jetsocket_ingest.sink import Batch, Chunk, EnvelopeEncoder, Kind, Record, SinkContext
from jetsocket_sinks.file.disk import Disk, Folder, Folders
from jetsocket_sinks.file.form import (
    HAS_NEWLINE,
    EnvelopeLines,
    Form,
    RawLengthPrefixed,
    RawLines,
    compressor,
)
from jetsocket_sinks.file.naming import Place
from jetsocket_sinks.file.options import FileOptions
from jetsocket_sinks.file.part import BLOCK_BYTES, Name, Part
from jetsocket_sinks.file.routing import Router
from jetsocket_sinks.file.salvage import GAPS_EXTENSION, salvage


class Slot:
    """What is open for one place: the data, and beside raw data the markers, under the same name."""

    __slots__ = ("data", "gaps", "position", "touched")

    def __init__(self, position: int) -> None:
        self.position = position
        self.data: Part | None = None
        self.gaps: Part | None = None
        self.touched = True

    def parts(self) -> list[Part]:
        return [part for part in (self.data, self.gaps) if part is not None]

    def drop(self, part: Part) -> None:
        if self.data is part:
            self.data = None
        else:
            self.gaps = None


class FileWriter:
    """Writes batches to files. Everything blocks, so it lives on a thread; each method may raise OSError.

    What was written between two checkpoints belongs together: it is committed in all files, or taken back in all.
    A file that is finished is therefore only *retired*; it gets its final name after the next checkpoint.

    Attributes:
        checkpoints: number of checkpoints so far.
        rejected: committed records that have no place in the file's form, with the reason; the sink takes them away.
    """

    def __init__(self, options: FileOptions, context: SinkContext, disk: Disk) -> None:
        self._options = options
        self._clock = context.clock
        self._log: Any = context.log
        self._disk = disk
        self._folders = Folders(disk, options.path.root)
        self._router = Router(options.path, context.pipeline)
        self._envelopes = EnvelopeLines(EnvelopeEncoder(context.pipeline))
        self._form: Form = self._envelopes
        self._is_raw = options.encoding == "raw"
        if self._is_raw:
            self._form = RawLines() if options.framing == "lines" else RawLengthPrefixed()
        self._compress = compressor(options.codec, options.codec_level)
        self._max_records = options.rotate.records or sys.maxsize
        self._max_size = options.rotate.size or sys.maxsize
        # Delivery keeps batches until their checkpoint, which must come before its backlog is full of them.
        self._checkpoint_bytes = min(options.checkpoint.size, options.backlog.max_size // 4)
        self._run = datetime.fromtimestamp(context.clock.wall_ns() // 1_000_000_000, UTC).strftime(
            "%Y%m%dT%H%M%SZ"
        )
        self._slots: dict[Place, Slot] = {}  # least recently used first
        self._latest: Slot | None = None  # the last of them, which need not be moved
        self._retired: list[Part] = []
        self._uncommitted_bytes = 0
        self._uncommitted_rejected: list[tuple[Record, str]] = []
        self._committed_below = 0
        self._torn = False
        self._seal_error: OSError | None = None
        self._crowded = False
        self.checkpoints = 0
        self.rejected: list[tuple[Record, str]] = []

    @property
    def is_idle(self) -> bool:
        """Whether no file is open."""
        return not (self._slots or self._retired)

    def open(self) -> None:
        """Check root and rights, and seal what a dead run left."""
        root = self._folders.acquire(())
        try:
            probe = Name("probe", self._run, 0, "").temporary("lines", "none")
            os.close(self._disk.create(probe, root.fd))
            self._disk.remove(probe, root.fd)
            for salvaged in salvage(self._disk, self._folders, self._options.path):
                self._log.warning("file.salvaged", **salvaged._asdict())
        finally:
            self._folders.release(root)

    def write(self, batch: Batch, *, start_over: bool = False) -> bool:
        """Take a batch; True where it is committed already. After an error, and with `start_over`, what was not
        committed is first taken back."""
        if self._torn or start_over:
            self.rollback()
        self._torn = True
        for chunk in batch.chunks:
            self._write_chunk(chunk)
        self._uncommitted_bytes += batch.size
        is_due = self._uncommitted_bytes >= self._checkpoint_bytes
        if is_due:
            self._checkpoint()
        self._torn = False
        return is_due

    def _write_chunk(self, chunk: Chunk) -> None:
        if chunk.first_position < self._committed_below:
            done = min(len(chunk), self._committed_below - chunk.first_position)
            if done < len(chunk):
                self._write_chunk(_part_of(chunk, done, len(chunk)))
            return
        in_gaps = self._is_raw and chunk.kind is not Kind.DATA
        place = self._router.single_place(chunk)
        slot = None if place is None else self._slots.get(place)
        if place is not None and slot is not None:
            part = slot.gaps if in_gaps else slot.data
            if part is not None and part.records + len(chunk) <= self._max_records:
                whole = (self._envelopes if in_gaps else self._form).whole(chunk)
                if whole is not None:
                    self._append(place, slot, part, whole, len(chunk))
                    return
        self._write_pieces(chunk, in_gaps=in_gaps)

    def _write_pieces(self, chunk: Chunk, *, in_gaps: bool) -> None:
        """The way of a chunk that opens a file, goes to several, over the edge of one, or holds what has no place."""
        runs = self._router.split(chunk)
        most_files = self._options.max_open_files // 2
        if len(runs) > most_files or len(chunk) > most_files * self._max_records:
            half = len(chunk) // 2
            self._write_chunk(_part_of(chunk, 0, half))
            self._write_chunk(_part_of(chunk, half, len(chunk)))
            return
        self._make_room([place for place, _ in runs], chunk.first_position)
        form = self._envelopes if in_gaps else self._form
        pieces = form.pieces(chunk)
        if None in pieces:
            rows = zip(chunk.records(), pieces, strict=True)
            self._uncommitted_rejected += [(record, HAS_NEWLINE) for record, piece in rows if piece is None]
            runs = [
                (place, [index for index in indexes if pieces[index] is not None]) for place, indexes in runs
            ]
        for place, indexes in runs:
            start = 0
            while start < len(indexes):
                slot, part = self._open_part(place, chunk.first_position + indexes[start], in_gaps=in_gaps)
                run = indexes[start : start + self._max_records - part.records]
                data = form.framed([piece for index in run if (piece := pieces[index]) is not None])
                self._append(place, slot, part, data, len(run))
                start += len(run)

    def _append(self, place: Place, slot: Slot, part: Part, data: bytes, records: int) -> None:
        if slot is not self._latest:
            self._slots[place] = self._slots.pop(place)
            self._latest = slot
        slot.touched = True
        part.append(data, records)
        if part.records >= self._max_records or part.size >= self._max_size:
            self._retire(place)

    def _open_part(self, place: Place, position: int, *, in_gaps: bool) -> tuple[Slot, Part]:
        slot = self._slots.get(place) or Slot(position)
        part = slot.gaps if in_gaps else slot.data
        if part is None:
            part = self._new_part(place, slot.position, in_gaps=in_gaps)
            if in_gaps:
                slot.gaps = part
            else:
                slot.data = part
            self._slots[place] = slot
        return slot, part

    def _new_part(self, place: Place, position: int, *, in_gaps: bool) -> Part:
        options = self._options
        extension = GAPS_EXTENSION if in_gaps else options.path.extension
        return Part(
            self._folders,
            self._disk,
            place.folders,
            Name(place.stem, self._run, position, extension),
            "lines" if in_gaps else options.framing,
            "none" if in_gaps else options.codec,
            compressor("none", 0) if in_gaps else self._compress,
            block_bytes=min(BLOCK_BYTES, self._max_size),
            opened_at=self._clock.monotonic(),
        )

    def _make_room(self, places: list[Place], position: int) -> None:
        """Finish the files unused for longest where these places would be more than may be open."""
        most = self._options.max_open_files
        new = sum(place not in self._slots for place in places)
        if not new or self._open_count() + new <= most:
            return
        if not self._crowded:
            self._crowded = True
            self._log.warning("file.crowded", path=self._options.path.source, max_open_files=most)
        keep = set(places)
        for place in [place for place in self._slots if place not in keep][: max(new, most // 4)]:
            self._retire(place)
        self._checkpoint()
        # Within a batch: should the rest of it fail, it is written again from here.
        self._committed_below = position
        if self._seal_error is not None and self._open_count() + new > most:
            raise self._seal_error

    def _open_count(self) -> int:
        return sum(len(slot.parts()) for slot in self._slots.values()) + len(self._retired)

    def _retire(self, place: Place) -> None:
        self._retired += self._slots.pop(place).parts()

    def flush(self) -> None:
        """Commit everything written; after an error, take back what was not committed."""
        if self._torn:
            self.rollback()
        self._torn = True
        self._checkpoint()
        self._torn = False

    def tick(self) -> None:
        """What time asks for: a checkpoint, and the end of files that are old or whose hour or day is over."""
        now, wall_ns = self._clock.monotonic(), self._clock.wall_ns()
        every = self._options.rotate.every
        for place, slot in list(self._slots.items()):
            is_old = every is not None and any(now - part.opened_at >= every for part in slot.parts())
            is_over = place.until_ns is not None and wall_ns >= place.until_ns and not slot.touched
            slot.touched = False
            if is_old or is_over:
                self._retire(place)
        self.flush()

    def _checkpoint(self) -> None:
        dirty = [part for part in self._parts() if part.is_dirty]
        for part in dirty:
            part.sync()
        self._sync_folders({part.folder for part in dirty if part.is_new})
        for part in dirty:
            part.commit()
        self.checkpoints += 1
        self._uncommitted_bytes = 0
        self._committed_below = 0
        self.rejected += self._uncommitted_rejected
        self._uncommitted_rejected = []
        self._seal_retired()

    def _parts(self) -> Iterator[Part]:
        for slot in self._slots.values():
            yield from slot.parts()
        yield from self._retired

    def _sync_folders(self, folders: Iterable[Folder]) -> None:
        for folder in folders:
            self._disk.sync(folder.fd)

    def _seal_retired(self) -> None:
        """Final names for finished files. A failure is no loss, since their records are on disk: the next checkpoint
        tries again."""
        sealed: list[Part] = []
        try:
            for part in self._retired:
                self._seal(part)
                sealed.append(part)
            self._sync_folders({part.folder for part in sealed})
            self._seal_error = None
        except OSError as error:
            if self._seal_error is None:
                self._log.warning("file.unsealed", error=str(error), files=len(self._retired) - len(sealed))
            self._seal_error = error
        for part in sealed:
            self._retired.remove(part)
            part.release()

    def _seal(self, part: Part) -> None:
        path = part.path
        try:
            final = part.seal()
        except FileNotFoundError:
            self._log.error("file.deleted", path=path, records=part.records)
        else:
            self._log.debug("file.sealed", path=final, records=part.records, size=part.size)

    def rollback(self) -> None:
        """Take back everything since the last checkpoint."""
        for place, slot in list(self._slots.items()):
            for part in slot.parts():
                if not self._rolled_back(part):
                    slot.drop(part)
            if not slot.parts():
                del self._slots[place]
        for part in self._retired.copy():
            if not self._rolled_back(part):
                self._retired.remove(part)
        self._folders.forget_deleted()
        self._uncommitted_rejected = []
        self._uncommitted_bytes = 0
        self._torn = False

    def _rolled_back(self, part: Part) -> bool:
        if part.is_deleted:
            self._log.error("file.deleted", path=part.path, records=part.records)
        return part.rollback()

    def close(self) -> None:
        """Commit and seal everything. Never raises for the disk: what cannot be sealed now, the next run salvages."""
        try:
            self._finish()
        except OSError as error:
            self._log.error("file.left_open", error=str(error), files=[part.path for part in self._parts()])
        finally:
            for part in self._parts():
                part.release()
            self._slots.clear()
            self._retired.clear()

    def _finish(self) -> None:
        try:
            self.flush()
        except OSError:
            self.rollback()  # where even this fails nothing is sealed: the files may be torn
            self._seal_all()
            raise
        self._seal_all()
        if self._seal_error is not None:
            raise self._seal_error

    def _seal_all(self) -> None:
        for place in list(self._slots):
            self._retire(place)
        self._seal_retired()


def _part_of(chunk: Chunk, start: int, stop: int) -> Chunk:
    payloads = chunk.payloads[start:stop]
    return replace(
        chunk,
        payloads=payloads,
        streams=chunk.streams[start:stop],
        event_times_ns=None if chunk.event_times_ns is None else chunk.event_times_ns[start:stop],
        sequences=None if chunk.sequences is None else chunk.sequences[start:stop],
        size=sum(map(len, payloads)),
        first_position=chunk.first_position + start,
    )
