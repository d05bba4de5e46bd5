"""The file system, as little of it as a file sink needs: everything relative to open folders, no link followed."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import stat
from pathlib import Path

_CREATE = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_REOPEN = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_RENAME_NOREPLACE = 1
_NO_HARD_LINKS = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})


class Disk:
    """System calls, each raising OSError. Tests derive from it to make a chosen call fail."""

    def __init__(self, file_mode: int | None = None, folder_mode: int | None = None) -> None:
        self._file_mode = file_mode
        self._folder_mode = folder_mode

    def open_root(self, path: str) -> int:
        """The root, created where it is missing. It may be a link: whoever wrote the config chose it."""
        missing = [folder for folder in (Path(path), *Path(path).parents) if not folder.exists()]
        for folder in reversed(missing):
            folder.mkdir(exist_ok=True)
            if self._folder_mode is not None:
                folder.chmod(self._folder_mode)
            self._sync_folder(folder.parent)
        return os.open(path, _FOLDER)

    @staticmethod
    def _sync_folder(path: Path) -> None:
        fd = os.open(path, _FOLDER)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def open_folder(self, name: str, parent: int) -> int:
        """A folder below an open one, created where it is missing; never through a link."""
        try:
            return os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=parent)
        except FileNotFoundError:
            self._make_folder(name, parent)
            return os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=parent)

    def _make_folder(self, name: str, parent: int) -> None:
        try:
            os.mkdir(name, dir_fd=parent)
        except FileExistsError:
            return  # another process was faster
        if self._folder_mode is not None:
            os.chmod(name, self._folder_mode, dir_fd=parent)
        os.fsync(parent)

    def create(self, name: str, folder: int) -> int:
        """A new file, locked for as long as it stays open. FileExistsError where the name is taken, or another
        process took our new file for a leftover before we could lock it."""
        fd = os.open(name, _CREATE, 0o666, dir_fd=folder)
        try:
            if self._file_mode is not None:
                os.fchmod(fd, self._file_mode)
            if not (self._lock(fd) and same_file(fd, name, folder)):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), name)
        except BaseException:
            os.close(fd)
            raise
        return fd

    def adopt(self, name: str, folder: int) -> int | None:
        """Open and lock a file that another process left behind; None where that process, or a rival, holds it, and
        for what is no ordinary file."""
        try:
            fd = os.open(name, _REOPEN, dir_fd=folder)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ELOOP, errno.EISDIR):
                return None
            raise
        # It may have been sealed and let go of between our opening and our locking it.
        if stat.S_ISREG(os.fstat(fd).st_mode) and self._lock(fd) and same_file(fd, name, folder):
            return fd
        os.close(fd)
        return None

    @staticmethod
    def _lock(fd: int) -> bool:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def write(self, fd: int, data: bytes, offset: int) -> None:
        """All of it."""
        view = memoryview(data)
        while view:
            written = os.pwrite(fd, view, offset)
            offset += written
            view = view[written:]

    def sync(self, fd: int) -> None:
        os.fsync(fd)

    def truncate(self, fd: int, size: int) -> None:
        os.ftruncate(fd, size)

    def remove(self, name: str, folder: int) -> None:
        os.unlink(name, dir_fd=folder)

    def publish(self, temporary: str, final: str, folder: int) -> None:
        """Give a file its final name. FileExistsError where that is taken: nothing is ever overwritten."""
        try:
            os.link(temporary, final, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)
        except OSError as error:
            if error.errno not in _NO_HARD_LINKS:
                raise
            _rename_exclusively(temporary, final, folder)
        else:
            os.unlink(temporary, dir_fd=folder)


def same_file(fd: int, name: str, folder: int) -> bool:
    """Whether the name still stands for the open file."""
    try:
        return os.path.samestat(os.fstat(fd), os.stat(name, dir_fd=folder, follow_symlinks=False))
    except FileNotFoundError:
        return False


def _rename_exclusively(old: str, new: str, folder: int) -> None:
    """renameat2 with RENAME_NOREPLACE, for file systems without hard links."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        raise OSError(errno.EOPNOTSUPP, "neither hard links nor renameat2 work here", new)
    if rename(folder, os.fsencode(old), folder, os.fsencode(new), _RENAME_NOREPLACE) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), new)


class Folder:
    """An open folder, shared by the files in it."""

    __slots__ = ("fd", "parts", "users")

    def __init__(self, fd: int, parts: tuple[str, ...]) -> None:
        self.fd = fd
        self.parts = parts
        self.users = 0


class Folders:
    """The open folders at and below a root."""

    def __init__(self, disk: Disk, root: str) -> None:
        self._disk = disk
        self.root = root
        self._open: dict[tuple[str, ...], Folder] = {}

    def acquire(self, parts: tuple[str, ...]) -> Folder:
        """The folder, opened where it is not yet. Give it back with `release`."""
        folder = self._open.get(parts)
        if folder is None:
            folder = Folder(self._open_fd(parts), parts)
            self._open[parts] = folder
        folder.users += 1
        return folder

    def _open_fd(self, parts: tuple[str, ...]) -> int:
        if not parts:
            return self._disk.open_root(self.root)
        parent = self.acquire(parts[:-1])
        try:
            return self._disk.open_folder(parts[-1], parent.fd)
        except OSError as error:
            raise OSError(error.errno, error.strerror, self.path(parts)) from error
        finally:
            self.release(parent)

    def release(self, folder: Folder) -> None:
        folder.users -= 1
        if folder.users == 0:
            if self._open.get(folder.parts) is folder:
                del self._open[folder.parts]
            os.close(folder.fd)

    def forget_deleted(self) -> None:
        """Look folders up anew where somebody deleted them; files still open in them keep the old ones."""
        for folder in list(self._open.values()):
            if os.fstat(folder.fd).st_nlink == 0:
                del self._open[folder.parts]

    def path(self, parts: tuple[str, ...], name: str = "") -> str:
        """For people: where that is."""
        return str(Path(self.root, *parts, name))
