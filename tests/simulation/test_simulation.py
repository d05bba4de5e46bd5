"""Worlds from seeds: nothing that must hold is ever broken, and planted bugs are found."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.simulation.mutations import MUTATIONS
from tests.simulation.world import Outcome, simulate

SEEDS = 500
BLOCK = 50
"""Seeds of one test."""
ENOUGH = 600
"""Seeds within which each planted bug must show."""


def live_through(seeds: range) -> list[Outcome]:
    outcomes = []
    for seed in seeds:
        outcome = simulate(seed)
        if outcome.failure is not None:
            pytest.fail(outcome.told(), pytrace=False)
        outcomes.append(outcome)
    return outcomes


@pytest.mark.parametrize("first", range(0, SEEDS, BLOCK))
def test_worlds_break_no_rule(first: int) -> None:
    live_through(range(first, first + BLOCK))


def test_a_seed_replays_step_by_step() -> None:
    for seed in range(1000, 1010):
        once, again = simulate(seed), simulate(seed)
        assert once.history.lines() == again.history.lines()
        assert once.steps == again.steps > 0


def test_the_worlds_try_everything() -> None:
    covered: Counter[str] = Counter()
    for outcome in live_through(range(2000, 2000 + BLOCK)):
        covered.update(outcome.covered)
    missing = {
        "opened", "reused", "overtaken", "replaced", "paused", "mute", "message", "turned away", "receiver raised",
        "cancelled at an await", "cancelled at a time", "read to the end", "dial: HandshakeRefused", "dial: OSError",
        "dial: CancelledError", "BACKING_OFF -> RECONNECTING", "CONNECTED -> FAILED", "CONNECTED -> CLOSED",
    } - covered.keys()  # fmt: skip
    assert not missing


def test_a_failure_names_its_seed_and_the_last_events() -> None:
    outcome = _first_failure("a_slot_counts_as_free_before_its_socket_is_gone", 20)
    told = outcome.told().splitlines()
    assert told[0].startswith(f"seed {outcome.seed}: Violation(")
    assert told[-1] == f"replay: make soak-sim SEED={outcome.seed}"
    assert 2 < len(told) <= 42


@pytest.mark.slow
@pytest.mark.parametrize("name", [plant.__name__ for plant in MUTATIONS])
def test_a_planted_bug_is_found(name: str) -> None:
    _first_failure(name, ENOUGH)


def _first_failure(name: str, within: int) -> Outcome:
    plant = next(plant for plant in MUTATIONS if plant.__name__ == name)
    with plant():
        for seed in range(within):
            outcome = simulate(seed)
            if outcome.failure is not None:
                return outcome
    pytest.fail(f"{name} was not found within {within} seeds")
