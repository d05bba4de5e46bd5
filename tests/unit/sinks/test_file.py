"""The life of files: names, rotation, checkpoints, what a next run finds."""

from __future__ import annotations

import asyncio
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from jetsocket_ingest.sink import Batch, Kind, marker_payload
from jetsocket_ingest.testing.sink_support import Chunks, Delivery
from jetsocket_sinks.file import FileOptions, FileSink
from jetsocket_sinks.file.disk import Disk
from tests.support.aio import run
from tests.unit.sinks.files import (
    START_NS,
    Surroundings,
    batch_of,
    finished,
    lines,
    numbers,
    unfinished,
    unpacked,
)

RUN = "20261123T075023Z"
HOUR_NS = 3_600_000_000_000


def names(root: Path) -> list[str]:
    return [path.name for path in finished(root)]


def test_a_finished_file_carries_run_and_first_position_before_its_extension(tmp_path: Path) -> None:
    writer = Surroundings().writer(tmp_path / "ticks.jsonl.zst")
    writer.open()
    chunks = Chunks()
    chunks.make([b"{}"] * 12_344)
    writer.write(batch_of(chunks, b"{}"))
    writer.flush()
    assert finished(tmp_path) == []
    assert len(unfinished(tmp_path)) == 1
    writer.close()
    assert names(tmp_path) == [f"ticks-{RUN}-00000000000000012345.jsonl.zst"]
    assert unfinished(tmp_path) == []


def test_a_taken_name_is_never_overwritten(tmp_path: Path) -> None:
    for content in (b"first", b"second", b"third"):
        writer = Surroundings().writer(tmp_path / "ticks.txt", encoding="raw")
        writer.open()
        writer.write(batch_of(Chunks(), content))
        writer.close()
    stem = f"ticks-{RUN}-00000000000000000001"
    assert names(tmp_path) == [f"{stem}-2.txt", f"{stem}-3.txt", f"{stem}.txt"]
    assert [path.read_bytes() for path in finished(tmp_path)] == [b"second\n", b"third\n", b"first\n"]


def test_names_are_not_overwritten_where_there_are_no_hard_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    for content in (b"first", b"second"):
        writer = Surroundings().writer(tmp_path / "ticks.txt", encoding="raw")
        writer.open()
        writer.write(batch_of(Chunks(), content))
        writer.close()
    assert [path.read_bytes() for path in finished(tmp_path)] == [b"second\n", b"first\n"]
    assert unfinished(tmp_path) == []


@pytest.mark.parametrize("extension", [".jsonl", ".jsonl.gz", ".jsonl.zst"])
def test_files_rotate_by_count_exactly(tmp_path: Path, extension: str) -> None:
    writer = Surroundings().writer(tmp_path / f"ticks{extension}", rotate={"records": 4})
    writer.open()
    chunks = Chunks()
    writer.write(batch_of(chunks, *(b'{"n":%d}' % n for n in range(6))))
    writer.write(batch_of(chunks, *(b'{"n":%d}' % n for n in range(6, 10))))
    writer.close()
    assert [len(lines(path)) for path in finished(tmp_path)] == [4, 4, 2]
    assert numbers(tmp_path) == list(range(10))
    assert [path.name.split("-")[2][:20] for path in finished(tmp_path)] == [f"{n:020d}" for n in (1, 5, 9)]


@pytest.mark.parametrize("extension", [".txt", ".txt.gz"])
def test_files_rotate_by_size_on_disk(tmp_path: Path, extension: str) -> None:
    writer = Surroundings().writer(tmp_path / f"ticks{extension}", encoding="raw", rotate={"size": 1000})
    writer.open()
    chunks = Chunks()
    for _ in range(100):
        writer.write(batch_of(chunks, os.urandom(50).hex().encode()))
    writer.close()
    sizes = [path.stat().st_size for path in finished(tmp_path)]
    assert all(1000 <= size <= 2100 for size in sizes[:-1])
    assert sum(len(lines(path)) for path in finished(tmp_path)) == 100


def test_files_rotate_by_age_without_new_records(tmp_path: Path) -> None:
    surroundings = Surroundings()
    writer = surroundings.writer(tmp_path / "ticks.jsonl", rotate={"every": "1h"})
    writer.open()
    writer.write(batch_of(Chunks(), b"{}"))
    surroundings.clock.seconds = 3599.0
    writer.tick()
    assert finished(tmp_path) == []
    surroundings.clock.seconds = 3600.0
    writer.tick()
    assert len(finished(tmp_path)) == 1
    assert writer.is_idle
    writer.close()


