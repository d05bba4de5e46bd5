"""The top of the config: the pipeline, its subscriptions, sinks, buffer, telemetry and admin endpoint."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SerializeAsAny, ValidationInfo, model_validator

from jetsocket_ingest.config import checks
from jetsocket_ingest.config.endpoint import Endpoint, Pool, Positive
from jetsocket_ingest.config.fields import KeptText, Name, PipelineName, UniqueTexts
from jetsocket_ingest.config.types import ConfigModel, Contradictions

_LISTEN = re.compile(r"(?:\[([0-9A-Fa-f:.%]+)\]|([^\[\]:\s/]+)):([0-9]{1,5})")


def _version(value: Any) -> Any:
    # True equals 1 and would pass.
    if value is True:
        raise ValueError("expected 1, the version of the config's form, found true")
    return value


def _collector(url: str) -> str:
    try:
        parts = urlsplit(url)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        valid = False
    if not valid:
        raise ValueError(
            "expected the address of an OTLP/HTTP collector, such as http://localhost:4318, found another text"
        )
    return url


def _listen(text: str) -> str:
    found = _LISTEN.fullmatch(text)
    if found is None or int(found[3]) > 65535:
        raise ValueError(f"expected host:port, such as 127.0.0.1:8686 or [::1]:8686, found {text!r}")
    return text


Collector = Annotated[KeptText, AfterValidator(_collector)]


class Defaults(ConfigModel):
    """Values for every endpoint that does not say otherwise."""

    pool: Pool = Field(
        default_factory=Pool, description="Each endpoint's pool, key by key, unless it says otherwise."
    )


class Limits(ConfigModel):
    """Limits of the whole process."""

    max_connections: int = Field(
        default=100, ge=1, le=1_000_000, description="WebSockets at the same time, over all endpoints."
    )


class Subscription(ConfigModel):
    """A named set of streams of one endpoint, and the sinks they go to."""

    endpoint: str = Field(description="Name of the endpoint.")
    streams: UniqueTexts = Field(
        default_factory=list,
        description="The provider's names of what to subscribe to; left out where the endpoint's session has via: none.",
    )
    sinks: Annotated[UniqueTexts, Field(min_length=1)] = Field(
        description="Names of the sinks that receive every message."
    )


class Buffer(ConfigModel):
    """What holds records between sockets and sinks."""

    type: Literal["memory"] = Field(
        default="memory",
        description="memory: bounded by the sinks' backlogs; what is in it is lost in a crash.",
    )


class Logs(ConfigModel):
    """The program's log, on standard error."""

    format: Literal["auto", "json", "console"] = Field(
        default="auto",
        description="json: an object a line; console: for people; auto: console on a terminal, else json.",
    )
    level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="The least level that is logged."
    )


class MetricsExport(ConfigModel):
    """Metrics sent to a collector. A scraper finds them at the admin endpoint's /metrics."""

    otlp: Collector | None = Field(
        default=None, description="Address of an OTLP/HTTP collector; null sends none."
    )
    every: Positive = Field(default=10.0, description="Time between two exports.")


class TracesExport(ConfigModel):
    """Spans sent to a collector."""

    otlp: Collector | None = Field(
        default=None, description="Address of an OTLP/HTTP collector; null records no spans."
    )
    sample: float = Field(
        default=0.01, ge=0, le=1, description="Part of batch deliveries that get a span, from 0 to 1."
    )


class Telemetry(ConfigModel):
    """What the program tells about itself."""

    logs: Logs = Field(default_factory=Logs, description="The program's log.")
    metrics: MetricsExport = Field(default_factory=MetricsExport, description="Metrics sent to a collector.")
    traces: TracesExport = Field(default_factory=TracesExport, description="Spans sent to a collector.")


class Admin(ConfigModel):
    """The HTTP endpoint for health, status and metrics."""

    listen: Annotated[str, AfterValidator(_listen)] = Field(
        default="127.0.0.1:8686", description="host:port to listen on."
    )

    @property
    def address(self) -> tuple[str, int]:
        """Host, without brackets, and port."""
        found = _LISTEN.fullmatch(self.listen)
        assert found is not None
        return found[1] or found[2], int(found[3])


class PipelineConfig(ConfigModel):
    """A whole config file."""

    version: Annotated[Literal[1], BeforeValidator(_version)] = Field(
        description="The version of the config's form."
    )
    name: PipelineName = Field(
        description="The pipeline's identity, in metrics, paths and ids: a-z, 0-9, - and _."
    )
    defaults: Defaults = Field(
        default_factory=Defaults, description="Values for every endpoint that does not say otherwise."
    )
    limits: Limits = Field(default_factory=Limits, description="Limits of the whole process.")
    endpoints: Annotated[dict[Name, Endpoint], Field(min_length=1)] = Field(
        description="WebSocket services, by name."
    )
    subscriptions: Annotated[dict[Name, Subscription], Field(min_length=1)] = Field(
        description="What to subscribe to, and where it goes, by name."
    )
    sinks: Annotated[dict[Name, SerializeAsAny[ConfigModel]], Field(min_length=1)] = Field(
        description="Destinations, by name; `type` says which other keys there are."
    )
    buffer: Buffer = Field(
        default_factory=Buffer, description="What holds records between sockets and sinks."
    )
    telemetry: Telemetry = Field(
        default_factory=Telemetry, description="Logs, metrics and traces of the program itself."
    )
    admin: Admin | None = Field(
        default=None, description="The HTTP endpoint for health, status and metrics; null: none."
    )
    shutdown_timeout: Positive = Field(
        default=30.0, description="Time to deliver what was accepted, after the signal to stop."
    )
    on_failure: Literal["continue", "stop"] = Field(
        default="continue",
        description="When an endpoint or sink fails for good: continue with the others, or stop all with exit code 1.",
    )

    def pool_of(self, endpoint: str) -> Pool:
        """The pool options in effect: what the endpoint says, key by key, over `defaults.pool`."""
        own = self.endpoints[endpoint].pool
        return self.defaults.pool.model_copy(update={key: getattr(own, key) for key in own.model_fields_set})

    @model_validator(mode="after")
    def _check(self, info: ValidationInfo) -> Self:
        wrong = Contradictions()
        if not (info.context or {}).get("references_checked"):
            checks.check_references(checks.Outline.of_config(self), wrong)
        wrong.settle()
        return self
