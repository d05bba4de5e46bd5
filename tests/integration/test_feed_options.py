"""How the embedded feed is set up, and what its market makes of that: without sockets."""

from __future__ import annotations

import json
from typing import Any

import pytest

from jetsocket_ingest.clock import SystemClock
from jetsocket_ingest.errors import ConfigError
from jetsocket_ingest.testing.feed import FeedOptions, demo_options, demo_path
from jetsocket_ingest.testing.feed.hub import Hub
from jetsocket_ingest.testing.feed.market import MAX_BEHIND, MAX_CATCH_UP, Market, Pacer, stream_names
from tests.support.feed import BTC, ETH


@pytest.mark.parametrize(("limit", "last"), [(None, 5), (100, 0)])
def test_numbering_goes_on_unheard_unless_the_stream_has_a_limit(limit: int | None, last: int) -> None:
    hub = Hub(Market([BTC, ETH], size=0, seed=0, limit=limit), SystemClock(), changed=lambda: None)
    hub.produce(10)
    assert [stream.seq for stream in hub.market] == [last, last]


def test_the_same_seed_gives_the_same_prices_whoever_listened() -> None:
    def prices(seed: int, unheard: int) -> list[Any]:
        stream = Market([BTC], size=0, seed=seed, limit=None)[BTC]
        stream.pass_unheard(unheard)
        return [json.loads(payload) | {"ts": 0} for payload in stream.make(300, ts=5).payloads]

    assert prices(1, 0)[200:] == prices(1, 200)[:100]
    assert prices(1, 0) != prices(2, 0)


@pytest.mark.parametrize("size", [0, 120, 200, 70_000])
def test_a_message_is_padded_to_exactly_the_size_asked_for(size: int) -> None:
    for payload in Market([BTC], size=size, seed=0, limit=None)[BTC].make(120, ts=1_760_000_000_123).payloads:
        assert json.loads(payload)["stream"] == BTC
        assert len(payload) == size or (size == 0 and b"pad" not in payload)


def test_what_is_due_is_dealt_out_evenly_and_in_turn() -> None:
    market = Market(stream_names(3), size=0, seed=0, limit=None)
    dealt = dict.fromkeys(market.streams, 0)
    for due in [1, 1, 2, 7, 0, 1, 30]:
        for stream, share in market.shares(due):
            dealt[stream.name] += share
    assert list(dealt.values()) == [14, 14, 14]


def test_the_pacer_neither_drifts_nor_bursts_after_a_stall() -> None:
    pacer, now, made = Pacer(333.0, now=100.0), 100.0, 0
    while now < 110.0:
        now = pacer.next_tick(now) + 0.0013
        made += pacer.due(now)
    assert made == pytest.approx(333.0 * (now - 100.0), abs=1)
    late = [pacer.due(now + 60.0) for _ in range(100)]
    assert max(late) <= 333.0 * MAX_CATCH_UP + 1
    assert sum(late) == pytest.approx(333.0 * MAX_BEHIND, abs=1)


def test_a_demo_url_sets_up_the_feed() -> None:
    options = demo_options(
        "demo://feed?rate=500&streams=8&size=200&heartbeat=500ms&fault=rst,close:4000&every=5"
    )
    assert (options.rate, len(options.stream_names), options.size, options.heartbeat) == (500, 8, 200, 0.5)
    assert [(fault.fault, fault.every) for fault in options.faults] == [("rst", 5), ("close:4000", 5)]
    assert options.port == 0
    assert demo_options("demo://feed?streams=a,b&compression=off") == FeedOptions(
        streams=["a", "b"], compression=False
    )
    assert demo_options("demo://feed") == FeedOptions()
    assert {BTC, ETH} <= set(FeedOptions().stream_names)


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("demo://feed", "/ws"),
        ("demo://feed/?rate=1", "/ws"),
        ("demo://feed/all", "/all"),
        (f"demo://feed/ws/{BTC}", f"/ws/{BTC}"),
    ],
)
def test_a_demo_url_names_the_feeds_path(url: str, path: str) -> None:
    assert demo_path(url) == path


@pytest.mark.parametrize(
    ("url", "problems"),
    [
        ("demo://feed?speed=1", ["unknown parameter 'speed'; known are: rate, streams"]),
        ("demo://feed?rate=fast", ["rate: expected messages a second from 0 to 10,000,000, found 'fast'"]),
        (
            "demo://feed?rate=-1&size=1.5&heartbeat=soon",
            ["size: expected bytes", "heartbeat: expected seconds", "rate: expected"],
        ),
        (
            "demo://feed?streams=a,a",
            ["streams: expected a number from 1 to 100,000, or a list of different names"],
        ),
        ("demo://feed?streams=", ["streams: expected"]),
        ("demo://feed?rate=1&rate=2", ["'rate' is given twice"]),
        ("demo://feed?rate=nan", ["rate: expected"]),
        ("demo://feed?fault=explode", ["unknown fault 'explode'; known are: silence, rst"]),
        ("demo://feed?fault=close:1006", ["close code: expected 1000 to 1014"]),
        ("demo://feed?fault=rst:1", ["fault rst: expected no value"]),
        ("demo://feed?fault=gap:0", ["fault gap: expected a whole number from 1"]),
        ("demo://feed?every=1", ["no fault to repeat"]),
        ("demo://feed?fault=rst&every=1,2", ["found 2"]),
        ("demo://feed?fault=rst&every=0", ["expected an interval above 0 seconds"]),
        ("demo://other", ["with `feed` as its host"]),
        ("demo://[feed", ["expected a URL such as"]),
    ],
)
def test_a_demo_url_that_cannot_be_is_refused_with_every_problem_at_once(
    url: str, problems: list[str]
) -> None:
    with pytest.raises(ConfigError) as caught:
        demo_options(url)
    assert len(caught.value.problems) == len(problems)
    for problem, expected in zip(caught.value.problems, problems, strict=True):
        assert url in problem
        assert expected in problem


def test_an_unknown_demo_path_is_refused() -> None:
    with pytest.raises(ConfigError, match="expected the path /ws, /ws/<stream> or /all, found /live"):
        demo_path("demo://feed/live")