def test_a_file_of_an_hour_is_finished_once_the_hour_is_over_and_nothing_more_came(tmp_path: Path) -> None:
    surroundings = Surroundings()
    path = tmp_path / "<received.date>" / "<received.hour>.jsonl"
    writer = surroundings.writer(path, rotate={"every": None})
    writer.open()
    chunks = Chunks()
    writer.write(batch_of(chunks, b"{}"))
    surroundings.clock.seconds = 600.0
    writer.write(batch_of(chunks, b"{}"))
    writer.tick()
    assert finished(tmp_path) == [], "08:00 has passed, but records came since the last look"
    writer.tick()
    assert names(tmp_path / "2026-11-23") == [f"07-{RUN}-00000000000000000001.jsonl"]
    writer.close()


def test_times_in_paths_are_of_receipt_or_of_the_event(tmp_path: Path) -> None:
    writer = Surroundings().writer(
        tmp_path / "<received.date>" / "<event.date>T<event.hour>.txt", encoding="raw"
    )
    writer.open()
    chunk = Chunks().make([b"a", b"b", b"c", b"d"])
    chunk.event_times_ns = [START_NS, START_NS - 24 * HOUR_NS, None, START_NS]
    writer.write(Batch([chunk]))
    writer.close()
    found = {path.name.split("-" + RUN)[0]: path.read_bytes() for path in finished(tmp_path / "2026-11-23")}
    assert found == {"2026-11-23T07": b"a\nd\n", "2026-11-22T07": b"b\n", "%noneT%none": b"c\n"}


def test_every_placeholder_has_its_value(tmp_path: Path) -> None:
    writer = Surroundings().writer(
        tmp_path / "<pipeline>-<subscription>-<connection>-<stream>-<received.hour>.txt"
    )
    writer.open()
    writer.write(batch_of(Chunks(), b"{}"))
    writer.close()
    assert names(tmp_path) == [f"ticks-trades-demo-1-stream-0-07-{RUN}-00000000000000000001.txt"]


def test_at_most_max_open_files_are_open_and_the_least_recent_are_finished_first(tmp_path: Path) -> None:
    surroundings = Surroundings()
    writer = surroundings.writer(tmp_path / "<stream>.jsonl", max_open_files=4)
    writer.open()
    chunks = Chunks()
    for number in range(40):
        stream = "busy" if number % 2 else f"s{number}"
        writer.write(batch_of(chunks, b'{"n":%d}' % number, streams=lambda _, stream=stream: stream))
        assert len(unfinished(tmp_path)) <= 4
    assert len(finished(tmp_path, "busy*")) == 0, "what is in use stays open"
    writer.close()
    assert sorted(numbers(tmp_path)) == list(range(40))
    assert len(surroundings.log.events("file.crowded")) == 1, "told once"


def test_raw_files_have_their_markers_beside_them_under_the_same_name(tmp_path: Path) -> None:
    writer = Surroundings().writer(tmp_path / "ticks.txt.gz", encoding="raw", rotate={"records": 2})
    writer.open()
    chunks = Chunks()
    writer.write(batch_of(chunks, marker_payload(Kind.CONNECT, {}), kind=Kind.CONNECT))
    writer.write(batch_of(chunks, b"one", b"two", b"three"))
    writer.write(batch_of(chunks, marker_payload(Kind.GAP, {"count": 7}), kind=Kind.GAP))
    writer.close()
    assert names(tmp_path) == [
        f"ticks-{RUN}-00000000000000000001.gaps.jsonl",
        f"ticks-{RUN}-00000000000000000001.txt.gz",
        f"ticks-{RUN}-00000000000000000004.gaps.jsonl",
        f"ticks-{RUN}-00000000000000000004.txt.gz",
    ]
    assert b'"payload":{"kind":"gap","count":7}' in finished(tmp_path)[2].read_bytes()
    assert unpacked(finished(tmp_path)[1]) == b"one\ntwo\n"


def test_a_raw_line_with_a_line_feed_is_rejected_once_with_advice(tmp_path: Path) -> None:
    async def scenario() -> None:
        surroundings = Surroundings()
        sink = surroundings.sink(tmp_path / "ticks.txt", encoding="raw")
        await sink.open()
        delivered = await sink.write(batch_of(Chunks(), b"good", b"b\nad", b"fine"))
        assert surroundings.rejected == [], (
            "not before it is certain that the batch will not be written again"
        )
        await sink.flush()
        assert delivered is not None
        await delivered
        await sink.close()
        ((record, reason),) = surroundings.rejected
        assert (record.payload, record.position) == (b"b\nad", 2)
        assert "framing: length_prefixed" in reason
        assert lines(finished(tmp_path)[0]) == [b"good", b"fine"]

    run(scenario())


def test_a_batch_of_nothing_but_rejected_records_makes_no_file(tmp_path: Path) -> None:
    async def scenario() -> None:
        surroundings = Surroundings()
        sink = surroundings.sink(tmp_path / "ticks.txt", encoding="raw")
        await sink.open()
        await sink.write(batch_of(Chunks(), b"\n"))
        await sink.close()
        assert len(surroundings.rejected) == 1
        assert list(tmp_path.iterdir()) == []

    run(scenario())


