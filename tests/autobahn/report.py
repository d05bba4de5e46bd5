"""The page of the docs: a table of verdicts for each engine, and the reason for each case that is not OK."""

from __future__ import annotations

from itertools import groupby

from tests.autobahn.explanations import explain
from tests.autobahn.suite import ENGINES, GROUPS
from tests.autobahn.verdicts import VERDICTS, Results

_HEAD = """\
# Conformance

<!-- Written by `make autobahn`; change `tests/autobahn/report.py` or `tests/autobahn/explanations.py` instead. -->

The [Autobahn test suite](https://github.com/crossbario/autobahn-testsuite) plays a server that sends good and bad
WebSocket traffic and judges how a client takes it. Each engine runs every case that the suite has for clients, {cases} of
them: it echoes each message with the type it came in, and offers compression throughout.

```
make autobahn                              # both engines, every case
make autobahn AUTOBAHN='--minutes 8'       # stop after 8 minutes; the next run goes on from there
make autobahn AUTOBAHN='--engines picows'  # one engine
```

The suite needs Python 2.7 (on PATH or from pyenv) and installs itself below `.cache/`. A complete run writes
`reliability/autobahn.json` and this page, and fails where a case failed or a case that is not OK has no reason below.

The suite judges the messages and the end of the connection; a case counts here with the worse of the two. *Non-strict* is
conformant, but not all that one could wish for. *Informational* cases show a choice that the standard leaves open.
"""


def page(results: Results) -> str:
    """The whole page, as Markdown."""
    total = sum(number for _, number in GROUPS.values())
    parts = [_HEAD.format(cases=total)]
    parts += [f"## Engine {engine}\n\n{table(results, engine)}\n" for engine in ENGINES]
    parts.append(f"## Cases that are not OK\n\n{reasons(results)}\n")
    parts.append(_circumstances(results))
    return "\n".join(parts)


def _circumstances(results: Results) -> str:
    tested = ", ".join(f"{name} {version}" for name, version in sorted(results.releases.items()))
    days = sorted({result.day for by_unit in results.engines.values() for result in by_unit.values()})
    minutes = [
        f"{sum(result.seconds for result in results.engines.get(engine, {}).values()) / 60:.0f} minutes with {engine}"
        for engine in ENGINES
    ]
    when = " to ".join(dict.fromkeys((days[0], days[-1]))) if days else "never"
    return f"Run with {tested}: {when}. The cases took {' and '.join(minutes)}.\n"


def table(results: Results, engine: str) -> str:
    """Group by group, the number of cases with each verdict."""
    head = ["group", "cases", *(verdict.lower() for verdict in VERDICTS)]
    rows = []
    sums = [0] * (len(VERDICTS) + 1)
    for group, (subject, _) in GROUPS.items():
        counts = results.counts(engine, group)
        numbers = [counts.total(), *(counts[verdict] for verdict in VERDICTS)]
        sums = [one + other for one, other in zip(sums, numbers, strict=True)]
        rows.append([f"{group} {subject}", *map(str, numbers)])
    rows.append(["all", *map(str, sums)])
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def reasons(results: Results) -> str:
    """A row for each run of cases with one reason."""
    told: dict[tuple[str, str], list[str]] = {}
    for engine, one in results.oddities():
        reason = explain(one) or f"**Unexplained.** {one.told}"
        told.setdefault((one.verdict, reason), []).append(f"{one.case} {engine}")
    if not told:
        return "None."
    rows = [
        f"| {_cases(cases)} | {verdict.lower()} | {reason} |" for (verdict, reason), cases in told.items()
    ]
    return "\n".join(["| cases | verdict | why |", "|---|---|---|", *rows])


def _cases(found: list[str]) -> str:
    """Cases with their engines: those of all engines first told once, the others with the engine's name."""
    by_case = {
        case: [one.partition(" ")[2] for one in engines]
        for case, engines in groupby(sorted(found, key=_order), key=lambda one: one.partition(" ")[0])
    }
    return ", ".join(
        case if len(engines) == len(ENGINES) else f"{case} ({', '.join(engines)})"
        for case, engines in by_case.items()
    )


def _order(found: str) -> list[int]:
    return [int(part) for part in found.partition(" ")[0].split(".")]


def faults(results: Results) -> list[str]:
    """What keeps a run from being good: failed cases, and cases without a reason."""
    return [
        f"{engine}: case {one.case} is {one.verdict}: {one.told}"
        for engine, one in results.oddities()
        if one.verdict == "FAILED" or explain(one) is None
    ]
