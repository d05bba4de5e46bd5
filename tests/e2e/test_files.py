"""`run`, from a real feed to files: every form and compression, read back and compared with what was sent."""

from __future__ import annotations

import asyncio
import gzip
import json
import struct
from collections.abc import Callable
from pathlib import Path
from signal import SIGKILL
from typing import Any

import pytest
import zstandard

from jetsocket_ingest.testing.feed import FeedOptions, FeedServer
from tests.support.aio import run
from tests.support.feed import BTC, ETH, manual
from tests.support.program import market, program, sequences, write_config

TICKS: dict[str, Any] = {"ticks": {"endpoint": "feed", "streams": [BTC, ETH], "sinks": ["disk"]}}
READERS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.decompress,
    ".zst": lambda data: zstandard.ZstdDecompressor().stream_reader(data, read_across_frames=True).read(),
}


def contents(folder: Path, pattern: str, ending: str) -> list[bytes]:
    """Each file's content, in the order of their names; nothing unfinished may lie beside them."""
    names = sorted(path for path in folder.rglob("*") if path.is_file())
    assert all(path.name.endswith((f".jsonl{ending}", f".bin{ending}")) for path in names), names
    return [READERS[ending](path.read_bytes()) for path in names if path.match(pattern)]


def lines(found: list[bytes]) -> list[dict[str, Any]]:
    return [json.loads(line) for content in found for line in content.splitlines()]


@pytest.mark.parametrize(
    "ending",
    [pytest.param("", marks=pytest.mark.slow), pytest.param(".gz", marks=pytest.mark.slow), ".zst"],
)
def test_envelopes_in_files_are_what_the_feed_sent(tmp_path: Path, ending: str) -> None:
    async def main() -> None:
        async with manual() as feed:
            path = f"{tmp_path}/out/<subscription>/<stream>.jsonl{ending}"
            disk = {"type": "file", "path": path, "rotate": {"records": 40}}
            config = write_config(tmp_path, {"feed": market(feed.url)}, TICKS, {"disk": disk})
            async with program("run", config) as running:
                await running.event("subscription.acknowledged")
                for _ in range(10):
                    await feed.publish(BTC, 20)
                    await feed.publish(ETH, 7)
                assert await running.stop() == 0
            files = contents(tmp_path / "out", f"*{BTC}*", ending)
            assert len(files) >= 5  # it rotated
            assert sequences(lines(files)) == {BTC: list(range(1, 201))}
            assert sequences(lines(contents(tmp_path / "out", f"*{ETH}*", ending))) == {
                ETH: list(range(1, 71))
            }

    run(main(), 40)


@pytest.mark.slow
@pytest.mark.parametrize("ending", READERS)
@pytest.mark.parametrize("framing", ["lines", "length_prefixed"])
def test_raw_files_hold_the_payloads_byte_for_byte(tmp_path: Path, ending: str, framing: str) -> None:
    async def main() -> None:
        async with manual() as feed:
            disk = {
                "type": "file",
                "path": f"{tmp_path}/out/<stream>.bin{ending}",
                "encoding": "raw",
                "framing": framing,
                "markers": "none",
            }
            config = write_config(tmp_path, {"feed": market(feed.url)}, TICKS, {"disk": disk})
            async with program("run", config) as running:
                await running.event("subscription.acknowledged")
                await feed.publish(BTC, 100)
                assert await running.stop() == 0
            (content,) = contents(tmp_path / "out", "*", ending)
            found = content.splitlines() if framing == "lines" else unframed(content)
            assert [json.loads(each)["seq"] for each in found] == list(range(1, 101))
            # As it came: not a byte of the feed's own writing is changed.
            assert all(each.startswith(b'{"stream":"trades.BTC-USD","seq":') for each in found)

    run(main(), 40)


def unframed(content: bytes) -> list[bytes]:
    found, at = [], 0
    while at < len(content):
        (size,) = struct.unpack_from(">I", content, at)
        found.append(content[at + 4 : at + 4 + size])
        at += 4 + size
    return found


@pytest.mark.slow
def test_a_restart_overwrites_and_tears_nothing_even_after_sigkill(tmp_path: Path) -> None:
    async def main() -> None:
        disk = {
            "type": "file",
            "path": f"{tmp_path}/out/data.jsonl",
            "checkpoint": {"every": "50ms"},
            "rotate": {"records": 300},
        }
        async with FeedServer(FeedOptions(rate=3000, streams=[BTC, ETH])) as feed:
            config = write_config(tmp_path, {"feed": market(feed.url)}, TICKS, {"disk": disk})
            seen: set[bytes] = set()
            for _ in range(3):
                async with program("run", config) as running:
                    await running.event("subscription.acknowledged")
                    before = feed.sent[BTC].count if BTC in feed.sent else 0
                    await feed.wait_for(lambda feed, before=before: feed.sent[BTC].count >= before + 700, 15)
                    await asyncio.sleep(0)
                    running.signal(SIGKILL)
                    assert await running.exit() == -9
                sealed = {path: path.read_bytes() for path in (tmp_path / "out").glob("*.jsonl")}
                assert seen <= set(sealed.values())  # nothing sealed has changed
                seen = set(sealed.values())
            async with program("run", config, "--max-records", "10") as running:
                assert await running.exit() == 0
            rows = lines(contents(tmp_path / "out", "*", ""))
            for stream in (BTC, ETH):
                # Files sort by run and position: each run's numbers rise, and none comes twice.
                numbers = sequences(rows)[stream]
                assert numbers == sorted(set(numbers))

    run(main(), 100)
