"""Destinations that are full, forbidden or gone: who waits, who fails, and what the exit code says."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.aio import run
from tests.support.feed import BTC, ETH, manual
from tests.support.program import market, program, sequences, without_root_rights, write_config

TICKS: dict[str, Any] = {"ticks": {"endpoint": "feed", "streams": [BTC, ETH], "sinks": ["disk"]}}
BOTH: dict[str, Any] = {"ticks": {"endpoint": "feed", "streams": [BTC, ETH], "sinks": ["disk", "screen"]}}
IS_ROOT = os.geteuid() == 0


def disk(path: Path, **keys: Any) -> dict[str, Any]:
    return {"type": "file", "path": str(path), "checkpoint": {"every": "50ms"}, **keys}


def test_a_folder_that_may_not_be_written_ends_the_run_with_1(tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)

    async def main() -> None:
        async with manual() as feed:
            sinks = {"disk": disk(locked / "sub" / "data.jsonl")}
            config = write_config(tmp_path, {"feed": market(feed.url)}, TICKS, sinks)
            async with program("run", config, prefix=without_root_rights()) as running:
                assert await running.exit() == 1
                (failed,) = running.named("sink.failed")
                assert str(locked) in failed["reason"]
                assert "Permission denied" in failed["reason"]
                assert "change its rights or the path" in failed["reason"]
                assert failed["sink"] == "disk"
                assert "every sink failed" in running.stderr

    run(main(), 40)


@pytest.mark.slow
@pytest.mark.parametrize("on_failure", ["continue", "stop"])
def test_a_sink_that_fails_for_good_leaves_the_other_alone_unless_told_to_stop(
    tmp_path: Path, on_failure: str
) -> None:
    async def main() -> None:
        (tmp_path / "file").touch()
        async with manual() as feed:
            sinks = {"disk": disk(tmp_path / "file" / "data.jsonl"), "screen": {"type": "stdout"}}
            config = write_config(tmp_path, {"feed": market(feed.url)}, BOTH, sinks, on_failure=on_failure)
            async with program("run", config) as running:
                await running.event("sink.failed", sink="disk")
                if on_failure == "stop":
                    assert await running.exit() == 1
                    assert "sink disk failed" in running.stderr
                    return
                await feed.wait_for(lambda feed: len(feed.subscribed()) == 2, 15)
                await feed.publish(BTC, 5)
                await running.until(lambda running: sequences(running.rows) == {BTC: [1, 2, 3, 4, 5]})
                # What one of its sinks missed is lost, and a supervisor should see that.
                assert await running.stop() == 1
                stopped = running.named("pipeline.stopped")[0]
                assert (stopped["delivered"], stopped["undelivered"]) == (7, 7)

    run(main(), 40)


@pytest.mark.slow
def test_a_connection_whose_only_sink_has_failed_is_closed_and_the_other_goes_on(tmp_path: Path) -> None:
    async def main() -> None:
        (tmp_path / "file").touch()
        async with manual() as feed:
            sinks = {"disk": disk(tmp_path / "file" / "data.jsonl"), "screen": {"type": "stdout"}}
            subscriptions = {
                "unheard": {"endpoint": "feed", "streams": [BTC], "sinks": ["disk"]},
                "heard": {"endpoint": "feed", "streams": [ETH], "sinks": ["screen"]},
            }
            config = write_config(tmp_path, {"feed": market(feed.url)}, subscriptions, sinks)
            async with program("run", config) as running:
                await feed.wait_for(
                    lambda feed: feed.subscribed() == {ETH: 1} and len(feed.requests) == 2, 15
                )
                await feed.publish(ETH, 3)
                await running.until(lambda running: sequences(running.rows) == {ETH: [1, 2, 3]})
                # With its last connection the run has nothing left to do.
                feed.faults.close(1008, "go away")
                assert await running.exit() == 1
                assert "every connection failed" in running.stderr

    run(main(), 40)


def test_a_full_disk_behind_standard_output_is_told_and_what_waits_is_counted(tmp_path: Path) -> None:
    async def main() -> None:
        async with manual() as feed:
            screen = {"type": "stdout", "retry": {"initial": "50ms", "maximum": "100ms"}}
            subscriptions = {"ticks": {"endpoint": "feed", "streams": [BTC, ETH], "sinks": ["screen"]}}
            config = write_config(
                tmp_path,
                {"feed": market(feed.url)},
                subscriptions,
                {"screen": screen},
                shutdown_timeout="200ms",
            )
            full = os.open("/dev/full", os.O_WRONLY)
            try:
                async with program("run", config, stdout=full) as running:
                    unavailable = await running.event("sink.unavailable")
                    assert "No space left on device" in unavailable["reason"]
                    assert "free some space" in unavailable["reason"]
                    await running.event("subscription.acknowledged")
                    await feed.publish(BTC, 10)
                    assert await running.stop() == 1
                    stopped = running.named("pipeline.stopped")[0]
                    assert (stopped["delivered"], stopped["undelivered"]) == (0, 12)
                    assert "12 accepted records could not be delivered" in running.stderr
            finally:
                os.close(full)

    run(main(), 40)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 512 KiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


@pytest.mark.slow
@pytest.mark.skipif(
    not IS_ROOT, reason="mounting a small file system takes root; the unit tests inject ENOSPC"
)
def test_a_full_disk_makes_the_sink_wait_and_nothing_is_lost_once_there_is_room(
    tmp_path: Path, small_disk: Path
) -> None:
    async def main() -> None:
        ballast = small_disk / "ballast"
        ballast.write_bytes(b"x" * 400 * 1024)
        async with manual() as feed:
            path = small_disk / "out" / "data.jsonl"
            sinks = {
                "disk": disk(
                    path, encoding="raw", markers="none", retry={"initial": "50ms", "maximum": "100ms"}
                )
            }
            config = write_config(tmp_path, {"feed": market(feed.url)}, TICKS, sinks)
            async with program("run", config) as running:
                await feed.wait_for(lambda feed: len(feed.subscribed()) == 2, 15)
                for _ in range(30):
                    await feed.publish(BTC, 100)
                unavailable = await running.event("sink.unavailable")
                assert "the disk is full: free some space" in unavailable["reason"]
                ballast.unlink()
                await running.event("sink.recovered")
                assert await running.stop() == 0
            files = sorted(path.parent.glob("*.jsonl"))
            found = [json.loads(line)["seq"] for file in files for line in file.read_bytes().splitlines()]
            assert sorted(set(found)) == list(range(1, 3001))
            assert found == sorted(found)

    run(main(), 40)


@pytest.mark.slow
def test_an_admin_port_that_is_taken_ends_the_start_with_1(tmp_path: Path) -> None:
    async def main() -> None:
        async with manual() as feed:
            admin = {"listen": f"127.0.0.1:{feed.port}"}
            sinks = {"disk": {"type": "discard"}}
            config = write_config(tmp_path, {"feed": market(feed.url)}, TICKS, sinks, admin=admin)
            async with program("run", config) as running:
                assert await running.exit() == 1
                assert "cannot start: " in running.stderr
                assert str(feed.port) in running.stderr.splitlines()[-1]

    run(main(), 40)
