"""The command line as a user runs it: a process with its output, its log and its signals."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from signal import SIGTERM, Signals
from typing import Any

import pytest
import yaml

COMMAND = str(Path(sys.executable).with_name("jetsocket-ingest"))
PATIENCE = 20.0
"""Seconds that anything may take before a test gives up; nothing waits that long where all is well."""


class Program:
    """One run of `jetsocket-ingest`.

    Attributes:
        stdout, stderr: what it has written so far; `stdout` stays empty where it goes elsewhere.
        events: its log, as far as written.
    """

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.stdout = b""
        self.stderr = ""
        self.events: list[dict[str, Any]] = []
        self._process = process
        self._changed = asyncio.Event()
        self._readers = [asyncio.create_task(self._read_stderr())]
        if process.stdout is not None:
            self._readers.append(asyncio.create_task(self._read_stdout()))

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The complete lines of its output, as JSON."""
        return [json.loads(line) for line in self.stdout.splitlines(keepends=True) if line.endswith(b"\n")]

    def named(self, event: str, **facts: object) -> list[dict[str, Any]]:
        """Log lines of an event, with these facts among theirs."""
        return [line for line in self.events if line["event"] == event and facts.items() <= line.items()]

    def signal(self, number: Signals) -> None:
        self._process.send_signal(number)

    async def until(self, condition: Callable[[Program], object], timeout: float = PATIENCE) -> None:
        """Wait until a condition holds; it is asked after each piece of output."""
        try:
            async with asyncio.timeout(timeout):
                while not condition(self):
                    if self._process.returncode is not None and all(task.done() for task in self._readers):
                        raise AssertionError(
                            f"it ended with {self._process.returncode} before that: {self.stderr}"
                        )
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise AssertionError(f"it did not happen within {timeout:g} s: {self.stderr}") from None

    async def event(self, name: str, count: int = 1, **facts: object) -> dict[str, Any]:
        """The `count`-th log line of an event."""
        await self.until(lambda program: len(program.named(name, **facts)) >= count)
        return self.named(name, **facts)[count - 1]

    async def exit(self, timeout: float = PATIENCE) -> int:
        """Its exit code, as soon as it has ended. It must not have shown a traceback."""
        try:
            async with asyncio.timeout(timeout):
                code = await self._process.wait()
                await asyncio.gather(*self._readers)
        except TimeoutError:
            raise AssertionError(f"it did not end within {timeout:g} s: {self.stderr}") from None
        assert "Traceback" not in self.stderr, self.stderr
        return code

    async def stop(self, number: Signals = SIGTERM) -> int:
        """Send a signal and wait for the end."""
        self.signal(number)
        return await self.exit()

    async def kill(self) -> None:
        """Leave nothing behind."""
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()
        for task in self._readers:
            task.cancel()
        await asyncio.wait(self._readers)
        # The loop's transports outlive the process until they are told.
        self._process._transport.close()  # type: ignore[attr-defined]
        await asyncio.sleep(0)

    async def _read_stdout(self) -> None:
        assert self._process.stdout is not None
        while data := await self._process.stdout.read(65536):
            self.stdout += data
            self._changed.set()
        self._changed.set()

    async def _read_stderr(self) -> None:
        assert self._process.stderr is not None
        async for line in self._process.stderr:
            text = line.decode()
            self.stderr += text
            if text.startswith("{"):
                self.events.append(json.loads(text))
            self._changed.set()
        self._changed.set()


@asynccontextmanager
async def program(
    *arguments: str | Path,
    stdout: int | None = asyncio.subprocess.PIPE,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    prefix: tuple[str, ...] = (),
) -> AsyncIterator[Program]:
    """Start it; it is killed at the end where it still runs.

    Args:
        stdout: where its output goes, if not to `Program.stdout`.
        env: variables beside the test's own.
        prefix: a command that runs it.
    """
    process = await asyncio.create_subprocess_exec(
        *prefix,
        COMMAND,
        *map(str, arguments),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=stdout,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "NO_COLOR": "1", **(env or {})},
        cwd=cwd,
        limit=16 * 1024 * 1024,
    )
    running = Program(process)
    try:
        yield running
    finally:
        await running.kill()


def without_root_rights() -> tuple[str, ...]:
    """A prefix under which the rights of files count, for root too."""
    if os.geteuid() != 0:
        return ()
    if shutil.which("setpriv") is None:
        pytest.fail("this test needs setpriv (util-linux) where it runs as root; install it")
    return ("setpriv", "--bounding-set", "-dac_override,-dac_read_search")


def market(url: str, **overrides: Any) -> dict[str, Any]:
    """An endpoint that speaks the embedded feed's protocol; `overrides` replace its keys, session's too."""
    session: dict[str, Any] = {
        "subscribe": {
            "via": "message",
            "message": {"op": "subscribe", "id": "<request_id>", "streams": "<streams>"},
            "ack": {"match": {"$.op": "subscribe"}, "correlate": "$.id", "success": {"$.ok": True}},
        },
        "unsubscribe": {"message": {"op": "unsubscribe", "id": "<request_id>", "streams": "<streams>"}},
        "data": DATA,
    }
    session |= overrides.pop("session", {})
    backoff = {"initial": "50ms", "maximum": "200ms"}
    return {"url": url + "/ws", "policy": {"backoff": backoff}, "session": session} | overrides


DATA = {
    "stream": "$.stream",
    "event_time": {"path": "$.ts", "unit": "ms"},
    "sequence": {"last": "$.seq"},
}


def write_config(
    folder: Path,
    endpoints: Mapping[str, Any],
    subscriptions: Mapping[str, Any],
    sinks: Mapping[str, Any],
    **rest: Any,
) -> Path:
    """A config file in `folder`."""
    path = folder / "pipeline.yaml"
    content = {
        "version": 1,
        "name": "test",
        "endpoints": dict(endpoints),
        "subscriptions": dict(subscriptions),
        "sinks": dict(sinks),
        "shutdown_timeout": "10s",
        **rest,
    }
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def sequences(rows: list[dict[str, Any]]) -> dict[str, list[int]]:
    """Stream → numbers of its data, in order, of envelopes."""
    found: dict[str, list[int]] = {}
    for row in rows:
        if row["kind"] == "data":
            found.setdefault(row["stream"], []).append(row["sequence"])
    return found
