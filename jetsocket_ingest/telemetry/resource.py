"""Who sends this telemetry, in OpenTelemetry's words."""

from __future__ import annotations

from opentelemetry.sdk.resources import OTELResourceDetector, Resource

from jetsocket_ingest.telemetry.version import package_version


def resource(pipeline: str) -> Resource:
    """Service, version and pipeline. OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES override, as everywhere."""
    ours = Resource.create(
        {
            "service.name": "jetsocket-ingest",
            "service.version": package_version(),
            "pipeline": pipeline,
        }
    )
    return ours.merge(OTELResourceDetector().detect())
