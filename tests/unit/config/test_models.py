"""What keys demand of each other, and what a valid config says."""

from __future__ import annotations

from typing import Any, get_args

import pytest
from pydantic import BaseModel, ValidationError

from jetsocket_ingest.config.endpoint import Endpoint
from jetsocket_ingest.config.models import Admin, PipelineConfig, Subscription
from jetsocket_ingest.config.session import Session
from tests.unit.config.examples import NullOptions, edited, problems, read

DESK = "    session:\n      subscribe: {via: message, message: {op: subscribe, args: <streams>}}\n"


def session(**subscribe: Any) -> Session:
    return Session.model_validate({"subscribe": subscribe})


def test_a_small_config_has_the_documented_defaults() -> None:
    config = read(edited()).config
    desk = config.endpoints["desk"]
    assert (config.shutdown_timeout, config.on_failure, config.admin) == (30.0, "continue", None)
    assert config.limits.max_connections == 100
    assert config.buffer.type == "memory"
    assert (config.telemetry.metrics.every, config.telemetry.traces.sample) == (10.0, 0.01)
    assert (desk.engine, desk.compression, desk.max_message_size) == ("auto", False, 16 * 2**20)
    assert (desk.open_timeout, desk.close_timeout, desk.ping.every, desk.ping.timeout) == (
        10.0,
        5.0,
        20.0,
        20.0,
    )
    assert (desk.policy.backoff.initial, desk.policy.backoff.maximum, desk.policy.backoff.reset_after) == (
        0.5,
        30.0,
        10.0,
    )
    assert (desk.session.subscribe.batch.max_streams, desk.session.subscribe.batch.max_bytes) == (100, 65536)
    assert isinstance(config.sinks["out"], NullOptions)


def test_an_endpoints_pool_overrides_the_default_key_by_key() -> None:
    text = edited(
        ("name: ticks\n", "name: ticks\ndefaults: {pool: {max_connections: 7, max_idle_time: 1m}}\n"),
        ("  desk:\n", "  desk:\n    pool: {acquire_timeout: 3s, max_idle_time: 5m}\n"),
    )
    pool = read(text).config.pool_of("desk")
    assert (pool.max_connections, pool.max_idle_time, pool.acquire_timeout) == (7, 300.0, 3.0)
    assert pool.health_check_interval == 30.0


def test_without_subscribe_the_endpoint_sends_by_itself() -> None:
    text = edited((DESK, "    session:\n"), ("streams: [btc, eth], ", ""))
    assert read(text).config.endpoints["desk"].session.subscribe.via == "none"


