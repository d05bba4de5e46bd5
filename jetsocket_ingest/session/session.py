"""One connection's session: events in (connected, messages, time), actions out (send, live, refused, reconnect)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from jetsocket_ingest.config.matching import Match
from jetsocket_ingest.config.paths import MISSING
from jetsocket_ingest.config.placeholders import TreeTemplate
from jetsocket_ingest.session.columns import Classifier, Columns
from jetsocket_ingest.session.rules import SessionRules, encode_message
from jetsocket_ingest.session.watch import Watch

EXCERPT = 200
"""Characters of a provider's message that are shown to people."""


@dataclass(slots=True, frozen=True)
class Send:
    text: str


@dataclass(slots=True, frozen=True)
class Live:
    """These streams are subscribed from now on, as far as the provider tells."""

    streams: tuple[str, ...]
    acknowledged: bool


@dataclass(slots=True, frozen=True)
class Refused:
    """The provider will not send these streams."""

    streams: tuple[str, ...]
    answer: str


@dataclass(slots=True, frozen=True)
class Unmatched:
    """Messages that are neither data nor anything the session knows; `excerpt` shows the first."""

    count: int
    excerpt: str


@dataclass(slots=True, frozen=True)
class Stale:
    """These streams were silent for too long; they have been asked for again."""

    streams: tuple[str, ...]


@dataclass(slots=True, frozen=True)
class Reconnect:
    reason: str


Action = Send | Live | Refused | Unmatched | Stale | Reconnect

STALL = 0.5
"""Seconds that a tick may come late before the stall is ours and not the peer's: its words may lie unread."""


@dataclass(slots=True)
class _Request:
    streams: tuple[str, ...]
    due: float


