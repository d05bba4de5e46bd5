"""One connection through the proxy: two sockets, a line each way, and timers that move the bytes. No task."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from random import Random
from typing import cast

from jetsocket_ingest.testing.proxy.line import Event, Line, Rules
from jetsocket_ingest.testing.resets import reset


class ProxiedConnection:
    """A client's connection and the one to the target that was opened for it.

    Attributes:
        number: 1 for the proxy's first client, 2 for the next.
        up, down: what goes from the client to the target, and back.
        ignored: it was accepted and leads nowhere.
        was_reset: it ended with RST, made here or passed on.
    """

    def __init__(
        self,
        number: int,
        rules: tuple[Rules, Rules],
        random: Random,
        forget_after: float,
        over: Callable[[ProxiedConnection], None],
        stirred: Callable[[], None],
    ) -> None:
        """`rules` of up and down; `over` is called once, when both sockets are gone, `stirred` whenever something
        came from either side."""
        self.number = number
        self.up, self.down = (Line(each, random) for each in rules)
        self.ignored = False
        self.was_reset = False
        self._loop = asyncio.get_running_loop()
        self._forget_after = forget_after
        self._over = over
        self._stirred = stirred
        self._ending = False
        self._forgetting: asyncio.TimerHandle | None = None
        self.client = Side(self, self.up)
        self.target = Side(self, self.down)
        self._ways = (Way(self, self.client, self.target), Way(self, self.target, self.client))

    def __repr__(self) -> str:
        state = "ending" if self._ending else "ignored" if self.ignored else "open"
        return f"<ProxiedConnection {self.number} {state} up={self.up.passed} down={self.down.passed}>"

    @property
    def open(self) -> bool:
        """Not reset, and not closed by both sides."""
        return not self._ending

    @property
    def target_port(self) -> int | None:
        """The port from which the target sees it come; None before it is connected."""
        transport = self.target.transport
        return None if transport is None else cast("int", transport.get_extra_info("sockname")[1])

    def changed(self) -> None:
        """Its rules are different now: move what may move."""
        for way in self._ways:
            way.move()

    def ignore(self) -> None:
        """Lead nowhere: nothing the client says is heard, only that it leaves."""
        self.ignored = True

    def half_close(self, line: Line) -> None:
        """End one direction after what is under way; what its source sends later disappears."""
        line.put(Event.END, self._loop.time())
        self.changed()

    def reset(self) -> None:
        """End with TCP RST, both sides."""
        if self._ending:
            return
        self.was_reset = True
        self._end()
        for side in (self.client, self.target):
            if side.transport is not None:
                reset(side.transport)
        self._maybe_over()

    def drop(self) -> None:
        """End at once, whatever is left to be written."""
        self.reset()
        for side in (self.client, self.target):
            if side.transport is not None:
                side.transport.abort()

    # What its sockets tell.

    def opened(self, side: Side) -> None:
        if self._ending:
            assert side.transport is not None
            side.transport.abort()
        else:
            self.changed()

    def heard(self, side: Side, content: bytes | Event) -> None:
        self._stirred()
        if self.ignored:
            if isinstance(content, Event):
                self.reset()
            return
        side.line.put(content, self._loop.time())
        if side.line.end_swallowed and self._forgetting is None and not self._ending:
            self._forgetting = self._loop.call_later(self._forget_after, self.reset)
        self.changed()

    def lost(self, side: Side, error: Exception | None) -> None:
        if not self._ending:
            # Nobody closed it here: the peer reset it, or our write failed since it was gone.
            self.heard(side, Event.RESET)
        self._maybe_over()

    # What comes out of its lines.

    def deliver(self, event: Event, to: Side) -> None:
        if event is not Event.END:
            self.reset()
            return
        to.end()
        if self.client.ended and self.target.ended:
            self._end()
            for side in (self.client, self.target):
                if side.transport is not None:
                    side.transport.close()

    def _end(self) -> None:
        self._ending = True
        for way in self._ways:
            way.stop()
        if self._forgetting is not None:
            self._forgetting.cancel()

    def _maybe_over(self) -> None:
        if self._ending and not self.client.alive and not self.target.alive:
            over, self._over = self._over, _nothing
            over(self)


class Side(asyncio.Protocol):
    """One of the two sockets.

    Attributes:
        line: where what it sends goes.
        transport: None before it is connected.
        alive: its socket exists.
        full: the peer does not read what we write.
        ended: its stream was ended by us.
    """

    def __init__(self, connection: ProxiedConnection, line: Line) -> None:
        self.line = line
        self.transport: asyncio.Transport | None = None
        self.alive = False
        self.full = False
        self.ended = False
        self._connection = connection
        self._waiting = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.alive = True
        self._connection.opened(self)

    def data_received(self, data: bytes) -> None:
        self._connection.heard(self, data)

    def eof_received(self) -> bool:
        self._connection.heard(self, Event.END)
        return True  # the other direction goes on

    def pause_writing(self) -> None:
        self.full = True

    def resume_writing(self) -> None:
        self.full = False
        self._connection.changed()

    def connection_lost(self, error: Exception | None) -> None:
        self.alive = self.full = False
        self._connection.lost(self, error)

    def write(self, data: bytes) -> None:
        if self.transport is not None and not self.transport.is_closing():
            self.transport.write(data)

    def end(self) -> None:
        """Send FIN after what was written."""
        self.ended = True
        if self.transport is not None and not self.transport.is_closing():
            self.transport.write_eof()

    def wait(self, waiting: bool) -> None:
        """Stop or go on reading: TCP holds the peer back."""
        if waiting is not self._waiting and self.transport is not None and not self.transport.is_closing():
            self._waiting = waiting
            (self.transport.pause_reading if waiting else self.transport.resume_reading)()


class Way:
    """Moves one line's bytes from its source to its target, each at its time."""

    def __init__(self, connection: ProxiedConnection, source: Side, target: Side) -> None:
        self._connection = connection
        self._source = source
        self._target = target
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._moving = False

    def move(self) -> None:
        """Write what is due; come back when more is."""
        if self._moving:
            return  # called from within by what a write told
        self._moving = True
        try:
            for content in self._due():
                if isinstance(content, Event):
                    self._connection.deliver(content, self._target)
                else:
                    self._target.write(content)
        finally:
            self._moving = False
        self._source.wait(self._source.line.full)
        self._schedule()

    def _due(self) -> Iterator[bytes | Event]:
        target, line = self._target, self._source.line
        while self._connection.open and target.transport is not None:
            if target.full and line.rules.cut_in != 0:
                return
            content = line.take(self._loop.time())
            if content is None:
                return
            yield content

    def _schedule(self) -> None:
        self.stop()
        due = self._source.line.due
        if due is not None and self._connection.open and self._target.transport and not self._target.full:
            self._timer = self._loop.call_at(max(due, self._loop.time()), self.move)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _nothing(connection: ProxiedConnection) -> None:
    """What is called when a connection that is over ends again."""
