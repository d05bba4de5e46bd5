"""Where log lines go, and in which form."""

from __future__ import annotations

import io
import json
import logging
import warnings
from typing import Any

import pytest
import structlog

from jetsocket_ingest.telemetry.log import CLEAR_LINE, configure_logging, get_logger


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


@pytest.fixture
def stream() -> io.StringIO:
    return io.StringIO()


def test_away_from_a_terminal_auto_means_json(stream: io.StringIO) -> None:
    configure_logging("auto", "info", stream, now=lambda: 0.0)
    get_logger(endpoint="desk").bind(connection="desk-1").warning("connection.lost", code=1006)
    assert lines(stream) == [
        {
            "ts": "1970-01-01T00:00:00.000000Z",
            "level": "warning",
            "event": "connection.lost",
            "endpoint": "desk",
            "connection": "desk-1",
            "code": 1006,
        }
    ]


def test_on_a_terminal_auto_is_coloured_and_clears_the_status_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    terminal = Terminal()
    configure_logging("auto", "info", terminal)
    get_logger().info("pipeline.started", sinks=2)
    assert terminal.getvalue().startswith(CLEAR_LINE)
    assert "\x1b[32m" in terminal.getvalue()
    assert terminal.getvalue().endswith("=2\n")


def test_json_on_a_terminal_clears_the_status_line_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    terminal = Terminal()
    configure_logging("json", "info", terminal)
    get_logger().info("pipeline.started")
    assert json.loads(terminal.getvalue().removeprefix(CLEAR_LINE))["event"] == "pipeline.started"


def test_no_color_turns_colours_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    terminal = Terminal()
    configure_logging("auto", "info", terminal)
    get_logger().info("pipeline.started")
    assert "\x1b" not in terminal.getvalue().removeprefix(CLEAR_LINE)


def test_a_dumb_terminal_gets_no_escape_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    terminal = Terminal()
    configure_logging("auto", "info", terminal)
    get_logger().info("pipeline.started")
    assert "\x1b" not in terminal.getvalue()


@pytest.mark.parametrize("level", ["debug", "info", "warning", "error"])
def test_levels_below_the_chosen_one_are_silent(level: Any, stream: io.StringIO) -> None:
    configure_logging("json", level, stream)
    log = get_logger()
    for each in ("debug", "info", "warning", "error"):
        getattr(log, each)("pipeline.started")
    order = ["debug", "info", "warning", "error"]
    assert [line["level"] for line in lines(stream)] == order[order.index(level) :]


def test_a_disabled_level_evaluates_nothing_of_its_facts(stream: io.StringIO) -> None:
    class Explosive:
        def __str__(self) -> str:
            pytest.fail("a disabled line was rendered")

    configure_logging("json", "info", stream)
    get_logger().debug("connection.dialled", host=Explosive())
    assert stream.getvalue() == ""


def test_an_exception_is_rendered_inside_the_line(stream: io.StringIO) -> None:
    configure_logging("json", "info", stream)
    try:
        raise ValueError("a\nb")
    except ValueError:
        get_logger().exception("pool.task_failed")
    (line,) = lines(stream)
    assert line["level"] == "error"
    assert line["exception"].startswith("Traceback (most recent call last):\n")
    assert line["exception"].endswith("ValueError: a\nb\n")


def test_an_exception_object_is_rendered_like_a_current_one(stream: io.StringIO) -> None:
    configure_logging("json", "info", stream)
    get_logger().error("pool.task_failed", exc_info=ValueError("late"))
    assert lines(stream)[0]["exception"] == "ValueError: late\n"


@pytest.mark.parametrize(
    "library", ["websockets.client", "aiohttp.conn", "picows", "asyncio", "aiohttp.server"]
)
def test_libraries_speak_through_the_same_renderer_from_warning_upward(
    library: str, stream: io.StringIO
) -> None:
    configure_logging("json", "debug", stream)
    logging.getLogger(library).info("not this")
    logging.getLogger(library).warning("two\nlines %d", 7)
    assert [
        {key: line[key] for key in ("level", "event", "logger", "message")} for line in lines(stream)
    ] == [{"level": "warning", "event": "library.message", "logger": library, "message": "two\nlines 7"}]


def test_at_level_error_libraries_keep_their_warnings_to_themselves(stream: io.StringIO) -> None:
    configure_logging("json", "error", stream)
    logging.getLogger("aiohttp").warning("not this")
    logging.getLogger("aiohttp").error("this", exc_info=ValueError("why"))
    (line,) = lines(stream)
    assert (line["message"], line["exception"]) == ("this", "ValueError: why\n")


def test_a_librarys_broken_message_is_shown_as_it_is(stream: io.StringIO) -> None:
    logging.getLogger().handlers.clear()  # pytest's own handler raises
    configure_logging("json", "info", stream)
    logging.getLogger("aiohttp").warning("%d %d", "x")
    assert lines(stream)[0]["message"] == "'%d %d' % ('x',)"


def test_python_warnings_become_lines_too(stream: io.StringIO) -> None:
    configure_logging("json", "info", stream)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(True)
        warnings.warn("old thing", DeprecationWarning, stacklevel=1)
        logging.captureWarnings(False)
    assert "old thing" in lines(stream)[0]["message"]


def test_configuring_again_moves_every_line_to_the_new_stream(stream: io.StringIO) -> None:
    early = get_logger()
    configure_logging("json", "info", stream)
    second = io.StringIO()
    configure_logging("json", "debug", second)
    early.debug("pool.closing")
    logging.getLogger("aiohttp").warning("hm")
    assert stream.getvalue() == ""
    assert [line["event"] for line in lines(second)] == ["pool.closing", "library.message"]


def test_a_log_that_is_gone_does_not_stop_the_program() -> None:
    closed = io.StringIO()
    configure_logging("json", "info", closed)
    closed.close()
    get_logger().error("sink.failed", reason="x")


def test_a_stream_that_cannot_encode_gets_escapes() -> None:
    raw = io.BytesIO()
    configure_logging("console", "info", io.TextIOWrapper(raw, "ascii"))
    get_logger().info("pipeline.started", name="für")
    assert b"name=f\\xfcr" in raw.getvalue()


def test_unconfigured_events_go_to_the_standard_logger_of_the_package(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level("INFO", logger="jetsocket_ingest"):
        log = get_logger(endpoint="desk")
        log.debug("pool.closing")
        log.warning("connection.lost", reason="a\nb")
    assert [(record.name, record.levelname, record.getMessage()) for record in caplog.records] == [
        ("jetsocket_ingest", "WARNING", r"connection.lost endpoint=desk reason=a\nb")
    ]


def test_unconfigured_nothing_is_printed_to_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    get_logger().info("pipeline.started")
    assert capsys.readouterr().out == ""


def test_events_can_be_captured_by_structlog_in_tests() -> None:
    log = get_logger(sink="lake")
    with structlog.testing.capture_logs() as captured:
        log.info("sink.opened", type="file")
    assert captured == [{"event": "sink.opened", "log_level": "info", "sink": "lake", "type": "file"}]


def test_a_line_logged_while_another_is_written_does_not_hang() -> None:
    class Finalising(io.StringIO):
        def write(self, text: str) -> int:
            if "outer" in text:
                logging.getLogger("asyncio").error("inner")
            return super().write(text)

    stream = Finalising()
    configure_logging("json", "info", stream)
    get_logger().info("pipeline.started", what="outer")
    assert [line["event"] for line in lines(stream)] == ["library.message", "pipeline.started"]
