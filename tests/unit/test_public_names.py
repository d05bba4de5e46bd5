"""What `from jetsocket_ingest import …` offers."""

from __future__ import annotations

import subprocess
import sys

import pytest

import jetsocket_ingest


@pytest.mark.parametrize("name", jetsocket_ingest.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(jetsocket_ingest, name).__name__ == name


def test_another_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Pipelin'"):
        _ = jetsocket_ingest.Pipelin


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = "import sys, jetsocket_ingest; print(*(m for m in ('asyncio', 'pydantic', 'websockets') if m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
