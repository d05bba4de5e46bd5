"""Pydantic's findings in plain words: what was expected, what was found, where, and the nearest valid key."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from jetsocket_ingest.config.checks import did_you_mean
from jetsocket_ingest.config.document import Keys
from jetsocket_ingest.config.paths import MISSING
from jetsocket_ingest.config.types import FROM_FILE, Contradictions, Interpolated, Secret

_SHOWN = 60

_EXPECTED = {
    "string_type": "text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "list_type": "a list",
    "none_required": "null",
}
_LIMITS = {
    "greater_than": ("more than", "gt"),
    "greater_than_equal": ("at least", "ge"),
    "less_than": ("less than", "lt"),
    "less_than_equal": ("at most", "le"),
}
_NAME_PATTERN = re.compile(r"\^\[(A-Za-z|a-z)0-9\]\[(A-Za-z|a-z)0-9_-\]\{0,62\}\$")


@dataclass(frozen=True, slots=True)
class Finding:
    """A problem and the way to it. `of_key` puts it at the key instead of the value."""

    keys: Keys
    message: str
    of_key: bool = False

    def text(self) -> str:
        """`endpoints.desk.url: …`"""
        path = show_keys(self.keys)
        return f"{path}: {self.message}" if path else self.message


def show_keys(keys: Keys) -> str:
    """`endpoints.desk.session.subscribe.ack.match["$.op"]`, `subscriptions.ticks.streams[2]`."""
    shown = ""
    for key in keys:
        if isinstance(key, int):
            shown += f"[{key}]"
        elif re.fullmatch(r"[A-Za-z_][\w-]*", key):
            shown += f".{key}" if shown else key
        else:
            shown += f'["{_cut(key)}"]'
    return shown


def value_at(tree: Any, keys: Keys) -> Any:
    """The value at the end of the keys, None where they lead nowhere."""
    for key in keys:
        if isinstance(tree, dict):
            tree = tree.get(key)
        elif isinstance(tree, list) and isinstance(key, int) and 0 <= key < len(tree):
            tree = tree[key]
        else:
            return None
    return tree


@dataclass(frozen=True, slots=True)
class Raw:
    """One of pydantic's errors, its location told apart into keys of the tree and branches of a union."""

    type: str
    keys: Keys
    of_key: bool
    union_at: int | None
    branch: str
    context: Mapping[str, Any]
    message: str


def raw_errors(error: ValidationError, tree: Any) -> Iterator[Raw]:
    """What pydantic found, with keys that exist in the tree (but for a last one that is missing)."""
    for details in error.errors(include_url=False, include_input=False):
        keys: list[str | int] = []
        union_at, branch = None, ""
        location = details["loc"]
        of_key = bool(location) and location[-1] == "[key]"
        value = tree
        for index, part in enumerate(location[:-1] if of_key else location):
            if isinstance(value, dict) and (part in value or str(part) in map(str, value)):
                part = part if part in value else next(key for key in value if str(key) == str(part))
                keys.append(part)
                value = value[part]
            elif isinstance(value, list) and isinstance(part, int) and part < len(value):
                keys.append(part)
                value = value[part]
            elif details["type"] == "missing" and index == len(location) - 1:
                keys.append(part)
            elif union_at is None:
                union_at, branch = len(keys), str(part)
        yield Raw(
            details["type"], tuple(keys), of_key, union_at, branch, details.get("ctx", {}), details["msg"]
        )


CONTEXT = {**FROM_FILE, "references_checked": True}
"""Validation context of a config file, whose references are checked before, on plain data."""


