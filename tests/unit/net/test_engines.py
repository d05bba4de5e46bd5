"""Which engine is taken, and what is said where it cannot be."""

from __future__ import annotations

from importlib import metadata

import pytest

from jetsocket_ingest.errors import ConfigError
from jetsocket_ingest.net import engine_picows, engine_websockets
from jetsocket_ingest.net.engines import dial_for


def _version(version: str | None) -> object:
    def look_up(name: str) -> str:
        if version is None:
            raise metadata.PackageNotFoundError(name)
        return version

    return look_up


def test_an_engine_is_taken_by_its_name() -> None:
    assert dial_for("websockets") is engine_websockets.dial
    assert dial_for("picows") is engine_picows.dial


def test_auto_is_the_faster_engine() -> None:
    assert dial_for("auto") is engine_websockets.dial


@pytest.mark.parametrize("version", [None, "2.2.9", "2.4.0", "3.0"])
def test_asking_for_picows_where_it_cannot_be_used_tells_what_to_install(
    monkeypatch: pytest.MonkeyPatch, version: str | None
) -> None:
    monkeypatch.setattr(metadata, "version", _version(version))
    with pytest.raises(ConfigError, match=r"pip install 'jetsocket-ingest\[fast\]'"):
        dial_for("picows")


def test_an_unknown_engine_is_the_configs_mistake() -> None:
    with pytest.raises(ConfigError, match="expected auto, websockets or picows, found 'curl'"):
        dial_for("curl")  # type: ignore[arg-type]  # the mistake under test
