"""The suite's fuzzing server as a process on a port of 127.0.0.1, and the verdicts that it writes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

START_TIMEOUT = 60.0

# `wstest` would listen on every interface of the machine. Its module chooses the reactor, so it is imported first.
_WSTEST = """
from autobahntestsuite import wstest
from twisted.internet import reactor
listen = reactor.listenTCP
reactor.listenTCP = lambda port, factory, *rest: listen(port, factory, 50, "127.0.0.1")
wstest.run()
"""


@dataclass(frozen=True)
class FuzzingServer:
    """A running server.

    Attributes:
        url: ws:// URL without a path.
        reports: where it writes its reports.
    """

    url: str
    reports: Path

    def verdicts(self, agent: str) -> dict[str, dict[str, Any]]:
        """Case to its full report, as written at /updateReports."""
        index = json.loads((self.reports / "index.json").read_text())
        cases = index.get(agent, {})
        return {
            case: json.loads((self.reports / told["reportfile"]).read_text()) for case, told in cases.items()
        }


@contextlib.asynccontextmanager
async def fuzzing_server(python: Path, folder: Path, cases: str) -> AsyncIterator[FuzzingServer]:
    """A server of the cases that match a pattern (`6.*`), up when this yields; `folder` keeps its reports and its log."""
    folder.mkdir(parents=True, exist_ok=True)
    port = _free_port()
    server = FuzzingServer(f"ws://127.0.0.1:{port}", folder / "reports")
    spec = folder / "spec.json"
    spec.write_text(json.dumps({"url": server.url, "outdir": str(server.reports), "cases": [cases]}))
    command = ["-u", "-c", _WSTEST, "--mode", "fuzzingserver", "--spec", str(spec), "--webport", "0"]
    with (folder / "server.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(str(python), *command, stdout=log, stderr=log)
        try:
            await _until_up(process, port, folder)
            yield server
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()


async def _until_up(process: asyncio.subprocess.Process, port: int, folder: Path) -> None:
    async with asyncio.timeout(START_TIMEOUT):
        while process.returncode is None:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except ConnectionRefusedError:
                await asyncio.sleep(0.1)
            else:
                writer.close()
                await writer.wait_closed()
                return
    log = (folder / "server.log").read_text(errors="replace")
    raise RuntimeError(f"the fuzzing server ended at once (exit code {process.returncode}):\n{log}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
