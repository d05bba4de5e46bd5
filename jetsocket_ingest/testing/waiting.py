"""Waiting for what a test server is about to see: conditions asked again after every change."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Conditions(Generic[T]):
    """Waiters for conditions on `subject`; its owner calls `changed` after whatever may make one true."""

    def __init__(self, subject: T) -> None:
        self._subject = subject
        self._waiting: dict[asyncio.Future[None], Callable[[T], object]] = {}
        self._due = False

    async def wait_for(self, condition: Callable[[T], object], timeout: float) -> None:
        """Wait until `condition(subject)` holds; it is asked on the turn of the loop after each change.

        Raises TimeoutError, which shows the subject, after `timeout` seconds.
        """
        if condition(self._subject):
            return
        if not self._waiting:
            self._due = False  # a check that was due on a loop that has ended since
        done = asyncio.get_running_loop().create_future()
        self._waiting[done] = condition
        try:
            async with asyncio.timeout(timeout):
                await done
        except TimeoutError:
            raise TimeoutError(
                f"what was waited for did not happen within {timeout:g} s: {self._subject!r}"
            ) from None
        finally:
            del self._waiting[done]

    def changed(self) -> None:
        """Something is different now."""
        if self._waiting and not self._due:
            self._due = True
            asyncio.get_running_loop().call_soon(self._check)

    def _check(self) -> None:
        self._due = False
        for done, condition in self._waiting.items():
            if not done.done():
                try:
                    if condition(self._subject):
                        done.set_result(None)
                except Exception as error:  # noqa: BLE001  (it is the waiter's own, and goes to the waiter)
                    done.set_exception(error)
