"""Standard output: lines for a pipe, colours for a terminal, and readers that go away."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import pty
import re
import struct
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jetsocket_ingest.sink import Batch, Kind, OutputClosed, SinkFailed, SinkUnavailable, marker_payload
from jetsocket_ingest.testing.sink_support import Chunks
from jetsocket_sinks.pretty import columns, cut, escaped
from jetsocket_sinks.stdout import StdoutOptions, StdoutSink
from tests.support.aio import run
from tests.unit.sinks.files import Surroundings, batch_of

CLEAR_LINE = b"\r\x1b[K"
COLOUR = re.compile(rb"\x1b\[\d+m")


def sink_on(fd: int, surroundings: Surroundings | None = None, **options: Any) -> StdoutSink:
    context = (surroundings or Surroundings()).context()
    return StdoutSink(StdoutOptions.model_validate({"type": "stdout", **options}), context, fd=fd)


@contextmanager
def terminal(width: int = 80) -> Iterator[tuple[int, int]]:
    """Both ends of a terminal: the one a person looks at, and the program's."""
    person, program = pty.openpty()
    tty.setraw(program)
    fcntl.ioctl(program, termios.TIOCSWINSZ, struct.pack("HHHH", 24, width, 0, 0))
    try:
        yield person, program
    finally:
        os.close(person)
        os.close(program)


def shown(batch: Batch, width: int = 80, **options: Any) -> bytes:
    """What a person at a terminal gets to see."""
    with terminal(width) as (person, program):

        async def scenario() -> None:
            sink = sink_on(program, **options)
            await sink.open()
            await sink.write(batch)
            await sink.close()

        run(scenario())
        return os.read(person, 1_000_000)


def test_on_a_terminal_a_record_is_a_coloured_line_of_time_names_and_payload() -> None:
    output = shown(batch_of(Chunks(), b'{"price":1}'))
    assert output.startswith(CLEAR_LINE)
    assert COLOUR.search(output)
    assert COLOUR.sub(b"", output) == CLEAR_LINE + b'07:50:23.123 trades stream-0 {"price":1}\n'


def test_markers_have_another_colour_and_tell_their_kind() -> None:
    chunks = Chunks()
    data = shown(batch_of(chunks, b"{}"))
    gap = shown(batch_of(chunks, marker_payload(Kind.GAP, {"count": 3}), kind=Kind.GAP))
    assert b" gap stream-0 " in COLOUR.sub(b"", gap)
    assert not set(COLOUR.findall(gap)) <= set(COLOUR.findall(data))


@pytest.mark.parametrize("width", [40, 80, 200])
def test_a_line_is_never_wider_than_the_terminal(width: int) -> None:
    payloads = [b"x" * 1000, "価格".encode() * 300, ("e" + "\u0301" * 3).encode() * 300, b"short"]
    output = COLOUR.sub(b"", shown(batch_of(Chunks(), *payloads), width)).removeprefix(CLEAR_LINE).decode()
    for line in output.splitlines():
        assert columns(line) <= max(width, 60)
    assert output.count("…") == 3


def test_colours_can_be_refused_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    assert not COLOUR.search(shown(batch_of(Chunks(), b"{}")))


HOSTILE = [
    "\x1b[2J",
    "\x1b]0;title\x07",
    "\r",
    "\n",
    "\b" * 5,
    "\x9b2J",
    "\u202e",
    "\u2028",
    "\x00",
    "\x7f",
    "\ue000",
]


@pytest.mark.parametrize("options", [{}, {"pretty": "never"}, {"pretty": "never", "encoding": "raw"}])
@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_nothing_in_a_record_can_move_the_cursor(text: str, options: dict[str, Any]) -> None:
    chunk = Chunks().make([f'"{text}"'.encode(), text.encode()], streams=lambda _: text)
    chunk.subscription = text
    output = COLOUR.sub(b"", shown(Batch([chunk]), **options)).removeprefix(CLEAR_LINE).decode()
    assert output.replace("\n", "").isprintable()
    assert output.count("\n") == (0 if options.get("encoding") and text == "\n" else 2)


@given(st.text())
def test_escaped_text_is_printable_and_printable_text_stays(text: str) -> None:
    assert escaped(text).isprintable()
    assert not text.isprintable() or escaped(text) == text


@given(st.text(), st.integers(1, 50))
def test_cut_text_fits(text: str, width: int) -> None:
    result = cut(text, width)
    assert columns(result) <= width
    assert result == text or (result.endswith("…") and text.startswith(result[:-1]))


