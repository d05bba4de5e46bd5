"""One world from one seed: a pool, its users, its network, from the first dial to the last socket."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from unittest import mock

from jetsocket_ingest import ConnectionPool, ConnectionPoolConfig
from jetsocket_ingest.net import pool as pool_module
from jetsocket_ingest.net.budget import ConnectBudget
from jetsocket_ingest.net.life import Changed, Life, ReconnectPolicy, Timing, Verdict
from jetsocket_ingest.net.pool import SETTLE_TIMEOUT
from jetsocket_ingest.testing.clock import START_NS, LoopClock
from tests.simulation.loop import History, SteppedLoop
from tests.simulation.monitor import Monitor, ObservedPool
from tests.simulation.network import TICK, Climate, Network
from tests.simulation.users import OurBugError, User

BASE = "ws://feed.test"


@dataclass(slots=True, frozen=True)
class Rules:
    """What the world's pool was told, for the monitor to hold it to."""

    config: ConnectionPoolConfig
    policy: ReconnectPolicy
    timing: Timing
    budget: tuple[int, float]
    """Dials, in so many seconds; none where 0."""
    least_jitter: float
    """Every wait of the back-off is at least this share of its bound."""
    on_open: str

    @property
    def max_idle_time(self) -> float:
        return self.config.max_idle_time

    def wall_now(self) -> datetime:
        return datetime.fromtimestamp(START_NS / 1e9 + asyncio.get_running_loop().time(), UTC)


@dataclass(slots=True)
class Outcome:
    """What a world came to."""

    seed: int
    steps: int
    history: History
    covered: dict[str, int]
    failure: BaseException | None

    def told(self, last: int | None = 40) -> str:
        """The failure with the last events before it and the command that replays it."""
        lines = [f"seed {self.seed}: {self.failure!r}", *self.history.lines(last)]
        return "\n".join([*lines, f"replay: make soak-sim SEED={self.seed}"])


def simulate(seed: int) -> Outcome:
    """Live through one world. The same seed gives the same history, step by step."""
    loop = SteppedLoop()
    history = History(loop.time)
    world = World(random.Random(seed), history, loop)
    failure: BaseException | None = None
    with _observed(world.monitor):
        try:
            loop.watch = world.monitor.check
            loop.run(world.live())
        except Exception as error:  # noqa: BLE001  (whatever comes out of a world is its failure, told with its seed)
            failure = error
    return Outcome(seed, loop.steps, history, world.monitor.covered, failure)


class World:
    """Everything drawn from one random number generator, then left to run."""

    def __init__(self, rng: random.Random, history: History, loop: SteppedLoop) -> None:
        self.rng = rng
        self.history = history
        self.loop = loop
        self.rules = _draw_rules(rng)
        self.monitor = Monitor(self.rules, history, loop)
        self.network = Network(rng, _draw_climate(rng), self.monitor, history)

    async def live(self) -> None:
        rng, rules = self.rng, self.rules
        clock = LoopClock()
        kwargs: dict[str, Any] = {
            "dial": self.network.dial,
            "random": self._jitter,
            "policy": rules.policy,
            "timing": rules.timing,
            "budget": ConnectBudget(*rules.budget) if rules.budget[0] else None,
            "on_open": None if rules.on_open == "none" else self._on_open,
        }
        pool = ObservedPool(self.monitor, rules.config, base_uri=BASE, manager_kwargs=kwargs, clock=clock)
        other: ConnectionPool[Any] = ConnectionPool(rules.config, base_uri=BASE, clock=clock)
        paths = [f"/{letter}" for letter in "abc"[: rng.randrange(1, 4)]]
        pace = rng.choice((2, 16, 96))
        users = [
            User(str(number), rng, pool, other, paths, pace, self.monitor, self.history)
            for number in range(rng.randrange(1, 9))
        ]
        lives = [asyncio.ensure_future(user.live()) for user in users]
        if rng.random() < 0.3:
            await asyncio.sleep(rng.randrange(640) * TICK)
            await self._close(pool, sum(user.hoards for user in users))
        for life in lives:
            await life
        if not pool.is_closed:
            await self._rest(pool)
            await self._close(pool, 0)
        await other.close()
        await self._check_end(pool)

    def _jitter(self) -> float:
        least = round(self.rules.least_jitter * 16)
        return self.rng.randrange(least, 16) / 16

    async def _on_open(self, socket: Any) -> None:
        with self.monitor.opening(socket):
            await self._log_in(socket, self.rules.on_open)

    async def _log_in(self, socket: Any, how: str) -> None:
        await socket.send("login")
        if how == "slow":
            await asyncio.sleep(self.rng.randrange(128) * TICK)
        elif how == "raises" and self.rng.random() < 0.3:
            raise OurBugError("on_open's bug")
        elif how == "lingers":
            try:
                await asyncio.sleep(self.rng.randrange(128) * TICK)
            finally:
                # Work that a cancellation does not cut short.
                await asyncio.sleep(self.rng.randrange(64) * TICK)

    # The end --------------------------------------------------------------------------------------------------------

    async def _rest(self, pool: ObservedPool) -> None:
        """All users have left: everything settles, and every slot can be had."""
        held = sum(slot.lease.name == "ACTIVE" for slot in pool._core.slots.values())
        self.monitor.must(held <= self.monitor.demands, "{} leases stay with nobody", held)
        self.network.calm = True
        await asyncio.sleep(SETTLE_TIMEOUT + self.rules.timing.close_timeout + 5.0)
        stats = pool.stats()
        self.monitor.must(
            stats.active_connections == held, "{} active with {} leases held", stats.active_connections, held
        )
        free = self.rules.config.max_connections - held
        self.history.note("{} slots must be free", free)
        budget, per = self.rules.budget
        patience = 30.0 + (per * (free / budget + 2) if budget else 0.0)
        self.monitor.demands += free
        acquired = await asyncio.gather(
            *(self._probe(pool, patience) for _ in range(free)), return_exceptions=True
        )
        failed = [error for error in acquired if isinstance(error, BaseException)]
        # A user's own code may raise in `on_open`; every other failure is a slot lost.
        failed = [error for error in failed if not isinstance(error, OurBugError)]
        self.monitor.must(not failed, "of {} free slots {} could not be had: {}", free, len(failed), failed)
        for conn in acquired:
            if not isinstance(conn, BaseException):
                await conn.release()
        self.monitor.demands -= free

    async def _probe(self, pool: ObservedPool, patience: float) -> Any:
        return await pool.acquire("/probe", patience)

    async def _close(self, pool: ObservedPool, hoarders: int) -> None:
        """Once, or twice at the same time, or cancelled and once more."""
        began = self.loop.time()
        self.history.note("the pool closes")
        first = asyncio.ensure_future(pool.close())
        if self.rng.random() < 0.3:
            await asyncio.sleep(0)
            first.cancel()
            await asyncio.wait({first})
        waiting = [turn.served for turn in pool._waiting.values()]
        for _ in range(3):
            await asyncio.sleep(0)
        self.monitor.must(all(served.done() for served in waiting), "a waiter was not told of the closing")
        await asyncio.wait({first})
        await pool.close()
        took = self.loop.time() - began
        limit = self.rules.timing.close_timeout + (2.0 if self.rules.on_open == "lingers" else 0.0) + 1e-6
        self.monitor.must(took <= limit, "closing took {:.4f} s", took)
        self.monitor.must(
            not self.monitor.open and not self.monitor.dialling, "left open: {}", self.monitor.open
        )

    async def _check_end(self, pool: ObservedPool) -> None:
        """Nothing of the pool is left, and the totals are the network's."""
        must, stats = self.monitor.must, pool.stats()
        must(stats.total_connections == 0, "leases left after closing: {}", stats)
        must(
            stats.total_messages_sent == self.monitor.sent_in_all,
            "{} counted as sent, {} reached the network",
            stats.total_messages_sent,
            self.monitor.sent_in_all,
        )
        must(
            stats.total_messages_received == self.monitor.received_in_all,
            "{} counted as received, {} handed over",
            stats.total_messages_received,
            self.monitor.received_in_all,
        )
        self.network.stop()
        for _ in range(5):
            await asyncio.sleep(0)
        left = asyncio.all_tasks() - {asyncio.current_task()}
        must(not left, "tasks left: {}", left)
        must(not self.loop.timers(), "timers left: {}", self.loop.timers())