def test_a_batch_is_delivered_by_the_timer(tmp_path: Path) -> None:
    async def scenario() -> None:
        sink = Surroundings().sink(tmp_path / "ticks.jsonl", checkpoint={"every": "10ms"})
        await sink.open()
        chunks = Chunks()
        for _ in range(3):
            delivered = await sink.write(batch_of(chunks, b"{}"))
            assert delivered is not None
            await delivered
        await sink.close()

    run(scenario())


def test_a_batch_is_delivered_at_once_when_the_checkpoint_is_full(tmp_path: Path) -> None:
    async def scenario() -> None:
        sink = Surroundings().sink(tmp_path / "ticks.jsonl", checkpoint={"every": "1h", "size": "4KiB"})
        await sink.open()
        chunks = Chunks()
        early = await sink.write(batch_of(chunks, b"x" * 2000))
        assert early is not None
        assert await sink.write(batch_of(chunks, b"x" * 3000)) is None
        await asyncio.wait_for(asyncio.ensure_future(early), 5)
        await sink.close()

    run(scenario())


def test_a_checkpoint_comes_before_the_backlog_is_full(tmp_path: Path) -> None:
    async def scenario() -> None:
        sink = Surroundings().sink(tmp_path / "ticks.jsonl", backlog={"max_size": "64KiB"})
        await sink.open()
        assert await sink.write(batch_of(Chunks(), b"x" * 20_000)) is None
        await sink.close()

    run(scenario())


def test_a_cancelled_write_is_taken_back_before_the_next(tmp_path: Path) -> None:
    async def scenario() -> None:
        sink = Surroundings().sink(tmp_path / "ticks.jsonl")
        await sink.open()
        again = batch_of(Chunks(), b'{"n":1}')
        writing = asyncio.ensure_future(sink.write(again))
        await asyncio.sleep(0)
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)
        await sink.write(again)
        await sink.close()
        assert numbers(tmp_path) == [1]

    run(scenario())


def test_rights_of_files_and_folders_are_as_asked(tmp_path: Path) -> None:
    writer_options = FileOptions.model_validate(
        {
            "type": "file",
            "path": f"{tmp_path}/new/<stream>/t.jsonl",
            "file_mode": "0604",
            "folder_mode": "0705",
        }
    )
    sink = FileSink(writer_options, Delivery().context())

    async def scenario() -> None:
        await sink.open()
        await sink.write(batch_of(Chunks(), b"{}"))
        await sink.close()

    run(scenario())
    (path,) = finished(tmp_path)
    modes = [stat.S_IMODE(each.stat().st_mode) for each in (path, path.parent, path.parent.parent)]
    assert modes == [0o604, 0o705, 0o705]


# What a dead run left

CUT_SHORT: list[tuple[str, dict[str, Any]]] = [
    ("ticks.txt", {"encoding": "raw"}),
    ("ticks.txt.gz", {"encoding": "raw"}),
    ("ticks.txt.zst", {"encoding": "raw"}),
    ("ticks.bin", {"encoding": "raw", "framing": "length_prefixed"}),
]


def leave_behind(root: Path, path: str, options: dict[str, Any]) -> tuple[str, bytes, list[int]]:
    """Name and content of a file that a dead run left, and the offsets at which a checkpoint was."""
    writer = Surroundings().writer(root / path, **options)
    writer.open()
    chunks = Chunks()
    offsets = [0]
    for letter in b"abc":
        writer.write(batch_of(chunks, bytes([letter]) * 5, b"", bytes([letter]) * 3))
        writer.flush()
        offsets.append(unfinished(root)[0].stat().st_size)
    for part in writer._parts():
        part.release()
    left = unfinished(root)[0]
    return left.name, left.read_bytes(), offsets


@pytest.mark.parametrize(
    ("path", "options"), CUT_SHORT, ids=lambda value: value if isinstance(value, str) else ""
)
def test_a_file_cut_off_at_any_byte_is_salvaged_up_to_what_is_whole(
    tmp_path: Path, path: str, options: dict[str, Any]
) -> None:
    name, content, offsets = leave_behind(tmp_path / "origin", path, options)
    whole = tmp_path / "whole"
    for length in range(len(content) + 1):
        root = tmp_path / str(length)
        root.mkdir()
        (root / name).write_bytes(content[:length])
        surroundings = Surroundings()
        writer = surroundings.writer(root / path, **options)
        writer.open()
        writer.close()
        (told,) = surroundings.log.events("file.salvaged")
        assert told["size"] + told["cut"] == length
        assert told["size"] >= max(offset for offset in offsets if offset <= length)
        if told["path"] is None:
            assert list(root.iterdir()) == []
            continue
        assert [str(found) for found in root.iterdir()] == [told["path"]]
        kept = Path(told["path"]).read_bytes()
        assert kept == content[: told["size"]]
        if options.get("framing") != "length_prefixed":
            assert unpacked(Path(told["path"])).endswith(b"\n")
        else:
            check_length_prefixed(kept)
    assert not whole.exists()


