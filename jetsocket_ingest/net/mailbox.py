"""The receive queue behind `recv` and `async for`: bounded by water marks, then TCP holds the peer back."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

HIGH_WATER = 1024 * 1024
"""Bytes waiting above which reading pauses: some milliseconds of a fast feed, and small beside the connection itself."""
LOW_WATER = HIGH_WATER // 4
"""Bytes waiting below which reading resumes; the distance keeps pause and resume from alternating at each message."""


class Mailbox:
    """Messages of one lease, in order, for one reader at a time.

    Args:
        pause, resume: called when the water marks are crossed.
    """

    __slots__ = ("_bytes", "_ended", "_error", "_messages", "_pause", "_paused", "_resume", "_waiter")

    def __init__(self, pause: Callable[[], None], resume: Callable[[], None]) -> None:
        self._messages: deque[tuple[bytes, bool]] = deque()
        self._bytes = 0
        self._paused = False
        self._pause = pause
        self._resume = resume
        self._waiter: asyncio.Future[None] | None = None
        self._ended = False
        self._error: Exception | None = None

    def put(self, payloads: list[bytes], binary: bool, size: int) -> None:
        self._messages.extend((payload, binary) for payload in payloads)
        self._bytes += size
        if not self._paused and self._bytes > HIGH_WATER:
            self._paused = True
            self._pause()
        self._wake()

    def end(self, error: Exception | None) -> None:
        """Nothing more will come. What waits is still handed out; then `get` raises `error`, or EOFError."""
        if not self._ended:
            self._ended, self._error = True, error
            self._wake()

    async def get(self) -> tuple[bytes, bool]:
        """The next message and whether it is binary. Cancelling it loses no message."""
        while not self._messages:
            if self._ended:
                raise self._error or EOFError("the connection has ended")
            if self._waiter is not None:
                raise RuntimeError(
                    "recv is already waiting in another task; a connection has one reader at a time"
                )
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        payload, binary = self._messages.popleft()
        self._bytes -= len(payload)
        if self._paused and self._bytes < LOW_WATER:
            self._paused = False
            self._resume()
        return payload, binary

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
