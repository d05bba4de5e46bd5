"""The keys of a session: subscribing, acknowledgements, heartbeat, and where a message keeps what we need."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from jetsocket_ingest.config.fields import HEARTBEAT_NAMES, PATH_NAMES, SUBSCRIBE_NAMES, TextOf, TreeOf
from jetsocket_ingest.config.matching import Match
from jetsocket_ingest.config.paths import Path
from jetsocket_ingest.config.placeholders import Template, TreeTemplate
from jetsocket_ingest.config.types import ByteSize, ConfigModel, Contradictions, Duration

Positive = Annotated[Duration, Field(gt=0)]
_STREAM_FIELDS = frozenset({"streams", "stream"})


class SubscribeBatch(ConfigModel):
    """How many streams one subscribe message names: whatever is reached first closes a batch."""

    max_streams: int = Field(default=100, ge=1, description="Streams in one message, at most.")
    max_bytes: Annotated[ByteSize, Field(ge=1)] = Field(
        default=64 * 1024, description="Size of one message, at most (a single stream may exceed it)."
    )


class Ack(ConfigModel):
    """The provider's answer to a subscribe message. Without it, a sent message counts as success."""

    match: Match = Field(description="Which messages are answers.")
    correlate: Path | None = Field(
        default=None,
        description="Where the answer repeats <request_id>; without it, answers come in the order of the requests.",
    )
    success: Match | None = Field(
        default=None, description="What an answer holds that says yes; without it, every answer does."
    )
    timeout: Positive = Field(default=10.0, description="Time within which the answer must come.")


class Subscribe(ConfigModel):
    """How streams are asked for."""

    via: Literal["message", "url", "none"] = Field(
        default="none",
        description="message: a message names the streams, many to a connection; url: each stream has an address of its own; "
        "none: the endpoint's url sends by itself.",
    )
    message: Annotated[TreeTemplate, TreeOf(SUBSCRIBE_NAMES)] | None = Field(
        default=None,
        description="What is sent (via: message), with <streams> for a list, or <stream> for one message a stream; "
        "<request_id> numbers the messages of a connection. A mapping or list is sent as JSON, a text as it is.",
    )
    path: Annotated[Template, TextOf(PATH_NAMES)] | None = Field(
        default=None, description="Path joined to the url, with <stream> (via: url)."
    )
    batch: SubscribeBatch = Field(
        default_factory=SubscribeBatch, description="How many streams one message names (<streams>)."
    )
    ack: Ack | None = Field(default=None, description="The provider's answer (via: message).")

    @model_validator(mode="after")
    def _check(self) -> Self:
        wrong = Contradictions()
        needs = {"message": "message", "path": "url", "batch": "message", "ack": "message"}
        for key, via in needs.items():
            if key in self.model_fields_set and getattr(self, key) is not None and self.via != via:
                wrong.add(key, f"needs via: {via}, found via: {self.via}")
        if self.via == "message":
            self._check_message(wrong)
        if self.via == "url":
            self._check_path(wrong)
        wrong.settle()
        return self

    def _check_message(self, wrong: Contradictions) -> None:
        if self.message is None:
            wrong.add((), "via: message needs the key message: what is sent to subscribe")
            return
        _check_streams(self.message, wrong)
        if "stream" in self.message.fields and "batch" in self.model_fields_set:
            wrong.add(
                "batch", "has no effect on a message with <stream>, which names one stream; use <streams>"
            )
        if self.ack and self.ack.correlate and "request_id" not in self.message.fields:
            wrong.add(
                ("ack", "correlate"), "needs <request_id> in the message, which the answer then repeats"
            )

    def _check_path(self, wrong: Contradictions) -> None:
        if self.path is None:
            wrong.add((), "via: url needs the key path, such as /ws/<stream>")
            return
        if "stream" not in self.path.fields:
            wrong.add(
                "path", "expected <stream> in the path, found none: every stream would get the same address"
            )
        if not self.path.source.startswith("/"):
            wrong.add("path", f"expected a path that begins with /, found {self.path.source!r}")


