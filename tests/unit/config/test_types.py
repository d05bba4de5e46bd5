"""Durations, sizes and secrets."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from jetsocket_ingest.config.endpoint import Backoff, Pool
from jetsocket_ingest.config.types import (
    FROM_FILE,
    Secret,
    format_duration,
    format_size,
    parse_duration,
    parse_size,
)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("300s", 300),
        ("1h30m", 5400),
        ("250ms", 0.25),
        ("1.5h", 5400),
        (" 5 m ", 300),
        ("1d", 86400),
        ("1m 30s", 90),
    ],
)
def test_durations_are_read(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "value", ["", "5", "s", "5 x", "-5s", "5s!", "1e3s", "9" * 100 + "s", "٣s", 5, 5.0, None, True]
)
def test_what_is_no_duration_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="expected a duration"):
        parse_duration(value)


@pytest.mark.parametrize(
    ("text", "size"), [("4KiB", 4096), ("64 MiB", 2**26), ("1.5GB", 1_500_000_000), (7, 7), ("9B", 9)]
)
def test_sizes_are_read(text: object, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("value", ["", "5", "5K", "-1MB", "1e3B", "9" * 400 + "GB", 1.5, True, None])
def test_what_is_no_size_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="expected a size"):
        parse_size(value)


@given(st.integers(min_value=1, max_value=10**9))
def test_what_is_formatted_is_read_back(number: int) -> None:
    assert (
        parse_size(int(format_size(number)) if format_size(number).isdigit() else format_size(number))
        == number
    )
    assert parse_duration(format_duration(number / 1000)) == pytest.approx(number / 1000)


def test_code_gives_seconds_and_files_give_units() -> None:
    assert Pool(max_idle_time=2.5).max_idle_time == 2.5
    with pytest.raises(ValidationError, match="with its unit"):
        Pool.model_validate({"max_idle_time": 2.5}, context=FROM_FILE)
    for wrong in (float("nan"), float("inf"), -1.0, 0.0):
        with pytest.raises(ValidationError):
            Backoff(initial=wrong)


def test_a_secret_never_shows() -> None:
    secret = Secret("canary")
    assert "canary" not in f"{secret} {secret!r} {[secret]}"
    assert secret.reveal() == "canary"
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(secret)
