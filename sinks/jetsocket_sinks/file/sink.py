"""The file sink: its writer on a thread, its checkpoints on a timer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar, TypeVar

from jetsocket_ingest.sink import Batch, Sink, SinkContext, SinkUnavailable
from jetsocket_sinks.file.disk import Disk
from jetsocket_sinks.file.options import FileOptions
from jetsocket_sinks.file.trouble import explained
from jetsocket_sinks.file.writer import FileWriter

T = TypeVar("T")


class FileSink(Sink[FileOptions]):
    """Writes records to files below a root folder. A batch is delivered when the checkpoint after it has synced it."""

    Options: ClassVar = FileOptions
    handles_markers = True

    def __init__(self, options: FileOptions, context: SinkContext, *, disk: Disk | None = None) -> None:
        super().__init__(options, context)
        self._writer = FileWriter(
            options, context, disk or Disk(_mode(options.file_mode), _mode(options.folder_mode))
        )
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"sink-{context.name}")
        self._lock = asyncio.Lock()
        self._pending: list[asyncio.Future[None]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._ticking: asyncio.Task[None] | None = None
        self._start_over = False
        self._earlier_error: Exception | None = None
        self._is_closed = False

    async def open(self) -> None:
        async with self._lock:
            try:
                await self._on_thread(self._writer.open)
            except OSError as error:
                raise explained(error, self.options.path.root, opening=True) from error

    async def write(self, batch: Batch) -> Awaitable[None] | None:
        async with self._lock:
            self._raise_earlier_error()
            start_over, self._start_over = self._start_over, False
            if start_over:
                self._settle(
                    SinkUnavailable(
                        "a write was cancelled: what followed the last checkpoint is written anew"
                    )
                )
            checkpoints = self._writer.checkpoints
            try:
                is_committed = await self._on_thread(lambda: self._writer.write(batch, start_over=start_over))
            except asyncio.CancelledError:
                # Its thread finishes the batch nevertheless. Nobody will know it as written, so it is taken back.
                self._start_over = True
                raise
            except Exception as error:
                failure = self._failure(error)
                # A checkpoint within the batch may have committed the batches before it.
                self._settle(failure if self._writer.checkpoints == checkpoints else None)
                raise failure from error
            if self._writer.checkpoints != checkpoints:
                self._settle()
            if is_committed:
                return None
            delivered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._pending.append(delivered)
            self._set_timer()
            return delivered

    async def flush(self) -> None:
        async with self._lock:
            self._raise_earlier_error()
            await self._checkpoint(self._writer.flush)
            self._raise_earlier_error()

    async def close(self) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        if self._timer is not None:
            self._timer.cancel()
        if self._ticking is not None:
            await asyncio.wait([self._ticking])
        try:
            async with self._lock:
                checkpoints = self._writer.checkpoints
                await self._on_thread(self._writer.close)
                is_committed = self._writer.checkpoints != checkpoints
                self._settle(
                    None if is_committed else SinkUnavailable("the files could not be finished: see the log")
                )
        finally:
            self._thread.shutdown(wait=False)

    def describe(self) -> str:
        return f"files at {self.options.path.source}"

    async def _checkpoint(self, job: Callable[[], None]) -> None:
        """Run a job that commits. Its failure is told by what waits for it; where nothing does, by the next call."""
        try:
            await self._on_thread(job)
        except Exception as error:  # noqa: BLE001  (handed on, never dropped)
            failure = self._failure(error)
            if not self._pending:
                self._earlier_error = failure
            self._settle(failure)
        else:
            self._settle()

    def _set_timer(self) -> None:
        is_set = self._timer is not None or self._ticking is not None
        if not (is_set or self._is_closed) and (self._pending or not self._writer.is_idle):
            self._timer = asyncio.get_running_loop().call_later(self.options.checkpoint.every, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._ticking = asyncio.get_running_loop().create_task(self._tick())

    async def _tick(self) -> None:
        async with self._lock:
            await self._checkpoint(self._writer.tick)
            self._ticking = None
            self._set_timer()

    def _settle(self, failure: Exception | None = None) -> None:
        """Tell everything that waits for a checkpoint how it went."""
        rejected, self._writer.rejected = self._writer.rejected, []
        for record, reason in rejected:
            self.context.reject(record, reason)
        pending, self._pending = self._pending, []
        for delivered in pending:
            if delivered.done():
                continue  # cancelled by whoever waited
            if failure is None:
                delivered.set_result(None)
            else:
                delivered.set_exception(failure)

    def _failure(self, error: Exception) -> Exception:
        return (
            explained(error, self.options.path.source, opening=False) if isinstance(error, OSError) else error
        )

    def _raise_earlier_error(self) -> None:
        error, self._earlier_error = self._earlier_error, None
        if error is not None:
            raise error

    async def _on_thread(self, job: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, job)


def _mode(digits: str | None) -> int | None:
    return None if digits is None else int(digits, 8)
