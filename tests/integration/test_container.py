"""What the containers of docker-compose.yml would run, run without an engine: Kafka's settings, ingest's command."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, Self

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.support.deploy import instructions, read_query
from tests.support.examples import COMMAND, ROOT, NewRows, environment, until
from tests.support.kafka import KafkaBroker

pytestmark = pytest.mark.slow

SERVICES: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
IMAGE = {each.name: each for each in instructions(ROOT / "Dockerfile") if each.stage == 1}


class ComposeBroker(KafkaBroker):
    """Kafka with the settings of docker-compose.yml; only host names, ports and the data folder are this machine's.

    `PLAINTEXT` and `SASL` in `ports` stand for the listeners INSIDE and HOST.

    Attributes:
        settings: property → value, as given.
    """

    settings: dict[str, str]

    def taken(self) -> dict[str, str]:
        """Property → value, as the broker says in its log that it runs with; a misspelt one is not among them.

        Empty where its log is not here: in a container, or without a logging back-end among the jars.
        """
        log = self.folder / "broker.log"
        said = log.read_text().partition("KafkaConfig values:")[2] if log.exists() else ""
        pairs = re.findall(r"^\t([\w.]+) = (.*)$", said, re.MULTILINE)
        return {name: value.strip("[]").replace(", ", ",") for name, value in reversed(pairs)}

    def _write_certificates(self) -> None:
        """Its listeners need none."""

    def _create_scram_users(self) -> None:
        """Nobody signs in."""

    def _write_properties(self) -> None:
        runtime = self._started()
        ports = {
            "9092": self.ports["PLAINTEXT"],
            "29092": self.ports["SASL"],
            "9093": self.ports["CONTROLLER"],
        }
        settings = {}
        for name, value in SERVICES["kafka"]["environment"].items():
            key = name.removeprefix("KAFKA_").lower().replace("_", ".")
            if "listeners" in key or "voters" in key:
                # The port that compose publishes for HOST is the one that HOST advertises.
                value = value.replace("HOST://127.0.0.1:9092", "HOST://127.0.0.1:29092")
                value = value.replace("kafka:", "127.0.0.1:").replace("://:", f"://{runtime.bind}:")
                value = re.sub(r"\b(9092|29092|9093)\b", lambda found: str(ports[found[0]]), value)
            settings[key] = value
        settings["log.dirs"] = runtime.data_path(self.folder)
        self.settings = settings
        text = "".join(f"{key}={value}\n" for key, value in settings.items())
        (self.folder / "server.properties").write_text(text)


def test_kafka_starts_with_the_settings_of_the_compose_file() -> None:
    if "KAFKA_BOOTSTRAP_SERVERS" in os.environ:
        pytest.skip("KAFKA_BOOTSTRAP_SERVERS names a broker to use, and this test must start one of its own")
    from kafka.admin import KafkaAdminClient

    broker = ComposeBroker()
    try:
        broker.start()
        topic = broker.new_topic()
        # Whoever asks on a listener is sent on to that listener, and finds the same broker.
        for listener in ("PLAINTEXT", "SASL"):
            admin = KafkaAdminClient(bootstrap_servers=f"127.0.0.1:{broker.ports[listener]}")
            try:
                assert topic in admin.list_topics()
            finally:
                admin.close()
        if taken := broker.taken():
            assert broker.settings.items() <= taken.items()
    finally:
        broker.stop()


class Container:
    """The command, config, environment, health check and stop signal of the container `ingest`, as a process."""

    def __init__(self, folder: Path, bootstrap_servers: str) -> None:
        *_, path = IMAGE["CMD"].words
        (mounted,) = [each for each in SERVICES["ingest"]["volumes"] if each.split(":")[1] == path]
        config = (ROOT / mounted.split(":")[0]).read_text()
        assert config.count("0.0.0.0:8686") == 1
        (folder / "config.yaml").write_text(config.replace("0.0.0.0:8686", "127.0.0.1:0"))
        given = SERVICES["ingest"]["environment"]
        variables = {name: re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", value) for name, value in given.items()}
        variables |= {"KAFKA_BOOTSTRAP_SERVERS": bootstrap_servers, "PYTHONUNBUFFERED": "1"}
        assert IMAGE["ENTRYPOINT"].words == ["jetsocket-ingest"]
        self.process = subprocess.Popen(
            [
                *COMMAND,
                *(str(folder / "config.yaml") if word == path else word for word in IMAGE["CMD"].words),
            ],
            cwd=folder,
            env=environment(**variables),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.address = self._admin_address()

    def _admin_address(self) -> str:
        assert self.process.stderr
        said = ""
        for line in self.process.stderr:
            said += line
            if '"admin.listening"' in line:
                return str(json.loads(line)["url"])
        raise AssertionError(f"it ended before it listened:\n{said}")

    def is_healthy(self) -> bool:
        """What the engine would find by the image's HEALTHCHECK."""
        check = json.loads(IMAGE["HEALTHCHECK"].text.partition("CMD ")[2])
        command = [sys.executable, *check[1:3], check[3].replace("http://127.0.0.1:8686", self.address)]
        return subprocess.run(command, capture_output=True, timeout=30, check=False).returncode == 0

    def get(self, page: str) -> str:
        try:
            with urllib.request.urlopen(self.address + page, timeout=10) as answer:
                return str(answer.read().decode())
        except urllib.error.HTTPError as error:
            with error:
                return str(error.read().decode())

    def stop(self) -> tuple[int, list[dict[str, Any]]]:
        """The exit code, and the log lines since it listened."""
        grace = float(SERVICES["ingest"]["stop_grace_period"].removesuffix("s"))
        self.process.send_signal(getattr(signal, IMAGE["STOPSIGNAL"].text))
        _, said = self.process.communicate(timeout=grace)
        lines = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
        return self.process.returncode, lines

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        _, said = self.process.communicate()
        if error is not None and said:
            error.add_note(f"the process said:\n{said}")


