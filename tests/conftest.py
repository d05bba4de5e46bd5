"""Fixtures and settings for all tests."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

# Assertions of shipped test code explain themselves only where pytest knows of it before it is imported.
pytest.register_assert_rewrite("jetsocket_ingest.testing.transport_cases")

if TYPE_CHECKING:
    from tests.support.kafka import KafkaBroker


def pytest_configure(config: pytest.Config) -> None:
    # kafka-python reads its schemas with functions that Python 3.11 and 3.12 deprecate; 3.13 took that back.
    config.addinivalue_line("filterwarnings", "ignore:(read|open)_text is deprecated:DeprecationWarning")


@pytest.fixture(scope="session")
def kafka() -> Iterator[KafkaBroker]:
    """A real broker, one for the whole run: the one that KAFKA_BOOTSTRAP_SERVERS names, or one started here."""
    from tests.support.kafka import make_broker

    broker = make_broker()
    try:
        yield broker.start()
    finally:
        broker.stop()
