"""Cancel a coroutine at its n-th await."""

from __future__ import annotations

import asyncio
import types
from collections.abc import Coroutine, Generator
from typing import Any, TypeVar

T = TypeVar("T")


@types.coroutine
def _drive(coroutine: Coroutine[Any, Any, T], at: int, reached: list[int]) -> Generator[Any, Any, T]:
    step = lambda: coroutine.send(None)  # noqa: E731  (rebound below)
    while True:
        try:
            waited_for = step()
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]
        if reached[0] == at:
            task = asyncio.current_task()
            assert task is not None
            task.cancel("injected")
        reached[0] += 1
        try:
            yield waited_for
        except BaseException as error:  # noqa: BLE001  (whatever the loop throws in goes on into the coroutine)
            step = lambda error=error: coroutine.throw(error)  # type: ignore[misc]  # noqa: E731
        else:
            step = lambda: coroutine.send(None)  # noqa: E731


async def cancelled_at(coroutine: Coroutine[Any, Any, T], at: int) -> tuple[bool, T | None]:
    """Run it in a task of its own, cancelled when it waits for the `at`-th time (from 0).

    Returns (whether that await was reached, the result where it was not cancelled after all).
    """
    reached = [0]

    async def main() -> T:
        return await _drive(coroutine, at, reached)

    task = asyncio.get_running_loop().create_task(main())
    result: T | None = None
    try:
        result = await task
    except asyncio.CancelledError:
        pass
    return reached[0] > at, result
