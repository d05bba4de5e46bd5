"""Composition: a config in, a running pipeline out. Also the public Python API."""

from __future__ import annotations

import asyncio
import os
import random as _random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote, urlsplit

from jetsocket_ingest import measure
from jetsocket_ingest.admin.server import AdminServer
from jetsocket_ingest.clock import Clock, SystemClock
from jetsocket_ingest.config.endpoint import Endpoint
from jetsocket_ingest.config.load import Loaded
from jetsocket_ingest.config.load import load as load_config
from jetsocket_ingest.config.models import PipelineConfig
from jetsocket_ingest.config.types import Interpolated
from jetsocket_ingest.errors import ConfigError, JetSocketError, OperatorError, OutputClosed
from jetsocket_ingest.net.budget import ConnectBudget
from jetsocket_ingest.net.life import ReconnectPolicy, Timing, Verdict
from jetsocket_ingest.net.pool import ConnectionPool, ConnectionPoolConfig, PooledConnection
from jetsocket_ingest.net.tls import client_context
from jetsocket_ingest.net.websocket import Hooks
from jetsocket_ingest.pipeline.buffer import MemoryBuffer, Route
from jetsocket_ingest.pipeline.delivery import Delivery, DeliveryHooks, DeliveryState
from jetsocket_ingest.pipeline.intake import Allowance, Intake
from jetsocket_ingest.plan.plan import PlannedConnection, host_of, plan, problems
from jetsocket_ingest.session.columns import DataRule
from jetsocket_ingest.session.rules import AckRule, HeartbeatRule, SessionRules, functions
from jetsocket_ingest.session.session import Session
from jetsocket_ingest.session.watch import StaleRule
from jetsocket_ingest.sink.interface import SinkContext
from jetsocket_ingest.sink.options import MarkersElsewhere, SinkOptions
from jetsocket_ingest.sink.record import Record
from jetsocket_ingest.sink.registry import load_sink
from jetsocket_ingest.telemetry import Telemetry
from jetsocket_ingest.telemetry.lag import LagMonitor, watch_lag
from jetsocket_ingest.telemetry.log import get_logger
from jetsocket_ingest.telemetry.version import package_version

REJECT_LOG_INTERVAL = 10.0
"""Seconds between two log lines about records that a sink rejects: every one is counted, not every one told."""


def load(path: str | os.PathLike[str], environ: Mapping[str, str] = os.environ) -> Loaded:
    """Read and check a config file. ConfigError holds every problem, each with file, line and column."""
    loaded = load_config(path, sink_options=_sink_options, environ=environ)
    misfits = problems(loaded.config, plan(loaded.config)) + _demo_problems(loaded.config)
    if misfits:
        raise ConfigError([loaded.located(keys, message) for keys, message in misfits])
    loaded.warnings.extend(loaded.located(keys, message) for keys, message in _unheard_markers(loaded.config))
    return loaded


