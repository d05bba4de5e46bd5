"""Bugs planted into the pool and the connection: the simulation must find every one of them."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from typing import Any
from unittest import mock

from jetsocket_ingest.errors import ConnectionClosed
from jetsocket_ingest.net import life as life_
from jetsocket_ingest.net import websocket as websocket_module
from jetsocket_ingest.net.backoff import retry_after_seconds
from jetsocket_ingest.net.budget import ConnectBudget
from jetsocket_ingest.net.life import Abort, Life, State
from jetsocket_ingest.net.mailbox import Mailbox
from jetsocket_ingest.net.pool import ConnectionPool
from jetsocket_ingest.net.pool_core import PoolCore
from jetsocket_ingest.net.websocket import WebSocket

Patch = Any
_decide, _attach, _feed = PoolCore._decide, WebSocket.attach, WebSocket._feed
_dialled, _ping, _take = Life.dialled, Life.ping, ConnectBudget.take


def a_cancelled_waiter_stays_in_the_queue() -> Patch:
    return mock.patch.object(PoolCore, "give_up", return_value=[])


def a_slot_is_never_freed() -> Patch:
    return mock.patch.object(PoolCore, "gone", lambda core, key: core._decide())


def a_freed_slot_is_not_offered_to_waiters() -> Patch:
    def gone(core: PoolCore, key: int) -> list[Any]:
        core.slots.pop(key, None)
        return []

    return mock.patch.object(PoolCore, "gone", gone)


def a_connection_of_a_cancelled_waiter_stays_with_nobody() -> Patch:
    return mock.patch.object(ConnectionPool, "_take_back", return_value=None)


def a_connection_of_a_cancelled_waiter_is_good_whatever_happened() -> Patch:
    def take_back(pool: ConnectionPool[Any], lease: Any, fresh: bool) -> None:
        pool._detach(lease)
        pool._core.settling(lease._key)
        pool._perform(pool._core.settled(lease._key, pool._clock.monotonic()))

    return mock.patch.object(ConnectionPool, "_take_back", take_back)


def a_slot_is_lost_when_acquire_is_cancelled_while_connecting() -> Patch:
    discard = PoolCore.discard

    def forget(core: PoolCore, key: int, reason: str) -> list[Any]:
        return [] if reason == "acquire did not complete" else discard(core, key, reason)

    return mock.patch.object(PoolCore, "discard", forget)


def a_slot_counts_as_free_before_its_socket_is_gone() -> Patch:
    async def shut(pool: ConnectionPool[Any], key: int, reason: str) -> None:
        socket = pool._sockets[key]
        socket.close_soon()
        await asyncio.sleep(0)
        del pool._sockets[key]
        pool._sent += socket.counters.messages_sent
        pool._received += socket.counters.messages_received
        pool._reconnects += socket.counters.reconnects
        pool._perform(pool._core.gone(key))

    return mock.patch.object(ConnectionPool, "_shut", shut)


def one_connection_more_than_allowed() -> Patch:
    def decide(core: PoolCore) -> list[Any]:
        core.max_connections += 1
        try:
            return _decide(core)
        finally:
            core.max_connections -= 1

    return mock.patch.object(PoolCore, "_decide", decide)


def the_last_to_come_is_served_first() -> Patch:
    def decide(core: PoolCore) -> list[Any]:
        core.waiters = OrderedDict(reversed(core.waiters.items()))
        try:
            return _decide(core)
        finally:
            core.waiters = OrderedDict(sorted(core.waiters.items()))

    return mock.patch.object(PoolCore, "_decide", decide)


def messages_of_the_last_user_go_to_the_next() -> Patch:
    def attach(socket: WebSocket[Any], receiver: Any) -> None:
        mailbox = getattr(socket._receiver, "mailbox", None)
        kept = list(mailbox._messages) if mailbox is not None else getattr(socket, "kept_for_next", [])
        _attach(socket, receiver)
        socket.kept_for_next = kept  # type: ignore[attr-defined]
        fresh = getattr(socket._receiver, "mailbox", None)
        if fresh is not None:
            fresh._messages.extend(kept)

    return mock.patch.object(WebSocket, "attach", attach)


def a_released_connection_goes_on_feeding_its_last_user() -> Patch:
    def detach(pool: Any, connection: Any) -> None:
        connection._released = True

    return mock.patch.object(ConnectionPool, "_detach", detach)


def idle_connections_are_kept_for_ever() -> Patch:
    return mock.patch.object(PoolCore, "expire", return_value=[])


def totals_forget_closed_connections() -> Patch:
    async def shut(pool: ConnectionPool[Any], key: int, reason: str) -> None:
        await pool._sockets[key].close()
        del pool._sockets[key]
        pool._perform(pool._core.gone(key))

    return mock.patch.object(ConnectionPool, "_shut", shut)


def closing_does_not_wait_for_sockets() -> Patch:
    async def close(pool: ConnectionPool[Any]) -> None:
        pool._perform(pool._core.close())
        for turn in pool._waiting.values():
            if not turn.served.done():
                turn.served.set_exception(ConnectionClosed(1006))
        if pool._housekeeper is not None:
            pool._housekeeper.cancel()

    return mock.patch.object(ConnectionPool, "_close", close)


def closing_forgets_the_waiters() -> Patch:
    async def close(pool: ConnectionPool[Any]) -> None:
        pool._perform(pool._core.close())
        if pool._housekeeper is not None:
            pool._housekeeper.cancel()
        while pool._tasks:
            await asyncio.wait(set(pool._tasks))

    return mock.patch.object(ConnectionPool, "_close", close)


def the_back_off_starts_over_at_each_handshake() -> Patch:
    def dialled(life: Life, now: float) -> list[Any]:
        life._backoff.reset()
        return _dialled(life, now)

    return mock.patch.object(Life, "dialled", dialled)


def retry_after_is_ignored() -> Patch:
    return mock.patch.object(WebSocket, "_retry_after", return_value=None)


def a_missing_pong_goes_unnoticed() -> Patch:
    def ping(life: Life, now: float) -> list[Any]:
        actions = _ping(life, now)
        life._pong_due = None
        return actions

    return mock.patch.object(Life, "ping", ping)


def a_dial_is_not_cancelled() -> Patch:
    def feed(socket: WebSocket[Any], actions: list[Any]) -> None:
        _feed(socket, [a for a in actions if not isinstance(a, life_.CancelDial)])

    return mock.patch.object(WebSocket, "_feed", feed)


def a_deaf_peer_is_waited_for_without_limit() -> Patch:
    tick = Life.tick

    def patient(life: Life, now: float) -> list[Any]:
        actions = tick(life, now)
        return [a for a in actions if not (life.state is State.CLOSING and isinstance(a, Abort))]

    return mock.patch.object(Life, "tick", patient)


def reading_never_pauses() -> Patch:
    def put(mailbox: Mailbox, payloads: list[bytes], binary: bool, size: int) -> None:
        mailbox._messages.extend((payload, binary) for payload in payloads)
        mailbox._bytes += size
        mailbox._wake()

    return mock.patch.object(Mailbox, "put", put)


def a_cancelled_reader_loses_a_message() -> Patch:
    get = Mailbox.get

    async def lossy(mailbox: Mailbox) -> tuple[bytes, bool]:
        message = await get(mailbox)
        await asyncio.sleep(0)
        return message

    return mock.patch.object(Mailbox, "get", lossy)


def two_dials_at_a_time() -> Patch:
    begin = WebSocket._begin_dial

    def twice(socket: WebSocket[Any]) -> None:
        begin(socket)
        if socket.connects:
            begin(socket)

    return mock.patch.object(WebSocket, "_begin_dial", twice)


def the_budget_does_not_bind() -> Patch:
    return mock.patch.object(ConnectBudget, "take", lambda budget, now: now)


def an_on_open_that_lingers_counts_for_the_next_connection() -> Patch:
    def opened(socket: WebSocket[Any], task: asyncio.Task[None]) -> None:
        socket._openings.discard(task)
        socket._opening = None
        error = None if task.cancelled() else task.exception()
        if isinstance(error, Exception) and not isinstance(error, ConnectionClosed):
            socket.fail(error)
        elif error is None and socket.state is State.CONNECTED:
            socket._ready()
        socket._notify()

    return mock.patch.object(WebSocket, "_opened", opened)


def a_connection_is_up_before_its_on_open_is_done() -> Patch:
    return mock.patch.object(WebSocket, "up", property(lambda socket: socket.state is State.CONNECTED))


def a_dial_begins_after_the_end() -> Patch:
    def begin(socket: WebSocket[Any]) -> None:
        assert socket._loop is not None
        socket.counters.attempts += 1
        link = websocket_module._Link(socket)
        socket._dialling = socket._loop.create_task(socket._run_dial(link))
        socket._dialling.add_done_callback(lambda task: socket._dial_ended(task, link))

    return mock.patch.object(WebSocket, "_begin_dial", begin)


def a_strange_retry_after_breaks_the_connection() -> Patch:
    def retry_after(value: str | None, now: Any) -> float | None:
        if value is not None and "9999" in value:
            raise OverflowError
        return retry_after_seconds(value, now)

    return mock.patch.object(websocket_module, "retry_after_seconds", retry_after)


def moments_given_back_are_forgotten() -> Patch:
    def take(budget: ConnectBudget, now: float) -> float:
        while len(budget._moments) > budget._count:
            budget._moments.popleft()
        return _take(budget, now)

    return mock.patch.object(ConnectBudget, "take", take)


MUTATIONS: list[Callable[[], Patch]] = [
    a_cancelled_waiter_stays_in_the_queue,
    a_slot_is_never_freed,
    a_freed_slot_is_not_offered_to_waiters,
    a_connection_of_a_cancelled_waiter_stays_with_nobody,
    a_connection_of_a_cancelled_waiter_is_good_whatever_happened,
    a_slot_is_lost_when_acquire_is_cancelled_while_connecting,
    a_slot_counts_as_free_before_its_socket_is_gone,
    one_connection_more_than_allowed,
    the_last_to_come_is_served_first,
    messages_of_the_last_user_go_to_the_next,
    a_released_connection_goes_on_feeding_its_last_user,
    idle_connections_are_kept_for_ever,
    totals_forget_closed_connections,
    closing_does_not_wait_for_sockets,
    closing_forgets_the_waiters,
    the_back_off_starts_over_at_each_handshake,
    retry_after_is_ignored,
    a_missing_pong_goes_unnoticed,
    a_dial_is_not_cancelled,
    a_deaf_peer_is_waited_for_without_limit,
    reading_never_pauses,
    a_cancelled_reader_loses_a_message,
    two_dials_at_a_time,
    the_budget_does_not_bind,
    an_on_open_that_lingers_counts_for_the_next_connection,
    a_connection_is_up_before_its_on_open_is_done,
    a_dial_begins_after_the_end,
    a_strange_retry_after_breaks_the_connection,
    moments_given_back_are_forgotten,
]
