"""Placeholders: `<name>` in a text, or anywhere in a JSON-like tree, replaced by a value."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeVar

from jetsocket_ingest.config.types import Interpolated

FUNCTIONS = frozenset({"now_s", "now_ms", "now_iso", "uuid", "counter"})
"""Names whose values are functions without arguments, called at each rendering."""

_TOKEN = re.compile(r"<<([A-Za-z_][A-Za-z0-9_.]{0,63})>>|<([A-Za-z_][A-Za-z0-9_.]{0,63})>")
_ANGLES = re.compile(r"<([^<>\n]{1,64})>")

_Part = str | Callable[[], object]


class Template:
    """A text with placeholders, compiled once and rendered often.

    Attributes:
        source: the text as written.
        fields: the names it uses.
        warnings: a sentence for each `<text>` that looks like a declared name, misspelt.
    """

    __slots__ = ("_format", "_slots", "fields", "source", "warnings")

    def __init__(
        self,
        source: str,
        format: str,
        slots: tuple[_Part, ...],
        fields: frozenset[str],
        warnings: tuple[str, ...],
    ) -> None:
        self.source = source
        self.fields = fields
        self.warnings = warnings
        self._format = format
        self._slots = slots

    @classmethod
    def parse(cls, text: str, names: Collection[str]) -> Template:
        """Every `<name>` of a declared name is a placeholder, `<<name>>` stands for the text `<name>`, and anything
        else in angle brackets is text. What comes out of `${…}` is text too, read afresh at each rendering."""
        format: list[str] = []
        slots: list[_Part] = []
        fields: set[str] = set()
        warnings: list[str] = []
        for piece in text.pieces if isinstance(text, Interpolated) else (text,):
            if not isinstance(piece, str):
                format.append("%s")
                slots.append(piece)
                continue
            end = 0
            for token in _TOKEN.finditer(piece):
                escaped, name = token.groups()
                if (escaped or name) not in names:
                    continue
                literal = piece[end : token.start()]
                end = token.end()
                warnings += _near_misses(literal, names)
                format.append(literal.replace("%", "%%"))
                if escaped:
                    format.append(f"<{escaped}>")
                else:
                    format.append("%s")
                    slots.append(name)
                    fields.add(name)
            warnings += _near_misses(piece[end:], names)
            format.append(piece[end:].replace("%", "%%"))
        source = text.source if isinstance(text, Interpolated) else text
        unique = tuple(dict.fromkeys(warnings))
        return cls(source, "".join(format), tuple(slots), frozenset(fields), unique)

    @property
    def is_literal(self) -> bool:
        """Whether it has no placeholder, so that every rendering needs no values."""
        return not self.fields

    def render(self, values: Mapping[str, object]) -> str:
        """The text with each placeholder replaced. A list is joined with commas, None is empty, a function is called.

        KeyError where a field has no value.
        """
        return self._format % tuple([as_text(values[s] if s.__class__ is str else s) for s in self._slots])

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Template):
            return NotImplemented
        return (self.source, self.fields) == (other.source, other.fields)

    def __hash__(self) -> int:
        return hash((self.source, self.fields))

    def __repr__(self) -> str:
        return f"Template({self.source!r})"


def as_text(value: object) -> str:
    """A value as it stands within a text; JSON's words for booleans."""
    if isinstance(value, str):
        return value
    if callable(value):
        return as_text(value())
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (list, tuple)):
        return ",".join([as_text(item) for item in value])
    return str(value)


