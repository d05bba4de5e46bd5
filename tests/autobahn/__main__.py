"""`make autobahn`: run both engines through the Autobahn test suite and write the results down."""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tests.autobahn.campaign import Campaign
from tests.autobahn.install import Unavailable, install
from tests.autobahn.report import faults, page, table
from tests.autobahn.suite import ENGINES
from tests.autobahn.verdicts import BadResults, Results

ROOT = Path(__file__).resolve().parents[2]
HOME = ROOT / ".cache" / "autobahn"
RESULTS = ROOT / "reliability" / "autobahn.json"
PAGE = ROOT / "docs" / "autobahn.md"

GOOD, BAD, UNFINISHED = 0, 1, 3


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code: GOOD, BAD (a failure, a case without a reason, no suite), UNFINISHED (the time was up)."""
    options = _parse(arguments)
    try:
        return _conclude(Results.read(RESULTS)) if options.page else _run(options)
    except (Unavailable, BadResults) as reason:
        print(reason, file=sys.stderr)
        return BAD


def _run(options: argparse.Namespace) -> int:
    campaign = Campaign(HOME, install(HOME), lambda line: print(line, flush=True))
    engines = tuple(options.engines)
    if options.again:
        campaign.forget(engines)
    deadline = time.monotonic() + options.minutes * 60
    try:
        ended = [asyncio.run(campaign.run(engine, deadline)) for engine in engines]
    except KeyboardInterrupt:
        ended = [False]
    if not all(ended):
        print("Not finished. What has run is kept: run the same command again to go on.", file=sys.stderr)
        return UNFINISHED
    results = campaign.results(ENGINES)
    if results.gaps():
        print("\n".join(f"{engine}:\n{table(results, engine)}" for engine in engines))
        print(f"Kept, to be written down when all has run. Missing: {'; '.join(results.gaps())}")
        return GOOD
    results.write(RESULTS)
    campaign.forget(ENGINES)
    return _conclude(results)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.autobahn", description=__doc__)
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=ENGINES, help="only these")
    parser.add_argument(
        "--minutes",
        type=float,
        default=float("inf"),
        help="begin nothing after so long; the next run goes on",
    )
    parser.add_argument("--again", action="store_true", help="forget what an unfinished run has kept")
    parser.add_argument(
        "--page", action="store_true", help="only write the page anew, from the results that are there"
    )
    return parser.parse_args(arguments)


def _conclude(results: Results) -> int:
    PAGE.write_text(page(results))
    found = faults(results)
    print("\n\n".join(f"{engine}\n{table(results, engine)}" for engine in ENGINES))
    print(f"Written: {RESULTS.relative_to(ROOT)}, {PAGE.relative_to(ROOT)}")
    for fault in found:
        print(fault, file=sys.stderr)
    return BAD if found else GOOD


if __name__ == "__main__":
    sys.exit(main())
