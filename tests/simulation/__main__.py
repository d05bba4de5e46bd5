"""A campaign of worlds, or one of them told in full: `python -m tests.simulation --seeds 2000`, `--seed 17`."""

from __future__ import annotations

import argparse
import json
import sys
import time
import traceback
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

from tests.simulation.world import simulate

RESULTS = Path(__file__).parents[2] / "reliability" / "results.jsonl"
SHOWN_FAILURES = 5


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=2000, help="how many worlds")
    parser.add_argument("--first", type=int, default=0, help="seed of the first one")
    parser.add_argument("--seed", type=int, help="replay this one and print its history")
    arguments = parser.parse_args()
    if arguments.seed is not None:
        return replay(arguments.seed)
    return campaign(arguments.first, arguments.seeds)


def replay(seed: int) -> int:
    outcome = simulate(seed)
    print(outcome.told(last=None))
    if outcome.failure is not None:
        traceback.print_exception(outcome.failure)
    return outcome.failure is not None


def campaign(first: int, seeds: int) -> int:
    """Run the worlds, tell what failed and what was covered, and append a line to the results."""
    began = time.monotonic()
    steps, failed = 0, []
    covered: Counter[str] = Counter()
    for seed in range(first, first + seeds):
        outcome = simulate(seed)
        steps += outcome.steps
        covered.update(outcome.covered)
        if outcome.failure is not None:
            failed.append(seed)
            if len(failed) <= SHOWN_FAILURES:
                print(outcome.told(), end="\n\n", file=sys.stderr)
    row = {
        "name": "simulation",
        "command": f"make soak-sim SEEDS={seeds}" + (f" FIRST={first}" if first else ""),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "seeds": seeds,
        "first_seed": first,
        "steps": steps,
        "seconds": round(time.monotonic() - began, 1),
        "failures": len(failed),
        "failed_seeds": failed[:100],
    }
    RESULTS.parent.mkdir(exist_ok=True)
    with RESULTS.open("a") as results:
        results.write(json.dumps(row) + "\n")
    for what, times in sorted(covered.items()):
        print(f"{times:9}  {what}")
    print(f"{seeds} worlds, {steps} steps, {row['seconds']} s, {len(failed)} failed")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
