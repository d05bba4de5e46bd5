"""The plan: which streams share which connection. A pure function of what the config asks for."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import quote, urlsplit

from jetsocket_ingest.config.models import PipelineConfig


@dataclass(slots=True, frozen=True)
class PlannedConnection:
    """One connection to lease.

    Attributes:
        id: `<endpoint>-<number>`, as it appears in records and logs.
        endpoint: name in the config.
        path: what is joined to the endpoint's url; empty for the url itself.
        streams: what comes over it; empty where the URL alone decides.
        subscriptions: under which names its records are delivered.
    """

    id: str
    endpoint: str
    path: str
    streams: tuple[str, ...]
    subscriptions: tuple[str, ...]


def plan(config: PipelineConfig) -> dict[str, list[PlannedConnection]]:
    """Endpoint → its connections."""
    return {endpoint: plan_endpoint(config, endpoint) for endpoint in config.endpoints}


def plan_endpoint(config: PipelineConfig, endpoint: str) -> list[PlannedConnection]:
    """The connections of one endpoint.

    Streams wanted by the same subscriptions share a connection (`via: message`), or have one each (`via: url`). Streams
    wanted by different subscriptions never share one: every connection then has one fixed destination, and a sink
    that is full stops no other subscription's sockets. A stream of several subscriptions is subscribed once.
    """
    subscribe = config.endpoints[endpoint].session.subscribe
    wanted = {
        name: tuple(subscription.streams)
        for name, subscription in config.subscriptions.items()
        if subscription.endpoint == endpoint
    }
    if subscribe.via == "none":
        groups: list[tuple[tuple[str, ...], tuple[str, ...]]] = [((), tuple(wanted))] if wanted else []
    else:
        groups = _by_subscriptions(wanted)
    if subscribe.via == "url":
        groups = [((stream,), subscriptions) for streams, subscriptions in groups for stream in streams]
    return [
        PlannedConnection(
            f"{endpoint}-{number}",
            endpoint,
            # A stream's name is one segment of the path, whatever it holds.
            subscribe.path.render({"stream": quote(streams[0], safe="@:,=!$&'()*+;~")})
            if subscribe.path
            else "",
            streams,
            subscriptions,
        )
        for number, (streams, subscriptions) in enumerate(groups, 1)
    ]


def problems(
    config: PipelineConfig, planned: dict[str, list[PlannedConnection]]
) -> list[tuple[tuple[str, ...], str]]:
    """What does not fit, as (keys in the config, sentence): each endpoint against its pool, all against the process."""
    found: list[tuple[tuple[str, ...], str]] = []
    for name, connections in planned.items():
        needed, most = len(connections), config.pool_of(name).max_connections
        if needed > most:
            each = (
                "stream" if config.endpoints[name].session.subscribe.via == "url" else "set of subscriptions"
            )
            found.append(
                (
                    ("endpoints", name, "pool", "max_connections"),
                    f"{needed} connections are needed, one for each {each}, and the pool holds {most}; "
                    "raise max_connections or subscribe to less",
                )
            )
    total, most = sum(map(len, planned.values())), config.limits.max_connections
    if total > most:
        found.append(
            (
                ("limits", "max_connections"),
                f"{total} connections are needed over all endpoints, and the process may hold {most}; "
                "raise limits.max_connections or subscribe to less",
            )
        )
    return found


def host_of(url: str) -> str:
    """Host and port of an address, for people: without path and query, which may hold a key."""
    parts = urlsplit(url)
    return f"{parts.hostname}:{parts.port}" if parts.port else str(parts.hostname)


def _by_subscriptions(wanted: dict[str, tuple[str, ...]]) -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
    """(streams, subscriptions) for each set of subscriptions, in the order of first mention."""
    takers: dict[str, list[str]] = {}
    for subscription, streams in wanted.items():
        for stream in streams:
            takers.setdefault(stream, []).append(subscription)
    groups: dict[tuple[str, ...], list[str]] = {}
    for stream, subscriptions in takers.items():
        groups.setdefault(tuple(subscriptions), []).append(stream)
    return [(tuple(streams), subscriptions) for subscriptions, streams in groups.items()]
