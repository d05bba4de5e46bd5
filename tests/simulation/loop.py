"""Virtual time with a look at the world after every callback, and the history that a failure is told with."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from jetsocket_ingest.testing.clock import VirtualLoop

MOST_SECONDS = 3600.0
"""A world ends long before it; in one that does not, somebody waits for ever."""
MOST_STEPS_IN_A_MOMENT = 5_000


class Violation(AssertionError):
    """Something that must hold did not."""


class History:
    """What happened, in order; entries are formatted only when somebody reads them."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self.entries: list[tuple[float, str, tuple[Any, ...]]] = []

    def note(self, text: str, *facts: Any) -> None:
        self.entries.append((self._now(), text, facts))

    def lines(self, last: int | None = None) -> list[str]:
        entries = self.entries if last is None else self.entries[-last:]
        return [f"{at:10.4f}  {text.format(*facts)}" for at, text, facts in entries]


class SteppedLoop(VirtualLoop):
    """Calls `watch` after each callback. What it raises ends the run and comes out of `run`, as does any exception
    that would otherwise only reach the loop's exception handler."""

    def __init__(self) -> None:
        super().__init__()
        self.steps = 0
        self.watch: Callable[[], None] | None = None
        self._failure: BaseException | None = None
        self._moment = -1.0
        self._steps_before_moment = 0
        self.set_exception_handler(self._unhandled)

    def run(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run to the end, then leave nothing running, whatever the outcome."""
        try:
            self.run_until_complete(coroutine)
            self._raise_failure()
        finally:
            self._clean_up()

    def timers(self) -> list[str]:
        """Names of the callbacks that timers will still call."""
        scheduled: list[asyncio.TimerHandle] = self._scheduled  # type: ignore[attr-defined]
        live = [handle for handle in scheduled if not handle.cancelled()]
        return [getattr(h._args[0], "__qualname__", repr(h._args[0])) for h in live]

    def call_soon(  # type: ignore[override]  # any callback, any arguments
        self, callback: Callable[..., object], *args: Any, context: Any = None
    ) -> asyncio.Handle:
        return super().call_soon(self._step, callback, args, context=context)

    def call_at(  # type: ignore[override]  # as above
        self, when: float, callback: Callable[..., object], *args: Any, context: Any = None
    ) -> asyncio.TimerHandle:
        return super().call_at(when, self._step, callback, args, context=context)

    def _step(self, callback: Any, args: tuple[Any, ...]) -> None:
        callback(*args)
        if self.watch is None:
            return
        self.steps += 1
        try:
            self._must_move_on()
            self.watch()
        except Violation as violation:
            self._fail(violation)

    def _must_move_on(self) -> None:
        if self.time() != self._moment:
            self._moment, self._steps_before_moment = self.time(), self.steps
        elif self.steps - self._steps_before_moment > MOST_STEPS_IN_A_MOMENT:
            raise Violation(f"{MOST_STEPS_IN_A_MOMENT} steps without time moving on: a loop with zero delay")
        if self.time() > MOST_SECONDS:
            raise Violation(f"no end after {MOST_SECONDS:g} s")

    def _run_once(self) -> None:
        super()._run_once()  # type: ignore[misc]
        self._raise_failure()

    def _raise_failure(self) -> None:
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure

    def _unhandled(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        violation = error if isinstance(error, Violation) else Violation(f"unhandled: {context['message']}")
        if violation is not error:
            violation.__cause__ = error
        self._fail(violation)

    def _fail(self, violation: Violation) -> None:
        if self._failure is None and self.watch is not None:
            self._failure = violation
            self.watch = None

    def _clean_up(self) -> None:
        self.watch = None
        for _ in range(3):
            for task in asyncio.all_tasks(self):
                task.cancel()
            for _ in range(20):
                self.stop()  # so that it runs one turn and no more
                self.run_forever()
        self.run_until_complete(self.shutdown_asyncgens())
        self.close()
