"""Peers that refuse, lie or break the protocol: what is told, what is tried again, and what ends the run."""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trustme

from jetsocket_ingest.testing.feed import FeedServer
from tests.support.aio import run
from tests.support.feed import BTC, ETH, manual
from tests.support.program import Program, market, program, sequences, write_config

SCREEN: dict[str, Any] = {"screen": {"type": "stdout"}}
TICKS: dict[str, Any] = {"ticks": {"endpoint": "feed", "streams": [BTC, ETH], "sinks": ["screen"]}}


def ticks(folder: Path, feed: FeedServer, **keys: Any) -> Path:
    return write_config(folder, {"feed": market(feed.url, **keys)}, TICKS, SCREEN)


async def flows(feed: FeedServer, running: Program, count: int = 3) -> None:
    """Messages sent from now on arrive."""
    await feed.wait_for(lambda feed: len(feed.subscribed()) == 2, 15)
    before = sum(map(len, sequences(running.rows).values()))
    await feed.publish(BTC, count)
    await running.until(lambda running: sum(map(len, sequences(running.rows).values())) == before + count)


# No connection


def test_a_peer_that_is_not_there_yet_is_tried_until_it_is(tmp_path: Path) -> None:
    async def main() -> None:
        async with manual() as feed:
            config = ticks(tmp_path, feed)
            await feed.stop()
            async with program("run", config) as running:
                backing_off = await running.event("connection.backing_off", 2)
                assert f"127.0.0.1:{feed.port}" in backing_off["reason"]
                await feed.start()
                await flows(feed, running)
                assert await running.stop() == 0

    run(main(), 40)


@pytest.mark.parametrize(
    "status", [401, pytest.param(403, marks=pytest.mark.slow), pytest.param(404, marks=pytest.mark.slow)]
)
def test_a_refusal_that_repeating_cannot_cure_ends_the_run_with_1(tmp_path: Path, status: int) -> None:
    async def main() -> None:
        async with manual() as feed:
            feed.faults.refuse_handshakes(status, "no entry: bring a token")
            async with program("run", ticks(tmp_path, feed)) as running:
                assert await running.exit() == 1
                assert len(feed.requests) == 1
                (failed,) = running.named("connection.failed")
                assert f"HTTP {status}: no entry: bring a token" in failed["reason"]
                assert failed["endpoint"] == "feed"
                assert f"HTTP {status}" in running.named("pipeline.failed")[0]["error"]
                assert "every connection failed" in running.stderr.splitlines()[-1]

    run(main(), 40)


@pytest.mark.slow
@pytest.mark.parametrize("status", [429, 503])
def test_a_peer_that_says_when_to_come_back_is_left_alone_until_then(tmp_path: Path, status: int) -> None:
    async def main() -> None:
        async with manual() as feed:
            feed.faults.refuse_handshakes(status, "busy", retry_after=2, times=1)
            async with program("run", ticks(tmp_path, feed)) as running:
                backing_off = await running.event("connection.backing_off")
                began = time.monotonic()
                assert f"HTTP {status}" in backing_off["reason"]
                assert backing_off["delay_s"] >= 2
                await flows(feed, running)
                assert time.monotonic() - began > 1.9
                assert len(feed.requests) == 2
                assert await running.stop() == 0

    run(main(), 40)


@pytest.mark.slow
def test_a_policy_may_retry_what_is_final_and_end_what_is_not(tmp_path: Path) -> None:
    async def main() -> None:
        async with manual() as feed:
            feed.faults.refuse_handshakes(403, times=1)
            backoff = {"initial": "50ms", "maximum": "50ms"}
            policy = {"backoff": backoff, "http_status": {403: "retry"}, "close_code": {4001: "fatal"}}
            async with program("run", ticks(tmp_path, feed, policy=policy)) as running:
                await flows(feed, running)
                feed.faults.close(4001, "licence expired")
                assert await running.exit() == 1
                assert "licence expired" in running.named("connection.failed")[0]["reason"]

    run(main(), 40)


