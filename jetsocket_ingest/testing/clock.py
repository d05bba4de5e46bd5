"""Virtual time: an event loop on which waiting takes no time, and a clock that reads it."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

START_NS = 1_760_000_000_000_000_000
"""The wall clock at the loop's time 0: 2025-10-09T08:53:20Z."""


class DeadlockError(AssertionError):
    """Everything waits, and no timer will ever wake anything."""


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose time jumps to the next timer as soon as nothing else is left to do.

    For code whose only input is injected. Real sockets do not fit: time would not wait for them.
    """

    def __init__(self) -> None:
        self._virtual_now = 0.0
        self._inner = selectors.DefaultSelector()
        super().__init__(_JumpingSelector(self._inner, self))

    def time(self) -> float:
        return self._virtual_now

    def jump(self, seconds: float) -> None:
        self._virtual_now += seconds


class _JumpingSelector(selectors.BaseSelector):
    """Waits for nothing: where the loop would sleep, its time moves on instead."""

    def __init__(self, inner: selectors.BaseSelector, loop: VirtualLoop) -> None:
        self._inner = inner
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        events = self._inner.select(0)
        if not events:
            if timeout is None:
                raise DeadlockError("every task waits and no timer is set")
            if timeout > 0:
                self._loop.jump(timeout)
        return events

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._inner.register(fileobj, events, data)

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._inner.unregister(fileobj)

    def modify(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._inner.modify(fileobj, events, data)

    def get_map(self) -> Any:
        return self._inner.get_map()

    def close(self) -> None:
        self._inner.close()


class LoopClock:
    """A `Clock` that reads the running loop's time."""

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()

    def wall_ns(self) -> int:
        return START_NS + round(asyncio.get_running_loop().time() * 1e9)


def run_virtual(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run to the end in virtual time; fails where a task is left behind."""

    async def main() -> T:
        result = await coroutine
        for _ in range(10):
            await asyncio.sleep(0)
        left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        assert not left, f"tasks left behind: {left}"
        return result

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main())
