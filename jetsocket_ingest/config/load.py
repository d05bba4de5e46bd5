"""A config file → a checked PipelineConfig, or every problem in it at once."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from pydantic import BaseModel, ValidationError

from jetsocket_ingest.config import checks, document
from jetsocket_ingest.config.document import Document, Keys, Problem
from jetsocket_ingest.config.interpolate import interpolate
from jetsocket_ingest.config.models import PipelineConfig
from jetsocket_ingest.config.placeholders import Template, TreeTemplate
from jetsocket_ingest.config.problems import (
    CONTEXT,
    Finding,
    Translator,
    describe,
    mask,
    raw_errors,
    value_at,
)
from jetsocket_ingest.config.types import ConfigModel, Contradictions, Interpolated
from jetsocket_ingest.errors import ConfigError

ModelT = TypeVar("ModelT", bound=BaseModel)

SinkOptionsOf = Callable[[str], type[ConfigModel]]
"""The options model of a sink type. Raises ConfigError, in words, for a type that there is not."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A config that can work.

    Attributes:
        config: the checked config.
        warnings: located sentences about what is probably not meant.
        path: the file it came from, None for a text.
    """

    config: PipelineConfig
    warnings: list[str]
    document: Document = field(repr=False)
    source: str
    path: Path | None = None

    def located(self, keys: Keys, message: str) -> str:
        """A sentence about a place in the config, with file, line and column, as `load` itself gives them."""
        return Problem(self.document.place(keys), Finding(keys, message).text()).at(self.source)


def load(
    path: str | os.PathLike[str], *, sink_options: SinkOptionsOf, environ: Mapping[str, str] = os.environ
) -> Loaded:
    """Read a config file. ConfigError holds every problem found, each with file, line and column."""
    file = Path(path)
    try:
        with file.open("rb") as stream:
            text = stream.read(document.MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigError(f"{file}: expected a config file, but it cannot be read: {reason}") from None
    loaded = loads(text, source=str(file), sink_options=sink_options, environ=environ)
    return replace(loaded, path=file)


def loads(
    text: str | bytes,
    *,
    source: str = "<config>",
    sink_options: SinkOptionsOf,
    environ: Mapping[str, str] = os.environ,
) -> Loaded:
    """Read a config from a text; `source` names it in messages. ConfigError as for `load`."""
    return _Loading(document.parse(text, source), source, sink_options, environ).run()


class _Loading:
    """One config on its way through interpolation, references, sinks and models."""

    def __init__(
        self, parsed: Document, source: str, sink_options: SinkOptionsOf, environ: Mapping[str, str]
    ) -> None:
        self.document = parsed
        self.source = source
        self.sink_options = sink_options
        self.problems = list(parsed.problems)
        # What was misread gives no second problem at the same place.
        self.misread = {problem.place for problem in parsed.problems}
        self.tree = interpolate(parsed.data, environ, self._unresolved)
        self.interpolated = {
            keys: value for keys, value in _leaves(self.tree) if isinstance(value, Interpolated)
        }

    def run(self) -> Loaded:
        if not isinstance(self.tree, dict):
            found = describe(self.document.data)
            self._report([Finding((), f"expected a mapping that begins with version: 1, found {found}")])
            self._refuse()
        outline = checks.Outline.of_data(self.tree)
        self._check_references(outline)
        self._build_sinks()
        config = self._validate(PipelineConfig, self.tree, ())
        if self.problems or config is None:
            self._refuse()
        warnings = sorted(
            Problem(self.document.place(found.keys, of_key=found.of_key), found.text())
            for found in _warnings(config, outline)
        )
        return Loaded(config, [warning.at(self.source) for warning in warnings], self.document, self.source)

    def _unresolved(self, keys: Keys, message: str) -> None:
        place = self.document.place(keys)
        self.problems.append(Problem(place, Finding(keys, message).text()))
        self.misread.add(place)

    def _check_references(self, outline: checks.Outline) -> None:
        wrong = Contradictions()
        checks.check_references(outline, wrong)
        self._report([Finding(keys, message) for keys, message in wrong.found])

    def _build_sinks(self) -> None:
        """Put the options of each sink in the place of its mapping: which model they have is the type's affair."""
        sinks = self.tree.get("sinks")
        if isinstance(sinks, dict):
            # A sink with problems leaves a stand-in, so that the rest is checked as well.
            self.tree["sinks"] = {name: self._sink(name, sinks[name]) or ConfigModel() for name in sinks}

    def _sink(self, name: str, options: Any) -> ConfigModel | None:
        keys = ("sinks", name)
        if not isinstance(options, dict):
            self._report([Finding(keys, "expected a mapping with the key type, found something else")])
            return None
        kind = options.get("type")
        if not isinstance(kind, str):
            problem = (
                "missing key type: which sink"
                if kind is None
                else "type: expected text, the name of a sink type"
            )
            self._report([Finding(keys, problem, of_key=True)])
            return None
        try:
            model = self.sink_options(str(kind))
        except ConfigError as error:
            message = mask(str(error), kind) if isinstance(kind, Interpolated) else str(error)
            self._report([Finding((*keys, "type"), message)])
            return None
        return self._validate(model, options, keys)

    def _validate(self, model: type[ModelT], tree: Any, prefix: Keys) -> ModelT | None:
        while True:
            try:
                return model.model_validate(tree, context=CONTEXT)
            except ValidationError as error:
                if _convert(tree, error):
                    continue
                below = {
                    keys[len(prefix) :]: value
                    for keys, value in self.interpolated.items()
                    if keys[: len(prefix)] == prefix
                }
                found = Translator(model, tree, below).all_findings(error)
                self._report([Finding((*prefix, *one.keys), one.message, one.of_key) for one in found])
                return None

    def _report(self, findings: list[Finding]) -> None:
        for finding in findings:
            place = self.document.place(finding.keys, of_key=finding.of_key)
            if finding.of_key or place not in self.misread:
                self.problems.append(Problem(place, finding.text()))

    def _refuse(self) -> NoReturn:
        raise ConfigError([problem.at(self.source) for problem in sorted(set(self.problems))])