@dataclass(slots=True, frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        reason: in words.
        failed: something failed for good, so that the run could not go on (exit code 1).
    """

    reason: str
    failed: bool = False


class Pipeline:
    """A pipeline that runs from `start` to `stop`.

        async with Pipeline.from_file("ticks.yaml") as pipeline:
            outcome = await pipeline.wait()

    Args:
        config: the checked config.
        max_records: end after so many data records; None: no limit.
        clock, random: injected.
    """

    def __init__(
        self,
        config: PipelineConfig,
        *,
        max_records: int | None = None,
        clock: Clock | None = None,
        random: Callable[[], float] = _random.random,
    ) -> None:
        self.config = config
        self.clock: Clock = clock or SystemClock()
        self.plan = plan(config)
        self.intakes: list[Intake] = []
        self.deliveries: dict[str, Delivery] = {}
        self.admin: AdminServer | None = None
        self.lag = LagMonitor()
        self.started_at = 0.0
        self.running = False
        self._random = random
        self._log = get_logger(pipeline=config.name)
        self._allowance = Allowance(
            max_records, lambda: self.finish(Outcome(f"{max_records} records accepted"))
        )
        self._outcome: asyncio.Future[Outcome] | None = None
        self._pools: dict[str, ConnectionPool[Any]] = {}
        self._leases: dict[str, PooledConnection[Any]] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._background: set[asyncio.Task[None]] = set()
        self._feeds: list[Any] = []
        self._rejected_told: dict[str, float] = {}
        telemetry = config.telemetry
        self.telemetry = Telemetry(
            pipeline=config.name,
            metrics_otlp=telemetry.metrics.otlp,
            metrics_every=telemetry.metrics.every,
            traces_otlp=telemetry.traces.otlp,
            traces_sample=telemetry.traces.sample,
            prometheus=config.admin is not None,
        )
        self.buffer = MemoryBuffer(_routes(config), _backlogs(config), self.clock, self._press)

    @classmethod
    def from_file(
        cls,
        path: str | os.PathLike[str],
        *,
        environ: Mapping[str, str] = os.environ,
        max_records: int | None = None,
    ) -> Pipeline:
        """A pipeline by a config file. Raises ConfigError."""
        return cls(load(path, environ).config, max_records=max_records)

    # Life -----------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Open sinks and admin endpoint and begin to connect; returns as soon as all that is under way.

        Raises ConfigError or OperatorError for what cannot even begin (a TLS file, the admin port); sinks and
        connections that fail later are told by `wait`.
        """
        self._outcome = asyncio.get_running_loop().create_future()
        self.started_at = self.clock.monotonic()
        self._log.info("pipeline.starting", version=package_version())
        try:
            self._build_deliveries()
            measure.observe(self)
            if self.config.admin is not None:
                self.admin = AdminServer(
                    self.config.admin.listen, self.telemetry.metrics, self.ready, lambda: measure.status(self)
                )
                await self.admin.start()
            await self._build_pools()
            self.telemetry.start()
            # From here on, what fails counts, even while others have yet to begin.
            self.running = True
            for name, delivery in self.deliveries.items():
                self._tasks[name] = asyncio.create_task(delivery.run(), name=f"deliver to {name}")
            for endpoint, connections in self.plan.items():
                for planned in connections:
                    await self._lease(endpoint, planned)
        except BaseException:
            self.running = False
            await self._abandon()
            raise
        self._spawn(watch_lag(self.lag, self.clock, log=self._log))
        self._spawn(self._keep_time())
        self._log.info(
            "pipeline.started", subscriptions=len(self.config.subscriptions), sinks=len(self.config.sinks)
        )

    async def wait(self) -> Outcome:
        """Until the run ends by itself: bounded and done, failed for good, or its reader gone. See also `finish`."""
        assert self._outcome is not None, "start the pipeline first"
        return await asyncio.shield(self._outcome)

    def finish(self, outcome: Outcome) -> None:
        """Let `wait` return; the first outcome counts."""
        if self._outcome is not None and not self._outcome.done():
            self._outcome.set_result(outcome)

    async def stop(self, timeout: float | None = None) -> None:
        """Stop reading, unsubscribe, and deliver what was accepted within `timeout` (default: `shutdown_timeout`)
        seconds. What could not be delivered is counted as undelivered. Idempotent."""
        if not self.running:
            return
        self.running = False
        limit = self.config.shutdown_timeout if timeout is None else timeout
        deadline = self.clock.monotonic() + limit
        reason = self._outcome.result().reason if self._outcome and self._outcome.done() else "asked to stop"
        self._log.info("pipeline.stopping", reason=reason, timeout_s=limit)
        for intake in self.intakes:
            intake.goodbye()
        await self._close_pools()
        for delivery in self.deliveries.values():
            delivery.stop()
        await self._end_tasks(max(0.0, deadline - self.clock.monotonic()))
        await self._abandon()
        self._log.info("pipeline.stopped", **measure.totals(self))

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    def ready(self) -> tuple[bool, dict[str, str]]:
        """Whether data can flow as declared, and what stands in its way."""
        reasons = {
            f"connection {intake.planned.id}": str(intake.error or intake.state)
            for intake in self.intakes
            if not intake.complete
        }
        reasons |= {
            f"sink {name}": f"{delivery.state}: {delivery.error}" if delivery.error else str(delivery.state)
            for name, delivery in self.deliveries.items()
            if delivery.state is not DeliveryState.RUNNING
        }
        return self.running and not reasons, reasons

    # Building -------------------------------------------------------------------------------------------------------

    def _build_deliveries(self) -> None:
        latency = self.telemetry.metrics.histogram("jetsocket.delivery.latency")
        batch_size = self.telemetry.metrics.histogram("jetsocket.delivery.batch")
        for name, options in self.config.sinks.items():
            assert isinstance(options, SinkOptions)
            context = SinkContext(
                pipeline=self.config.name,
                name=name,
                clock=self.clock,
                log=get_logger(pipeline=self.config.name, sink=name),
                reject=self._rejecter(name),
            )
            hooks = DeliveryHooks(
                delivered=measure.delivery_recorder(name, latency, batch_size, self.clock),
                begin=measure.delivery_span(name, self),
            )
            self.deliveries[name] = Delivery(
                name,
                load_sink(options.type)(options, context),
                self.buffer.backlogs[name],
                self.clock,
                self._random,
                self._delivery_ended,
                hooks,
            )

    async def _build_pools(self) -> None:
        for name, endpoint in self.config.endpoints.items():
            pool = self.config.pool_of(name)
            base = await self._base_uri(endpoint)
            try:
                arguments = _websocket_arguments(
                    endpoint, name, self._random, self.telemetry, self.config.shutdown_timeout
                )
            except OperatorError as error:
                raise OperatorError(f"endpoints.{name}.{error}") from error
            self._pools[name] = ConnectionPool(
                ConnectionPoolConfig(
                    max_connections=pool.max_connections,
                    max_idle_time=pool.max_idle_time,
                    health_check_interval=pool.health_check_interval,
                    acquire_timeout=pool.acquire_timeout,
                ),
                base_uri=base,
                manager_kwargs=arguments,
                clock=self.clock,
            )

    async def _base_uri(self, endpoint: Endpoint) -> str:
        """The endpoint's address; for demo://, of a feed started here."""
        if not endpoint.url.startswith("demo:"):
            return endpoint.url
        # Imported here: only demo:// needs a server.
        from jetsocket_ingest.testing.feed import FeedServer, demo_options, demo_path

        feed = FeedServer(demo_options(endpoint.url), clock=self.clock)
        await feed.start()
        self._feeds.append(feed)
        # `via: url` joins a path of its own to the address.
        via_url = endpoint.session.subscribe.via == "url"
        return feed.url + (urlsplit(endpoint.url).path if via_url else demo_path(endpoint.url))

    async def _lease(self, endpoint: str, planned: PlannedConnection) -> None:
        pool = self._pools[endpoint]
        options = self.config.endpoints[endpoint]
        rules = _session_rules(options)
        stream = planned.streams[0] if len(planned.streams) == 1 else None
        intake = Intake(
            planned,
            host_of(pool.resolve("")),
            Session(rules, planned.streams, stream, functions(self.clock)),
            self.buffer.accept,
            self._allowance,
            self.clock,
            self._intake_ended,
            self.telemetry.tracing,
        )
        self.intakes.append(intake)
        lease = await pool.acquire(planned.path, receiver=intake)
        intake.socket = lease.socket
        self._leases[planned.id] = lease
        for subscription in planned.subscriptions:
            if self.buffer.pressed([subscription]):
                intake.press(subscription, True)

    # What happens ---------------------------------------------------------------------------------------------------

    def _press(self, subscription: str, pressed: bool) -> None:
        for intake in self.intakes:
            if subscription in intake.planned.subscriptions:
                intake.press(subscription, pressed)

    def _intake_ended(self, intake: Intake, error: Exception | None) -> None:
        if not self.running:
            return
        what = f"connection {intake.planned.id} failed: {error}"
        if error is None:
            what = f"no sink takes the records of connection {intake.planned.id}"
        else:
            self._spawn(self._release(intake))
        if error is not None and self.config.on_failure == "stop":
            self._fail(what)
        elif self._all_ended():
            self._fail(f"every connection failed; the last: {what}")

    def _all_ended(self) -> bool:
        every = len(self.intakes) == sum(map(len, self.plan.values()))
        return every and all(intake.state.terminal for intake in self.intakes)

    def _delivery_ended(self, delivery: Delivery, error: Exception) -> None:
        if isinstance(error, OutputClosed):
            self.finish(Outcome(str(error)))
            return
        what = f"sink {delivery.name} failed: {error}"
        dead = {name for name, other in self.deliveries.items() if other.state is DeliveryState.FAILED}
        if self.config.on_failure == "stop":
            self._fail(what)
        elif len(dead) == len(self.deliveries):
            self._fail(f"every sink failed; the last: {what}")
        else:
            self._close_unheard(dead)

    def _close_unheard(self, dead: set[str]) -> None:
        """Close the connections whose records no sink takes any more."""
        for intake in self.intakes:
            sinks = {
                sink
                for name in intake.planned.subscriptions
                for sink in self.config.subscriptions[name].sinks
            }
            if sinks <= dead and not intake.state.terminal:
                self._spawn(self._retire(intake))

    def _fail(self, reason: str) -> None:
        self._log.error("pipeline.failed", error=reason)
        self.finish(Outcome(reason, failed=True))

    def _rejecter(self, sink: str) -> Callable[[Record, str], None]:
        def reject(record: Record, reason: str) -> None:
            counters = self.deliveries[sink].counters
            counters.rejected[record.subscription] += 1
            now = self.clock.monotonic()
            if now - self._rejected_told.get(sink, -REJECT_LOG_INTERVAL) >= REJECT_LOG_INTERVAL:
                self._rejected_told[sink] = now
                self._log.warning(
                    "sink.record_rejected",
                    sink=sink,
                    subscription=record.subscription,
                    stream=record.stream,
                    position=record.position,
                    reason=reason,
                )

        return reject

    async def _keep_time(self) -> None:
        """Follow the wall clock where it leaves ours."""
        while True:
            await asyncio.sleep(1.0)
            if isinstance(self.clock, SystemClock) and (step := self.clock.reanchor()):
                self._log.warning("clock.reanchored", step_ms=round(step / 1e6, 3))

    # Ending ---------------------------------------------------------------------------------------------------------

    async def _release(self, intake: Intake) -> None:
        lease = self._leases.pop(intake.planned.id, None)
        if lease is not None:
            await lease.release()

    async def _retire(self, intake: Intake) -> None:
        """Close a connection that still works, and give it back."""
        intake.goodbye()
        if intake.socket is not None:
            await intake.socket.close()
        await self._release(intake)

    async def _close_pools(self) -> None:
        await asyncio.gather(*(pool.close() for pool in self._pools.values()))

    async def _end_tasks(self, timeout: float) -> None:
        """Wait for the deliveries, then cancel what is left; a sink that was cancelled still closes."""
        tasks = set(self._tasks.values())
        if not tasks:
            return
        _, late = await asyncio.wait(tasks, timeout=timeout)
        for task in late:
            task.cancel()
        if late:
            await asyncio.wait(late)

    async def _abandon(self) -> None:
        await self._close_pools()
        await self._end_tasks(0.0)
        for task in self._background:
            task.cancel()
        if self._background:
            await asyncio.wait(self._background)
        for feed in self._feeds:
            await feed.stop()
        if self.admin is not None:
            await self.admin.stop()
        await self.telemetry.shutdown()

    def _spawn(self, coroutine: Any) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._background.add(task)
        task.add_done_callback(self._background.discard)


# From config to parts -------------------------------------------------------------------------------------------------


def _sink_options(type_name: str) -> type[SinkOptions]:
    return load_sink(type_name).Options


def _takes_markers(options: SinkOptions) -> bool:
    """Whether the sink's form of output has a place for markers."""
    return options.encoding == "envelope" or load_sink(options.type).handles_markers


def _unheard_markers(config: PipelineConfig) -> list[tuple[tuple[str, ...], str]]:
    return [
        (
            ("sinks", name, "markers"),
            "raw output has no place for markers in line, so they are left out; write markers: none, or "
            "markers: {sink: NAME} to keep them elsewhere",
        )
        for name, options in config.sinks.items()
        if isinstance(options, SinkOptions)
        and options.markers == "inline"
        and "markers" in options.model_fields_set
        and not _takes_markers(options)
    ]


def _routes(config: PipelineConfig) -> dict[str, Route]:
    routes = {}
    for name, subscription in config.subscriptions.items():
        markers: list[str] = []
        for sink in subscription.sinks:
            options = config.sinks[sink]
            assert isinstance(options, SinkOptions)
            target: str | None = sink
            if isinstance(options.markers, MarkersElsewhere):
                target = options.markers.sink
            elif options.markers == "none" or not _takes_markers(options):
                target = None
            if target is not None and target not in markers:
                markers.append(target)
        routes[name] = Route(subscription.sinks, markers)
    return routes


def _demo_problems(config: PipelineConfig) -> list[tuple[tuple[str, ...], str]]:
    """What a demo:// address asks for and cannot have, as (keys in the config, sentence)."""
    found: list[tuple[tuple[str, ...], str]] = []
    for name, endpoint in config.endpoints.items():
        if endpoint.url.startswith("demo:"):
            # Imported here: only demo:// needs a server.
            from jetsocket_ingest.testing.feed import demo_options, demo_path

            parts = [demo_options] if endpoint.session.subscribe.via == "url" else [demo_options, demo_path]
            for part in parts:
                try:
                    part(endpoint.url)
                except ConfigError as error:
                    found += [
                        (("endpoints", name, "url"), problem.removeprefix(f"{endpoint.url}: "))
                        for problem in error.problems
                    ]
    return list(dict.fromkeys(found))


def _backlogs(config: PipelineConfig) -> dict[str, int]:
    limits = {}
    for name, options in config.sinks.items():
        assert isinstance(options, SinkOptions)
        limits[name] = options.backlog.max_size
    return limits


def _websocket_arguments(
    endpoint: Endpoint, name: str, random: Callable[[], float], telemetry: Telemetry, shutdown_timeout: float
) -> dict[str, Any]:
    policy, tls, ping, rate = endpoint.policy, endpoint.tls, endpoint.ping, endpoint.limits.connect_rate
    # A peer that does not answer the close must leave time to deliver what it sent before.
    close_timeout = min(endpoint.close_timeout, shutdown_timeout / 2)

    def url(uri: str) -> str:
        if isinstance(endpoint.url, Interpolated) and not endpoint.url.startswith("demo:"):
            uri = endpoint.url.resolve() + uri.removeprefix(str(endpoint.url))
        query = "&".join(
            f"{quote(key)}={quote(value.reveal(), safe='')}" for key, value in endpoint.query.items()
        )
        return uri + ("&" if "?" in uri else "?") + query if query else uri

    return {
        "resolve": url,
        "headers": lambda: {key: value.reveal() for key, value in endpoint.headers.items()},
        "subprotocols": endpoint.subprotocols,
        "tls": client_context(
            tls.ca_file,
            tls.cert_file,
            tls.key_file,
            tls.key_password.reveal() if tls.key_password is not None else None,
            dangerously_skip_verification=tls.dangerously_skip_verification,
        )
        if endpoint.url.startswith("wss:")
        else None,
        "server_name": tls.server_name,
        "proxy": endpoint.proxy.reveal if endpoint.proxy is not None else None,
        "compression": endpoint.compression,
        "max_message_size": endpoint.max_message_size,
        "engine": endpoint.engine,
        "policy": ReconnectPolicy(
            http_status={status: Verdict(action) for status, action in policy.http_status.items()},
            close_code={code: Verdict(action) for code, action in policy.close_code.items()},
            initial=policy.backoff.initial,
            maximum=policy.backoff.maximum,
            reset_after=policy.backoff.reset_after,
            flaps=policy.backoff.flaps,
            stable_after=policy.backoff.stable_after,
            max_attempts=policy.max_attempts,
            max_time=policy.max_time,
            retry_first=True,
        ),
        "timing": Timing(endpoint.open_timeout, close_timeout, ping.every, ping.timeout),
        "budget": ConnectBudget(rate.count, rate.per) if rate is not None else None,
        "random": random,
        "hooks": Hooks(
            dial_span=lambda attempt: telemetry.tracing.span(
                "connection.dial", endpoint=name, attempt=attempt
            )
        ),
    }


def _session_rules(endpoint: Endpoint) -> SessionRules:
    session = endpoint.session
    subscribe, data, heartbeat = session.subscribe, session.data, session.heartbeat
    ack = subscribe.ack
    return SessionRules(
        subscribe=subscribe.message,
        unsubscribe=session.unsubscribe.message if session.unsubscribe is not None else None,
        max_streams=subscribe.batch.max_streams,
        max_bytes=subscribe.batch.max_bytes,
        ack=AckRule(ack.match, ack.correlate, ack.success, ack.timeout) if ack is not None else None,
        heartbeat=HeartbeatRule(heartbeat.send, heartbeat.every, heartbeat.expect, heartbeat.timeout)
        if heartbeat is not None
        else None,
        stale=StaleRule(session.stale.connection, session.stale.streams)
        if session.stale is not None
        else None,
        data=DataRule(
            match=data.match,
            stream=data.stream,
            event_time=data.event_time.path if data.event_time is not None else None,
            time_unit=data.event_time.unit if data.event_time is not None else "ms",
            sequence=data.sequence.last if data.sequence is not None else None,
        ),
    )


__all__ = ["JetSocketError", "Outcome", "Pipeline", "load"]
