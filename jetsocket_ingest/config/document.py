"""YAML text → plain data and the place of everything in it; what YAML would silently misread is refused."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NoReturn

import yaml
from yaml import events

from jetsocket_ingest.errors import ConfigError

MAX_BYTES = 4 * 1024 * 1024
MAX_NODES = 100_000
MAX_DEPTH = 50
MAX_ALIASED_NODES = 1_000
_MAX_DIGITS = 100

Keys = tuple[str | int, ...]
"""The way from the top of a document to a value: names, integer keys and list indices."""

Place = tuple[int, int]
"""Line and column, both from 1."""


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """Something wrong at a place."""

    place: Place
    message: str

    def at(self, source: str) -> str:
        """`quickstart.yaml:12:9: …`"""
        return f"{source}:{self.place[0]}:{self.place[1]}: {self.message}"


@dataclass(slots=True)
class Node:
    """A value of the document. `value` is a scalar, a list of nodes, or a dict of key → (place of the key, node)."""

    place: Place
    value: Any
    size: int = 1
    """Values in it, itself included, with aliases expanded."""
    height: int = 1
    """Levels in it."""


@dataclass(slots=True)
class Document:
    """A parsed document: data, and places for what is found wrong with it later."""

    root: Node
    problems: list[Problem] = field(default_factory=list)
    """What was wrong but did not stop the parser."""

    @property
    def data(self) -> Any:
        """The document as dicts, lists and scalars; a new copy each time."""
        return _plain(self.root)

    def place(self, keys: Keys, *, of_key: bool = False) -> Place:
        """Where the value stands, or its key; of the nearest value around it where it does not exist."""
        node, key_place = self.root, self.root.place
        for key in keys:
            if isinstance(node.value, dict) and key in node.value:
                key_place, node = node.value[key]
            elif isinstance(node.value, list) and isinstance(key, int) and 0 <= key < len(node.value):
                node = node.value[key]
                key_place = node.place
            else:
                break
        return key_place if of_key else node.place


def _plain(node: Node) -> Any:
    if isinstance(node.value, dict):
        return {key: _plain(item) for key, (_, item) in node.value.items()}
    if isinstance(node.value, list):
        return [_plain(item) for item in node.value]
    return node.value


def parse(text: str | bytes, source: str) -> Document:
    """Parse one YAML document. ConfigError where there is none, or where the parser cannot go on."""
    return _Composer(_decode(text, source), source).compose()


def _decode(text: str | bytes, source: str) -> str:
    encoded = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
    if len(encoded) > MAX_BYTES:
        raise ConfigError(f"{source}: expected at most {MAX_BYTES} bytes (4 MiB), found a larger file")
    try:
        decoded = encoded.decode("utf-8")
    except UnicodeDecodeError as error:
        before = encoded[: error.start]
        line = before.count(b"\n") + 1
        column = len(before.rpartition(b"\n")[2].decode("utf-8", "replace")) + 1
        raise ConfigError(
            f"{source}:{line}:{column}: expected UTF-8 text, found the byte 0x{encoded[error.start]:02x}; "
            "save the file as UTF-8"
        ) from None
    return decoded.removeprefix("\ufeff")


_INTEGER = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_INFINITE = re.compile(r"([-+]?)\.(?:inf|Inf|INF)")
_WORDS: dict[str, Any] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), float("nan")),
}


def core_scalar(text: str) -> Any:
    """A plain scalar by YAML 1.2's core schema: `no`, `on`, `12:30:45` and dates are text. ValueError where a number
    has more than a hundred digits."""
    if text in _WORDS:
        return _WORDS[text]
    if _INTEGER.fullmatch(text):
        if len(text) > _MAX_DIGITS:
            raise ValueError(f"expected a number of at most {_MAX_DIGITS} digits; put a longer one in quotes")
        return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))
    if _FLOAT.fullmatch(text):
        return float(text)
    infinite = _INFINITE.fullmatch(text)
    return float(f"{infinite[1]}inf") if infinite else text


_PLACEHOLDER = re.compile(r"<[A-Za-z_][A-Za-z0-9_.]*>")
_SURROGATE = re.compile("[\ud800-\udfff]")


class _Composer:
    """Builds nodes from the parser's events. Recursion is bounded by MAX_DEPTH."""

    def __init__(self, text: str, source: str) -> None:
        self.text = text
        self.source = source
        self.problems: list[Problem] = []
        self.anchors: dict[str, Node | None] = {}
        self.nodes = 0
        self.aliased = 0

    def compose(self) -> Document:
        self.events = self._read()
        next(self.events)  # the stream begins
        if isinstance(next(self.events), events.StreamEndEvent):
            raise ConfigError(f"{self.source}: expected a YAML document, found an empty file")
        root = self._node(next(self.events), 1)
        next(self.events)  # the document ends
        following = next(self.events)
        if not isinstance(following, events.StreamEndEvent):
            self._fatal(
                following.start_mark, "expected one YAML document, found a second one that begins here"
            )
        return Document(root, self.problems)

    def _read(self) -> Iterator[Any]:
        parser: Any = None
        try:
            parser = yaml.SafeLoader(self.text)
            while parser.check_event():
                yield parser.get_event()
        except yaml.reader.ReaderError as error:
            before = self.text[: error.position]
            place = (before.count("\n") + 1, len(before.rpartition("\n")[2]) + 1)
            self._stop(place, f"expected printable text, found the character U+{error.character:04X}")
        except yaml.MarkedYAMLError as error:
            self._syntax(error)
        except (ValueError, OverflowError):
            # The scanner passes numbers in escapes and directives to chr() and int() unchecked.
            self._fatal(
                parser.get_mark(), "expected YAML, found an escape or directive with an impossible number"
            )
        finally:
            if parser is not None:
                parser.dispose()

    def _syntax(self, error: yaml.MarkedYAMLError) -> None:
        mark = error.problem_mark or error.context_mark
        index = mark.index if mark else 0
        problem = error.problem or "this is not YAML"
        advice = ""
        if self.text[max(index - 1, 0) : index + 1] == "${":
            advice = '; put a text with ${…} in quotes: "${NAME}"'
        elif problem.startswith("expected ',' or"):
            advice = "; a text that holds [ ] { } or , must be in quotes here"
        elif "mapping values are not allowed" in problem:
            advice = (
                "; a text that holds ': ' must be in quotes, and keys of one mapping stand below each other"
            )
        elif "\\t" in problem:
            advice = "; indent with spaces, not tabs"
        elif "unknown escape" in problem:
            advice = "; write \\\\ for a backslash, or use single quotes"
        context = f" {error.context}" if error.context and "alias" not in error.context else ""
        self._fatal(mark, f"not valid YAML{context}: {problem}{advice}")

    def _node(self, event: Any, depth: int) -> Node:
        if isinstance(event, events.AliasEvent):
            return self._alias(event, depth)
        self.nodes += 1
        if self.nodes > MAX_NODES:
            self._fatal(event.start_mark, f"expected at most {MAX_NODES} values in a config, found more")
        if depth > MAX_DEPTH:
            self._fatal(event.start_mark, f"expected at most {MAX_DEPTH} levels, found more")
        tagged = self._check_tag(event)
        if event.anchor is not None:
            self.anchors[event.anchor] = None  # not to be used within itself
        if isinstance(event, events.ScalarEvent):
            node = Node(_place(event.start_mark), self._scalar(event, tagged))
        elif isinstance(event, events.SequenceStartEvent):
            node = self._sequence(event, depth)
        else:
            node = self._mapping(event, depth)
        if event.anchor is not None:
            self.anchors[event.anchor] = node
        return node

    def _alias(self, event: Any, depth: int) -> Node:
        # Names of aliases and tags are never shown: a password that begins with * or ! and is not quoted looks like one.
        target = self.anchors.get(event.anchor)
        if target is None:
            self._fatal(
                event.start_mark,
                "expected an anchor (&name) before this alias (*name), found none; put a text that begins with * in quotes",
            )
        self.aliased += target.size
        if self.aliased > MAX_ALIASED_NODES:
            self._fatal(
                event.start_mark,
                f"expected aliases that stand for at most {MAX_ALIASED_NODES} values, found more",
            )
        if depth + target.height - 1 > MAX_DEPTH:
            self._fatal(
                event.start_mark, f"expected at most {MAX_DEPTH} levels, found more through this alias"
            )
        return Node(_place(event.start_mark), target.value, target.size, target.height)

    def _check_tag(self, event: Any) -> bool:
        """Whether a tag says that this scalar is text."""
        if event.tag in (None, "!", "tag:yaml.org,2002:str"):
            return event.tag is not None
        self._problem(
            _place(event.start_mark),
            "YAML tags (!name) are not supported; put a text that begins with ! in quotes",
        )
        return True

    def _scalar(self, event: Any, tagged: bool) -> Any:
        if _SURROGATE.search(event.value):
            self._problem(
                _place(event.start_mark), "expected text, found half a character (a \\ud8xx escape by itself)"
            )
            return _SURROGATE.sub("?", event.value)
        if tagged or event.style is not None:
            return event.value
        try:
            return core_scalar(event.value)
        except ValueError as error:
            self._problem(_place(event.start_mark), str(error))
            return event.value

    def _sequence(self, start: Any, depth: int) -> Node:
        node = Node(_place(start.start_mark), [])
        while not isinstance(event := next(self.events), events.SequenceEndEvent):
            item = self._node(event, depth + 1)
            node.value.append(item)
            _grow(node, item)
        return node

    def _mapping(self, start: Any, depth: int) -> Node:
        node = Node(_place(start.start_mark), {})
        while not isinstance(event := next(self.events), events.MappingEndEvent):
            key = self._node(event, depth + 1)
            value_event = next(self.events)
            value = self._node(value_event, depth + 1)
            _grow(node, value)
            if self._check_key(start, event, key, value_event, node.value):
                node.value[key.value] = (key.place, value)
        return node

    def _check_key(self, start: Any, event: Any, key: Node, value_event: Any, seen: dict[Any, Any]) -> bool:
        """Whether the key may stand; else a problem is noted and the pair is left out."""
        plain = isinstance(event, events.ScalarEvent) and event.style is None
        if (
            plain
            and start.flow_style
            and _PLACEHOLDER.search(event.value)
            and _misread(start, event, value_event)
        ):
            text = _quoted(start, event)
            self._problem(
                key.place, f"YAML reads this as a mapping, not as text; put it in quotes, as in {text}"
            )
        if plain and event.value == "<<":
            problem = "merge keys (<<) are not supported; write the keys out"
        elif isinstance(key.value, (list, dict)):
            problem = "expected a name as key, found a list or mapping"
        elif not isinstance(key.value, (str, int)) or isinstance(key.value, bool):
            problem = "expected a name as key, found null, true, false or a fraction; put it in quotes if it is a name"
        elif isinstance(key.value, str) and "${" in key.value.replace("$${", ""):
            problem = "${…} works in values only, not in keys"
        elif key.value in seen:
            line, column = seen[key.value][0]
            problem = f"duplicate key {str(key.value)[:80]}; it stands at {line}:{column} already"
        else:
            return True
        self._problem(key.place, problem)
        return False

    def _problem(self, place: Place, message: str) -> None:
        self.problems.append(Problem(place, message))

    def _fatal(self, mark: Any, message: str) -> NoReturn:
        self._stop(_place(mark) if mark else (1, 1), message)

    def _stop(self, place: Place, message: str) -> NoReturn:
        found = sorted({*self.problems, Problem(place, message)})
        raise ConfigError([problem.at(self.source) for problem in found]) from None


def _grow(node: Node, child: Node) -> None:
    node.size += child.size
    node.height = max(node.height, child.height + 1)


def _misread(start: Any, key: Any, value: Any) -> bool:
    """`{<streams>}` has no value, and `[<a>: b]` is a mapping without braces."""
    no_value = isinstance(value, events.ScalarEvent) and value.style is None and not value.value
    braces = start.start_mark.index != key.start_mark.index
    return no_value or not braces


def _quoted(start: Any, key: Any) -> str:
    return '"<a>: b"' if start.start_mark.index == key.start_mark.index else f'"{{{key.value[:80]}}}"'


def _place(mark: Any) -> Place:
    return mark.line + 1, mark.column + 1
