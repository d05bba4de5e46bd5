"""Checks across a config: do names exist, is everything used, do the connections needed fit the pools."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from jetsocket_ingest.config.types import Contradictions

if TYPE_CHECKING:
    from jetsocket_ingest.config.models import PipelineConfig


def did_you_mean(name: object, known: Collection[str], *, of: str = "valid here are") -> str:
    """`did you mean max_connections?`, or what there is instead."""
    near = difflib.get_close_matches(str(name), known, n=1)
    if near:
        return f"did you mean {near[0]}?"
    shown = sorted(known)[:20]
    more = f" and {len(known) - len(shown)} more" if len(known) > len(shown) else ""
    return f"{of}: {', '.join(shown)}{more}" if shown else "there is none"


@dataclass(slots=True)
class Outline:
    """Who refers to whom, taken from a config or from a file that may be wrong elsewhere. None: cannot be told.

    Attributes:
        endpoints: name → how its session subscribes.
        subscriptions: name → its endpoint, whether it names streams, its sinks.
        sinks: name → the sink that takes its markers.
    """

    endpoints: dict[str, str | None] = field(default_factory=dict)
    subscriptions: dict[str, tuple[str | None, bool, list[str]]] = field(default_factory=dict)
    sinks: dict[str, str | None] = field(default_factory=dict)

    @classmethod
    def of_config(cls, config: PipelineConfig) -> Self:
        return cls(
            {name: endpoint.session.subscribe.via for name, endpoint in config.endpoints.items()},
            {name: (s.endpoint, bool(s.streams), s.sinks) for name, s in config.subscriptions.items()},
            {
                name: getattr(getattr(sink, "markers", None), "sink", None)
                for name, sink in config.sinks.items()
            },
        )

    @classmethod
    def of_data(cls, data: Any) -> Self:
        """From plain data of whatever shape."""
        outline = cls()
        for name, endpoint in _named(data, "endpoints"):
            outline.endpoints[name] = _via(endpoint)
        for name, subscription in _named(data, "subscriptions"):
            sinks = _get(subscription, "sinks")
            names = [sink for sink in sinks if isinstance(sink, str)] if isinstance(sinks, list) else []
            streams = _get(subscription, "streams")
            outline.subscriptions[name] = (_text(_get(subscription, "endpoint")), bool(streams), names)
        for name, sink in _named(data, "sinks"):
            outline.sinks[name] = _text(_get(_get(sink, "markers"), "sink"))
        return outline


def _named(data: Any, key: str) -> list[tuple[str, Any]]:
    section = _get(data, key)
    return (
        [(name, item) for name, item in section.items() if isinstance(name, str)]
        if isinstance(section, Mapping)
        else []
    )


def _get(data: Any, key: str) -> Any:
    return data.get(key) if isinstance(data, Mapping) else None


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _via(endpoint: Any) -> str | None:
    session = _get(endpoint, "session")
    subscribe = _get(session, "subscribe")
    if (session is not None and not isinstance(session, Mapping)) or not isinstance(
        subscribe, Mapping | None
    ):
        return None
    via = _get(subscribe, "via") if isinstance(subscribe, Mapping) and "via" in subscribe else "none"
    return via if via in ("message", "url", "none") else None


def check_references(outline: Outline, wrong: Contradictions) -> None:
    """Names that do not exist, and subscriptions with streams where there can be none or none where some must be."""
    for name, (endpoint, has_streams, sinks) in outline.subscriptions.items():
        here = ("subscriptions", name)
        if endpoint is not None and endpoint not in outline.endpoints:
            hint = did_you_mean(endpoint, outline.endpoints, of="endpoints are")
            wrong.add((*here, "endpoint"), f"there is no endpoint {endpoint!r}; {hint}")
        via = outline.endpoints.get(endpoint) if endpoint is not None else None
        if via == "none" and has_streams:
            wrong.add(
                (*here, "streams"), f"has no effect: the session of {endpoint!r} has no subscribe (via: none)"
            )
        if via in ("message", "url") and not has_streams:
            wrong.add(
                (*here, "streams"),
                f"expected at least one stream, since {endpoint!r} subscribes via: {via}; found none",
            )
        for index, sink in enumerate(sinks):
            if sink not in outline.sinks:
                hint = did_you_mean(sink, outline.sinks, of="sinks are")
                wrong.add((*here, "sinks", index), f"there is no sink {sink!r}; {hint}")
    for name, target in outline.sinks.items():
        keys = ("sinks", name, "markers", "sink")
        if target == name:
            wrong.add(keys, "expected another sink than this one; write markers: inline to keep them here")
        elif target is not None and target not in outline.sinks:
            others = [sink for sink in outline.sinks if sink != name]
            wrong.add(
                keys, f"there is no sink {target!r}; {did_you_mean(target, others, of='other sinks are')}"
            )


def unused(outline: Outline) -> list[tuple[tuple[str, str], str]]:
    """Endpoints and sinks that no subscription uses: their keys, and a sentence."""
    endpoints = {endpoint for endpoint, _, _ in outline.subscriptions.values()}
    sinks = {sink for _, _, names in outline.subscriptions.values() for sink in names} | {
        *outline.sinks.values()
    }
    found = [
        (("endpoints", name), "no subscription uses this endpoint")
        for name in outline.endpoints.keys() - endpoints
    ]
    found += [(("sinks", name), "no subscription uses this sink") for name in outline.sinks.keys() - sinks]
    return sorted(found)
