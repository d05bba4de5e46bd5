"""`jetsocket-ingest demo` serves until it is told to stop, and refuses what cannot be."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import socket
import subprocess
import sys

import pytest
from websockets.asyncio.client import connect

from jetsocket_ingest.testing.feed import KINDS
from tests.support.aio import run

COMMAND = [sys.executable, "-c", "from jetsocket_ingest.cli.demo import demo; demo(prog_name='demo')"]


def finished(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=30, check=False)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_prints_its_address_serves_and_sums_up_when_interrupted(number: signal.Signals) -> None:
    async def main() -> None:
        process = await asyncio.create_subprocess_exec(
            *COMMAND,
            "--port",
            "0",
            "--rate",
            "500",
            "--fault",
            "gap:3",
            "--every",
            "100ms",
            stdout=subprocess.PIPE,
        )
        assert process.stdout
        first = (await process.stdout.readline()).decode()
        url = re.match(r"Feed on (ws://127\.0\.0\.1:\d+): 6 streams, 500 messages a second\.", first)
        assert url
        async with connect(f"{url[1]}/all", max_queue=None) as client:
            assert json.loads(await client.recv())["seq"] >= 1
            while b"fault gap:3 on connection 1" not in await process.stdout.readline():
                pass
        process.send_signal(number)
        rest = (await process.stdout.read()).decode()
        assert re.search(
            r"^Served [\d,]+ messages to 1 connection in \d+\.\d s, \d+ faults?\.$", rest, re.MULTILINE
        )
        assert await process.wait() == 0

    run(main(), timeout=30)


def test_the_command_that_it_suggests_works() -> None:
    async def main() -> None:
        process = await asyncio.create_subprocess_exec(
            *COMMAND, "--port", "0", "--duration", "20s", stdout=subprocess.PIPE
        )
        assert process.stdout
        line = b""
        while not line.startswith(b"Try: "):
            line = await process.stdout.readline()
        suggested = line.decode().removeprefix("Try: python ").split()
        client = await asyncio.create_subprocess_exec(
            sys.executable, *suggested, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert client.stdout
        while b'"seq":' not in await client.stdout.readline():
            pass
        for each in (client, process):
            each.terminate()
            await each.communicate()

    run(main(), timeout=30)


def test_it_ends_by_itself_after_its_duration() -> None:
    done = finished("--port", "0", "--duration", "50ms", "--token", "s3cret", "--streams", "a,b")
    assert (done.returncode, done.stderr) == (0, "")
    assert "2 streams" in done.stdout
    assert "Authorization: Bearer" in done.stdout
    assert "s3cret" not in done.stdout
    assert "Served 0 messages to 0 connections" in done.stdout


def test_a_taken_port_is_one_clear_line_and_exit_code_1() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = finished("--port", str(port))
    assert done.returncode == 1
    assert re.fullmatch(
        rf"demo: the feed cannot listen on 127\.0\.0\.1 port {port}: .+ Choose another port .+\n", done.stderr
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--rate", "-1"],
            "demo: feed option rate: expected messages a second from 0 to 10,000,000, found -1.0",
        ),
        (["--streams", "0"], "demo: feed option streams: expected a number from 1 to 100,000"),
        (["--fault", "explode"], "demo: unknown fault 'explode'; known are: silence, rst"),
        (["--fault", "rst", "--every", "1", "--every", "2"], "demo: expected one interval"),
        (["--every", "1"], "no fault to repeat"),
        (["--duration", "soon"], "expected seconds such as 10"),
        (["--port", "http"], "'http' is not a valid integer"),
        (["--speed", "1"], "No such option"),
    ],
)
def test_bad_usage_is_told_with_exit_code_2_and_no_traceback(arguments: list[str], message: str) -> None:
    done = finished(*arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_its_help_names_every_fault() -> None:
    shown = finished("--help").stdout
    assert all(re.search(rf"^\s+{name}\b", shown, re.MULTILINE) for name in KINDS)
