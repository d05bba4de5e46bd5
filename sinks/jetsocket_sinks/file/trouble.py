"""What an error of the file system means: wait, or somebody must act; and what to do about it."""

from __future__ import annotations

import errno
import os

from jetsocket_ingest.sink import SinkFailed, SinkUnavailable

_PASSING = {
    errno.ENOSPC: "the disk is full: free some space",
    errno.EDQUOT: "the disk quota is used up: free some space or raise the quota",
    errno.EIO: "the disk reports an error: check it",
    errno.EROFS: "the file system is read-only: mount it writable",
    errno.EMFILE: "this process has too many files open: raise its limit (ulimit -n) or lower max_open_files",
    errno.ENFILE: "the machine has too many files open: raise its limit or lower max_open_files",
    errno.ENOENT: "a folder or file was deleted while in use: it is made anew",
}
_LASTING = {
    errno.EACCES: "user {user} may not write there: change its rights or the path",
    errno.EPERM: "user {user} may not write there: change its rights or the path",
    errno.EROFS: "the file system is read-only: mount it writable or change the path",
    errno.ENOENT: "no such folder can be made there: change the path",
    errno.ENOTDIR: "expected a folder, found a file or a symbolic link (links below the fixed part of the path are not "
    "followed): move it away or change the path",
    errno.ELOOP: "found a symbolic link where none is followed: move it away or change the path",
    errno.EFBIG: "the file is larger than the file system or the user's limit allows: set rotate.size lower",
    errno.EOPNOTSUPP: "the file system lacks what safe files need: use a local one",
    errno.ENOLCK: "the file system has no locks: use a local one",
}


def explained(error: OSError, path: str, *, opening: bool) -> SinkUnavailable | SinkFailed:
    """The error as a sentence. Where the sink is being opened nothing is held yet, and rights must be put right first;
    what was already running waits for the disk to come back."""
    # A name relative to an open folder tells less than the path from the config.
    where = error.filename if isinstance(error.filename, str) and "/" in error.filename else path
    code = error.errno or 0
    lasts = code in _LASTING and (opening or code not in _PASSING)
    advice = (_LASTING if lasts else _PASSING).get(code, "see what the system says and put it right")
    text = f"cannot write files at {where}: {error.strerror or error}; " + advice.format(user=os.geteuid())
    return SinkFailed(text) if lasts else SinkUnavailable(text)
