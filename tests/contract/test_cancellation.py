"""Every public coroutine of a WebSocket, cancelled at each of its awaits, over real sockets and both engines."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any, get_args

import pytest

from jetsocket_ingest.errors import ConnectionClosed
from jetsocket_ingest.net.engines import Engine, dial_for
from jetsocket_ingest.net.life import ReconnectPolicy, State, Timing
from jetsocket_ingest.net.transport import WRITE_HIGH_WATER, DialOptions
from jetsocket_ingest.net.websocket import WebSocket
from jetsocket_ingest.testing.transport_cases.peers import (
    CLOSE,
    PING,
    TEXT,
    Heard,
    RawPeer,
    frame,
    open_sockets,
    raw_server,
    until,
)
from tests.support.aio import run
from tests.support.cancel import cancelled_at

ENGINES = [engine for engine in get_args(Engine) if engine != "auto"]
NO_PINGS = Timing(open_timeout=10.0, close_timeout=5.0, ping_every=None)


async def echo(peer: RawPeer) -> None:
    """Accepts, and gives back what comes, pings and closes included."""
    peer.accept()
    while True:
        first, payload = await peer.receive()
        opcode = first & 0x0F
        peer.send(frame(opcode + 1 if opcode == PING else opcode, payload))
        if opcode == CLOSE:
            peer.writer.close()
            return


def timers() -> int:
    """Timers of the loop that are still to fire."""
    loop: Any = asyncio.get_running_loop()
    return sum(not handle.cancelled() for handle in loop._scheduled)


@asynccontextmanager
async def nothing_left() -> AsyncIterator[None]:
    """Fails where a task, a socket, a timer or an error that nobody heard of is left in the end."""
    errors: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))
    tasks, sockets, armed = len(asyncio.all_tasks()), open_sockets(), timers()
    yield
    await until(lambda: len(asyncio.all_tasks()) <= tasks)
    await until(lambda: open_sockets() <= sockets)
    assert timers() <= armed
    gc.collect()
    assert errors == []


async def at_every_await(attempt: Callable[[int], Awaitable[bool]]) -> int:
    """Call with 0, 1, 2, … until it says that there was no such await; how many there were."""
    for at in range(200):
        async with nothing_left():
            reached = await attempt(at)
        if not reached:
            return at
    raise AssertionError("it never ends")


def websocket(port: int, engine: Engine, **options: Any) -> WebSocket[Any]:
    arguments: dict[str, Any] = {"timing": NO_PINGS, "policy": ReconnectPolicy(max_attempts=1)} | options
    return WebSocket(f"ws://127.0.0.1:{port}/", engine=engine, **arguments)


async def still_works(socket: WebSocket[Any]) -> list[Any]:
    """A second use, of one that a cancelled call left connected; the messages that came before its own."""
    await socket.send('"again"')
    before = []
    while (message := await socket.recv()) != "again":
        before.append(message)
    return before


@pytest.mark.parametrize("engine", ENGINES)
def test_a_dial_cancelled_at_any_await_leaves_nothing(engine: Engine) -> None:
    async def body() -> None:
        async with raw_server(echo) as port:

            async def attempt(at: int) -> bool:
                heard = Heard()
                dialled = dial_for(engine)(DialOptions(f"ws://127.0.0.1:{port}/"), heard)
                reached, transport = await cancelled_at(dialled, at)
                if transport is not None:
                    transport.abort()
                    await heard.until_closed()
                elif reached:
                    assert heard.batches == []
                    assert heard.closed is None
                return reached

            assert await at_every_await(attempt) >= 3

    run(body())


@pytest.mark.parametrize("engine", ENGINES)
def test_a_drain_cancelled_at_any_await_leaves_the_connection_whole(engine: Engine) -> None:
    async def slow(peer: RawPeer) -> None:
        peer.accept()
        peer.stop_reading()
        await go.wait()
        peer.start_reading()
        size = 0
        while True:
            _, payload = await peer.receive()
            size += len(payload)
            if payload == b"last":
                peer.send(frame(TEXT, str(size).encode()))

    go = asyncio.Event()

    async def body() -> None:
        async with raw_server(slow) as port:

            async def attempt(at: int) -> bool:
                go.clear()
                heard = Heard()
                transport = await dial_for(engine)(DialOptions(f"ws://127.0.0.1:{port}/"), heard)
                # Far more than the buffers of both ends, so that it certainly waits.
                for _ in range(128):
                    transport.send(bytes(WRITE_HIGH_WATER), binary=True)
                draining = asyncio.ensure_future(cancelled_at(transport.drain(), at))
                for _ in range(5):
                    await asyncio.sleep(0)
                waits = not draining.done()
                go.set()
                reached, _ = await draining
                assert waits or reached
                await transport.drain()
                transport.send(b"last", binary=True)
                assert await heard.until_count(1) == [str(128 * WRITE_HIGH_WATER + 4).encode()]
                transport.abort()
                await heard.until_closed()
                return reached

            assert await at_every_await(attempt) >= 1

    run(body())


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("way", ["connect", "async with"])
def test_connecting_cancelled_at_any_await_closes_again(engine: Engine, way: str) -> None:
    async def body() -> None:
        async with raw_server(echo) as port:

            async def attempt(at: int) -> bool:
                opened: list[str] = []

                async def on_open(socket: WebSocket[Any]) -> None:
                    await socket.send("opened")
                    opened.append("once")

                socket = websocket(port, engine, on_open=on_open)
                entering = socket.connect() if way == "connect" else socket.__aenter__()
                reached, _ = await cancelled_at(entering, at)
                if reached and opened != ["once"]:
                    assert socket.state is not State.CONNECTED
                await socket.close()
                assert socket.gone
                # A second one is not disturbed.
                async with websocket(port, engine) as other:
                    assert await still_works(other) == []
                return reached

            assert await at_every_await(attempt) >= 1

    run(body())


Use = Callable[[WebSocket[Any]], Awaitable[Any]]


async def _iterate(socket: WebSocket[Any]) -> Any:
    async with aclosing(socket.__aiter__()) as messages:  # type: ignore[type-var]  # it is an async generator
        return await anext(messages)


USES: dict[str, Use] = {
    "send": lambda socket: socket.send('"second"'),
    "recv": lambda socket: socket.recv(),
    "ping": lambda socket: socket.ping(),
    "iteration": _iterate,
}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", USES)
def test_a_use_cancelled_at_any_await_loses_no_message_and_leaves_it_usable(
    engine: Engine, name: str
) -> None:
    async def body() -> None:
        async with raw_server(echo) as port:

            async def attempt(at: int) -> bool:
                async with websocket(port, engine) as socket:
                    await socket.send('"first"')
                    use = USES[name](socket)
                    assert asyncio.iscoroutine(use)
                    reached, result = await cancelled_at(use, at)
                    came = [result] if name in ("recv", "iteration") and result is not None else []
                    came += await still_works(socket)
                    assert came == (["first", "second"] if name == "send" else ["first"])
                    assert await socket.ping() > 0
                    assert not socket._watchers
                return reached

            # A send that has room does not wait at all.
            assert await at_every_await(attempt) >= (0 if name == "send" else 1)

    run(body())


@pytest.mark.parametrize("engine", ENGINES)
def test_a_send_that_waits_for_room_can_be_cancelled_and_the_message_still_goes_out_whole(
    engine: Engine,
) -> None:
    go = asyncio.Event()

    async def slow(peer: RawPeer) -> None:
        peer.accept()
        peer.stop_reading()
        await go.wait()
        peer.start_reading()
        await echo_rest(peer)

    async def echo_rest(peer: RawPeer) -> None:
        while True:
            first, payload = await peer.receive()
            if first & 0x0F == CLOSE:
                peer.send(frame(CLOSE, payload))
                peer.writer.close()
                return
            peer.send(frame(TEXT, str(len(payload)).encode()))

    async def body() -> None:
        async with raw_server(slow) as port:

            async def attempt(at: int) -> bool:
                go.clear()
                size = 32 * 1024 * 1024
                async with websocket(port, engine, message_type=str) as socket:
                    sending = asyncio.ensure_future(cancelled_at(socket.send(bytes(size)), at))
                    for _ in range(5):
                        await asyncio.sleep(0)
                    go.set()
                    reached, _ = await sending
                    await socket.send("next")
                    assert await socket.recv() == str(size)
                    assert await socket.recv() == "4"
                return reached

            assert await at_every_await(attempt) >= 1

    run(body(), timeout=60)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("way", ["close", "wait_gone", "async with"])
def test_closing_cancelled_at_any_await_closes_all_the_same(engine: Engine, way: str) -> None:
    async def body() -> None:
        async with raw_server(echo) as port:

            async def attempt(at: int) -> bool:
                socket = websocket(port, engine)
                await socket.connect()
                if way == "close":
                    ending: Any = socket.close()
                elif way == "wait_gone":
                    socket.close_soon()
                    ending = socket.wait_gone()
                else:
                    ending = socket.__aexit__(None, None, None)
                reached, _ = await cancelled_at(ending, at)
                await socket.wait_gone()
                assert not socket._watchers
                await socket.close()
                with pytest.raises(ConnectionClosed):
                    await socket.send("late")
                return reached

            assert await at_every_await(attempt) >= 1

    run(body())