def _draw_rules(rng: random.Random) -> Rules:
    choice = rng.choice
    ping_every = choice((None, 1.0, 4.0))
    return Rules(
        config=ConnectionPoolConfig(
            max_connections=choice((1, 1, 2, 2, 3, 8)),
            max_idle_time=choice((0.125, 1.0, 300.0)),
            health_check_interval=choice((0.25, 1.0, 30.0)),
            acquire_timeout=choice((0.5, 4.0)),
        ),
        policy=ReconnectPolicy(
            http_status={} if rng.random() < 0.7 else {403: Verdict.RETRY, 503: Verdict.FAIL},
            close_code=choice(({}, {1000: Verdict.END}, {1000: Verdict.END, 1008: Verdict.RETRY, 4000: Verdict.FAIL})),
            initial=choice((0.0625, 0.5)),
            maximum=choice((0.5, 4.0)),
            reset_after=choice((0.125, 1.0)),
            flaps=choice((0, 1, 3)),
            stable_after=choice((2.0, 60.0)),
            max_attempts=choice((None, None, 1, 3)),
            max_time=choice((None, None, 4.0)),
            retry_first=rng.random() < 0.5,
        ),
        timing=Timing(
            open_timeout=choice((0.5, 2.0)),
            close_timeout=choice((0.25, 1.0)),
            ping_every=ping_every,
            ping_timeout=choice((0.5, 1.0)),
        ),
        budget=(choice((1, 2, 5)), choice((0.25, 1.0))) if rng.random() < 0.25 else (0, 1.0),
        least_jitter=choice((0.0, 0.5)),
        on_open=choice(("none", "none", "none", "polite", "slow", "raises", "lingers")),
    )  # fmt: skip


def _draw_climate(rng: random.Random) -> Climate:
    choice = rng.choice
    return Climate(
        slowest=choice((0, 1, 4, 16)),
        bad_dials=choice((0.0, 0.0, 0.1, 0.5)),
        short_lives=choice((0.0, 0.2, 0.6)),
        mute=choice((0.0, 0.3)),
        deaf=choice((0.0, 0.0, 0.4)),
        stalls=choice((0.0, 0.2)),
        talkative=choice((0.0, 0.0, 0.3, 0.8)),
        huge=choice((0.0, 0.0, 0.0, 0.1)),
    )


@contextlib.contextmanager
def _observed(monitor: Monitor) -> Iterator[None]:
    """Tell the monitor of every change of state, and of every error that the pool could only log."""
    change = Life._change

    def told(life: Life, *args: Any, **kwargs: Any) -> Changed:
        changed = change(life, *args, **kwargs)
        monitor.changed(life, changed.previous, changed)
        return changed

    log = mock.Mock(
        **{"error.side_effect": lambda event, **facts: monitor.must(False, "{} {}", event, facts)}
    )
    with mock.patch.object(Life, "_change", told), mock.patch.object(pool_module, "log", log):
        yield
