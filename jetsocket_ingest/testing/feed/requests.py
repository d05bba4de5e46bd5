"""What a client may ask for and what it is told: the feed's protocol, without I/O."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(slots=True, frozen=True)
class Rules:
    """What subscriptions are allowed.

    Attributes:
        known: the feed's streams.
        refused: streams turned down although they exist; None turns down every request.
        most: streams on one connection.
    """

    known: Collection[str]
    refused: Collection[str] | None = ()
    most: int | None = None


@dataclass(slots=True, frozen=True)
class Answer:
    """What a request changes and the reply it gets.

    Attributes:
        reply: one line of JSON.
        acknowledges: the reply is the ack (or refusal) of a subscribe or unsubscribe; late and missing acks apply.
        add, remove: streams to subscribe to and to leave.
    """

    reply: bytes
    acknowledges: bool = False
    add: Sequence[str] = ()
    remove: Sequence[str] = ()


def answer(request: str | bytes, subscribed: Collection[str], rules: Rules) -> Answer:
    """Judge one message of a client that is subscribed to `subscribed`."""
    if isinstance(request, bytes):
        return _malformed("expected a text message, found a binary one")
    try:
        content = json.loads(request)
    except (ValueError, RecursionError):
        return _malformed(f"expected JSON, found {_excerpt(request)}")
    if not isinstance(content, dict) or not isinstance(content.get("op"), str):
        return _malformed(f'expected an object with "op", found {_excerpt(request)}')
    op, echo = content["op"], {"id": content["id"]} if "id" in content else {}
    if op == "ping":
        return Answer(_json({"op": "pong"} | echo))
    if op not in ("subscribe", "unsubscribe"):
        return _malformed(f'unknown op: {op}; known are "subscribe", "unsubscribe" and "ping"', echo)
    streams = content.get("streams")
    if not isinstance(streams, list) or not streams or not all(isinstance(stream, str) for stream in streams):
        return _malformed(
            f'expected "streams" to be a list of names, found {_excerpt(json.dumps(streams))}', echo
        )
    streams = list(dict.fromkeys(streams))
    judge = _judge_subscribe if op == "subscribe" else _judge_unsubscribe
    error, refused = judge(streams, subscribed, rules)
    if refused:
        reply = {"op": op, **echo, "ok": False, "error": f"{error}: {', '.join(refused)}", "refused": refused}
        return Answer(_json(reply), acknowledges=True)
    done = Answer(_json({"op": op, **echo, "ok": True, "streams": streams}), acknowledges=True)
    if op == "subscribe":
        return Answer(done.reply, True, add=streams)
    return Answer(done.reply, True, remove=streams)


def _judge_subscribe(streams: list[str], subscribed: Collection[str], rules: Rules) -> tuple[str, list[str]]:
    """What is wrong and with which streams; one bad stream spoils the request."""
    unknown = [stream for stream in streams if stream not in rules.known]
    if unknown:
        return "unknown stream", unknown
    turned_down = [stream for stream in streams if rules.refused is None or stream in rules.refused]
    if turned_down:
        return "refused stream", turned_down
    new = [stream for stream in streams if stream not in subscribed]
    if rules.most is not None and len(subscribed) + len(new) > rules.most:
        return f"more than {rules.most} streams on one connection", new[
            max(0, rules.most - len(subscribed)) :
        ]
    return "", []


def _judge_unsubscribe(
    streams: list[str], subscribed: Collection[str], rules: Rules
) -> tuple[str, list[str]]:
    return "not subscribed", [stream for stream in streams if stream not in subscribed]


def _malformed(error: str, echo: dict[str, Any] | None = None) -> Answer:
    return Answer(_json({"op": "error", **(echo or {}), "error": error}))


def _excerpt(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "..."


def _json(content: dict[str, Any]) -> bytes:
    return json.dumps(content, separators=(",", ":")).encode()