class Translator:
    """Turns the errors of one model's validation into findings.

    `interpolated` holds every text of the tree that came from `${…}`, since by now it may stand converted in the tree.
    """

    def __init__(self, model: type[BaseModel], tree: Any, interpolated: Mapping[Keys, Interpolated]) -> None:
        self.model = model
        self.tree = tree
        self.interpolated = interpolated

    def findings(self, error: ValidationError) -> list[Finding]:
        """All problems, those of the branches of one union as one."""
        unions: dict[Keys, list[Raw]] = {}
        found: list[Finding] = []
        for raw in raw_errors(error, self.tree):
            if raw.union_at is None:
                found += self._translate(raw)
            else:
                unions.setdefault(raw.keys[: raw.union_at], []).append(raw)
        for keys, errors in unions.items():
            found += self._union(keys, errors)
        return [Finding(one.keys, self._mask(one), one.of_key) for one in found]

    def all_findings(self, error: ValidationError) -> list[Finding]:
        """All problems, and what the models' own checks find beside them. The tree does not survive it.

        Pydantic runs a model's check only once its keys are valid, so the invalid ones are taken out and the rest is
        validated again. A check that would look at what was taken out of its model is not believed.
        """
        found = self.findings(error)
        removed: set[Keys] = set()
        while newly := _take_out_invalid(self.tree, error):
            removed |= newly
            try:
                self.model.model_validate(self.tree, context=CONTEXT)
                break
            except ValidationError as next_error:
                error = next_error
            misled = {keys[:-1] for keys in removed} | {()}
            for raw in raw_errors(error, self.tree):
                if isinstance(raw.context.get("error"), Contradictions) and raw.keys not in misled:
                    found += [Finding(one.keys, self._mask(one), one.of_key) for one in self._translate(raw)]
        return found

    def _union(self, keys: Keys, errors: list[Raw]) -> list[Finding]:
        branches: dict[str, list[Raw]] = {}
        for raw in errors:
            branches.setdefault(raw.branch, []).append(raw)
        # The branch of which something fits is the one that was meant.
        meant = [branch for branch in branches.values() if any(len(raw.keys) > len(keys) for raw in branch)]
        if meant:
            return [finding for raw in min(meant, key=len) for finding in self._translate(raw)]
        expected = [words for raw in errors if (words := _expected(raw))]
        if len(expected) == len(errors):
            return [
                Finding(keys, f"expected {' or '.join(dict.fromkeys(expected))}, found {self._found(keys)}")
            ]
        return self._translate(errors[0])

    def _translate(self, raw: Raw) -> list[Finding]:
        if raw.type in ("value_error", "assertion_error"):
            error = raw.context.get("error")
            if isinstance(error, Contradictions):
                return [Finding((*raw.keys, *keys), message) for keys, message in error.found]
            return [Finding(raw.keys, str(error), raw.of_key)]
        if raw.type in ("extra_forbidden", "invalid_key"):
            known = {name for model in self._models(raw.keys[:-1]) for name in model.model_fields}
            return [Finding(raw.keys, f"unknown key; {did_you_mean(raw.keys[-1], known)}", of_key=True)]
        if raw.type == "missing":
            return [Finding(raw.keys[:-1], self._missing(raw.keys), of_key=True)]
        found = f"the key {raw.keys[-1]!r}" if raw.of_key and raw.keys else self._found(raw.keys)
        expected = _expected(raw)
        if expected is None:
            words = raw.message.removeprefix("Input should be ")
            return [Finding(raw.keys, f"expected {words}, found {found}", raw.of_key)]
        value = raw.keys[-1] if raw.of_key and raw.keys else value_at(self.tree, raw.keys)
        scalar = value is not None and not isinstance(value, (str, list, dict))
        advice = "; put it in quotes" if raw.type == "string_type" and scalar else ""
        return [Finding(raw.keys, f"expected {expected}, found {found}{advice}", raw.of_key)]

    def _missing(self, keys: Keys) -> str:
        about = ""
        for model in self._models(keys[:-1]):
            field = model.model_fields.get(str(keys[-1]))
            about = f": {field.description}" if field and field.description else about
        return f"missing key {keys[-1]}{about}"

    def _models(self, keys: Keys) -> list[type[BaseModel]]:
        """The models that may stand at the keys."""
        return [
            one
            for one in _annotations(self.model, keys)
            if isinstance(one, type) and issubclass(one, BaseModel)
        ]

    def _found(self, keys: Keys) -> str:
        value = value_at(self.tree, keys)
        secret = any(_holds_secret(annotation) for annotation in _annotations(self.model, keys))
        if keys in self.interpolated:
            return "a value from ${…}" if secret else f"the value of {_cut(self.interpolated[keys].source)}"
        return describe(value, hide=secret)

    def _mask(self, finding: Finding) -> str:
        """The message without what came out of `${…}` at its place or below."""
        message = finding.message
        for keys, text in self.interpolated.items():
            if keys[: len(finding.keys)] == finding.keys:
                message = mask(message, text)
        return message


