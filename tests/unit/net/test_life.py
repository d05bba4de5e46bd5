"""The life of a connection, event by event."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from jetsocket_ingest.errors import ConnectionClosed, DialError, HandshakeRefused, InternalError
from jetsocket_ingest.net import life as life_
from jetsocket_ingest.net.backoff import Backoff, retry_after_seconds
from jetsocket_ingest.net.budget import ConnectBudget
from jetsocket_ingest.net.life import Changed, Life, ReconnectPolicy, State, Timing, Verdict


def new_life(policy: ReconnectPolicy | None = None, timing: Timing | None = None) -> Life:
    return Life(policy or ReconnectPolicy(retry_first=True), timing or Timing(), lambda: 0.5)


def connected(life: Life, now: float = 0.0) -> Life:
    life.open(now)
    life.dialled(now)
    assert life.state is State.CONNECTED
    return life


def changes(actions: list[life_.Action]) -> list[Changed]:
    return [action for action in actions if isinstance(action, Changed)]


def test_backoff_doubles_its_bound_up_to_the_maximum_with_full_jitter() -> None:
    backoff = Backoff(1.0, 5.0, lambda: 0.5)
    assert [backoff.next() for _ in range(5)] == [0.5, 1.0, 2.0, 2.5, 2.5]
    backoff.reset()
    assert backoff.next() == 0.5


def test_backoff_survives_a_very_long_outage() -> None:
    backoff = Backoff(1.0, 30.0, lambda: 0.999)
    assert max(backoff.next() for _ in range(5000)) < 30.0


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("120", 120.0),
        (" 7 ", 7.0),
        ("Thu, 09 Oct 2025 09:00:00 GMT", 60.0),
        ("Thu, 09 Oct 2025 08:00:00 GMT", 0.0),
        ("soon", None),
        ("-5", None),
        (None, None),
    ],
)
def test_retry_after_is_read_in_both_forms(header: str | None, seconds: float | None) -> None:
    assert retry_after_seconds(header, datetime(2025, 10, 9, 8, 59, tzinfo=UTC)) == seconds


def test_a_failed_first_attempt_is_final_unless_the_policy_retries_it() -> None:
    life = new_life(ReconnectPolicy())
    life.open(0)
    error = DialError("refused")
    assert changes(life.dial_failed(0, error))[0].state is State.FAILED
    assert life.error is error


def test_a_lost_connection_backs_off_and_dials_again() -> None:
    life = connected(new_life())
    (change,) = changes(life.lost(1.0, 1006, ""))
    assert change.state is State.BACKING_OFF
    assert change.delay == 0.25
    assert life.deadline() == 1.25
    assert life.tick(1.2) == []
    actions = life.tick(1.25)
    assert life.state is State.RECONNECTING
    assert isinstance(actions[-1], life_.Dial)


def test_backoff_resets_only_after_data_has_flowed_for_a_while() -> None:
    life = connected(new_life(ReconnectPolicy(retry_first=True, reset_after=10.0)))
    delays = []
    now = 0.0
    for alive in (0.0, 0.0, 5.0, 12.0):
        life.last_received = now + alive
        (change,) = changes(life.lost(now + alive, 1006, ""))
        delays.append(change.delay)
        now += alive + change.delay
        life.tick(now)
        life.dialled(now)
    # accept-then-close twice, then too short, then long enough
    assert delays == [0.25, 0.5, 1.0, 0.25]


@pytest.mark.parametrize("status", [401, 403, 404, 400])
def test_a_refusal_that_time_cannot_cure_ends_it_failed(status: int) -> None:
    life = new_life()
    life.open(0)
    assert changes(life.dial_failed(0, HandshakeRefused(status)))[0].state is State.FAILED


@pytest.mark.parametrize("status", [408, 425, 429, 500, 503])
def test_a_refusal_that_time_can_cure_is_retried(status: int) -> None:
    life = new_life()
    life.open(0)
    assert changes(life.dial_failed(0, HandshakeRefused(status)))[0].state is State.BACKING_OFF


def test_retry_after_is_a_lower_bound_of_the_wait() -> None:
    life = new_life()
    life.open(0)
    (change,) = changes(life.dial_failed(0, HandshakeRefused(429), retry_after=60.0))
    assert change.delay == 60.25


def test_a_policy_overrides_the_defaults() -> None:
    policy = ReconnectPolicy(
        retry_first=True, http_status={403: Verdict.RETRY, 503: Verdict.FAIL}, close_code={4004: Verdict.FAIL}
    )
    assert policy.on_status(403) is Verdict.RETRY
    assert policy.on_status(503) is Verdict.FAIL
    assert policy.on_close(4004) is Verdict.FAIL
    assert policy.on_close(1008) is Verdict.FAIL
    assert policy.on_close(1000) is Verdict.RETRY


def test_a_policy_violation_is_not_retried_and_keeps_its_real_code() -> None:
    life = connected(new_life())
    life.lost(1.0, 1008, "go away")
    assert life.state is State.FAILED
    assert isinstance(life.error, ConnectionClosed)
    assert (life.error.code, life.error.reason) == (1008, "go away")


def test_attempts_are_limited_in_number() -> None:
    life = new_life(ReconnectPolicy(retry_first=True, max_attempts=3))
    life.open(0)
    now = 0.0
    for _ in range(2):
        (change,) = changes(life.dial_failed(now, DialError("no")))
        assert change.state is State.BACKING_OFF
        now += change.delay
        life.tick(now)
    assert changes(life.dial_failed(now, DialError("no")))[0].reason == "gave up after 3 failed attempts: no"
    assert life.state is State.FAILED


def test_attempts_are_limited_in_total_time() -> None:
    life = connected(new_life(ReconnectPolicy(max_time=60.0)))
    life.lost(100.0, 1006, "")
    life.tick(101.0)
    life.dial_failed(159.0, DialError("no"))
    assert life.state is State.BACKING_OFF
    life.tick(162.0)
    life.dial_failed(162.0, DialError("no"))
    assert life.state is State.FAILED


def test_an_attempt_that_takes_too_long_is_cancelled_and_counts_as_failed() -> None:
    life = new_life(timing=Timing(open_timeout=10.0))
    life.open(0)
    assert life.deadline() == 10.0
    assert life.tick(10.0) == [life_.CancelDial()]
    assert life.tick(10.1) == []
    (change,) = changes(life.dial_failed(10.1, None))
    assert change.state is State.BACKING_OFF
    assert change.reason == "no connection within 10 s"


def test_pings_go_out_and_a_missing_pong_drops_the_socket() -> None:
    life = connected(new_life(timing=Timing(ping_every=20.0, ping_timeout=5.0)))
    assert life.deadline() == 20.0
    assert life.tick(20.0) == [life_.Ping(b"1")]
    assert life.deadline() == 25.0
    assert life.tick(25.0) == [life_.Abort()]
    (change,) = changes(life.lost(25.0, 1006, ""))
    assert change.reason == "connection closed with code 1006: no pong within 5 s"


def test_a_pong_answers_only_the_ping_it_belongs_to() -> None:
    life = connected(new_life(timing=Timing(ping_every=20.0, ping_timeout=5.0)))
    life.tick(20.0)
    life.ponged(20.1, b"unasked")
    assert life.deadline() == 25.0
    life.ponged(20.3, b"1")
    assert life.round_trip == pytest.approx(0.3)
    assert life.deadline() == 40.0


def test_while_reading_is_paused_no_pong_is_missed_and_pings_still_go_out() -> None:
    life = connected(new_life(timing=Timing(ping_every=20.0, ping_timeout=5.0)))
    life.tick(20.0)
    life.suspend()
    assert life.tick(30.0) == []
    assert life.tick(40.0) == [life_.Ping(b"2")]
    assert life.tick(50.0) == []
    life.resume(50.0)
    assert life.tick(50.0) == [life_.Ping(b"3")]
    assert life.tick(55.0) == [life_.Abort()]


def test_a_close_that_the_peer_ignores_is_aborted() -> None:
    life = connected(new_life(timing=Timing(close_timeout=5.0)))
    life.close(1.0, 1000, "bye")
    assert life.state is State.CLOSING
    assert life.deadline() == 6.0
    assert life.tick(6.0) == [life_.Abort()]
    life.lost(6.0, 1006, "")
    assert life.state is State.CLOSED


def test_closing_while_connecting_cancels_and_a_late_success_is_aborted() -> None:
    life = new_life()
    life.open(0)
    assert life_.CancelDial() in life.close(0.5, 1000, "")
    assert life.dialled(0.6) == [life_.Abort()]
    life.lost(0.7, 1006, "")
    assert life.state is State.CLOSED


def test_closing_in_back_off_is_immediate() -> None:
    life = connected(new_life())
    life.lost(0, 1006, "")
    life.close(0.1, 1000, "")
    assert life.state is State.CLOSED
    assert life.deadline() is None


def test_a_fatal_dial_error_is_not_retried() -> None:
    life = new_life()
    life.open(0)
    life.dial_failed(0, DialError("certificate expired", fatal=True))
    assert life.state is State.FAILED


def test_a_transition_outside_the_diagram_is_a_bug() -> None:
    life = connected(new_life())
    with pytest.raises(InternalError, match="CONNECTED to RECONNECTING"):
        life.open(1.0)


def test_terminal_states_lead_nowhere() -> None:
    assert {state for state, targets in life_.TRANSITIONS.items() if not targets} == {
        State.CLOSED,
        State.FAILED,
    }
    for after_end in (
        lambda life: life.lost(1, 1006, ""),
        lambda life: life.dial_failed(1, None),
        lambda life: life.close(1, 1000, ""),
        lambda life: life.fail(1, ValueError()),
        lambda life: life.tick(1),
    ):
        life = connected(new_life())
        life.fail(0.5, ValueError("broken receiver"))
        assert life.state is State.FAILED
        assert after_end(life) == []


def test_the_diagram_shows_every_transition() -> None:
    text = life_.diagram()
    for source, targets in life_.TRANSITIONS.items():
        for target in targets:
            assert f"{source.name} --> {target.name}" in text


def test_a_budget_that_is_used_up_delays_the_dial_and_not_the_attempt() -> None:
    budget = ConnectBudget(1, 10.0)
    first, second = (Life(ReconnectPolicy(retry_first=True), Timing(), lambda: 0.5, budget) for _ in range(2))
    assert first.open(0.0)[-1] == life_.Dial()
    (change,) = changes(second.open(0.0))
    assert (change.state, change.delay) == (State.BACKING_OFF, 10.0)
    assert second.tick(9.9) == []
    assert second.tick(10.0)[-1] == life_.Dial()
    assert second.state is State.CONNECTING


def test_a_back_off_that_ends_inside_a_used_up_budget_waits_on() -> None:
    budget = ConnectBudget(1, 10.0)
    life = Life(ReconnectPolicy(retry_first=True), Timing(), lambda: 0.5, budget)
    life.open(0.0)
    life.dial_failed(0.0, DialError("no"))
    assert life.tick(0.25) == []
    assert (life.state, life.deadline()) == (State.BACKING_OFF, 10.0)
    assert life.tick(10.0)[-1] == life_.Dial()


def test_a_connection_closed_while_it_waits_gives_its_moment_back() -> None:
    budget = ConnectBudget(1, 10.0)
    lives = [Life(ReconnectPolicy(retry_first=True), Timing(), lambda: 0.5, budget) for _ in range(3)]
    for life in lives[:2]:
        life.open(0.0)
    lives[1].close(1.0, 1000, "")
    (change,) = changes(lives[2].open(2.0))
    assert change.delay == 8.0


def test_flapping_is_damped_until_a_connection_holds() -> None:
    policy = ReconnectPolicy(retry_first=True, reset_after=10.0, flaps=3, stable_after=60.0, maximum=100.0)
    life = connected(new_life(policy))
    delays, now = [], 0.0
    for held in [15.0] * 6 + [61.0]:
        now += held
        life.last_received = now
        (change,) = changes(life.lost(now, 1006, ""))
        delays.append(change.delay)
        now += change.delay
        life.tick(now)
        life.dialled(now)
    assert delays == [0.25, 0.25, 0.25, 0.5, 1.0, 2.0, 0.25]


def test_our_own_stall_is_not_blamed_on_the_peer() -> None:
    life = connected(new_life(timing=Timing(ping_every=20.0, ping_timeout=5.0)))
    life.tick(20.0)
    # The loop was busy for three seconds: the pong may wait in the socket.
    assert life.tick(28.0) == []
    assert life.deadline() == 28.5
    life.ponged(28.1, b"1")
    assert life.state is State.CONNECTED
    life.tick(48.0)
    assert life.tick(60.0) == []
    assert life.tick(60.5) == [life_.Abort()]