class TreeTemplate:
    """A JSON-like tree (dicts, lists, scalars) with placeholders in its texts and keys.

    A text that is exactly one placeholder keeps the value's type: `args: <streams>` becomes a list.

    Attributes:
        source: the tree as written.
        fields: the names it uses.
        warnings: as `Template.warnings`.
    """

    __slots__ = ("_render", "fields", "source", "warnings")

    def __init__(
        self, source: object, render: _Render, fields: frozenset[str], warnings: tuple[str, ...]
    ) -> None:
        self.source = source
        self.fields = fields
        self.warnings = warnings
        self._render = render

    @classmethod
    def parse(cls, tree: object, names: Collection[str]) -> TreeTemplate:
        """ValueError where the tree holds what JSON cannot express."""
        texts: list[Template] = []
        render = _compile(tree, names, texts)
        fields = frozenset[str]().union(*(text.fields for text in texts))
        warnings = tuple(dict.fromkeys(warning for text in texts for warning in text.warnings))
        return cls(tree, render, fields, warnings)

    @property
    def is_literal(self) -> bool:
        """Whether it has no placeholder."""
        return not self.fields

    def render(self, values: Mapping[str, object]) -> Any:
        """The tree with each placeholder replaced. Parts without any are shared between renderings: do not change
        the result. KeyError where a field has no value."""
        return self._render(values)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, TreeTemplate):
            return NotImplemented
        # `repr` tells 1 from True, which compare as equal.
        return (repr(self.source), self.fields) == (repr(other.source), other.fields)

    def __hash__(self) -> int:
        return hash((repr(self.source), self.fields))

    def __repr__(self) -> str:
        return f"TreeTemplate({self.source!r})"


_Render = Callable[[Mapping[str, object]], Any]


def _compile(tree: object, names: Collection[str], texts: list[Template]) -> _Render:
    if isinstance(tree, str):
        return _compile_text(tree, names, texts)
    if isinstance(tree, Mapping):
        return _compile_mapping(tree, names, texts)
    if isinstance(tree, list):
        count = len(texts)
        items = [_compile(item, names, texts) for item in tree]
        if not _changes(texts[count:]):
            return _constant([item({}) for item in items])
        return lambda values: [item(values) for item in items]
    if isinstance(tree, float) and not math.isfinite(tree):
        raise ValueError(f"expected a value that JSON can express, found the number {tree}")
    if tree is None or isinstance(tree, (bool, int, float)):
        return _constant(tree)
    raise ValueError(f"expected a value that JSON can express, found a {type(tree).__name__}")


def _compile_text(text: str, names: Collection[str], texts: list[Template]) -> _Render:
    template = Template.parse(text, names)
    texts.append(template)
    whole = _TOKEN.fullmatch(text) if not isinstance(text, Interpolated) else None
    if whole is not None and whole[2] in names:
        name = whole[2]

        def value_itself(values: Mapping[str, object]) -> object:
            value = values[name]
            return value() if callable(value) else value

        return value_itself
    return template.render if _changes([template]) else _constant(template.render({}))


def _compile_mapping(tree: Mapping[Any, object], names: Collection[str], texts: list[Template]) -> _Render:
    for key in tree:
        if not isinstance(key, str):
            raise ValueError(f"expected text as a key, as JSON does, found {key!r}; put it in quotes")
    count = len(texts)
    items = [(Template.parse(key, names), _compile(item, names, texts)) for key, item in tree.items()]
    texts += [key for key, _ in items]
    if not _changes(texts[count:]):
        return _constant({key.render({}): item({}) for key, item in items})
    if all(key.is_literal for key, _ in items):
        constant = [(key.render({}), item) for key, item in items]
        return lambda values: {key: item(values) for key, item in constant}
    return lambda values: {key.render(values): item(values) for key, item in items}


def _changes(texts: list[Template]) -> bool:
    """Whether a rendering can differ from another one; text from `${…}` can, though it has no field."""
    return any(text.fields or text._slots for text in texts)  # noqa: SLF001  (same module)


T = TypeVar("T")


def _constant(value: T) -> Callable[[Mapping[str, object]], T]:
    return lambda values: value


def _near_misses(literal: str, names: Collection[str]) -> list[str]:
    warnings = []
    for inner in _ANGLES.findall(literal) if "<" in literal else ():
        plain = inner.strip().lower().replace("-", "_").replace(" ", "_")
        near = difflib.get_close_matches(plain, names, n=1, cutoff=0.75)
        if near and inner not in names:
            warnings.append(f"<{inner}> is plain text here; did you mean <{near[0]}>?")
    return warnings
