"""Which streams share a connection, and what does not fit."""

from __future__ import annotations

import pytest

from jetsocket_ingest.config.load import Loaded
from jetsocket_ingest.plan.plan import PlannedConnection, plan, plan_endpoint, problems
from tests.unit.config.examples import edited, read

DESK = "    session:\n      subscribe: {via: message, message: {op: subscribe, args: <streams>}}\n"
BY_URL = (DESK, "    session:\n      subscribe: {via: url, path: /ws/<stream>}\n")
TRADES = "  trades: {endpoint: desk, streams: [btc, eth], sinks: [out]}"


def planned(loaded: Loaded) -> list[PlannedConnection]:
    return plan_endpoint(loaded.config, "desk")


def subscribed(**streams: list[str]) -> Loaded:
    lines = [f"  {name}: {{endpoint: desk, streams: {own}, sinks: [out]}}" for name, own in streams.items()]
    return read(edited((TRADES, "\n".join(lines))))


@pytest.mark.parametrize(
    ("streams", "groups"),
    [
        ({"a": ["1", "2", "3"]}, [("a", "1 2 3")]),
        ({"a": ["1"], "b": ["2"]}, [("a", "1"), ("b", "2")]),
        ({"a": ["1", "2"], "b": ["1", "2"]}, [("a b", "1 2")]),
        ({"a": ["1", "2"], "b": ["2", "3"]}, [("a", "1"), ("a b", "2"), ("b", "3")]),
    ],
)
def test_streams_wanted_by_the_same_subscriptions_share_a_connection(
    streams: dict[str, list[str]], groups: list[tuple[str, str]]
) -> None:
    found = [(" ".join(c.subscriptions), " ".join(c.streams)) for c in planned(subscribed(**streams))]
    assert found == groups


def test_by_url_each_stream_has_a_connection_and_is_one_segment_of_its_path() -> None:
    loaded = read(edited(BY_URL, ("streams: [btc, eth]", "streams: [btc@trade, 'a/../b?c']")))
    assert [(c.id, c.path, c.streams) for c in planned(loaded)] == [
        ("desk-1", "/ws/btc@trade", ("btc@trade",)),
        ("desk-2", "/ws/a%2F..%2Fb%3Fc", ("a/../b?c",)),
    ]


def test_an_endpoint_that_sends_by_itself_needs_one_connection_for_all_subscriptions() -> None:
    text = edited(
        (DESK, "    session:\n"),
        ("streams: [btc, eth], ", ""),
        ("sinks: [out]}\n", "sinks: [out]}\n  b: {endpoint: desk, sinks: [out]}\n"),
    )
    (connection,) = planned(read(text))
    assert (connection.streams, connection.subscriptions, connection.path) == ((), ("trades", "b"), "")


def test_a_stream_of_two_subscriptions_is_subscribed_once_by_url() -> None:
    text = edited(
        BY_URL,
        ("sinks: [out]}\n", "sinks: [out]}\n  more: {endpoint: desk, streams: [eth, sol], sinks: [out]}\n"),
    )
    assert [c.subscriptions for c in planned(read(text))] == [("trades",), ("trades", "more"), ("more",)]


def misfits(loaded: Loaded) -> list[str]:
    found = problems(loaded.config, plan(loaded.config))
    return [loaded.located(keys, message) for keys, message in found]


def test_more_streams_than_the_pool_holds_do_not_fit() -> None:
    limited = ("  desk:\n", "  desk:\n    pool: {max_connections: 2}\n")
    (problem,) = misfits(read(edited(BY_URL, limited, ("[btc, eth]", "[a, b, c]"))))
    assert problem.startswith("c.yaml:5:29: endpoints.desk.pool.max_connections: 3 connections are needed")
    assert misfits(read(edited(BY_URL, limited))) == []


def test_the_limit_of_the_process_is_held() -> None:
    (problem,) = misfits(
        read(edited(BY_URL, ("name: ticks\n", "name: ticks\nlimits: {max_connections: 1}\n")))
    )
    assert "limits.max_connections: 2 connections are needed over all endpoints" in problem
