"""The connect budget: no window ever holds more than it allows."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from jetsocket_ingest.net.budget import ConnectBudget


def test_attempts_within_the_budget_begin_at_once() -> None:
    budget = ConnectBudget(3, 10.0)
    assert [budget.take(1.0) for _ in range(3)] == [1.0, 1.0, 1.0]
    assert budget.used(1.0) == 3


def test_attempts_beyond_it_wait_for_the_window_to_pass() -> None:
    budget = ConnectBudget(2, 10.0)
    assert [budget.take(0.0) for _ in range(6)] == [0.0, 0.0, 10.0, 10.0, 20.0, 20.0]


def test_a_moment_given_back_can_be_had_again() -> None:
    budget = ConnectBudget(1, 10.0)
    assert budget.take(0.0) == 0.0
    later = budget.take(0.0)
    budget.give_back(later)
    assert budget.take(1.0) == 10.0


@given(
    st.integers(1, 5),
    st.floats(0.1, 100),
    st.lists(st.tuples(st.floats(0, 50), st.booleans()), max_size=60),
)
def test_no_window_holds_more_than_the_budget(
    count: int, per: float, steps: list[tuple[float, bool]]
) -> None:
    budget, now, begun = ConnectBudget(count, per), 0.0, []
    for wait, cancel in steps:
        now += wait
        moment = budget.take(now)
        assert moment >= now
        if cancel and moment > now:
            budget.give_back(moment)
        else:
            begun.append(moment)
    assert begun == sorted(begun)
    for start in begun:
        # Half a nanosecond of tolerance: sums of floats.
        assert sum(start <= moment < start + per - 5e-10 for moment in begun) <= count
