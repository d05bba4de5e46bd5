"""Reads what deployment files say: a Dockerfile's instructions, and the metrics and labels of PromQL."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path
from typing import NamedTuple

_FUNCTIONS = frozenset({"rate", "histogram_quantile", "sum", "min", "max", "vector"})
_KEYWORDS = frozenset({"by", "or"})


class Instruction(NamedTuple):
    """One instruction of a Dockerfile: `RUN`, `pip install …`. `stage` counts from 0."""

    stage: int
    name: str
    text: str

    @property
    def words(self) -> list[str]:
        """The arguments, of the shell's or the JSON form."""
        text = self.text
        return json.loads(text) if text.startswith("[") else shlex.split(text)


def instructions(dockerfile: Path) -> list[Instruction]:
    """All instructions; ARG values that FROM names are filled in."""
    text = "\n".join(line for line in dockerfile.read_text().splitlines() if not line.startswith("#"))
    found: list[Instruction] = []
    defaults: dict[str, str] = {}
    stage = -1
    for line in re.sub(r"\\\n\s*", "", text).splitlines():
        if not line.strip():
            continue
        name, _, rest = line.partition(" ")
        if name == "ARG" and stage < 0:
            key, _, value = rest.partition("=")
            defaults[key] = value
        if name == "FROM":
            stage += 1
            rest = re.sub(r"\$\{(\w+)\}", lambda match: defaults[match[1]], rest)
        found.append(Instruction(stage, name, rest.strip()))
    return found


def build_context(root: Path, copied: list[str], target: Path) -> None:
    """What `COPY` of these sources brings out of a folder whose .dockerignore begins with `*`."""
    ignore = (root / ".dockerignore").read_text().splitlines()
    rules = [line for line in ignore if line and not line.startswith("#")]
    kept = {rule[1:] for rule in rules if rule.startswith("!")}
    assert rules[0] == "*", ".dockerignore is expected to list what is let in"
    never = [rule.removeprefix("**/") for rule in rules[1:] if not rule.startswith("!")]
    for name in copied:
        assert name in kept, f".dockerignore keeps {name} from the build"
        source = root / name
        assert source.exists(), f"COPY {name}: there is no such file"
        if source.is_dir():
            shutil.copytree(source, target / name, ignore=shutil.ignore_patterns(*never))
        else:
            shutil.copy(source, target / name)


class Query(NamedTuple):
    """What a PromQL expression names: metrics with the labels that their selectors match, and grouping labels."""

    metrics: dict[str, dict[str, str]]
    grouped: frozenset[str]


def read_query(expression: str) -> Query:
    """ValueError for anything but the plain forms that the dashboard uses."""
    metrics: dict[str, dict[str, str]] = {}

    def selector(match: re.Match[str]) -> str:
        labels = dict(re.findall(r'(\w+)\s*(?:=~|!~|!=|=)\s*"([^"]*)"', match[2]))
        if len(labels) != match[2].count('"') // 2:
            raise ValueError(f"cannot read the selector {match[0]}")
        metrics.setdefault(match[1], {}).update(labels)
        return "1"

    rest = re.sub(r"([A-Za-z_:][\w:]*)\s*\{([^}]*)\}", selector, expression)
    grouped: set[str] = set()

    def group(match: re.Match[str]) -> str:
        grouped.update(part.strip() for part in match[1].split(","))
        return ""

    rest = re.sub(r"\bby\s*\(([^)]*)\)", group, rest)
    rest = rest.replace("[$__rate_interval]", "")
    unknown = set(re.findall(r"[A-Za-z_:][\w:]*", rest)) - _FUNCTIONS - _KEYWORDS
    if unknown or rest.count("(") != rest.count(")") or re.search(r"[^\w\s().,/*+-]", rest):
        raise ValueError(f"cannot read {expression}: {unknown or rest}")
    if not metrics:
        raise ValueError(f"{expression} names no metric")
    return Query(metrics, frozenset(grouped))