def _take_out_invalid(tree: Any, error: ValidationError) -> set[Keys]:
    """Take what is invalid out of the tree: keys, lists as a whole, and mappings without a key that they need."""
    removed: set[Keys] = set()
    for raw in list(raw_errors(error, tree)):
        keys = raw.keys[:-1] if raw.type == "missing" else raw.keys
        while keys and not isinstance(value_at(tree, keys[:-1]), dict):
            keys = keys[:-1]
        if keys and value_at(tree, keys[:-1]).pop(keys[-1], MISSING) is not MISSING:
            removed.add(keys)
    return removed


def mask(message: str, text: Interpolated) -> str:
    """The message with the text as it was written where it quotes what came out of `${…}`."""
    hidden = [str(text), *(piece() for piece in text.pieces if not isinstance(piece, str))]
    for value in sorted({value for value in hidden if value.strip()}, key=len, reverse=True):
        message = re.sub(rf"(?<!\w){re.escape(value)}(?!\w)", "${…}", message)
    return message


def describe(value: Any, *, hide: bool = False) -> str:
    """A value as a person would name it; only its kind where it must be hidden."""
    if value is None:
        return "nothing (null)"
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    if isinstance(value, bool):
        return "true" if value else "false"
    kind = "text" if isinstance(value, str) else "the number"
    if hide:
        return kind if isinstance(value, str) else "a number"
    return f"{kind} {_cut(value) if not isinstance(value, str) else repr(_cut(value))}"


def _cut(value: Any) -> str:
    text = str(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _expected(raw: Raw) -> str | None:
    if raw.type in _EXPECTED:
        return _EXPECTED[raw.type]
    if raw.type in _LIMITS:
        words, key = _LIMITS[raw.type]
        return (
            f"{words} {raw.context[key]:g}"
            if isinstance(raw.context[key], float)
            else f"{words} {raw.context[key]}"
        )
    if raw.type == "literal_error":
        return str(raw.context["expected"]).replace("'", "")
    if raw.type == "string_pattern_mismatch":
        pattern = str(raw.context["pattern"])
        letters = _NAME_PATTERN.fullmatch(pattern)
        if letters is None:
            return f"text of the form {pattern}"
        kind = "small letters" if letters[1] == "a-z" else "letters"
        return f"a name of {kind}, digits, - and _, at most 63, that begins with a letter or digit"
    if raw.type == "string_too_short":
        least = raw.context["min_length"]
        return "text that is not empty" if least == 1 else f"at least {least} characters"
    if raw.type == "too_short":
        return f"at least {raw.context['min_length']} entry" if raw.context["min_length"] == 1 else None
    return None


def _annotations(annotation: Any, keys: Keys) -> list[Any]:
    """The annotations, unions unfolded, of what stands at the keys below a model."""
    level = _unfold(annotation)
    for key in keys:
        level = [child for one in level for child in _below(one, key)]
    return level


def _below(annotation: Any, key: str | int) -> list[Any]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        field = annotation.model_fields.get(str(key))
        return _unfold(field.annotation) if field else []
    arguments = get_args(annotation)
    return _unfold(arguments[-1]) if get_origin(annotation) in (dict, list) and arguments else []


def _unfold(annotation: Any) -> list[Any]:
    origin = get_origin(annotation)
    if origin is Annotated:
        return _unfold(get_args(annotation)[0])
    if origin in (Union, UnionType):
        return [one for branch in get_args(annotation) for one in _unfold(branch)]
    return [annotation]


def _holds_secret(annotation: Any) -> bool:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return any(_holds_secret(field.annotation) for field in annotation.model_fields.values())
    return annotation is Secret or any(_holds_secret(one) for one in get_args(annotation))