class Unsubscribe(ConfigModel):
    """How streams are given up, before a connection is closed or shared differently."""

    message: Annotated[TreeTemplate, TreeOf(SUBSCRIBE_NAMES)] = Field(
        description="What is sent, with <streams> or <stream> as in subscribe.message."
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        wrong = Contradictions()
        _check_streams(self.message, wrong)
        wrong.settle()
        return self


class Heartbeat(ConfigModel):
    """Messages that the provider wants to hear, beside the pings of the WebSocket protocol."""

    send: Annotated[TreeTemplate, TreeOf(HEARTBEAT_NAMES)] = Field(
        description="What is sent: a mapping or list as JSON, a text as it is."
    )
    every: Positive = Field(description="Time between two of them.")
    expect: Match | None = Field(
        default=None, description="Which messages answer it; without it, no answer is awaited."
    )
    timeout: Positive = Field(
        default=10.0, description="Time within which the answer must come, else the connection is dropped."
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        wrong = Contradictions()
        if self.expect is None and "timeout" in self.model_fields_set:
            wrong.add("timeout", "has no effect without expect; add expect, or leave it out")
        wrong.settle()
        return self


class Stale(ConfigModel):
    """How long silence may last. Only data counts; heartbeats and answers do not."""

    connection: Positive | None = Field(
        default=None, description="No data at all for so long: connect again. null: silence is fine."
    )
    streams: dict[str, Positive] = Field(
        default_factory=dict,
        description="Pattern of stream names (*, ?, [...]) → time without data after which the stream is subscribed "
        "again; the first that fits counts, streams that none fits are not watched.",
    )


class EventTime(ConfigModel):
    """The provider's time of an event."""

    path: Path = Field(description="Where it stands in the message.")
    unit: Literal["s", "ms", "us", "ns", "iso"] = Field(
        description="s, ms, us or ns since 1970 UTC, as number or text; iso: an ISO 8601 text."
    )


class Sequence(ConfigModel):
    """The provider's numbering of a stream's messages."""

    last: Path = Field(description="Where the number of the message (the last one in it) stands.")


class Data(ConfigModel):
    """Which messages are data, and where they keep what we need."""

    match: Match | None = Field(
        default=None,
        description="Which messages are data; without it, those in which `stream` is found, or all.",
    )
    stream: Path | None = Field(default=None, description="Where the stream's name stands.")
    event_time: EventTime | None = Field(default=None, description="The provider's time.")
    sequence: Sequence | None = Field(default=None, description="The provider's numbering of each stream.")


class Session(ConfigModel):
    """The protocol spoken on a connection: data, never code."""

    subscribe: Subscribe = Field(default_factory=Subscribe, description="How streams are asked for.")
    unsubscribe: Unsubscribe | None = Field(
        default=None, description="How streams are given up (via: message)."
    )
    heartbeat: Heartbeat | None = Field(default=None, description="Messages that keep the session alive.")
    stale: Stale | None = Field(default=None, description="When silence means that something is wrong.")
    data: Data = Field(
        default_factory=Data, description="Which messages are data, and where they keep what we need."
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        wrong = Contradictions()
        via = self.subscribe.via
        if self.unsubscribe is not None and via != "message":
            wrong.add("unsubscribe", f"needs subscribe via: message, found via: {via}")
        if self.stale is not None and self.stale.streams and self.data.stream is None and via == "message":
            wrong.add(
                ("stale", "streams"),
                "needs data.stream: the messages of several streams on a connection cannot be told apart",
            )
        if self.data.sequence is not None and self.data.stream is None and via == "message":
            wrong.add(
                ("data", "sequence"),
                "needs data.stream: the numbers of several streams on a connection cannot be told apart",
            )
        wrong.settle()
        return self


def _check_streams(message: TreeTemplate, wrong: Contradictions) -> None:
    named = message.fields & _STREAM_FIELDS
    if not named:
        wrong.add(
            "message", "expected <streams> or <stream> in the message, found neither: it would name no stream"
        )
    elif len(named) == 2:
        wrong.add("message", "expected either <streams> or <stream> in the message, found both")
