"""The example configs, run as a user runs them: by the command line, in a folder of their own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.support.kafka import KafkaBroker
from tests.support.kafka_read import Row, read_topic, values_by_key

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
COMMAND = (sys.executable, "-c", "from jetsocket_ingest.cli import main; main(prog_name='jetsocket-ingest')")


def environment(**variables: str) -> dict[str, str]:
    """This process's environment, without what the examples would read from it, and with `variables`."""
    ours = {name: value for name, value in os.environ.items() if name not in EXAMPLE_VARIABLES}
    return {**ours, **variables}


EXAMPLE_VARIABLES = frozenset({"FEED_URL", "FEED_TOKEN", "KAFKA_BOOTSTRAP_SERVERS"})


def finished(
    arguments: Sequence[str | Path], folder: Path, **variables: str
) -> subprocess.CompletedProcess[str]:
    """`jetsocket-ingest …` to its end, with `folder` as working directory."""
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        cwd=folder,
        env=environment(**variables),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def until(condition: Callable[[], bool], timeout: float, what: str) -> None:
    """Wait for a condition of another process; fails after `timeout` seconds with `what` was awaited."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {timeout:g} s"
        time.sleep(0.05)


class NewRows:
    """What a topic holds beyond what it held when this was made; the topic need not exist then."""

    def __init__(self, kafka: KafkaBroker, topic: str) -> None:
        self._servers, self._topic = kafka.bootstrap_servers, topic
        self._ends: dict[int, int] = {}
        if topic in kafka.topics():
            self._ends = {row.partition: row.offset for row in self._read()}

    def rows(self) -> list[Row]:
        return [row for row in self._read() if row.offset > self._ends.get(row.partition, -1)]

    def payloads(self) -> dict[bytes | None, list[bytes]]:
        """Key → payloads of data records, in order. A key that stands in two partitions is an error."""
        return values_by_key([row for row in self.rows() if row.headers["kind"] == b"data"])

    def _read(self) -> list[Row]:
        return read_topic(self._servers, self._topic, by="kafka-python")
