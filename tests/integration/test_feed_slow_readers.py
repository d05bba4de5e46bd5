"""Clients of the embedded feed that do not read, do not ask or do not leave: bounded memory, quick stops."""

from __future__ import annotations

import asyncio
import json

import pytest

from jetsocket_ingest.testing.feed import FeedOptions, FeedServer, wire
from jetsocket_ingest.testing.feed.connection import SLOW_READER_BYTES
from jetsocket_ingest.testing.feed.market import CHUNK_BYTES
from tests.support.aio import run
from tests.support.feed import BTC, client, manual, unread

GOODBYE = b"\x88\x80\x00\x00\x00\x00"


def test_a_slow_reader_misses_messages_and_they_are_counted() -> None:
    async def main() -> None:
        async with FeedServer(FeedOptions(rate=1000, size=100_000, streams=[BTC])) as feed:
            lazy = await unread(feed, f"/ws/{BTC}")
            async with client(feed, f"/ws/{BTC}", max_size=None) as quick:
                await feed.wait_for(lambda feed: feed.skipped > 50)
                slow, fast = feed.connections
                assert slow.full
                assert slow.skipped[BTC] + fast.skipped[BTC] == feed.skipped
                assert slow.sent[BTC].count < fast.sent[BTC].count
                kernel = 20_000_000  # bytes that the two sockets' own buffers may hold
                assert slow.sent[BTC].count * 100_000 < SLOW_READER_BYTES + kernel
                assert json.loads(await quick.recv())["seq"] >= 1
            lazy.transport.abort()
            await feed.wait_for(lambda feed: not feed.connections)
            assert feed.skipped == slow.skipped[BTC] + fast.skipped[BTC]

    run(main())


def test_a_stream_with_a_limit_waits_for_a_slow_reader_and_skips_nothing() -> None:
    async def main() -> None:
        async with FeedServer(FeedOptions(rate=10_000, size=100_000, streams=[BTC], limit=600)) as feed:
            slow = await unread(feed, f"/ws/{BTC}")
            await feed.wait_for(lambda feed: feed.connections and feed.connections[0].full)
            assert feed.sent[BTC].count < 600
            slow.transport.resume_reading()
            read = 0
            while read < 600 * 100_010:
                read += len(await slow.reader.read(1 << 16))
            assert read == 600 * 100_010
            assert (feed.sent[BTC].count, feed.skipped) == (600, 0)
            slow.transport.close()

    run(main())


def test_publishing_waits_until_its_readers_have_taken_what_was_sent() -> None:
    async def main() -> None:
        async with manual(size=20_000_000) as feed:
            slow = await unread(feed, f"/ws/{BTC}")
            publishing = asyncio.ensure_future(feed.publish(BTC))
            await feed.wait_for(lambda feed: feed.sent[BTC].count == 1)
            assert not publishing.done()
            slow.transport.resume_reading()
            while not publishing.done():
                assert await slow.reader.read(1 << 16)
            slow.transport.close()

    run(main())


def test_publishing_waits_for_a_slow_reader_and_loses_nothing() -> None:
    async def main() -> None:
        async with manual(size=100_000) as feed:
            slow = await unread(feed, f"/ws/{BTC}")
            publishing = asyncio.ensure_future(feed.publish(BTC, 300))
            await feed.wait_for(lambda feed: feed.sent[BTC].count > 1)
            assert not publishing.done()
            slow.transport.resume_reading()
            read = 0
            while read < 300 * 100_010:
                read += len(await slow.reader.read(1 << 16))
            assert await publishing == 300
            assert read == 300 * 100_010
            assert feed.skipped == 0
            slow.transport.close()

    run(main())


def test_stopping_does_not_wait_for_a_client_that_reads_nothing_or_never_asks() -> None:
    async def main() -> None:
        async with FeedServer(FeedOptions(rate=1000, size=100_000, streams=[BTC])) as feed:
            deaf = await unread(feed, f"/ws/{BTC}")
            _, mute = await asyncio.open_connection("127.0.0.1", feed.port)
            await feed.wait_for(lambda feed: feed.skipped)
        deaf.transport.abort()
        mute.close()

    run(main(), timeout=5)


def test_one_tick_hands_a_client_no_more_than_it_may_have_waiting() -> None:
    async def main() -> None:
        async with manual(size=100_000) as feed, client(feed, f"/ws/{BTC}"):
            feed._hub.produce(600)
            sent = feed.connections[0].sent[BTC].count
            assert SLOW_READER_BYTES <= sent * 100_010 <= SLOW_READER_BYTES + CHUNK_BYTES
            assert sent + feed.skipped == 300

    run(main())


def test_a_client_that_asks_without_reading_the_answers_is_closed() -> None:
    async def main() -> None:
        async with manual() as feed:
            slow = await unread(feed, "/ws")
            feed.faults.oversize(64 * 1024 * 1024)
            slow.transport.write(b"\x81\x8d\x00\x00\x00\x00" + b'{"op":"ping"}')
            await feed.wait_for(lambda feed: feed.connections[0].requests)
            assert not feed.connections[0].writable
            slow.transport.abort()
            await feed.wait_for(lambda feed: feed.past)

    run(main())


def test_a_client_that_says_goodbye_and_stays_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with manual() as feed:
            slow = await unread(feed, "/ws")
            slow.transport.write(GOODBYE)
            await feed.wait_for(lambda feed: feed.past)
            slow.transport.abort()

    monkeypatch.setattr(wire, "CLOSE_TIMEOUT", 0.05)
    run(main())


def test_stopping_is_immediate_for_clients_that_were_silenced_or_have_no_connection_yet() -> None:
    async def main() -> None:
        async with manual() as feed:
            silenced = await unread(feed, "/ws")
            _, waiting = await asyncio.open_connection("127.0.0.1", feed.port)
            feed.faults.silence()
            loop = asyncio.get_running_loop()
            began = loop.time()
            await feed.stop()
            assert loop.time() - began < 0.9
        silenced.transport.abort()
        waiting.close()

    run(main())


def test_stopping_does_not_wait_for_a_client_that_says_goodbye_and_stays() -> None:
    async def main() -> None:
        async with manual() as feed:
            slow = await unread(feed, "/ws")
            slow.transport.write(GOODBYE)
            await feed.wait_for(lambda feed: feed.connections and not feed.connections[0].writable)
        slow.transport.abort()

    run(main(), timeout=5)
