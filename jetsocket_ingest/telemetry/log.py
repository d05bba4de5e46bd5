"""The one way to a logger, and where log lines go.

Until `configure_logging` is called, as in a program that uses this package as a library, events go to the standard
logger `jetsocket_ingest`, and the host decides. The program itself calls it once, before anything logs.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, Literal, NoReturn, TextIO

import structlog
from structlog.typing import EventDict, FilteringBoundLogger

from jetsocket_ingest.telemetry.render import console_line, exception_text, json_line, words

CLEAR_LINE = "\r\x1b[K"
"""A live status line may stand where the next line goes."""

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


def get_logger(**context: object) -> FilteringBoundLogger:
    """A structured logger. Events are names from the catalogue (`connection.lost`), the facts are keyword arguments.

    Made after `configure_logging`, a logger has its level built in: a disabled call returns at once. One made before
    (at the top of a module) looks the configuration up at each call.
    """
    logger: FilteringBoundLogger = structlog.get_logger(**context)
    return logger if structlog.get_config()["logger_factory"] is _nowhere else logger.bind()


def configure_logging(
    format: Literal["auto", "json", "console"] = "auto",
    level: Literal["debug", "info", "warning", "error"] = "info",
    stream: TextIO | None = None,
    *,
    now: Callable[[], float] = time.time,
) -> None:
    """Send every log line of this process to `stream` (standard error by default), libraries' lines included.

    `auto` is for people on a terminal and JSON elsewhere. On a terminal lines have colours (unless NO_COLOR is set)
    and each first clears the line it stands on. Libraries speak from WARNING upward, as `library.message`, and so do
    Python's own warnings.
    """
    stream = sys.stderr if stream is None else stream
    terminal = stream.isatty() and os.environ.get("TERM") != "dumb"
    console = format == "console" or (format == "auto" and stream.isatty())
    output = _Output(stream, now, console=console, terminal=terminal)
    structlog.configure(
        processors=[output.take],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=_somewhere,
        cache_logger_on_first_use=False,
    )
    root = logging.getLogger()
    for handler in root.handlers[:]:
        if isinstance(handler, _LibraryHandler):
            root.removeHandler(handler)
    root.addHandler(_LibraryHandler(output, max(_LEVELS[level], logging.WARNING)))
    root.setLevel(max(_LEVELS[level], logging.WARNING))
    logging.captureWarnings(True)


class _Output:
    """Writes one line at a time, whichever thread it comes from."""

    def __init__(self, stream: TextIO, now: Callable[[], float], *, console: bool, terminal: bool) -> None:
        self._stream = stream
        self._now = now
        self._console = console
        self._prefix = CLEAR_LINE if terminal else ""
        self._colour = terminal and not os.environ.get("NO_COLOR")
        # Reentrant: while a line is written, a finaliser may log another one on the same thread.
        self._lock = threading.RLock()

    def take(self, _logger: object, level: str, event_dict: EventDict) -> NoReturn:
        """A structlog processor, first and last of its chain."""
        event = str(event_dict.pop("event"))
        trace = exception_text(event_dict.pop("exc_info", None))
        self.write(level, event, {**event_dict, "exception": trace} if trace else event_dict)
        raise structlog.DropEvent

    def write(self, level: str, event: str, facts: dict[str, Any] | EventDict) -> None:
        if self._console:
            line = console_line(self._now(), level, event, facts, colour=self._colour)
        else:
            line = json_line(self._now(), level, event, facts)
        text = f"{self._prefix}{line}\n"
        with self._lock:
            try:
                self._put(text)
            except UnicodeEncodeError:
                self._put(text.encode("ascii", "backslashreplace").decode())
            except (OSError, ValueError):
                # The log itself is gone (a closed pipe, a closed stream): there is nowhere left to say so, and data
                # must go on flowing.
                pass

    def _put(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()


class _LibraryHandler(logging.Handler):
    """Brings the standard logging of libraries to the same output."""

    def __init__(self, output: _Output, level: int) -> None:
        super().__init__(level)
        self._output = output

    def emit(self, record: logging.LogRecord) -> None:
        try:
            message = record.getMessage()
        except (TypeError, ValueError, KeyError):
            message = f"{record.msg!r} % {record.args!r}"
        facts: dict[str, Any] = {"logger": record.name, "message": message.rstrip()}
        trace = exception_text(record.exc_info)
        if trace:
            facts["exception"] = trace
        # What follows stands for the catalogue's `library.message`, at the level that the library chose.
        self._output.write(logging.getLevelName(record.levelno).lower(), "library.message", facts)


def _somewhere(*_: object) -> None:
    """No logger is wrapped: the processor writes."""


def _nowhere(*_: object) -> None:
    """Marks that nobody has configured logging yet."""


def _to_standard_logging(_logger: object, level: str, event_dict: EventDict) -> NoReturn:
    standard = logging.getLogger("jetsocket_ingest")
    number = logging.getLevelNamesMapping().get(level.upper(), logging.INFO)
    if standard.isEnabledFor(number):
        event = str(event_dict.pop("event"))
        trace = event_dict.pop("exc_info", None)
        standard.log(number, "%s", words(event, event_dict, colour=False), exc_info=trace)
    raise structlog.DropEvent


# In a program that configures no logging, Python would print our warnings to standard error.
logging.getLogger("jetsocket_ingest").addHandler(logging.NullHandler())

if not structlog.is_configured():
    # structlog's own default prints to standard output, which belongs to the stdout sink.
    structlog.configure(
        processors=[_to_standard_logging],
        wrapper_class=structlog.make_filtering_bound_logger(logging.NOTSET),
        logger_factory=_nowhere,
        cache_logger_on_first_use=False,
    )
