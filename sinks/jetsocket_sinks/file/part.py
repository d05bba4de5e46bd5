"""One file being written: a temporary until it is sealed under its final name."""

from __future__ import annotations

import errno
import os
import re
import secrets
from collections.abc import Callable
from typing import NamedTuple

from jetsocket_sinks.file.disk import Disk, Folder, Folders, same_file
from jetsocket_sinks.file.options import Compression, Framing

BLOCK_BYTES = 1024 * 1024
"""So much is compressed and written at once, unless a checkpoint comes first."""

_TEMPORARY = re.compile(
    r"\.(?P<stem>.+)-(?P<run>\d{8}T\d{6}Z)-(?P<position>\d{20})(?P<extension>(?:\.\w+)*)"
    r"\.[0-9a-f]{8}-(?P<framing>lines|length_prefixed)-(?P<codec>none|gzip|zstd)\.open"
)
_TRIES = 10_000


class Name(NamedTuple):
    """A file's name in its parts: `<stem>-<run>-<position><extension>`.

    Attributes:
        stem: from the path template.
        run: start time of the run, `20261123T075023Z`: positions of a memory buffer begin anew in each run.
        position: of the first record, written with 20 digits.
        extension: from the path template.
    """

    stem: str
    run: str
    position: int
    extension: str

    def final(self, count: int = 1) -> str:
        """The name readers see; a count above 1 where it was taken."""
        number = f"-{count}" if count > 1 else ""
        return f"{self.stem}-{self.run}-{self.position:020d}{number}{self.extension}"

    def temporary(self, framing: Framing, codec: Compression) -> str:
        """A name for the time of writing, that says how to find the end of what is whole in it."""
        return f".{self.final()}.{secrets.token_hex(4)}-{framing}-{codec}.open"


class Leftover(NamedTuple):
    """What the name of a temporary tells."""

    name: Name
    framing: Framing
    codec: Compression


def parse_temporary(text: str) -> Leftover | None:
    """The reverse of `Name.temporary`; None for any other name."""
    match = _TEMPORARY.fullmatch(text)
    if match is None:
        return None
    name = Name(match["stem"], match["run"], int(match["position"]), match["extension"])
    framing: Framing = "lines" if match["framing"] == "lines" else "length_prefixed"
    codec: Compression = (
        "zstd" if match["codec"] == "zstd" else "gzip" if match["codec"] == "gzip" else "none"
    )
    return Leftover(name, framing, codec)


def publish(disk: Disk, name: Name, temporary: str, fd: int, folder: int) -> str:
    """Give a synced temporary the first final name that is free; the name it got. The folder must be synced then."""
    linked = os.fstat(fd).st_nlink > 1
    for count in range(1, _TRIES):
        final = name.final(count)
        if linked and same_file(fd, final, folder):
            # A process died between giving the final name and taking away the temporary one.
            disk.remove(temporary, folder)
            break
        try:
            disk.publish(temporary, final, folder)
        except FileExistsError:
            continue
        break
    else:
        raise FileExistsError(errno.EEXIST, f"{_TRIES} files have this name already", name.final())
    return final


class Part:
    """A file that grows. What is appended is on disk for good after `sync`; `rollback` goes back to the last `commit`.

    Attributes:
        folder: the one it lies in.
        records: in the file, those not yet committed included.
        size: bytes on disk, those not yet committed included; what waits for compression is not.
        opened_at: monotonic seconds.
    """

    __slots__ = (
        "_block_bytes",
        "_committed_records",
        "_committed_size",
        "_compress",
        "_disk",
        "_fd",
        "_folders",
        "_name",
        "_pending",
        "_pending_bytes",
        "_temporary",
        "folder",
        "opened_at",
        "records",
        "size",
    )

    def __init__(
        self,
        folders: Folders,
        disk: Disk,
        parts: tuple[str, ...],
        name: Name,
        framing: Framing,
        codec: Compression,
        compress: Callable[[bytes], bytes],
        *,
        block_bytes: int = BLOCK_BYTES,
        opened_at: float,
    ) -> None:
        self._folders = folders
        self._disk = disk
        self._name = name
        self._compress = compress
        self._block_bytes = block_bytes
        self.opened_at = opened_at
        self._pending: list[bytes] = []
        self._pending_bytes = 0
        self.records = self._committed_records = 0
        self.size = self._committed_size = 0
        self.folder: Folder = folders.acquire(parts)
        try:
            self._fd, self._temporary = self._create(framing, codec)
        except BaseException:
            folders.release(self.folder)
            raise

    def _create(self, framing: Framing, codec: Compression) -> tuple[int, str]:
        while True:
            temporary = self._name.temporary(framing, codec)
            try:
                return self._disk.create(temporary, self.folder.fd), temporary
            except FileExistsError:
                continue

    @property
    def path(self) -> str:
        """Where it is being written, for people."""
        return self._folders.path(self.folder.parts, self._temporary)

    @property
    def is_dirty(self) -> bool:
        """Whether anything is not committed."""
        return self.records != self._committed_records

    @property
    def is_deleted(self) -> bool:
        """Whether somebody took the file away under us."""
        return os.fstat(self._fd).st_nlink == 0

    def append(self, data: bytes, records: int) -> None:
        """Take framed records."""
        self._pending.append(data)
        self._pending_bytes += len(data)
        self.records += records
        if self._pending_bytes >= self._block_bytes:
            self._write_pending()

    def _write_pending(self) -> None:
        if not self._pending:
            return
        block = self._compress(self._pending[0] if len(self._pending) == 1 else b"".join(self._pending))
        self._disk.write(self._fd, block, self.size)
        self.size += len(block)
        self._pending.clear()
        self._pending_bytes = 0

    def sync(self) -> None:
        """Put everything on disk, ended by a complete frame. Not yet committed: other files may still fail."""
        self._write_pending()
        if self.is_deleted:
            raise FileNotFoundError(errno.ENOENT, "somebody deleted the file while it was written", self.path)
        self._disk.sync(self._fd)

    @property
    def is_new(self) -> bool:
        """Whether nothing of it was ever committed, so that its folder needs a sync too."""
        return self._committed_size == 0

    def commit(self) -> None:
        self._committed_size = self.size
        self._committed_records = self.records

    def rollback(self) -> bool:
        """Back to the last commit; False where nothing is left then, and the file is gone."""
        self._pending.clear()
        self._pending_bytes = 0
        if self.is_deleted:
            self.release()
            return False
        if self.is_new:
            self._disk.remove(self._temporary, self.folder.fd)
            self.release()
            return False
        self._disk.truncate(self._fd, self._committed_size)
        self.size = self._committed_size
        self.records = self._committed_records
        return True

    def seal(self) -> str:
        """Give the committed file its final name; the path it has now. The folder must be synced afterwards.
        FileNotFoundError where somebody deleted the file."""
        final = publish(self._disk, self._name, self._temporary, self._fd, self.folder.fd)
        return self._folders.path(self.folder.parts, final)

    def release(self) -> None:
        """Let go of the file as it is. One that was not sealed is salvaged by the next run."""
        os.close(self._fd)
        self._folders.release(self.folder)