def _convert(tree: Any, error: ValidationError) -> bool:
    """Where the model wants a number, true, false or null and the text came from `${…}`, read it as YAML would a plain
    scalar. Whether anything changed."""
    changed = False
    for raw in raw_errors(error, tree):
        value = value_at(tree, raw.keys)
        if not isinstance(value, Interpolated) or raw.of_key:
            continue
        try:
            plain = document.core_scalar(value.strip())
        except ValueError:
            continue
        if not isinstance(plain, str):
            value_at(tree, raw.keys[:-1])[raw.keys[-1]] = plain
            changed = True
    return changed


def _leaves(tree: Any, keys: Keys = ()) -> Iterator[tuple[Keys, Any]]:
    """Every scalar, and every object that is not a model, below a tree of models, dicts and lists."""
    if isinstance(tree, BaseModel):
        tree = {name: getattr(tree, name) for name in tree.model_fields_set}
    if isinstance(tree, dict):
        for key, item in tree.items():
            yield from _leaves(item, (*keys, key))
    elif isinstance(tree, list):
        for index, item in enumerate(tree):
            yield from _leaves(item, (*keys, index))
    else:
        yield keys, tree


def _warnings(config: PipelineConfig, outline: checks.Outline) -> Iterator[Finding]:
    for keys, message in checks.unused(outline):
        yield Finding(keys, message, of_key=True)
    for found, value in _leaves(config):
        if isinstance(value, (Template, TreeTemplate)):
            yield from (Finding(found, warning) for warning in value.warnings)
    for name, endpoint in config.endpoints.items():
        if endpoint.tls.dangerously_skip_verification:
            yield Finding(
                ("endpoints", name, "tls", "dangerously_skip_verification"),
                "certificates are not verified: whoever is on the way can read and change everything",
            )
    if config.admin is not None and not _is_loopback(config.admin.address[0]):
        yield Finding(
            ("admin", "listen"),
            "the admin endpoint asks for no password and can be reached from other machines",
        )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return host == "localhost"
