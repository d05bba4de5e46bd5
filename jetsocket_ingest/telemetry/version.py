"""Which release of this program runs."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def package_version() -> str:
    """The installed release; `0+source` where the code runs without having been installed."""
    try:
        return version("jetsocket-ingest")
    except PackageNotFoundError:
        return "0+source"
