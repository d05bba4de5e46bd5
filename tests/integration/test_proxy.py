"""The fault proxy between real sockets: faithful by itself, and each fault what it says."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from random import Random
from typing import Any, cast

import pytest
import uvloop

from jetsocket_ingest.errors import ConfigError, OperatorError
from jetsocket_ingest.testing.feed import FeedOptions, FeedServer, ScheduledFault, demo_options, schedule
from jetsocket_ingest.testing.proxy import FaultProxy
from jetsocket_ingest.testing.resets import reset
from tests.support.aio import run
from tests.support.feed import BTC, client, manual, numbers

Run = Callable[[Coroutine[Any, Any, None]], None]
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@pytest.fixture(params=["asyncio", "uvloop"])
def run_on(request: pytest.FixtureRequest) -> Run:
    """Runs a test on each event loop: sockets are in other hands there."""

    def run_it(coroutine: Coroutine[Any, Any, None]) -> None:
        factory = uvloop.new_event_loop if request.param == "uvloop" else None
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(within(coroutine))

    return run_it


async def within(coroutine: Coroutine[Any, Any, None], seconds: float = 6) -> None:
    async with asyncio.timeout(seconds):
        await coroutine


def tcp_sockets() -> int:
    """TCP sockets that this process has open. (An event loop opens descriptors of its own as it needs them.)"""
    count = 0
    for entry in Path("/proc/self/fd").iterdir():
        try:
            number = os.dup(int(entry.name))
        except OSError:
            continue  # it was the listing's own
        try:
            with socket.socket(fileno=number) as candidate:
                count += candidate.family == socket.AF_INET
        except OSError:
            os.close(number)  # no socket
    return count


class Target:
    """A plain TCP server that hands its ends of the connections to the test."""

    def __init__(self) -> None:
        self.port = 0
        self.accepted = 0
        self.writers: list[asyncio.StreamWriter] = []
        self._ends: asyncio.Queue[Streams] = asyncio.Queue()

    def take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        self.writers.append(writer)
        self._ends.put_nowait((reader, writer))

    async def end(self) -> Streams:
        return await self._ends.get()


class Scene:
    """A target, the proxy before it, and clients."""

    def __init__(self, target: Target, proxy: FaultProxy, stack: contextlib.AsyncExitStack) -> None:
        self.target = target
        self.proxy = proxy
        self._stack = stack

    async def client(self) -> Streams:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.proxy.port)
        self._stack.callback(
            lambda: writer.transport.abort()
        )  # keeps the writer, which closes when nobody does
        return reader, writer

    async def pair(self) -> tuple[Streams, Streams]:
        """Both ends of a connection through the proxy."""
        near = await self.client()
        far = await self.target.end()
        return near, far


@contextlib.asynccontextmanager
async def scene(**options: Any) -> AsyncIterator[Scene]:
    before = tcp_sockets()
    target = Target()
    server = await asyncio.start_server(target.take, "127.0.0.1", 0)
    target.port = server.sockets[0].getsockname()[1]
    proxy = FaultProxy("127.0.0.1", target.port, random=Random(1), **options)
    await proxy.start()
    async with contextlib.AsyncExitStack() as stack:
        yield Scene(target, proxy, stack)
        await proxy.stop()
        assert proxy.connections == []
        for writer in target.writers:
            writer.transport.abort()
    server.close()
    for _ in range(10):
        await asyncio.sleep(0)
    assert tcp_sockets() <= before
    assert asyncio.all_tasks() == {asyncio.current_task()}


# Without faults.


def test_bytes_pass_both_ways_unchanged(run_on: Run) -> None:
    async def main() -> None:
        async with scene() as here:
            near, far = await here.pair()
            data = Random(0).randbytes(3_000_000)
            for source, sink in ((near[1], far[0]), (far[1], near[0])):
                source.write(data)
                assert await sink.readexactly(len(data)) == data
            counters = here.proxy.counters
            assert (counters.up, counters.down, counters.accepted) == (len(data), len(data), 1)

    run_on(main())


def test_the_end_of_one_direction_passes_and_the_other_goes_on(run_on: Run) -> None:
    async def main() -> None:
        async with scene() as here:
            near, far = await here.pair()
            near[1].write(b"question")
            near[1].write_eof()
            assert await far[0].read() == b"question"
            far[1].write(b"answer")
            far[1].write_eof()
            assert await near[0].read() == b"answer"
            await here.proxy.wait_for(lambda proxy: not proxy.connections)
            assert here.proxy.counters.resets == 0

    run_on(main())


@pytest.mark.parametrize("who", [0, 1])
def test_a_reset_passes(run_on: Run, who: int) -> None:
    async def main() -> None:
        async with scene() as here:
            ends = await here.pair()
            resetting, other = ends[who], ends[1 - who]
            resetting[1].write(b"x")
            assert await other[0].readexactly(1) == b"x"
            other[1].write(b"never read")
            await here.proxy.wait_for(lambda proxy: proxy.counters.up + proxy.counters.down >= 11)
            reset(resetting[1].transport)
            with pytest.raises(ConnectionResetError):
                await other[0].read()
            await here.proxy.wait_for(lambda proxy: proxy.counters.resets == 1)

    run_on(main())


def test_a_reader_that_does_not_read_holds_the_writer_back(run_on: Run) -> None:
    async def main() -> None:
        async with scene() as here:
            near, far = await here.pair()
            cast("asyncio.Transport", near[1].transport).pause_reading()
            size, sent, digest = 64 * 1024 * 1024, 0, hashlib.sha256()

            async def pour() -> None:
                nonlocal sent
                block = Random(2).randbytes(65536)
                while sent < size:
                    far[1].write(block)
                    sent += len(block)
                    digest.update(block)
                    await far[1].drain()

            pouring = asyncio.create_task(pour())
            line = here.proxy.connections[0].down
            await here.proxy.wait_for(lambda proxy: line.full)
            held = line._held
            assert held <= 512 * 1024
            assert not pouring.done()
            cast("asyncio.Transport", near[1].transport).resume_reading()
            seen, count = hashlib.sha256(), 0
            while count < size:
                data = await near[0].read(1 << 20)
                seen.update(data)
                count += len(data)
                assert line._held <= 512 * 1024
            await pouring
            assert seen.digest() == digest.digest()

    run_on(main())


def test_a_target_that_is_away_resets_the_client(run_on: Run) -> None:
    async def main() -> None:
        async with scene() as here:
            away = FaultProxy("127.0.0.1", 1)
            async with away:
                reader, writer = await asyncio.open_connection("127.0.0.1", away.port)
                with pytest.raises(ConnectionResetError):
                    await reader.read()
                writer.transport.abort()
                assert away.counters.unreachable == 1
            assert here.target.accepted == 0

    run_on(main())


def test_a_port_that_is_taken_is_one_clear_error() -> None:
    async def main() -> None:
        async with scene() as here:
            with pytest.raises(
                OperatorError, match=rf"cannot listen on 127\.0\.0\.1 port {here.target.port}"
            ):
                await FaultProxy("127.0.0.1", 1, port=here.target.port).start()

    run(main())


# Faults.


def test_delay_holds_each_way(run_on: Run) -> None:
    async def main() -> None:
        async with scene() as here:
            loop = asyncio.get_running_loop()
            assert here.proxy.delay(0.05, 0.01) == 0
            near, far = await here.pair()
            started = loop.time()
            near[1].write(b"ping")
            await far[0].readexactly(4)
            assert loop.time() - started >= 0.049
            far[1].write(b"pong")
            await near[0].readexactly(4)
            assert 0.098 <= loop.time() - started < 2
            assert here.proxy.delay(0, 0, way="up", on=here.proxy.connections[0]) == 1
            assert here.proxy.connections[0].up.rules.latency == 0
            assert here.proxy.connections[0].down.rules.latency == 0.05

    run_on(main())


def test_throttle_lets_so_many_bytes_a_second_through(run_on: Run) -> None:
    async def main() -> None:
        async with scene() as here:
            near, far = await here.pair()
            here.proxy.throttle(100_000, way="down")
            loop = asyncio.get_running_loop()
            started = loop.time()
            far[1].write(bytes(30_000))
            await near[0].readexactly(30_000)
            assert 0.25 <= loop.time() - started < 2
            here.proxy.throttle(None)
            far[1].write(bytes(3_000_000))
            await near[0].readexactly(3_000_000)

    run_on(main())


def test_a_black_hole_swallows_and_keeps_the_sockets(run_on: Run) -> None:
    async def main() -> None:
        async with scene() as here:
            near, far = await here.pair()
            assert here.proxy.drop(way="up") == 1
            near[1].write(b"lost")
            await here.proxy.wait_for(lambda proxy: proxy.counters.swallowed == 4)
            far[1].write(b"still heard")
            assert await near[0].readexactly(11) == b"still heard"
            here.proxy.clear()
            near[1].write(b"found")
            assert await far[0].readexactly(5) == b"found"

    run_on(main())


def test_who_leaves_into_a_black_hole_is_not_missed_until_it_is_forgotten(run_on: Run) -> None:
    async def main() -> None:
        async with scene(forget_after=0.1) as here:
            near, far = await here.pair()
            here.proxy.drop()
            started = asyncio.get_running_loop().time()
            near[1].close()
            with pytest.raises(ConnectionResetError):
                await far[0].read()
            assert asyncio.get_running_loop().time() - started >= 0.09

    run_on(main())


def test_half_close_ends_one_direction(run_on: Run) -> None:
    async def main() -> None:
        async with scene() as here:
            near, far = await here.pair()
            far[1].write(b"last words")
            assert await near[0].readexactly(10) == b"last words"
            assert here.proxy.half_close() == 1
            assert await near[0].read() == b""
            near[1].write(b"still heard")
            assert await far[0].readexactly(11) == b"still heard"

    run_on(main())


def test_reset_reaches_both_sides_of_one_connection_and_no_other(run_on: Run) -> None:
    async def main() -> None:
        async with scene() as here:
            first, second = await here.pair(), await here.pair()
            assert here.proxy.reset(here.proxy.connections[0]) == 1
            for reader, _ in first:
                with pytest.raises(ConnectionResetError):
                    await reader.read()
            second[0][1].write(b"fine")
            assert await second[1][0].readexactly(4) == b"fine"
            assert here.proxy.counters.resets == 1

    run_on(main())


def test_corrupt_flips_the_byte_asked_for_in_the_direction_asked_for(run_on: Run) -> None:
    async def main() -> None:
        async with scene() as here:
            near, far = await here.pair()
            here.proxy.corrupt(at=5, way="down")
            near[1].write(bytes(10))
            assert await far[0].readexactly(10) == bytes(10)
            far[1].write(bytes(10))
            seen = await near[0].readexactly(10)
            assert [place for place, byte in enumerate(seen) if byte] == [5]
            assert here.proxy.counters.flipped == 1

    run_on(main())


def test_cut_resets_after_so_many_bytes(run_on: Run) -> None:
    async def main() -> None:
        async with scene() as here:
            here.proxy.cut(10)
            near, far = await here.pair()
            far[1].write(b"0123456789abcdef")
            with pytest.raises(ConnectionResetError):
                await near[0].readexactly(11)
            assert here.proxy.counters.down == 10

    run_on(main())


def test_cut_strikes_a_reader_that_does_not_read(run_on: Run) -> None:
    async def main() -> None:
        async with scene() as here:
            near, far = await here.pair()
            cast("asyncio.Transport", near[1].transport).pause_reading()
            line = here.proxy.connections[0].down
            far[1].write(bytes(32_000_000))
            await here.proxy.wait_for(lambda proxy: line.full)
            here.proxy.cut(0)
            await here.proxy.wait_for(lambda proxy: not proxy.connections)

    run_on(main())


def test_refuse_closes_the_port_for_new_ones_only_and_start_opens_it_again() -> None:
    async def main() -> None:
        async with scene() as here:
            near, far = await here.pair()
            port = here.proxy.port
            here.proxy.refuse()
            await asyncio.sleep(0)  # uvloop closes a listening socket on its next turn
            with pytest.raises(ConnectionRefusedError):
                await here.client()
            near[1].write(b"fine")
            assert await far[0].readexactly(4) == b"fine"
            await here.proxy.start()
            assert here.proxy.port == port
            await here.pair()

    asyncio.run(within(main()))


def test_refuse_for_a_time_ends_by_itself() -> None:
    async def main() -> None:
        async with scene() as here:
            here.proxy.refuse(0.05)
            await asyncio.sleep(0)
            with pytest.raises(ConnectionRefusedError):
                await here.client()
            await here.proxy.wait_for(lambda proxy: proxy.listening)
            await here.pair()
            here.proxy.refuse(60)  # stopped before it reopens

    asyncio.run(within(main()))


def test_ignore_accepts_and_never_answers(run_on: Run) -> None:
    async def main() -> None:
        async with scene() as here:
            here.proxy.ignore(times=1)
            reader, writer = await here.client()
            writer.write(b"anybody there?")
            await here.proxy.wait_for(lambda proxy: proxy.connections)
            near, far = await here.pair()
            near[1].write(b"yes")
            assert await far[0].readexactly(3) == b"yes"
            assert (here.target.accepted, here.proxy.counters.ignored) == (1, 1)
            assert not reader.at_eof()
            writer.close()
            await here.proxy.wait_for(lambda proxy: len(proxy.connections) == 1)

    run_on(main())


def test_what_cannot_be_is_refused() -> None:
    proxy = FaultProxy("127.0.0.1", 1)
    for call in (
        lambda: proxy.delay(-1),
        lambda: proxy.delay(jitter=float("nan")),
        lambda: proxy.throttle(0),
        lambda: proxy.corrupt(1.5),
        lambda: proxy.corrupt(at=-1),
        lambda: proxy.cut(-1),
        lambda: proxy.ignore(times=0),
    ):
        with pytest.raises(ValueError, match=r"expected .* found"):
            call()


# By name, before the embedded feed.


def test_a_fault_of_the_line_is_named_as_all_others_are() -> None:
    options = demo_options("demo://feed?fault=delay:200ms,rst,throttle:10KiB,corrupt:1e-6,cut:2KiB&every=1,2")
    told = [(fault.fault, fault.value, fault.every) for fault in options.faults if not fault.kind.standing]
    assert told == [("rst", 0, 1), ("cut:2KiB", 2048, 2)]
    standing = [(fault.fault, fault.value) for fault in options.faults if fault.kind.standing]
    assert standing == [("delay:200ms", 0.2), ("throttle:10KiB", 10240), ("corrupt:1e-6", 1e-6)]


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("delay:soon", "fault delay: expected seconds from 0 to 3,600, such as 3 or 500ms,"),
        ("throttle:0", "fault throttle: expected bytes from 1 to"),
        ("corrupt:2", "fault corrupt: expected a probability from 0 to 1"),
        ("blackhole:1", "fault blackhole: expected no value"),
    ],
)
def test_a_bad_value_is_told(fault: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ScheduledFault(fault)


def test_an_interval_for_what_holds_all_the_time_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"no fault to repeat.*delay, jitter, throttle, corrupt hold all"):
        schedule(["delay:1s"], [5.0])


def test_a_feed_with_a_slow_line_is_slow_and_keeps_its_address_over_restarts() -> None:
    async def main() -> None:
        feed = FeedServer(FeedOptions(rate=0, streams=[BTC], faults=schedule(["delay:50ms"], [])))
        for expected in (1, 2):
            async with feed:
                url = feed.url
                async with client(feed, f"/ws/{BTC}") as socket:
                    started = asyncio.get_running_loop().time()
                    await feed.publish(BTC)
                    assert await numbers(socket, 1) == [expected]
                    assert asyncio.get_running_loop().time() - started >= 0.049
                    assert await feed.connections[0].ping() >= 0.098
            assert feed.url == url

    run(main())


def test_a_feed_says_goodbye_through_its_line() -> None:
    async def main() -> None:
        feed = FeedServer(FeedOptions(rate=0, streams=[BTC], faults=schedule(["delay:20ms"], [])))
        async with feed, client(feed, f"/ws/{BTC}") as socket:
            stopping = asyncio.create_task(feed.stop())
            await socket.wait_closed()
            await stopping
            assert socket.close_code == 1001

    run(main())


def test_a_named_fault_strikes_the_line_of_the_connection_that_it_is_told() -> None:
    async def main() -> None:
        fault = ScheduledFault("cut:0", every=3600)
        async with manual(faults=[fault]) as feed, client(feed, "/ws"), client(feed, "/ws") as other:
            victim = feed.connections[0]
            fault.strike(feed.faults, victim)
            await feed.wait_for(lambda feed: victim in feed.past)
            assert len(feed.connections) == 1
            assert await (await other.ping()) > 0

    run(main())


def test_a_feed_without_a_line_tells_what_to_do() -> None:
    async def main() -> None:
        async with manual() as feed:
            with pytest.raises(RuntimeError, match=r"name a fault of the line in FeedOptions\.faults"):
                ScheduledFault("delay").strike(feed.faults, None)

    run(main())


def test_a_proxied_feed_whose_port_is_taken_is_one_clear_error_and_leaves_nothing() -> None:
    async def main() -> None:
        async with manual() as taken:
            before = tcp_sockets()
            feed = FeedServer(FeedOptions(port=taken.port, faults=schedule(["delay"], [])))
            with pytest.raises(OperatorError, match=f"port {taken.port}"):
                await feed.start()
            await asyncio.sleep(0)
            assert tcp_sockets() == before

    run(main())
