"""Records on standard output: JSON lines or payloads for a pipe, coloured lines for a person at a terminal."""

from __future__ import annotations

import asyncio
import errno
import os
import select
import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar, Literal

from pydantic import Field

from jetsocket_ingest.sink import (
    Batch,
    Chunk,
    EnvelopeEncoder,
    OutputClosed,
    Record,
    Sink,
    SinkContext,
    SinkFailed,
    SinkOptions,
    SinkUnavailable,
)
from jetsocket_sinks.pretty import PrettyPrinter, escaped

_READER_GONE = frozenset({errno.EPIPE, errno.ECONNRESET})
_PASSING = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS})
_CLEAR_LINE = b"\r\x1b[K"
_HAS_NEWLINE = (
    "expected a payload without a line feed, since raw output holds a record a line; found one. "
    "Use encoding: envelope for this sink."
)


class StdoutOptions(SinkOptions):
    """Standard output."""

    pretty: Literal["auto", "always", "never"] = Field(
        default="auto",
        description="Coloured lines for people: time, subscription, stream and payload, cut to the terminal's width. "
        "auto: on a terminal. Otherwise, what `encoding` says, a record a line.",
    )


class StdoutSink(Sink[StdoutOptions]):
    """Writes a line for each record. A batch is delivered when the system has taken it."""

    Options: ClassVar = StdoutOptions

    def __init__(self, options: StdoutOptions, context: SinkContext, *, fd: int = 1) -> None:
        super().__init__(options, context)
        self._fd = fd
        self._encoder = EnvelopeEncoder(context.pipeline)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"sink-{context.name}")
        self._form: Callable[[Chunk], bytes] = self._encoder.encode_lines
        self._rejected: list[tuple[Record, str]] = []
        self._unfinished_line = b""
        self._stop_read, self._stop_write = -1, -1
        self._poll = select.poll()
        self._piece = select.PIPE_BUF
        self._is_terminal = False

    async def open(self) -> None:
        try:
            mode = os.fstat(self._fd).st_mode
        except OSError as error:
            raise SinkFailed(
                f"expected an open standard output, found none ({error.strerror}): redirect it"
            ) from error
        self._stop_read, self._stop_write = os.pipe()
        self._poll.register(self._stop_read, select.POLLIN)
        self._poll.register(self._fd, select.POLLOUT)
        self._is_terminal = os.isatty(self._fd)
        if stat.S_ISREG(mode):
            # Anywhere else a reader may stall; `poll` promises room for PIPE_BUF bytes only.
            self._piece = 1024 * 1024
        if self.options.pretty == "always" or (self.options.pretty == "auto" and self._is_terminal):
            self._form = PrettyPrinter(self._fd, coloured="NO_COLOR" not in os.environ).lines
        elif self.options.encoding == "raw":
            self._form = self._raw_lines

    async def write(self, batch: Batch) -> None:
        try:
            await asyncio.get_running_loop().run_in_executor(self._thread, self._write, batch)
        except OSError as error:
            raise self._explained(error) from error
        rejected, self._rejected = self._rejected, []
        for record, reason in rejected:
            self.context.reject(record, reason)

    async def close(self) -> None:
        if self._stop_write >= 0:
            os.close(self._stop_write)  # wakes a write that waits for a reader
            self._stop_write = -1
            await asyncio.get_running_loop().run_in_executor(self._thread, os.close, self._stop_read)
        self._thread.shutdown(wait=False)

    def describe(self) -> str:
        return "standard output"

    def _write(self, batch: Batch) -> None:
        self._rejected = []
        data = self._unfinished_line + b"".join(map(self._form, batch.chunks))
        if self._is_terminal:
            if self.options.pretty == "never":
                data = escaped(data.decode(errors="backslashreplace"), keep="\n").encode()
            data = _CLEAR_LINE + data  # a live status line may stand there
        written = 0
        try:
            while written < len(data):
                self._wait_until_writable()
                written += os.write(self._fd, data[written : written + self._piece])
        except OSError:
            # The batch will be written again; a line left half written is finished before, so that none is torn.
            if written:
                is_torn = data[written - 1] != ord("\n")
                self._unfinished_line = data[written : data.find(b"\n", written) + 1] if is_torn else b""
            raise
        self._unfinished_line = b""

    def _wait_until_writable(self) -> None:
        if any(fd == self._stop_read for fd, _ in self._poll.poll()):
            raise OSError(errno.ECANCELED, "the sink was closed while nobody read its output")

    def _raw_lines(self, chunk: Chunk) -> bytes:
        lines = b"\n".join((*chunk.payloads, b""))
        if lines.count(b"\n") == len(chunk):
            return lines
        self._rejected += [(record, _HAS_NEWLINE) for record in chunk.records() if b"\n" in record.payload]
        return b"\n".join([payload for payload in chunk.payloads if b"\n" not in payload] + [b""])

    def _explained(self, error: OSError) -> OutputClosed | SinkUnavailable | SinkFailed:
        if error.errno in _READER_GONE or (error.errno == errno.EIO and self._is_terminal):
            return OutputClosed("nobody reads standard output any more")
        text = f"cannot write to standard output: {error.strerror}"
        if error.errno in _PASSING:
            return SinkUnavailable(f"{text}; free some space or check the disk it is redirected to")
        return SinkFailed(f"{text}; redirect it elsewhere")
