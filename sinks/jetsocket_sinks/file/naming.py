"""Where a record's file lies: the path template, and values from messages made safe as parts of a path."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, core_schema

from jetsocket_ingest.sink import Template

NAMES = (
    "pipeline",
    "subscription",
    "stream",
    "connection",
    "received.date",
    "received.hour",
    "event.date",
    "event.hour",
)

PART_BYTES = 255
"""A name's length on every usual file system."""
STEM_BYTES = 150
"""What is left of it for a file's stem, beside run, position, extension and the marks of a temporary."""

_EXTENSIONS = re.compile(r"(?:\.[A-Za-z][A-Za-z0-9]{0,9}){1,2}$")
_DIGEST = 32


class Place(NamedTuple):
    """One path that the template leads to.

    Attributes:
        folders: names of the folders below the root.
        stem: the file's name without run, position and extension.
        until_ns: end of the hour or day that the path names, ns since 1970 UTC; None where it names none.
    """

    folders: tuple[str, ...]
    stem: str
    until_ns: int | None = None


class PathTemplate:
    """A path with placeholders, cut into a fixed root, folders, stem and extension.

    Attributes:
        source: as written.
        root: the leading folders without a placeholder; nothing is ever written outside.
        extension: what the literal end of the name brings, such as `.jsonl.zst`; may be empty.
        fields: the placeholders in use.
    """

    __slots__ = ("_folders", "_stem", "extension", "fields", "root", "source", "warnings")

    def __init__(self, text: str) -> None:
        if "\0" in text:
            raise ValueError("expected a path, found text with a NUL character in it")
        template = Template.parse(text, NAMES)
        self.source = template.source
        self.fields = template.fields
        self.warnings = template.warnings
        # Rendered once with each name between NULs: `${…}` is resolved now and cannot move the root later.
        *folders, name = template.render({field: f"\0{field}\0" for field in self.fields}).split("/")
        fixed = 0
        while fixed < len(folders) and "\0" not in folders[fixed]:
            fixed += 1
        self.root = "/".join(folders[:fixed]) or ("/" if fixed else ".")
        below = [folder for folder in folders[fixed:] if folder not in ("", ".")]
        self._check(text, name, below)
        match = _EXTENSIONS.search(name)
        # A name that is nothing but an extension (`.jsonl`) was refused above, for its leading dot.
        self.extension = match[0] if match else ""
        self._folders = [_pieces(folder) for folder in below]
        self._stem = _pieces(name.removesuffix(self.extension))

    @staticmethod
    def _check(text: str, name: str, below: list[str]) -> None:
        if name in ("", ".", ".."):
            raise ValueError(f"expected a path that ends in the name of a file, found {text!r}")
        if name.startswith("."):
            raise ValueError(
                f"expected a file name without a leading dot, found {text!r}: such names are kept for files being written"
            )
        if ".." in below:
            raise ValueError(f"expected no '..' after the first placeholder, found {text!r}")
        for part in (name, *below):
            literal = "".join(_pieces(part)[0::2])
            if len(os.fsencode(literal)) > STEM_BYTES // 2:
                raise ValueError(
                    f"expected names of at most {STEM_BYTES // 2} bytes in a path, found {literal!r}"
                )

    def place(self, values: Mapping[str, str | None], until_ns: int | None = None) -> Place:
        """The place for these values, one for each of `fields`; None stands for what the record does not have."""
        safe = {field: safe_part(values[field]) for field in self.fields}
        folders = (shortened(_joined(folder, safe), PART_BYTES) for folder in self._folders)
        return Place(tuple(folders), shortened(_joined(self._stem, safe), STEM_BYTES), until_ns)

    @property
    def depth(self) -> int:
        """How many folders lie between root and file."""
        return len(self._folders)

    def folder_pattern(self, level: int) -> re.Pattern[str]:
        """Matches every name that a folder at this depth can have."""
        return re.compile(_pattern(self._folders[level]))

    def stem_pattern(self) -> str:
        """Regular expression of every stem that `place` can give."""
        return _pattern(self._stem)

    def __repr__(self) -> str:
        return f"PathTemplate({self.source!r})"

    __str__ = __repr__

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            cls._validate,
            serialization=core_schema.plain_serializer_function_ser_schema(lambda path: path.source),
        )

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {
            "type": "string",
            "minLength": 1,
            "examples": ["data/<subscription>/<received.date>.jsonl.zst"],
        }

    @classmethod
    def _validate(cls, value: object) -> PathTemplate:
        if isinstance(value, PathTemplate):
            return value
        if isinstance(value, str):
            return cls(value)
        raise ValueError(f"expected a path, found {value!r}; put it in quotes")


def safe_part(value: str | None) -> str:
    """A value as text that is safe within a name, reversible, and different for different values.

    Escaped as `%XX` of their UTF-8 bytes: `%`, `/`, backslash, everything not printable, and dots at the beginning.
    An empty value becomes `%`, no value `%none`.
    """
    if value is None:
        return "%none"
    if not value:
        return "%"
    if value.isprintable() and not value.startswith(".") and not _UNSAFE.search(value):
        return value
    dots = len(value) - len(value.lstrip("."))
    return "%2E" * dots + "".join(
        character if character.isprintable() and character not in "%/\\" else _escaped(character)
        for character in value[dots:]
    )


_UNSAFE = re.compile(r"[%/\\]")


def _escaped(character: str) -> str:
    return "".join(f"%{byte:02X}" for byte in character.encode("utf-8", "surrogatepass"))


def shortened(part: str, limit: int) -> str:
    """A name of at most `limit` bytes: one that is longer keeps its beginning and ends in a digest of the whole."""
    encoded = part.encode()
    if len(encoded) <= limit:
        return part
    digest = hashlib.sha256(encoded).hexdigest()[:_DIGEST]
    return encoded[: limit - _DIGEST - 2].decode(errors="ignore") + "%~" + digest


def _pieces(part: str) -> list[str]:
    """Literal, name, literal, …, literal."""
    return part.split("\0")


def _joined(pieces: list[str], safe: Mapping[str, str]) -> str:
    return "".join(safe[piece] if index % 2 else piece for index, piece in enumerate(pieces))


def _pattern(pieces: list[str]) -> str:
    exact = "".join(".+" if index % 2 else re.escape(piece) for index, piece in enumerate(pieces))
    return f"(?:{exact}|{re.escape(pieces[0])}.*%~[0-9a-f]{{{_DIGEST}}})"
