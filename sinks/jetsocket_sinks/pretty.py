"""Records as lines for people: aligned, coloured, cut to the terminal's width, and unable to do anything to it."""

from __future__ import annotations

import os
import time
import unicodedata

from jetsocket_ingest.sink import Chunk, Kind

_DIM, _CYAN, _GREEN, _YELLOW, _RED, _RESET = (
    "\x1b[2m",
    "\x1b[36m",
    "\x1b[32m",
    "\x1b[33m",
    "\x1b[31m",
    "\x1b[0m",
)
_MARKER_COLOURS = {Kind.CONNECT: _GREEN, Kind.DISCONNECT: _YELLOW, Kind.GAP: _RED}
_WIDTH_WITHOUT_TERMINAL = 120
_LEAST_PAYLOAD = 20


class PrettyPrinter:
    """Formats chunks for the terminal behind `fd`, whose width is looked up anew for each chunk."""

    def __init__(self, fd: int, *, coloured: bool) -> None:
        self._fd = fd
        self._coloured = coloured

    def lines(self, chunk: Chunk) -> bytes:
        """A line a record: time (UTC), subscription, stream, payload; of markers the kind stands for the stream."""
        width = self._width()
        seconds, fraction = divmod(chunk.received_ns, 1_000_000_000)
        clock = f"{time.strftime('%H:%M:%S', time.gmtime(seconds))}.{fraction // 1_000_000:03d}"
        subscription = cut(escaped(chunk.subscription), 24)
        marker = _MARKER_COLOURS.get(chunk.kind)
        lines = []
        for payload, name in zip(chunk.payloads, chunk.streams, strict=True):
            stream = escaped(name or "")
            if marker is not None:
                stream = f"{chunk.kind.value} {stream}".strip()
            stream = cut(stream, 32)
            used = len(clock) + columns(subscription) + columns(stream) + 3
            text = cut(_as_text(payload, chunk.binary, width), max(_LEAST_PAYLOAD, width - used))
            if self._coloured:
                colour = marker or ""
                line = (
                    f"{_DIM}{clock}{_RESET} {_CYAN}{subscription}{_RESET} {colour or _GREEN}{stream}{_RESET} "
                )
                line += f"{colour}{text}{_RESET}" if colour else text
            else:
                line = f"{clock} {subscription} {stream} {text}"
            lines.append(line + "\n")
        return "".join(lines).encode()

    def _width(self) -> int:
        try:
            return os.get_terminal_size(self._fd).columns or _WIDTH_WITHOUT_TERMINAL
        except OSError:
            return _WIDTH_WITHOUT_TERMINAL


def _as_text(payload: bytes, binary: bool, width: int) -> str:
    """As much of the payload as can be seen: a character has 4 bytes at most."""
    beginning = payload[: 4 * width]
    if binary:
        return f"{len(payload)} bytes: {beginning.hex(' ')}"
    rest = "…" if len(beginning) < len(payload) else ""
    return escaped(beginning.decode(errors="backslashreplace")) + rest


def escaped(text: str, keep: str = "") -> str:
    """The text with everything that is not printable (control, format and private characters) as an escape."""
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() or character in keep else _escape(character)
        for character in text
    )


def _escape(character: str) -> str:
    return character.encode("unicode_escape", "surrogatepass").decode()


def columns(text: str) -> int:
    """Terminal columns the text takes."""
    return len(text) if text.isascii() else sum(map(_columns_of, text))


def _columns_of(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def cut(text: str, width: int) -> str:
    """The text, or its beginning and an ellipsis where it is wider."""
    if columns(text) <= width:
        return text
    if text.isascii():
        return text[: width - 1] + "…"
    taken = 0
    for index, character in enumerate(text):
        taken += _columns_of(character)
        if taken > width - 1:
            return text[:index] + "…"
    raise AssertionError("unreachable: the text was wider")
