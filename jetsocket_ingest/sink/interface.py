"""The interface that every sink implements, and what a sink is given."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

from jetsocket_ingest.clock import Clock
from jetsocket_ingest.sink.options import SinkOptions
from jetsocket_ingest.sink.record import Batch, Record

OptionsT = TypeVar("OptionsT", bound=SinkOptions)


@dataclass(slots=True, frozen=True)
class SinkContext:
    """What a sink learns about its surroundings.

    Attributes:
        pipeline: the pipeline's name (`name` in the config).
        name: this sink's name in the config.
        clock: the only source of time a sink may use.
        log: a structured logger that already carries pipeline and sink; use the events of the telemetry catalogue,
            or any `sink.<type>.<what>` of your own.
        reject: call it for a record that this sink can never take (too large, not expressible in its form), with
            a reason that says what was expected and what came; then go on with the next record.
    """

    pipeline: str
    name: str
    clock: Clock
    log: Any
    reject: Callable[[Record, str], None]


class Sink(ABC, Generic[OptionsT]):
    """A destination. One task calls it, so no two of its methods ever run at the same time.

    `open` once, then `write` for each batch in order, `flush` when what was written should become final soon, and
    `close` once, also after an error. Register the class under the entry-point group `jetsocket_ingest.sinks`; the
    entry point's name is the `type:` of the config.

    Errors: raise `SinkUnavailable` where waiting can help (delivery backs off and writes the same batches again, from
    the first that was not delivered) and `SinkFailed` where somebody must act. Anything else is taken for a bug
    of the sink: it is reported with its traceback and the sink is marked failed.
    """

    Options: ClassVar[type[SinkOptions]] = SinkOptions
    """The pydantic model of this sink's keys in the config."""

    handles_markers: ClassVar[bool] = False
    """True for a sink that wants markers even where its encoding has no place for them in line (raw)."""

    def __init__(self, options: OptionsT, context: SinkContext) -> None:
        self.options = options
        self.context = context

    async def open(self) -> None:
        """Connect and check: names, rights, room. Nothing is written before it returns."""

    @abstractmethod
    async def write(self, batch: Batch) -> Awaitable[None] | None:
        """Take a batch, in order.

        Returns None when the batch is delivered, or an awaitable that completes when it is: delivery goes on
        writing meanwhile, up to the sink's backlog, and keeps each batch until then. Awaitables must complete in the
        order of the writes. One that raises counts like an error of `write`: after the awaitables of all later
        batches settled too, delivery writes again from the first batch that was not delivered.
        """

    async def flush(self) -> None:
        """Make everything written so far final as soon as possible, so that its awaitables complete."""

    async def close(self) -> None:
        """Give up every resource. Called once, after a last `flush` where there is time for one."""

    def describe(self) -> str:
        """Where records go, for people: a path, a topic. Never a secret."""
        return self.options.type