def test_the_container_s_command_is_healthy_delivers_and_stops_in_time(
    kafka: KafkaBroker, tmp_path: Path
) -> None:
    topics = [NewRows(kafka, "market.trades"), NewRows(kafka, "market.books")]
    with Container(tmp_path, kafka.bootstrap_servers) as container:
        exported, log = run_and_stop(container)
    (totals,) = [line for line in log if line["event"] == "pipeline.stopped"]
    assert [line for line in log if line["level"] in ("warning", "error")] == []
    assert totals["undelivered"] == totals["rejected"] == totals["unmatched"] == 0
    assert sum(len(topic.rows()) for topic in topics) == totals["delivered"]
    streams = {}
    for topic in topics:
        streams |= topic.payloads()
    assert len(streams) == 6
    for payloads in streams.values():
        numbers = [json.loads(payload)["seq"] for payload in payloads]
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]
    assert_dashboard_has_data(exported)


def run_and_stop(container: Container) -> tuple[set[str], list[dict[str, Any]]]:
    """(names of what it exported after 200 deliveries, its log)."""
    until(lambda: json.loads(container.get("/readyz"))["ready"], 20, "ready")
    assert container.is_healthy()
    until(lambda: json.loads(container.get("/status"))["totals"]["delivered"] >= 200, 20, "200 delivered")
    exported = {
        sample.name
        for family in text_string_to_metric_families(container.get("/metrics"))
        for sample in family.samples
    }
    asked = time.monotonic()
    code, log = container.stop()
    assert code == 0
    assert time.monotonic() - asked < 10
    assert not container.is_healthy()
    return exported, log


def assert_dashboard_has_data(exported: set[str]) -> None:
    """Every panel finds its metrics in a healthy run, but for those that begin with a mishap."""
    dashboard = json.loads((ROOT / "deploy/grafana/dashboards/jetsocket-ingest.json").read_text())
    queries = [read_query(target["expr"]) for panel in dashboard["panels"] for target in panel["targets"]]
    assert {metric for query in queries for metric in query.metrics} - exported == {
        "jetsocket_gaps_total",
        "jetsocket_connections_lost_total",
        "jetsocket_delivery_errors_total",
        "jetsocket_records_rejected_total",
    }
