"""The keys of an endpoint: address, handshake, TLS, limits, pool and policy."""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from jetsocket_ingest.config.fields import KeptText, UniqueTexts
from jetsocket_ingest.config.proxy import parse_proxy
from jetsocket_ingest.config.session import Session
from jetsocket_ingest.config.types import ByteSize, ConfigModel, Contradictions, Duration, Secret

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_OURS = frozenset({"connection", "upgrade", "host", "content-length", "transfer-encoding"})

Positive = Annotated[Duration, Field(gt=0)]
Action = Literal["retry", "fatal"]


def _url(text: str) -> str:
    # The text may hold a key, so messages never quote it.
    try:
        parts = urlsplit(text)
        port_is_valid = parts.port != 0
    except ValueError:
        raise ValueError(
            "expected an address such as wss://feed.example.com/ws, found one with an invalid host or port"
        ) from None
    if parts.scheme not in ("ws", "wss", "demo"):
        found = f"the scheme {parts.scheme}://" if parts.scheme in ("http", "https") else "another text"
        raise ValueError(f"expected an address that begins with wss://, ws:// or demo://, found {found}")
    if not parts.hostname or not port_is_valid or any(c.isspace() or not c.isprintable() for c in text):
        raise ValueError(
            "expected an address such as wss://feed.example.com/ws, found one without a valid host and port"
        )
    if parts.fragment or text.endswith("#"):
        raise ValueError("expected an address without #fragment: WebSocket addresses have none")
    if parts.username is not None or parts.password is not None:
        raise ValueError("expected an address without user:password@; give an Authorization under headers")
    return text


def _header_name(name: str) -> str:
    if not _TOKEN.fullmatch(name):
        raise ValueError(f"expected a header's name, such as Authorization, found {name!r}")
    if name.lower() in _OURS or name.lower().startswith("sec-websocket-"):
        raise ValueError(
            f"the header {name} belongs to the WebSocket handshake itself and cannot be set here"
        )
    return name


def _header_value(value: Secret) -> Secret:
    if any(character in value.reveal() for character in "\r\n\0"):
        raise ValueError("expected a header's value on one line, found one with a line break or NUL in it")
    return value


def _proxy(value: Secret) -> Secret:
    parse_proxy(value.reveal())
    return value


def _protocol(name: str) -> str:
    if not _TOKEN.fullmatch(name):
        raise ValueError(f"expected a subprotocol's name without spaces or separators, found {name!r}")
    return name


