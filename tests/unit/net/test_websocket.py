"""`WebSocket` against peers in memory, in virtual time: endings, receivers that break, `on_open` that lingers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from jetsocket_ingest.errors import HandshakeRefused
from jetsocket_ingest.net.backoff import retry_after_seconds
from jetsocket_ingest.net.budget import ConnectBudget
from jetsocket_ingest.net.life import Changed, ReconnectPolicy, State, Timing
from jetsocket_ingest.net.websocket import WebSocket
from jetsocket_ingest.testing.clock import LoopClock, run_virtual
from tests.support.network import Network

URL = "ws://feed.test/a"


class Recorder:
    """A receiver that notes what it hears, and does what a test wants at a change."""

    def __init__(self, at_change: Callable[[Changed], None] = lambda change: None) -> None:
        self.states: list[State] = []
        self.connected: list[float] = []
        self.at_change = at_change

    def on_connected(self) -> None:
        self.connected.append(asyncio.get_running_loop().time())

    def on_messages(self, payloads: list[bytes], binary: bool, received_ns: int, size: int) -> None: ...

    def on_changed(self, change: Changed) -> None:
        self.states.append(change.state)
        self.at_change(change)


def socket(network: Network, receiver: Any, **kwargs: Any) -> WebSocket[Any]:
    settings: dict[str, Any] = {
        "dial": network.dial,
        "random": lambda: 0.5,
        "timing": Timing(ping_every=None),
        "policy": ReconnectPolicy(retry_first=True, initial=0.1),
        "clock": LoopClock(),
    }
    return WebSocket(URL, receiver=receiver, **(settings | kwargs))


def test_a_receiver_that_raises_when_told_of_connecting_leaves_no_dial_behind() -> None:
    def break_(change: Changed) -> None:
        if change.state is State.CONNECTING:
            raise ZeroDivisionError("a bug")

    network = Network()
    network.ignore()

    async def main() -> None:
        broken = socket(network, Recorder(break_))
        broken.start()
        assert isinstance(broken.error, ZeroDivisionError)
        async with asyncio.timeout(5):
            await broken.wait_gone()
        assert network.attempts == []

    run_virtual(main())


def test_a_receiver_may_close_when_told_of_connecting() -> None:
    network = Network()
    network.ignore()

    async def main() -> None:
        recorder = Recorder(lambda change: made.close_soon() if change.state is State.CONNECTING else None)
        made = socket(network, recorder)
        made.start()
        async with asyncio.timeout(5):
            await made.wait_gone()
        assert recorder.states == [State.CONNECTING, State.CLOSING, State.CLOSED]
        assert network.attempts == []

    run_virtual(main())


def test_a_receiver_that_closes_when_told_of_the_connection_is_not_asked_to_subscribe() -> None:
    network = Network()

    async def main() -> None:
        recorder = Recorder(lambda change: made.close_soon() if change.state is State.CONNECTED else None)
        made = socket(network, recorder)
        made.start()
        await made.wait_gone()
        assert recorder.connected == []

    run_virtual(main())


def test_a_receiver_that_raises_after_on_open_ends_the_connection_failed() -> None:
    class Broken(Recorder):
        def on_connected(self) -> None:
            raise ZeroDivisionError("a bug")

    async def on_open(made: WebSocket[Any]) -> None:
        await made.send("login")

    network = Network()

    async def main() -> None:
        made = socket(network, Broken(), on_open=on_open)
        made.start()
        await made.wait_gone()
        assert made.state is State.FAILED
        assert isinstance(made.error, ZeroDivisionError)

    run_virtual(main())


def test_an_on_open_that_lingers_after_a_loss_does_not_count_for_the_next_connection() -> None:
    running: list[float] = []

    async def on_open(made: WebSocket[Any]) -> None:
        running.append(asyncio.get_running_loop().time())
        try:
            await asyncio.sleep(5)
        finally:
            if len(running) == 1:
                await asyncio.sleep(2)  # work that a cancellation does not cut short

    network = Network()
    recorder = Recorder()

    async def main() -> None:
        made = socket(network, recorder, on_open=on_open)
        made.start()
        await asyncio.sleep(1)
        network.peers[0].hang_up(1006)
        await asyncio.sleep(3)
        assert len(running) == 2, "it reconnected while the first on_open was still ending"
        assert not made.up
        await made.wait_up()
        assert recorder.connected == [running[1] + 5]
        await made.close()

    run_virtual(main())


def test_a_connection_is_not_gone_while_an_on_open_lingers() -> None:
    ended: list[float] = []

    async def on_open(made: WebSocket[Any]) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(2)
            ended.append(asyncio.get_running_loop().time())

    network = Network()

    async def main() -> None:
        made = socket(network, Recorder(), on_open=on_open)
        made.start()
        await asyncio.sleep(1)
        await made.close()
        assert ended == [asyncio.get_running_loop().time()]

    run_virtual(main())


def test_waiting_tasks_are_woken_in_the_order_they_came() -> None:
    network = Network()
    order: list[int] = []

    async def wait(made: WebSocket[Any], number: int) -> None:
        await made.wait_gone()
        order.append(number)

    async def main() -> None:
        made = socket(network, Recorder())
        made.start()
        waiting = [asyncio.ensure_future(wait(made, number)) for number in range(50)]
        await asyncio.sleep(1)
        await made.close()
        await asyncio.wait(waiting)

    run_virtual(main())
    assert order == list(range(50))


@pytest.mark.parametrize(
    "value",
    [
        "9" * 400,
        "Mon, 01 Jan 99999999999999 00:00:00 GMT",
        "Mon, 01 Jan 2030 00:00:00 +99999999999999999999",
        "99999999999999999999 Jan 2030 1:1:1",
    ],
)
def test_a_retry_after_of_numbers_past_all_bounds_is_unusable(value: str) -> None:
    assert retry_after_seconds(value, datetime(2026, 1, 1, tzinfo=UTC)) is None


def test_a_strange_retry_after_does_not_stop_reconnecting() -> None:
    network = Network()
    network.refuse(HandshakeRefused(503, retry_after="Mon, 01 Jan 99999999999999 00:00:00 GMT"))

    async def main() -> None:
        async with asyncio.timeout(5), socket(network, Recorder()) as made:
            assert made.state is State.CONNECTED

    run_virtual(main())


def test_moments_given_back_do_not_make_the_budget_forget_those_used() -> None:
    budget = ConnectBudget(1, 10.0)
    assert budget.take(0.0) == 0.0
    later = [budget.take(1.0) for _ in range(3)]
    assert later == [10.0, 20.0, 30.0]
    for moment in later:
        budget.give_back(moment)
    assert budget.take(2.0) == 10.0
