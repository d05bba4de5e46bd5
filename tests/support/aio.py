"""Run a coroutine as a test: with a deadline, and without anything left behind."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


def run(coroutine: Coroutine[Any, Any, T], timeout: float = 20.0) -> T:
    """Run to the end on a loop of its own; fails after `timeout` seconds, or where a task is left running."""

    async def main() -> T:
        async with asyncio.timeout(timeout):
            result = await coroutine
        # What was cancelled or is about to end gets a few turns of the loop to do so.
        for _ in range(5):
            await asyncio.sleep(0)
        left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        assert not left, f"tasks left behind: {left}"
        return result

    return asyncio.run(main())