class Tls(ConfigModel):
    """How the provider proves who it is, and how we do. Certificates are verified unless the dangerous key is set."""

    ca_file: KeptText | None = Field(
        default=None, description="PEM file of the authorities to trust instead of the system's."
    )
    cert_file: KeptText | None = Field(
        default=None, description="PEM file of our own certificate (mutual TLS)."
    )
    key_file: KeptText | None = Field(
        default=None, description="PEM file of its private key; may be left out where cert_file holds both."
    )
    key_password: Secret | None = Field(default=None, description="Password of the private key.")
    server_name: str | None = Field(
        default=None,
        min_length=1,
        description="Name to ask for and to verify, where it is not the host of the url.",
    )
    dangerously_skip_verification: bool = Field(
        default=False,
        description="Accept any certificate: whoever is on the way can read and change everything.",
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        wrong = Contradictions()
        for key in ("key_file", "key_password"):
            if getattr(self, key) is not None and self.cert_file is None:
                wrong.add(key, "has no effect without cert_file; add cert_file")
        if self.dangerously_skip_verification and self.ca_file is not None:
            wrong.add(
                "ca_file", "has no effect with dangerously_skip_verification: true; leave one of them out"
            )
        wrong.settle()
        return self


class Ping(ConfigModel):
    """Pings of the WebSocket protocol that we send, to notice a peer that has gone."""

    every: Positive | None = Field(default=20.0, description="Time between pings; null sends none.")
    timeout: Positive = Field(
        default=20.0, description="Time within which the pong must come, else the connection is dropped."
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        wrong = Contradictions()
        if self.every is None and "timeout" in self.model_fields_set:
            wrong.add("timeout", "has no effect with every: null; leave it out")
        wrong.settle()
        return self


class Pool(ConfigModel):
    """The endpoint's connection pool."""

    max_connections: int = Field(
        default=10, ge=1, le=100_000, description="Connections at the same time, in use or idle."
    )
    max_idle_time: Positive = Field(
        default=300.0, description="An idle connection is closed after this time."
    )
    health_check_interval: Positive = Field(
        default=30.0, description="Time between checks that idle connections are alive."
    )
    acquire_timeout: Positive = Field(
        default=10.0, description="Time to wait for a free connection, connecting included."
    )


class Backoff(ConfigModel):
    """Waits between attempts: exponential with full jitter."""

    initial: Positive = Field(
        default=0.5, description="Upper bound of the first wait; it doubles with each attempt."
    )
    maximum: Positive = Field(default=30.0, description="Upper bound of every wait.")
    reset_after: Positive = Field(
        default=10.0,
        description="The waits begin anew after data has flowed for this long, never at a mere handshake.",
    )

    flaps: int = Field(
        default=3,
        ge=0,
        description="Losses in a row, each before stable_after, after which the waits may begin anew; from then on they grow.",
    )
    stable_after: Positive = Field(
        default=60.0, description="A connection that holds for this long ends the flapping."
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        wrong = Contradictions()
        if self.initial > self.maximum:
            wrong.add("initial", "expected no more than maximum, found more")
        wrong.settle()
        return self


class Policy(ConfigModel):
    """What ends a connection for good, and what is tried again."""

    http_status: dict[Annotated[int, Field(ge=100, le=599)], Action] = Field(
        default_factory=dict,
        description="What an HTTP status in answer to the handshake means, where the built-in policy is wrong for this provider.",
    )
    close_code: dict[Annotated[int, Field(ge=1000, le=4999)], Action] = Field(
        default_factory=dict,
        description="What a close code means, where the built-in policy is wrong for this provider.",
    )
    backoff: Backoff = Field(default_factory=Backoff, description="Waits between attempts.")
    max_attempts: int | None = Field(
        default=None,
        ge=1,
        description="Attempts in a row that may fail before the connection is given up; null: no limit.",
    )
    max_time: Positive | None = Field(
        default=None, description="Time without a connection before it is given up; null: no limit."
    )


class ConnectRate(ConfigModel):
    """How often the provider lets us connect."""

    count: int = Field(ge=1, description="Connection attempts in a window, over all connections.")
    per: Positive = Field(description="Length of the window.")


class EndpointLimits(ConfigModel):
    """What the provider allows."""

    connect_rate: ConnectRate | None = Field(
        default=None,
        description="Attempts beyond it wait their turn, at start and when everything reconnects.",
    )


class Endpoint(ConfigModel):
    """One WebSocket service."""

    url: Annotated[KeptText, AfterValidator(_url)] = Field(
        description="Address: wss://, ws://, or demo:// for the built-in feed.",
        examples=["wss://feed.example.com/ws"],
    )
    headers: dict[
        Annotated[str, AfterValidator(_header_name)], Annotated[Secret, AfterValidator(_header_value)]
    ] = Field(default_factory=dict, description="Headers of the handshake; values never print.")
    query: dict[str, Secret] = Field(
        default_factory=dict, description="Parameters added to the url's query, escaped; values never print."
    )
    subprotocols: Annotated[
        UniqueTexts, AfterValidator(lambda names: [_protocol(name) for name in names])
    ] = Field(default_factory=list, description="WebSocket subprotocols to offer, best first.")
    tls: Tls = Field(default_factory=Tls, description="Certificates of a wss:// endpoint.")
    proxy: Annotated[Secret, AfterValidator(_proxy)] | None = Field(
        default=None,
        description="Proxy to go through: http://, socks5:// (we resolve the url's host) or socks5h:// (the proxy does), "
        "with user:password@ where it wants them; never prints.",
    )
    compression: bool = Field(
        default=False, description="Offer permessage-deflate: fewer bytes for more CPU."
    )
    engine: Literal["auto", "websockets", "picows"] = Field(
        default="auto",
        description="WebSocket implementation; auto takes the faster one, websockets. picows needs the extra [fast].",
    )
    max_message_size: Annotated[ByteSize, Field(ge=1)] = Field(
        default=16 * 1024 * 1024,
        description="A longer message, joined and inflated, closes the connection with code 1009.",
    )
    open_timeout: Positive = Field(default=10.0, description="Time for TCP, TLS and the handshake together.")
    close_timeout: Positive = Field(default=5.0, description="Time for the closing handshake.")
    ping: Ping = Field(default_factory=Ping, description="Keep-alive pings that we send.")
    pool: Pool = Field(
        default_factory=Pool, description="The endpoint's connection pool; its keys override defaults.pool."
    )
    limits: EndpointLimits = Field(default_factory=EndpointLimits, description="What the provider allows.")
    policy: Policy = Field(
        default_factory=Policy, description="What is tried again, how often, and what is final."
    )
    session: Session = Field(default_factory=Session, description="The protocol spoken on a connection.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        wrong = Contradictions()
        if self.tls.model_fields_set and not self.url.startswith("wss:"):
            wrong.add("tls", "has no effect on an address that does not begin with wss://")
        if self.proxy is not None and self.url.startswith("demo:"):
            wrong.add("proxy", "has no effect on demo://, whose feed runs inside this program")
        wrong.settle()
        return self