@pytest.mark.parametrize(
    ("subscribe", "words"),
    [
        ({"via": "message"}, "via: message needs the key message"),
        ({"via": "url"}, "via: url needs the key path"),
        ({"via": "url", "path": "/ws"}, "expected <stream> in the path"),
        ({"via": "url", "path": "ws/<stream>"}, "begins with /"),
        ({"via": "url", "path": "/<streams>"}, "<streams> has no value here"),
        ({"via": "url", "path": "/<stream>", "message": "x"}, "message: needs via: message, found via: url"),
        ({"via": "url", "path": "/<stream>", "ack": {"match": {"$.a": 1}}}, "ack: needs via: message"),
        ({"via": "message", "message": "<stream>", "path": "/<stream>"}, "path: needs via: url"),
        ({"message": {"args": "<streams>"}}, "message: needs via: message, found via: none"),
        ({"via": "none", "batch": {}}, "batch: needs via: message"),
        ({"via": "message", "message": {"op": "subscribe"}}, "found neither"),
        ({"via": "message", "message": ["<stream>", "<streams>"]}, "found both"),
        ({"via": "message", "message": "<stream>", "batch": {"max_streams": 5}}, "names one stream"),
        (
            {"via": "message", "message": "<streams>", "ack": {"match": {"$.a": 1}, "correlate": "$.id"}},
            "needs <request_id>",
        ),
        ({"via": "message", "message": 5}, "expected a JSON object, list or text"),
        ({"via": "message", "message": {}}, "expected a JSON object, list or text"),
    ],
)
def test_subscribe_keys_that_contradict_each_other_are_refused(subscribe: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError) as caught:
        session(**subscribe)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        (
            {"unsubscribe": {"message": "<stream>"}},
            "unsubscribe: needs subscribe via: message, found via: none",
        ),
        ({"unsubscribe": {"message": "bye"}}, "found neither"),
        ({"heartbeat": {"send": "ping", "every": 20.0, "timeout": 3.0}}, "has no effect without expect"),
        ({"heartbeat": {"send": {"a": "<stream>"}, "every": 20.0}}, "<stream> has no value here"),
        (
            {"subscribe": {"via": "message", "message": "<streams>"}, "data": {"sequence": {"last": "$.s"}}},
            "needs data.stream",
        ),
    ],
)
def test_session_keys_that_contradict_each_other_are_refused(keys: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Session.model_validate(keys)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"url": "https://x"}, "found the scheme https://"),
        ({"url": "feed.example.com"}, "begins with wss://"),
        ({"url": "wss://"}, "without a valid host"),
        ({"url": "wss://h:99999/"}, "invalid host or port"),
        ({"url": "wss://h:0/"}, "without a valid host and port"),
        ({"url": "wss://[::1"}, "invalid host or port"),
        ({"url": "wss://h/a b"}, "without a valid host and port"),
        ({"url": "wss://h/#x"}, "without #fragment"),
        ({"url": "wss://me:pw@h/"}, "without user:password@"),
        ({"headers": {"a b": "x"}}, "expected a header's name"),
        ({"headers": {"Host": "x"}}, "belongs to the WebSocket handshake"),
        ({"headers": {"Sec-WebSocket-Key": "x"}}, "belongs to the WebSocket handshake"),
        ({"headers": {"X": "a\r\nEvil: 1"}}, "on one line"),
        ({"subprotocols": ["a", "a"]}, "'a' twice"),
        ({"subprotocols": ["a b"]}, "a subprotocol's name"),
        ({"url": "ws://h", "tls": {"server_name": "x"}}, "tls: has no effect"),
        ({"tls": {"key_file": "x"}}, "key_file: has no effect without cert_file"),
        ({"tls": {"key_password": "x"}}, "key_password: has no effect without cert_file"),
        ({"tls": {"ca_file": "x", "dangerously_skip_verification": True}}, "ca_file: has no effect"),
        ({"ping": {"every": None, "timeout": 3.0}}, "timeout: has no effect"),
        ({"policy": {"backoff": {"initial": 40.0}}}, "no more than maximum"),
        ({"policy": {"http_status": {99: "fatal"}}}, "greater than or equal to 100"),
        ({"policy": {"close_code": {5000: "fatal"}}}, "less than or equal to 4999"),
    ],
)
def test_endpoints_that_cannot_work_are_refused(keys: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Endpoint.model_validate({"url": "wss://feed.example.com/ws", **keys})
    assert words in str(caught.value)


@pytest.mark.parametrize(
    "url", ["ws://127.0.0.1:80", "wss://[::1]:9443/ws?a=b", "demo://feed?rate=5", "wss://h/x?y=%20"]
)
def test_addresses_are_kept_as_written(url: str) -> None:
    assert Endpoint(url=url).url == url


@pytest.mark.parametrize(
    ("listen", "address"),
    [("127.0.0.1:8686", ("127.0.0.1", 8686)), ("[::1]:0", ("::1", 0)), ("localhost:1", ("localhost", 1))],
)
def test_the_admin_address_is_host_and_port(listen: str, address: tuple[str, int]) -> None:
    assert Admin(listen=listen).address == address


@pytest.mark.parametrize("listen", ["8686", ":8686", "::1:8686", "h:99999", "h:x", "http://h:1"])
def test_an_admin_address_without_host_and_port_is_refused(listen: str) -> None:
    with pytest.raises(ValidationError, match="expected host:port"):
        Admin(listen=listen)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            ("sinks: [out]", "sinks: [oit]"),
            "subscriptions.trades.sinks[0]: there is no sink 'oit'; did you mean out?",
        ),
        (
            ("endpoint: desk", "endpoint: desl"),
            "subscriptions.trades.endpoint: there is no endpoint 'desl'; did you mean desk?",
        ),
        (("streams: [btc, eth], ", ""), "subscriptions.trades.streams: expected at least one stream"),
        (
            ("streams: [btc, eth]", "streams: []"),
            "subscriptions.trades.streams: expected at least one stream",
        ),
        (
            ("streams: [btc, eth]", "streams: ['']"),
            "subscriptions.trades.streams[0]: expected text that is not empty",
        ),
        (("sinks: [out]", "sinks: []"), "subscriptions.trades.sinks: expected at least 1 entry"),
        ((DESK, "    session:\n"), "subscriptions.trades.streams: has no effect"),
        (('"null"}', '"null", markers: {sink: out}}'), "sinks.out.markers.sink: expected another sink"),
        (('"null"}', '"null", markers: {sink: side}}'), "sinks.out.markers.sink: there is no sink 'side'"),
    ],
)
def test_references_that_lead_nowhere_are_refused(change: tuple[str, str], words: str) -> None:
    (problem,) = problems(edited(change))
    assert words in problem


def test_code_is_held_to_the_same_references() -> None:
    endpoints = {"desk": Endpoint(url="wss://h")}
    with pytest.raises(ValidationError, match="there is no sink 'out'"):
        PipelineConfig(
            version=1,
            name="x",
            endpoints=endpoints,
            subscriptions={"s": Subscription(endpoint="desk", sinks=["out"])},
            sinks={"other": NullOptions(type="null")},
        )


def _models(model: type[BaseModel], seen: set[type[BaseModel]]) -> set[type[BaseModel]]:
    if model in seen:
        return seen
    seen.add(model)
    for field in model.model_fields.values():
        for part in _parts(field.annotation):
            if isinstance(part, type) and issubclass(part, BaseModel):
                _models(part, seen)
    return seen


def _parts(annotation: Any) -> list[Any]:
    return [annotation, *(part for one in get_args(annotation) for part in _parts(one))]


def test_every_key_has_a_description() -> None:
    models = _models(PipelineConfig, set())
    assert Endpoint in models
    assert Session in models
    undescribed = [
        (model.__name__, key)
        for model in models
        for key, field in model.model_fields.items()
        if not field.description
    ]
    assert undescribed == []