def test_pretty_lines_can_be_asked_for_without_a_terminal(tmp_path: Path) -> None:
    assert COLOUR.sub(b"", stored(tmp_path, batch_of(Chunks(), b"{}"), pretty="always")).endswith(
        b" stream-0 {}\n"
    )


def test_binary_payloads_are_shown_as_bytes() -> None:
    assert b"3 bytes: 00 ff 1b" in shown(batch_of(Chunks(), b"\x00\xff\x1b", binary=True))


def stored(tmp_path: Path, batch: Batch, surroundings: Surroundings | None = None, **options: Any) -> bytes:
    fd = os.open(tmp_path / "out", os.O_RDWR | os.O_CREAT)

    async def scenario() -> None:
        sink = sink_on(fd, surroundings, **options)
        await sink.open()
        await sink.write(batch)
        await sink.close()

    try:
        run(scenario())
    finally:
        os.close(fd)
    return (tmp_path / "out").read_bytes()


def test_into_a_file_nothing_but_records_is_written(tmp_path: Path) -> None:
    assert stored(tmp_path, batch_of(Chunks(), b"one", b"\x1b[2J"), encoding="raw") == b"one\n\x1b[2J\n"


def test_a_raw_record_with_a_line_feed_is_rejected_with_advice(tmp_path: Path) -> None:
    surroundings = Surroundings()
    assert (
        stored(tmp_path, batch_of(Chunks(), b"a", b"b\nc", b"d"), surroundings, encoding="raw") == b"a\nd\n"
    )
    ((record, reason),) = surroundings.rejected
    assert record.payload == b"b\nc"
    assert "encoding: envelope" in reason


def test_a_reader_that_goes_away_ends_quietly() -> None:
    async def scenario() -> None:
        reader, writer = os.pipe()
        sink = sink_on(writer)
        await sink.open()
        os.close(reader)
        with pytest.raises(OutputClosed):
            await sink.write(batch_of(Chunks(), b"{}"))
        await sink.close()
        os.close(writer)

    run(scenario())


def test_a_reader_that_stalls_stalls_neither_the_loop_nor_the_end() -> None:
    async def scenario() -> None:
        reader, writer = os.pipe()
        sink = sink_on(writer)
        await sink.open()
        writing = asyncio.ensure_future(sink.write(batch_of(Chunks(), b"x" * 1_000_000)))
        first = await asyncio.to_thread(os.read, reader, 100)  # the write has begun, and the loop is free
        assert first.startswith(b'{"kind":"data"')
        await asyncio.sleep(0)
        assert not writing.done()
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)
        await sink.close()
        os.close(reader)
        os.close(writer)

    run(scenario())


def test_more_than_a_pipe_holds_arrives_whole() -> None:
    async def scenario() -> bytes:
        reader, writer = os.pipe()
        sink = sink_on(writer, encoding="raw")
        await sink.open()
        reading = asyncio.ensure_future(asyncio.to_thread(read_all, reader))
        await sink.write(batch_of(Chunks(), b"x" * 1_000_000, b"y" * 1_000_000))
        await sink.close()
        os.close(writer)
        return await reading

    assert run(scenario()) == b"x" * 1_000_000 + b"\n" + b"y" * 1_000_000 + b"\n"


def read_all(fd: int) -> bytes:
    with os.fdopen(fd, "rb") as stream:
        return stream.read()


def test_a_missing_standard_output_fails_at_open() -> None:
    async def scenario() -> None:
        reader, writer = os.pipe()
        os.close(reader)
        os.close(writer)
        sink = sink_on(writer)
        with pytest.raises(SinkFailed, match="expected an open standard output"):
            await sink.open()
        await sink.close()

    run(scenario())


def test_a_line_cut_off_by_a_full_disk_is_finished_before_the_batch_comes_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = [30]
    write = os.write

    def on_a_full_disk(fd: int, data: bytes) -> int:
        if fd != out:
            return write(fd, data)
        if room[0] == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        taken = write(fd, data[: room[0]])
        room[0] -= taken
        return taken

    out = os.open(tmp_path / "out", os.O_WRONLY | os.O_CREAT)
    monkeypatch.setattr(os, "write", on_a_full_disk)
    batch = batch_of(Chunks(), b"a" * 20, b"b" * 20, b"c" * 20)

    async def scenario() -> None:
        sink = sink_on(out, encoding="raw")
        await sink.open()
        for _ in range(2):
            with pytest.raises(SinkUnavailable, match="free some space"):
                await sink.write(batch)
        room[0] = 1000
        await sink.write(batch)
        await sink.close()
        os.close(out)

    run(scenario())
    written = (tmp_path / "out").read_bytes().splitlines()
    assert written == [b"a" * 20, b"b" * 20, *batch.chunks[0].payloads]
