"""The file sink when the disk fails or the process dies, at every single call to the file system."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import textwrap
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from jetsocket_ingest.sink import Batch, SinkFailed, SinkUnavailable
from jetsocket_ingest.testing.sink_support import Chunks
from jetsocket_sinks.file.disk import Disk
from tests.support.aio import run
from tests.unit.sinks.files import Crash, FaultyDisk, Surroundings, batch_of, finished, numbers, unfinished

CASES: list[dict[str, Any]] = [
    {"path": "ticks.jsonl"},
    {"path": "<stream>/ticks.jsonl.zst", "rotate": {"records": 3}},
    {"path": "<stream>.jsonl.gz", "max_open_files": 4},
]
RECORDS = 20


def numbered_batches() -> list[Batch]:
    chunks = Chunks()
    return [
        Batch([chunks.make([b'{"n":%d}' % n for n in range(start, start + 5)], streams=lambda i: f"s{i}")])
        for start in range(0, RECORDS, 5)
    ]


async def deliver_until_done(surroundings: Surroundings, disk: Disk, case: dict[str, Any], root: Path) -> int:
    """Write with retries, as delivery does, with a checkpoint every third batch; how often the sink was unavailable."""
    sink = surroundings.sink(root / case["path"], disk, **options_of(case))
    batches = numbered_batches()
    delivered = failures = 0
    await sink.open()
    while delivered < len(batches):
        waiting = []
        try:
            for batch in batches[delivered : delivered + 3]:
                waiting.append(await sink.write(batch))  # noqa: PERF401  (those before an error count)
            await sink.flush()
        except SinkUnavailable:
            failures += 1
        is_whole = True
        for awaitable in waiting:
            try:
                if awaitable is not None:
                    await awaitable
            except SinkUnavailable:
                failures += 1
                is_whole = False
            delivered += is_whole
    await sink.close()
    return failures


def options_of(case: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in case.items() if key != "path"}


def salvaged(root: Path, case: dict[str, Any]) -> list[dict[str, Any]]:
    """What a next start says that it found; nothing unfinished is left then."""
    surroundings = Surroundings()
    successor = surroundings.writer(root / case["path"], **options_of(case))
    successor.open()
    successor.close()
    assert unfinished(root) == []
    return surroundings.log.events("file.salvaged")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["path"])
@pytest.mark.parametrize("times", [1, 3])
def test_every_record_is_stored_once_whichever_call_fails(
    tmp_path: Path, case: dict[str, Any], times: int
) -> None:
    count = FaultyDisk(0, errno.EIO)
    run(deliver_until_done(Surroundings(), count, case, tmp_path / "whole"))
    assert sorted(numbers(tmp_path / "whole")) == list(range(RECORDS))
    opening = 4  # the probe and what comes before it belong to `open`, where errors are told at once
    failures = 0
    for fail_at in range(opening, count.calls + 1, times):
        root = tmp_path / str(fail_at)
        failures += run(deliver_until_done(Surroundings(), FaultyDisk(fail_at, errno.EIO, times), case, root))
        assert all(facts["cut"] == 0 for facts in salvaged(root, case)), "a closed sink leaves nothing torn"
        assert sorted(numbers(root)) == list(range(RECORDS)), fail_at
    assert failures > count.calls // (3 * times), "the faults were felt"


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["path"])
def test_after_a_crash_at_any_call_nothing_committed_is_lost_torn_or_doubled(
    tmp_path: Path, case: dict[str, Any]
) -> None:
    fail_at, crashed = 4, True
    while crashed:
        root = tmp_path / str(fail_at)
        writer = Surroundings().writer(root / case["path"], FaultyDisk(fail_at, Crash), **options_of(case))
        committed = written = 0
        crashed = False
        try:
            writer.open()
            for batch in numbered_batches():
                written += batch.count
                if writer.write(batch):
                    committed = written
                if written % 15 == 0:
                    writer.flush()
                    committed = written
            writer.close()
        except Crash:
            crashed = True
        for part in writer._parts():
            part.release()
        salvaged(root, case)
        counted = Counter(number for path in finished(root) for number in numbers(path.parent, path.name))
        assert set(counted) >= set(range(committed)), fail_at
        assert set(counted.values()) <= {1}, fail_at
        fail_at += 1
    assert fail_at > 12


def test_a_killed_process_leaves_files_that_the_next_start_completes(tmp_path: Path) -> None:
    script = textwrap.dedent(
        f"""
        import sys
        from pathlib import Path
        from jetsocket_ingest.testing.sink_support import Chunks
        from tests.unit.sinks.files import Surroundings, batch_of
        writer = Surroundings().writer(Path({str(tmp_path)!r}) / "ticks.jsonl.zst")
        writer.open()
        chunks = Chunks()
        for n in range(1_000_000):
            writer.write(batch_of(chunks, b'{{"n":%d}}' % n))
            if n % 50 == 49:
                writer.flush()
                print(n, flush=True)
        """
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, env=environment()) as child:
        assert child.stdout is not None
        told = [int(child.stdout.readline()) for _ in range(5)]
        rival = Surroundings()
        writer = rival.writer(tmp_path / "ticks.jsonl.zst")
        writer.open()
        assert rival.log.events("file.salvaged") == [], "a file in use is left alone"
        writer.close()
        child.send_signal(signal.SIGKILL)
        told += [int(line) for line in child.stdout.read().split(b"\n")[:-1]]
    assert len(salvaged(tmp_path, {"path": "ticks.jsonl.zst"})) == 1
    stored = numbers(tmp_path)
    assert stored == list(range(len(stored)))
    assert len(stored) > told[-1]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (errno.ENOSPC, SinkUnavailable),
        (errno.EIO, SinkUnavailable),
        (errno.EROFS, SinkUnavailable),
        (errno.EDQUOT, SinkUnavailable),
        (errno.EMFILE, SinkUnavailable),
        (errno.EACCES, SinkFailed),
    ],
)
def test_an_error_while_running_says_what_to_do(tmp_path: Path, code: int, kind: type[Exception]) -> None:
    async def scenario() -> None:
        disk = FaultyDisk(0, code)
        sink = Surroundings().sink(tmp_path / "ticks.jsonl", disk)
        await sink.open()
        disk._failing = range(disk.calls + 1, disk.calls + 2)
        with pytest.raises(kind, match=rf"cannot write files at .*{os.strerror(code)}; .+: "):
            await sink.write(batch_of(Chunks(), b"{}"))
        await sink.close()

    run(scenario())


def test_a_failed_checkpoint_fails_every_batch_since_the_last_one(tmp_path: Path) -> None:
    async def scenario() -> None:
        disk = FaultyDisk(0, errno.ENOSPC)
        sink = Surroundings().sink(tmp_path / "ticks.jsonl", disk)
        await sink.open()
        chunks = Chunks()
        waiting = [await sink.write(batch_of(chunks, b'{"n":%d}' % n)) for n in range(3)]
        disk._failing = range(disk.calls + 1, disk.calls + 2)
        await sink.flush()
        for awaitable in waiting:
            assert awaitable is not None
            with pytest.raises(SinkUnavailable, match="the disk is full"):
                await awaitable
        await sink.close()
        assert numbers(tmp_path) == []

    run(scenario())


@pytest.mark.parametrize("where", ["ticks", "ticks/below/deeper"])
def test_a_path_through_a_file_fails_at_open(tmp_path: Path, where: str) -> None:
    (tmp_path / "ticks").write_text("a file")

    async def scenario() -> None:
        sink = Surroundings().sink(tmp_path / where / "ticks.jsonl")
        try:
            with pytest.raises(SinkFailed, match="expected a folder, found a file"):
                await sink.open()
        finally:
            await sink.close()

    run(scenario())


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS])
def test_missing_rights_fail_at_open(tmp_path: Path, code: int) -> None:
    async def scenario() -> None:
        sink = Surroundings().sink(tmp_path / "ticks.jsonl", FaultyDisk(1, code))
        try:
            with pytest.raises(SinkFailed, match=r"change its rights or the path|mount it writable"):
                await sink.open()
        finally:
            await sink.close()

    run(scenario())


def test_a_full_disk_at_open_is_waited_for(tmp_path: Path) -> None:
    async def scenario() -> None:
        sink = Surroundings().sink(tmp_path / "ticks.jsonl", FaultyDisk(1, errno.ENOSPC))
        with pytest.raises(SinkUnavailable, match="free some space"):
            await sink.open()
        await sink.open()
        await sink.close()

    run(scenario())


def test_records_go_on_after_somebody_deleted_the_folder(tmp_path: Path) -> None:
    async def scenario() -> None:
        surroundings = Surroundings()
        sink = surroundings.sink(tmp_path / "data" / "<subscription>" / "ticks.jsonl")
        await sink.open()
        chunks = Chunks()
        first = await sink.write(batch_of(chunks, b'{"n":1}'))
        for path in unfinished(tmp_path):
            path.unlink()
        (tmp_path / "data" / "trades").rmdir()
        (tmp_path / "data").rmdir()
        await sink.flush()
        assert first is not None
        with pytest.raises(SinkUnavailable, match="somebody deleted the file"):
            await first
        await sink.write(batch_of(chunks, b'{"n":2}'))
        await sink.close()
        assert numbers(tmp_path) == [2]
        assert len(surroundings.log.events("file.deleted")) == 1

    run(scenario())


def test_a_file_that_cannot_be_sealed_stays_safe_and_is_told(tmp_path: Path) -> None:
    class NoFinalNames(Disk):
        def publish(self, temporary: str, final: str, folder: int) -> None:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    async def scenario() -> None:
        surroundings = Surroundings()
        sink = surroundings.sink(tmp_path / "ticks.jsonl", NoFinalNames())
        await sink.open()
        delivered = await sink.write(batch_of(Chunks(), b'{"n":1}'))
        await sink.close()
        assert delivered is not None
        await delivered  # its records are on disk, which is what counts
        assert len(unfinished(tmp_path)) == 1
        assert surroundings.log.events("file.left_open")[0]["files"] == [str(unfinished(tmp_path)[0])]

    run(scenario())


@pytest.mark.parametrize("times", range(1, 8))
def test_closing_on_a_failing_disk_tears_nothing(tmp_path: Path, times: int) -> None:
    surroundings = Surroundings()
    disk = FaultyDisk(0, errno.EIO)
    writer = surroundings.writer(tmp_path / "ticks.jsonl", disk)
    writer.open()
    first, second, *_ = numbered_batches()
    writer.write(first)
    writer.flush()
    writer.write(second)
    disk._failing = range(disk.calls + 1, disk.calls + 1 + times)
    writer.close()
    assert surroundings.log.events("file.left_open")
    salvaged(tmp_path, {"path": "ticks.jsonl"})
    assert numbers(tmp_path)[: first.count] == list(range(first.count))
