"""Verdicts of the suite: of one case, and of every case for both engines."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.autobahn.suite import ENGINES, GROUPS, group_of, units

VERDICTS = ("OK", "NON-STRICT", "INFORMATIONAL", "UNIMPLEMENTED", "FAILED")
"""From good to bad."""


class BadResults(Exception):
    """A file of results that cannot be used. The message says why and what to do."""


@dataclass(frozen=True)
class Oddity:
    """A case that is not OK.

    Attributes:
        verdict: one of VERDICTS, the worse of the suite's two judgements.
        behavior, close: those judgements, on the messages and on the end of the connection, in the suite's words.
        code: close code that the suite received from us, None where there was none.
        told: why, in the suite's words.
    """

    case: str
    verdict: str
    behavior: str
    close: str
    code: int | None
    told: str


@dataclass
class UnitResult:
    """Verdicts on one unit: how many cases are OK, which are not, the day, and the seconds that the cases took."""

    ok: int
    others: list[Oddity] = field(default_factory=list)
    day: str = ""
    seconds: float = 0.0


def judge(reports: Mapping[str, Mapping[str, Any]], day: str) -> UnitResult:
    """Sum up the suite's reports, case to report."""
    result = UnitResult(ok=0, day=day)
    for case in sorted(reports, key=_numbers):
        report = reports[case]
        result.seconds = round(result.seconds + report["duration"] / 1000, 3)
        behavior, close = report["behavior"], report["behaviorClose"]
        verdict = _worse(behavior, close)
        if verdict == "OK":
            result.ok += 1
        else:
            told = f"{report['result']} {report['resultClose']}"
            result.others.append(Oddity(case, verdict, behavior, close, report["remoteCloseCode"], told))
    return result


def _worse(behavior: str, close: str) -> str:
    # Beside its five verdicts the suite knows several ways to end badly (UNCLEAN, WRONG CODE, ...): failures, all of them.
    found = [one if one in VERDICTS else "FAILED" for one in (behavior, close)]
    return max(found, key=VERDICTS.index)


def _numbers(case: str) -> list[int]:
    return [int(part) for part in case.split(".")]


@dataclass
class Results:
    """Unit results of each engine, as far as they have run, and with which releases.

    Attributes:
        releases: what was tested, with what: name to version.
        engines: engine to unit to result.
    """

    releases: dict[str, str] = field(default_factory=dict)
    engines: dict[str, dict[str, UnitResult]] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> Results:
        """Raises BadResults where the file is missing, or not what `write` makes."""
        try:
            data = json.loads(path.read_text())
            return cls(
                data["releases"],
                {
                    engine: {
                        unit: UnitResult(**{**told, "others": [Oddity(**one) for one in told["others"]]})
                        for unit, told in by_unit.items()
                    }
                    for engine, by_unit in data["engines"].items()
                },
            )
        except (OSError, KeyError, TypeError, AttributeError, ValueError) as error:
            raise BadResults(
                f"{path} holds no results of the test suite ({error!r}): remove it, if it is there, and run `make autobahn`"
            ) from None

    def write(self, path: Path) -> None:
        """Write in one go, so that an interrupted run leaves a good file."""
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_suffix(".new")
        beside.write_text(json.dumps(asdict(self), indent=1, sort_keys=True) + "\n")
        beside.replace(path)

    def missing(self, engine: str) -> list[str]:
        """Units that the engine has not run."""
        return [unit for unit in units() if unit not in self.engines.get(engine, {})]

    def counts(self, engine: str, group: str) -> Counter[str]:
        """Verdict to number of cases."""
        counts: Counter[str] = Counter()
        for unit, result in self.engines.get(engine, {}).items():
            if group_of(unit) == group:
                counts["OK"] += result.ok
                counts.update(one.verdict for one in result.others)
        return counts

    def oddities(self) -> Iterator[tuple[str, Oddity]]:
        """Engine and case, for each case that is not OK; engine by engine, in the suite's order."""
        for engine in ENGINES:
            by_unit = self.engines.get(engine, {})
            for unit in units():
                for one in by_unit[unit].others if unit in by_unit else []:
                    yield engine, one

    def gaps(self) -> list[str]:
        """What is not there: groups in which an engine has not the number of cases that the suite holds."""
        return [
            f"{engine}: group {group} has {found} of {number} cases"
            for engine in ENGINES
            for group, (_, number) in GROUPS.items()
            if (found := self.counts(engine, group).total()) != number
        ]