def check_length_prefixed(data: bytes) -> None:
    while data:
        length = int.from_bytes(data[:4], "big")
        assert len(data) >= 4 + length
        data = data[4 + length :]


def test_rubbish_at_the_end_of_a_compressed_file_is_cut_off(tmp_path: Path) -> None:
    name, content, _ = leave_behind(tmp_path / "origin", "ticks.txt.zst", {"encoding": "raw"})
    (tmp_path / "next").mkdir()
    (tmp_path / "next" / name).write_bytes(content + b"\0" * 5000)
    writer = Surroundings().writer(tmp_path / "next" / "ticks.txt.zst", encoding="raw")
    writer.open()
    writer.close()
    assert finished(tmp_path / "next")[0].read_bytes() == content


def test_a_file_that_a_living_writer_holds_is_left_alone(tmp_path: Path) -> None:
    first, second = Surroundings(), Surroundings()
    living = first.writer(tmp_path / "ticks.jsonl")
    living.open()
    living.write(batch_of(Chunks(), b'{"n":1}'))
    living.flush()
    rival = second.writer(tmp_path / "ticks.jsonl")
    rival.open()
    rival.write(batch_of(Chunks(), b'{"n":2}'))
    rival.close()
    living.write(batch_of(Chunks(), b'{"n":3}'))
    living.close()
    assert second.log.events("file.salvaged") == []
    assert sorted(numbers(tmp_path)) == [1, 2, 3]


def test_files_that_are_not_of_this_sink_are_left_alone(tmp_path: Path) -> None:
    foreign = [
        f".other-{RUN}-00000000000000000001.jsonl.0123abcd-lines-none.open",
        f".ticks-{RUN}-00000000000000000001.txt.0123abcd-lines-none.open",
        ".ticks.jsonl.open",
        "ticks.jsonl",
        ".open",
    ]
    for name in foreign:
        (tmp_path / name).write_text("x\n")
    like_ours = ".ticks-{run}-{number:020d}.jsonl.0123abcd-lines-none.open"
    (tmp_path / like_ours.format(run=RUN, number=2)).symlink_to(tmp_path / ".open")
    (tmp_path / like_ours.format(run=RUN, number=3)).mkdir()
    os.mkfifo(tmp_path / like_ours.format(run=RUN, number=4))
    before = sorted(tmp_path.iterdir())
    surroundings = Surroundings()
    writer = surroundings.writer(tmp_path / "ticks.jsonl")
    writer.open()
    writer.close()
    assert sorted(tmp_path.iterdir()) == before
    assert surroundings.log.entries == []


def test_leftovers_are_found_in_all_folders_the_template_can_have_made(tmp_path: Path) -> None:
    path = tmp_path / "<stream>" / "ticks.jsonl"
    writer = Surroundings().writer(path)
    writer.open()
    writer.write(batch_of(Chunks(), b'{"n":0}', b'{"n":1}', b'{"n":2}'))
    writer.flush()
    for part in writer._parts():
        part.release()
    surroundings = Surroundings()
    successor = surroundings.writer(path)
    successor.open()
    successor.close()
    assert len(surroundings.log.events("file.salvaged")) == 3
    assert sorted(numbers(tmp_path)) == [0, 1, 2]


def test_a_death_between_the_two_names_leaves_one_file(tmp_path: Path) -> None:
    name, content, _ = leave_behind(tmp_path, "ticks.txt", {"encoding": "raw"})
    os.link(tmp_path / name, tmp_path / f"ticks-{RUN}-00000000000000000001.txt")
    writer = Surroundings().writer(tmp_path / "ticks.txt", encoding="raw")
    writer.open()
    writer.close()
    assert names(tmp_path) == [f"ticks-{RUN}-00000000000000000001.txt"]
    assert finished(tmp_path)[0].read_bytes() == content
    assert unfinished(tmp_path) == []


def test_a_new_file_that_a_rival_takes_for_a_leftover_is_given_up(tmp_path: Path) -> None:
    folder = os.open(tmp_path, os.O_RDONLY)
    rival: list[int] = []

    class Slow(Disk):
        @staticmethod
        def _lock(fd: int) -> bool:
            if not rival:
                held = os.open(tmp_path / "new", os.O_RDWR)
                rival.append(held)
                assert Disk._lock(held)
            return Disk._lock(fd)

    try:
        with pytest.raises(FileExistsError):
            Slow().create("new", folder)
    finally:
        os.close(folder)
        os.close(rival[0])