class Session:
    """The session of one connection, begun anew at every connect.

    Args:
        rules: what the provider's sessions look like.
        streams: what to subscribe; empty where the URL alone decides what comes.
        stream: the stream of data that does not tell its own (one stream to a connection), else None.
        values: placeholder functions, `<now_ms>` and the like.
    """

    def __init__(
        self,
        rules: SessionRules,
        streams: Sequence[str],
        stream: str | None,
        values: Mapping[str, Callable[[], object]],
    ) -> None:
        self._rules = rules
        self._streams = tuple(streams)
        self._values = values
        heartbeat = rules.heartbeat
        self._expect = heartbeat.expect if heartbeat is not None else None
        controls: list[Match] = [rules.ack.match] if rules.ack is not None else []
        if self._expect is not None:
            controls.append(self._expect)
        self._classifier = Classifier(rules.data, controls, stream)
        self._pending: OrderedDict[str, _Request] = OrderedDict()
        self._request_ids = 0
        self._next_beat: float | None = None
        self._answer_due: float | None = None
        self._suspended = False
        self._stalled = False
        self._watch = Watch(rules.stale, streams) if rules.stale is not None else None
        self._leaving = False
        """After the goodbye, answers to it are expected and not looked at."""

    # Events ---------------------------------------------------------------------------------------------------------

    def connected(self, now: float) -> list[Action]:
        """A new connection: everything said on the last one is forgotten, and said again."""
        self._pending.clear()
        self._answer_due = None
        self._leaving = False
        heartbeat = self._rules.heartbeat
        self._next_beat = None if heartbeat is None else now + heartbeat.every
        if self._watch is not None:
            self._watch.begin(now)
        if self._rules.subscribe is None:
            return [Live(self._streams, acknowledged=False)]
        return self._subscribe(self._rules.subscribe, self._streams, now)

    def _subscribe(self, template: TreeTemplate, streams: tuple[str, ...], now: float) -> list[Action]:
        actions: list[Action] = []
        for asked, request_id, text in self._requests(template, streams):
            actions.append(Send(text))
            if self._rules.ack is None:
                actions.append(Live(asked, acknowledged=False))
            else:
                due = float("inf") if self._suspended else now + self._rules.ack.timeout
                self._pending[request_id] = _Request(asked, due)
        return actions

    def received(self, payloads: list[bytes], binary: bool, now: float) -> tuple[Columns, list[Action]]:
        """A hand-over: its data as columns, and what the rest of it calls for."""
        columns = self._classifier.sort(payloads, binary)
        if self._watch is not None and columns.payloads:
            self._watch.data(columns.streams, now)
        if not columns.others:
            return columns, []
        actions: list[Action] = []
        unmatched: list[bytes] = []
        for payload, value in columns.others:
            if not self._answered(payload, value, actions):
                unmatched.append(payload)
        if unmatched and not self._leaving:
            actions.append(Unmatched(len(unmatched), _excerpt(unmatched[0])))
        return columns, actions

    def tick(self, now: float) -> list[Action]:
        """Do what is due: heartbeats, and answers or data that did not come."""
        due = self.deadline()
        if due is not None and now - due > STALL and not self._stalled:
            self._stalled = True
            self._grant(now)
            return []
        self._stalled = False
        if self._watch is not None and not self._suspended and (silence := self._silence(self._watch, now)):
            return silence
        late = [request for request in self._pending.values() if now >= request.due]
        if late:
            self._pending.clear()
            assert self._rules.ack is not None
            names = ", ".join(late[0].streams[:3])
            return [
                Reconnect(f"no answer to the subscription of {names} within {self._rules.ack.timeout:g} s")
            ]
        heartbeat = self._rules.heartbeat
        if heartbeat is None or self._next_beat is None:
            return []
        if self._answer_due is not None and now >= self._answer_due:
            self._answer_due = None
            return [Reconnect(f"no answer to the heartbeat within {heartbeat.timeout:g} s")]
        if now < self._next_beat:
            return []
        self._next_beat = now + heartbeat.every
        if heartbeat.expect is not None and self._answer_due is None and not self._suspended:
            self._answer_due = now + heartbeat.timeout
        self._request_ids += 1
        values = {**self._values, "request_id": self._request_ids}
        return [Send(encode_message(heartbeat.send.render(values)))]

    def _silence(self, watch: Watch, now: float) -> list[Action]:
        if watch.silent_connection(now):
            return [Reconnect("no data for longer than session.stale.connection allows")]
        silent = watch.silent_streams(now)
        if not silent:
            return []
        if self._rules.subscribe is None:
            return [
                Stale(silent),
                Reconnect(f"no data of {silent[0]} for longer than session.stale.streams allows"),
            ]
        actions: list[Action] = [Stale(silent)]
        if self._rules.unsubscribe is not None:
            actions += [Send(text) for _, _, text in self._requests(self._rules.unsubscribe, silent)]
        return actions + self._subscribe(self._rules.subscribe, silent, now)

    def _grant(self, now: float) -> None:
        """Whoever would be too late now has one more moment."""
        moment = now + STALL
        if self._answer_due is not None:
            self._answer_due = max(self._answer_due, moment)
        for request in self._pending.values():
            request.due = max(request.due, moment)
        if self._watch is not None:
            self._watch.grant(now, STALL)

    def suspend(self) -> None:
        """Reading is paused: answers cannot be seen, so none is late before reading has resumed for its full time.
        Heartbeats still go out."""
        self._suspended = True
        self._answer_due = None
        for request in self._pending.values():
            request.due = float("inf")

    def resume(self, now: float) -> None:
        self._suspended = False
        if self._watch is not None:
            self._watch.begin(now)
        if self._rules.ack is not None:
            for request in self._pending.values():
                request.due = now + self._rules.ack.timeout

    def goodbye(self) -> list[Action]:
        """What to say before closing."""
        self._leaving = True
        if self._rules.unsubscribe is None:
            return []
        return [Send(text) for _, _, text in self._requests(self._rules.unsubscribe, self._streams)]

    def deadline(self) -> float | None:
        """When `tick` is wanted, monotonic seconds."""
        times = [request.due for request in self._pending.values()]
        times += [time for time in (self._next_beat, self._answer_due) if time is not None]
        if self._watch is not None and not self._suspended:
            times.append(self._watch.deadline())
        soonest = min(times, default=float("inf"))
        return None if soonest == float("inf") else soonest

    # Parts ----------------------------------------------------------------------------------------------------------

    def _answered(self, payload: bytes, value: object, actions: list[Action]) -> bool:
        """Whether the message is one the session waits for."""
        ack = self._rules.ack
        if ack is not None and ack.match.matches(value):
            request = self._take_pending(value)
            if request is not None:
                if ack.success is None or ack.success.matches(value):
                    actions.append(Live(request.streams, acknowledged=True))
                else:
                    actions.append(Refused(request.streams, _excerpt(payload)))
                return True
        if self._expect is not None and self._expect.matches(value):
            self._answer_due = None
            return True
        return False

    def _take_pending(self, answer: object) -> _Request | None:
        """The request that an answer belongs to; None where there is no such one."""
        ack = self._rules.ack
        assert ack is not None
        if ack.correlate is None:
            return self._pending.popitem(last=False)[1] if self._pending else None
        request_id = ack.correlate.find(answer)
        return None if request_id is MISSING else self._pending.pop(str(request_id), None)

    def _requests(
        self, template: TreeTemplate, streams: tuple[str, ...]
    ) -> list[tuple[tuple[str, ...], str, str]]:
        """(streams, request id, text) of each message that the streams need."""
        size = self._rules.max_streams if "streams" in template.fields else 1
        requests = []
        for start in range(0, len(streams), size):
            requests += self._fitting(template, streams[start : start + size])
        return requests

    def _fitting(
        self, template: TreeTemplate, streams: tuple[str, ...]
    ) -> list[tuple[tuple[str, ...], str, str]]:
        """One message, or several where it would exceed the bytes the provider takes."""
        request_id = self._request_ids + 1
        values = {**self._values, "streams": list(streams), "stream": streams[0], "request_id": request_id}
        text = encode_message(template.render(values))
        if len(text.encode()) > self._rules.max_bytes and len(streams) > 1:
            half = len(streams) // 2
            return self._fitting(template, streams[:half]) + self._fitting(template, streams[half:])
        self._request_ids = request_id
        return [(streams, str(request_id), text)]


def _excerpt(payload: bytes) -> str:
    text = payload[: 4 * EXCERPT].decode("utf-8", "replace")
    return text if len(text) <= EXCERPT else text[: EXCERPT - 1] + "…"