@pytest.mark.slow
def test_attempts_can_be_limited(tmp_path: Path) -> None:
    async def main() -> None:
        async with manual() as feed:
            backoff = {"initial": "10ms", "maximum": "10ms"}
            config = ticks(tmp_path, feed, policy={"backoff": backoff, "max_attempts": 3})
            await feed.stop()
            async with program("run", config) as running:
                assert await running.exit() == 1
                assert "gave up after 3 failed attempts" in running.named("connection.failed")[0]["reason"]

    run(main(), 40)


def secured(folder: Path, *names: str) -> tuple[FeedServer, Path]:
    """A feed with a certificate for these names, and the file of the authority that issued it."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*names).configure_cert(context)
    file = folder / "authority.pem"
    authority.cert_pem.write_to_path(str(file))
    return manual(tls=context), file


def test_a_certificate_that_nobody_vouches_for_ends_the_run_with_1(tmp_path: Path) -> None:
    async def main() -> None:
        feed, _ = secured(tmp_path, "127.0.0.1")
        async with feed, program("run", ticks(tmp_path, feed)) as running:
            assert await running.exit() == 1
            reason = running.named("connection.failed")[0]["reason"]
            assert "certificate of 127.0.0.1" in reason
            assert "does not verify" in reason
            assert "tls.ca_file" in reason

    run(main(), 40)


@pytest.mark.slow
@pytest.mark.parametrize("names", [("127.0.0.1",), ("other.example.com",)])
def test_a_known_authority_is_trusted_for_its_own_names_only(tmp_path: Path, names: tuple[str, ...]) -> None:
    async def main() -> None:
        feed, authority = secured(tmp_path, *names)
        async with feed, program("run", ticks(tmp_path, feed, tls={"ca_file": str(authority)})) as running:
            if names == ("127.0.0.1",):
                await flows(feed, running)
                assert await running.stop() == 0
            else:
                assert await running.exit() == 1
                assert "does not verify" in running.named("connection.failed")[0]["reason"]

    run(main(), 40)


@pytest.mark.slow
def test_tls_where_none_is_spoken_is_told_and_tried_again(tmp_path: Path) -> None:
    async def main() -> None:
        async with manual() as feed:
            endpoint = market(feed.url.replace("ws://", "wss://"))
            config = write_config(tmp_path, {"feed": endpoint}, TICKS, SCREEN)
            async with program("run", config) as running:
                backing_off = await running.event("connection.backing_off")
                # Which of them depends on whether the peer says anything before it hangs up.
                told = ("does not speak TLS", "ended the connection during the TLS handshake")
                assert any(words in backing_off["reason"] for words in told)
                assert await running.stop() == 0

    run(main(), 40)


# Subscribing


def test_a_feed_that_refuses_the_only_subscription_ends_the_run_with_1(tmp_path: Path) -> None:
    async def main() -> None:
        async with manual() as feed:
            feed.faults.refuse_requests()
            async with program("run", ticks(tmp_path, feed)) as running:
                assert await running.exit() == 1
                (refused,) = running.named("subscription.refused")
                assert refused["streams"] == f"{BTC}, {ETH}"
                assert "refused stream" in refused["reason"]
                assert feed.accepted == 1

    run(main(), 40)


@pytest.mark.slow
def test_a_refused_stream_leaves_the_others_alone(tmp_path: Path) -> None:
    async def main() -> None:
        async with manual() as feed:
            feed.faults.refuse_streams(ETH)
            endpoint = market(feed.url)
            endpoint["session"]["subscribe"]["batch"] = {"max_streams": 1}
            config = write_config(tmp_path, {"feed": endpoint}, TICKS, SCREEN)
            async with program("run", config) as running:
                await running.event("subscription.refused", streams=ETH)
                await feed.publish(BTC, 3)
                await running.until(lambda running: sequences(running.rows) == {BTC: [1, 2, 3]})
                assert await running.stop() == 0

    run(main(), 40)


def test_a_subscription_that_is_never_acknowledged_is_tried_on_new_connections(tmp_path: Path) -> None:
    async def main() -> None:
        async with manual() as feed:
            feed.faults.no_acks(times=2)
            endpoint = market(feed.url)
            endpoint["session"]["subscribe"]["ack"]["timeout"] = "100ms"
            config = write_config(tmp_path, {"feed": endpoint}, TICKS, SCREEN)
            async with program("run", config) as running:
                await running.event("subscription.acknowledged")
                lost = running.named("connection.lost")
                assert len(lost) == 2
                expected = f"no answer to the subscription of {BTC}, {ETH} within 0.1 s"
                assert all(expected in line["reason"] for line in lost)
                await flows(feed, running)
                assert await running.stop() == 0

    run(main(), 40)


# Messages

NOT_DATA: dict[str, Callable[[FeedServer], object]] = {
    "binary": lambda feed: feed.faults.binary(),
    "invalid JSON": lambda feed: feed.faults.invalid_json(),
    "no stream": lambda feed: feed.faults.text('{"news":"none"}'),
}
BREAKS: dict[int, Callable[[FeedServer], object]] = {
    1007: lambda feed: feed.faults.invalid_utf8(),
    1009: lambda feed: feed.faults.oversize(100_000),
}


def test_what_is_no_data_is_counted_and_told_and_what_breaks_the_protocol_costs_the_connection(
    tmp_path: Path,
) -> None:
    async def main() -> None:
        async with (
            manual() as feed,
            program("run", ticks(tmp_path, feed, max_message_size="64KiB")) as running,
        ):
            await flows(feed, running)
            for strike in NOT_DATA.values():
                assert strike(feed) == 1
                await flows(feed, running)
            unmatched = await running.event("message.unmatched")
            assert unmatched["connection"] == "feed-1"
            assert not running.named("connection.lost")
            for number, (code, strike) in enumerate(BREAKS.items(), 1):
                assert strike(feed) == 1
                lost = await running.event("connection.lost", number)
                assert lost["code"] == code
                await running.event("subscription.acknowledged", 1 + number)
                await flows(feed, running)
            assert await running.stop() == 0
            assert sequences(running.rows)[BTC] == list(range(1, 19))
            assert running.named("pipeline.stopped")[0]["unmatched"] == len(NOT_DATA)

    run(main(), 40)


@pytest.mark.slow
def test_where_everything_is_data_binary_and_broken_json_are_delivered_as_they_came(tmp_path: Path) -> None:
    async def main() -> None:
        async with manual() as feed:
            everything = {"everything": {"endpoint": "feed", "sinks": ["screen"]}}
            config = write_config(tmp_path, {"feed": {"url": feed.url + "/all"}}, everything, SCREEN)
            async with program("run", config, "--max-records", "2") as running:
                await feed.wait_for(lambda feed: len(feed.subscribed()) == 2, 15)
                feed.faults.binary(b"\x00\xff")
                feed.faults.invalid_json()
                assert await running.exit() == 0
                binary, broken = [row for row in running.rows if row["kind"] == "data"]
                assert binary["payload_base64"] == "AP8="
                assert broken["payload"] == '{"stream":"'

    run(main(), 40)


# Two endpoints


@pytest.mark.parametrize("on_failure", ["continue", pytest.param("stop", marks=pytest.mark.slow)])
def test_an_endpoint_that_fails_for_good_leaves_the_other_alone_unless_told_to_stop(
    tmp_path: Path, on_failure: str
) -> None:
    async def main() -> None:
        async with manual() as good, manual() as bad:
            bad.faults.refuse_handshakes(401)
            subscriptions = {
                "ticks": {"endpoint": "good", "streams": [BTC, ETH], "sinks": ["screen"]},
                "others": {"endpoint": "bad", "streams": [BTC], "sinks": ["screen"]},
            }
            endpoints = {"bad": market(bad.url), "good": market(good.url)}
            config = write_config(tmp_path, endpoints, subscriptions, SCREEN, on_failure=on_failure)
            async with program("run", config) as running:
                await running.event("connection.failed", endpoint="bad")
                if on_failure == "stop":
                    assert await running.exit() == 1
                    assert "connection bad-1 failed" in running.stderr.splitlines()[-1]
                else:
                    await flows(good, running)
                    assert await running.stop() == 0

    run(main(), 40)
