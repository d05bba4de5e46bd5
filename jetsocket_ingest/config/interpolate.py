"""`${NAME}`, `${NAME:-default}` and `${file:…}` in scalars that are already parsed."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jetsocket_ingest.config.document import Keys
from jetsocket_ingest.config.types import Interpolated
from jetsocket_ingest.errors import OperatorError

MAX_FILE_BYTES = 1024 * 1024

_REFERENCE = re.compile(
    r"(?P<escape>\$\$\{)"
    r"|\$\{(?:file:(?P<file>[^{}\x00]+)|(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^{}]*))?)\}"
    r"|(?P<wrong>\$\{)"
)


def interpolate(tree: Any, environ: Mapping[str, str], report: Callable[[Keys, str], None]) -> Any:
    """A copy of a tree of dicts, lists and scalars in which each text with `${…}` is an `Interpolated`.

    What cannot be resolved is reported with its place, and left as it was written.
    """

    def visit(value: Any, keys: Keys) -> Any:
        if isinstance(value, dict):
            return {key: visit(item, (*keys, key)) for key, item in value.items()}
        if isinstance(value, list):
            return [visit(item, (*keys, index)) for index, item in enumerate(value)]
        if not isinstance(value, str) or "${" not in value:
            return value
        try:
            return expand(value, environ)
        except (ValueError, OperatorError) as error:
            report(keys, str(error))
            return value

    return visit(tree, ())


def expand(text: str, environ: Mapping[str, str]) -> str:
    """A text with its `${…}` resolved. A plain str where there was none but escapes.

    ValueError for what looks like a reference and is none; OperatorError for one that cannot be resolved.
    """
    pieces: list[str | Callable[[], str]] = []
    literal = ""
    end = 0
    for found in _REFERENCE.finditer(text):
        literal += text[end : found.start()]
        end = found.end()
        if found["wrong"]:
            raise ValueError(
                "expected ${NAME}, ${NAME:-default} or ${file:/path}, found another ${; write $${ for the text"
            )
        if found["escape"]:
            literal += "${"
            continue
        pieces += [literal, _reader(found, environ)]
        literal = ""
    literal += text[end:]
    return Interpolated(text, (*pieces, literal)) if pieces else literal


def _reader(found: re.Match[str], environ: Mapping[str, str]) -> Callable[[], str]:
    if found["file"]:
        path = Path(found["file"])
        return lambda: read_file(path)
    name, default = found["name"], found["default"]

    def variable() -> str:
        value = environ.get(name)
        if value or (value is not None and default is None):
            return value
        if default is None:
            raise OperatorError(f"the variable {name} is not set; set it, or write ${{{name}:-default}}")
        return str(default)

    return variable


def read_file(path: Path) -> str:
    """A secret file's text, without one newline at its end. OperatorError where it cannot be read."""
    try:
        if path.exists() and not path.is_file():
            raise OperatorError(f"cannot read {path} for ${{file:…}}: it is not a file")
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise OperatorError(f"cannot read {path} for ${{file:…}}: {error.strerror or error}") from None
    if len(content) > MAX_FILE_BYTES:
        raise OperatorError(f"cannot read {path} for ${{file:…}}: expected at most 1 MiB, found more")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        raise OperatorError(
            f"cannot read {path} for ${{file:…}}: expected UTF-8 text, found other bytes"
        ) from None
    return text[:-2] if text.endswith("\r\n") else text.removesuffix("\n")
