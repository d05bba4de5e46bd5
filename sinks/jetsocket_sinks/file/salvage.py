"""Files that a dead run left unfinished: cut to what is whole in them, and sealed."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import NamedTuple

from jetsocket_sinks.file.disk import Disk, Folder, Folders
from jetsocket_sinks.file.form import whole_length
from jetsocket_sinks.file.naming import PathTemplate
from jetsocket_sinks.file.part import Leftover, parse_temporary, publish

GAPS_EXTENSION = ".gaps.jsonl"


class Salvaged(NamedTuple):
    """What became of a leftover.

    Attributes:
        temporary: path it had.
        path: path it has now; None where nothing in it was whole, and it was removed.
        size: bytes kept.
        cut: bytes cut off its end.
    """

    temporary: str
    path: str | None
    size: int
    cut: int


def salvage(disk: Disk, folders: Folders, template: PathTemplate) -> Iterator[Salvaged]:
    """Seal every leftover that the template can have written. Files that a living process holds are left alone."""
    stem = re.compile(template.stem_pattern())
    extensions = (template.extension, GAPS_EXTENSION)
    for folder in _folders(folders, template, ()):
        with os.scandir(folder.fd) as entries:
            names = sorted(entry.name for entry in entries)
        for text in names:
            leftover = parse_temporary(text)
            if (
                leftover is None
                or leftover.name.extension not in extensions
                or not stem.fullmatch(leftover.name.stem)
            ):
                continue
            fd = disk.adopt(text, folder.fd)
            if fd is not None:
                try:
                    yield _sealed(disk, folders, folder, text, leftover, fd)
                finally:
                    os.close(fd)


def _folders(folders: Folders, template: PathTemplate, parts: tuple[str, ...]) -> Iterator[Folder]:
    """The folders at the template's depth whose names it can have given."""
    folder = folders.acquire(parts)
    try:
        if len(parts) == template.depth:
            yield folder
            return
        pattern = template.folder_pattern(len(parts))
        with os.scandir(folder.fd) as entries:
            names = sorted(
                entry.name
                for entry in entries
                if entry.is_dir(follow_symlinks=False) and pattern.fullmatch(entry.name)
            )
        for name in names:
            yield from _folders(folders, template, (*parts, name))
    finally:
        folders.release(folder)


def _sealed(disk: Disk, folders: Folders, folder: Folder, text: str, leftover: Leftover, fd: int) -> Salvaged:
    size = os.fstat(fd).st_size
    whole = whole_length(fd, leftover.codec, leftover.framing)
    temporary = folders.path(folder.parts, text)
    if whole == 0:
        disk.remove(text, folder.fd)
        return Salvaged(temporary, None, 0, size)
    if whole < size:
        disk.truncate(fd, whole)
    disk.sync(fd)
    final = publish(disk, leftover.name, text, fd, folder.fd)
    disk.sync(folder.fd)
    return Salvaged(temporary, folders.path(folder.parts, final), whole, size - whole)
