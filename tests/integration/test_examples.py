"""Every file under configs/ is valid for the program and for editors, and does what it says."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
import zstandard
from click.testing import CliRunner
from jsonschema import Draft202012Validator

from jetsocket_ingest.cli import main
from tests.support.examples import CONFIGS, ROOT, NewRows, finished
from tests.support.kafka import KafkaBroker

SCHEMA_FILE = ROOT / "docs" / "config.schema.json"
SCHEMA: dict[str, Any] = json.loads(SCHEMA_FILE.read_text())
NAMES = [path.name for path in CONFIGS]


def config(name: str) -> Path:
    return ROOT / "configs" / name


def numbers(payloads: list[bytes]) -> list[int]:
    return [json.loads(payload)["seq"] for payload in payloads]


def is_unbroken(sequence: list[int]) -> bool:
    """Each number once and in order. The feed numbers from its start, which is a moment before we subscribe."""
    return bool(sequence) and sequence == list(range(sequence[0], sequence[0] + len(sequence)))


def lines(path: Path) -> list[bytes]:
    data = path.read_bytes()
    if path.suffix == ".zst":
        with zstandard.ZstdDecompressor().stream_reader(data, read_across_frames=True) as reader:
            data = reader.read()
    return data.splitlines()


def assert_ended_well(ran: Any) -> None:
    assert ran.returncode == 0, ran.stderr
    assert not re.search(r'"level": "(warning|error)"|Traceback', ran.stderr), ran.stderr


def test_every_example_is_run_by_a_test_or_names_a_service_that_does_not_exist() -> None:
    run_here = {"quickstart.yaml", "to-files.yaml", "several-endpoints.yaml", "to-kafka.yaml"}
    run_as_container = {"compose.yaml"}
    not_run = set(NAMES) - run_here - run_as_container
    assert run_here | run_as_container <= set(NAMES)
    for name in not_run:
        urls = [
            endpoint["url"] for endpoint in yaml.safe_load(config(name).read_text())["endpoints"].values()
        ]
        assert all("example.com" in url for url in urls), f"no test runs {name}"


def test_validate_accepts_every_example_and_shows_its_routes(tmp_path: Path) -> None:
    checked = finished(["validate", *CONFIGS], tmp_path, FEED_TOKEN="t0ken-of-a-test")
    assert checked.returncode == 0, checked.stderr
    for path in CONFIGS:
        assert f"{path}: ok, " in checked.stdout
        for subscription, options in yaml.safe_load(path.read_text())["subscriptions"].items():
            for sink in options["sinks"]:
                assert re.search(
                    rf"^  {subscription}: .* of {options['endpoint']} -> {sink} ",
                    checked.stdout,
                    re.MULTILINE,
                )
    assert "t0ken-of-a-test" not in checked.stdout + checked.stderr


def test_an_example_that_needs_a_variable_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FEED_TOKEN", raising=False)
    checked = CliRunner().invoke(main, ["validate", str(config("your-feed.yaml"))])
    assert checked.exit_code == 2
    assert "endpoints.feed.headers.Authorization: the variable FEED_TOKEN is not set" in checked.stderr


@pytest.mark.parametrize("name", NAMES)
def test_the_schema_that_editors_use_accepts_the_example(name: str) -> None:
    found = Draft202012Validator(SCHEMA).iter_errors(yaml.safe_load(config(name).read_text()))
    assert [f"{error.json_path}: {error.message}" for error in found] == []


@pytest.mark.parametrize("name", NAMES)
def test_an_example_opens_with_its_schema_its_purpose_and_how_to_run_it(name: str) -> None:
    modeline, purpose, *_ = config(name).read_text().splitlines()
    schema = modeline.removeprefix("# yaml-language-server: $schema=")
    assert (config(name).parent / schema).resolve() == SCHEMA_FILE
    command = "docker compose up" if name == "compose.yaml" else f"jetsocket-ingest run configs/{name}"
    assert re.fullmatch(rf"# .+: .*{re.escape(command)}.*", purpose)


def test_the_schema_file_is_in_step_with_the_models() -> None:
    printed = CliRunner().invoke(main, ["config", "schema"])
    assert printed.exit_code == 0, printed.stderr
    assert json.loads(printed.stdout) == SCHEMA, "docs/config.schema.json is old: run `make docs-generated`"


def test_quickstart_prints_every_message_of_each_stream(tmp_path: Path) -> None:
    ran = finished(["run", config("quickstart.yaml"), "--max-records", "12"], tmp_path)
    assert_ended_well(ran)
    data = [row for row in map(json.loads, ran.stdout.splitlines()) if row["kind"] == "data"]
    assert len(data) == 12
    for stream in ("trades.BTC-USD", "trades.ETH-USD", "book.BTC-USD"):
        assert is_unbroken([row["sequence"] for row in data if row["stream"] == stream])
    assert list(tmp_path.iterdir()) == []


def test_to_files_writes_every_record_to_complete_files(tmp_path: Path) -> None:
    ran = finished(["run", config("to-files.yaml"), "--max-records", "150"], tmp_path)
    assert_ended_well(ran)
    files = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    assert files
    root = tmp_path / "data" / "to-files" / "ticks"
    rows = []
    for path in files:
        assert re.fullmatch(r"\d{4}-\d\d-\d\d/\d\d-.+\.jsonl\.zst", str(path.relative_to(root)))
        rows += [json.loads(line) for line in lines(path)]
    data = [row for row in rows if row["kind"] == "data"]
    assert len(data) == 150
    for stream in ("trades.BTC-USD", "trades.ETH-USD", "book.BTC-USD"):
        assert is_unbroken([row["sequence"] for row in data if row["stream"] == stream])


def test_several_endpoints_keep_markers_apart_from_data(tmp_path: Path) -> None:
    ran = finished(["run", config("several-endpoints.yaml"), "--max-records", "90"], tmp_path)
    assert_ended_well(ran)
    root = tmp_path / "data" / "several-endpoints"
    stored = {
        str(path.parent.relative_to(root)): numbers(lines(path)) for path in root.glob("*/*/*.jsonl.zst")
    }
    assert set(stored) == {
        "bitcoin/trades.BTC-USD",
        "trades/trades.BTC-USD",
        "trades/trades.ETH-USD",
        "trades/trades.SOL-USD",
        "books/book.BTC-USD",
        "books/book.ETH-USD",
    }
    assert all(map(is_unbroken, stored.values()))
    # One connection brought the stream of both subscriptions, so that neither has more of it.
    assert stored["bitcoin/trades.BTC-USD"] == stored["trades/trades.BTC-USD"]
    screen = [json.loads(line) for line in ran.stdout.splitlines()]
    assert [row["sequence"] for row in screen] == stored["bitcoin/trades.BTC-USD"]
    assert {(row["kind"], row["subscription"]) for row in screen} == {("data", "bitcoin")}
    events = [json.loads(line) for path in root.glob("events/*.jsonl") for line in lines(path)]
    opened = {(row["connection"], row["subscription"]) for row in events if row["kind"] == "connect"}
    assert opened == {
        ("trades-1", "bitcoin"),
        ("trades-1", "trades"),
        ("trades-2", "trades"),
        ("trades-3", "trades"),
        ("books-1", "books"),
    }
    assert "data" not in {row["kind"] for row in events}


@pytest.mark.slow
def test_to_kafka_writes_every_record_in_the_order_of_its_stream(tmp_path: Path, kafka: KafkaBroker) -> None:
    new = NewRows(kafka, "market.ticks")
    ran = finished(
        ["run", config("to-kafka.yaml"), "--max-records", "300"],
        tmp_path,
        KAFKA_BOOTSTRAP_SERVERS=kafka.bootstrap_servers,
    )
    assert_ended_well(ran)
    payloads = new.payloads()
    assert set(payloads) == {b"trades.BTC-USD", b"trades.ETH-USD", b"book.BTC-USD"}
    assert sum(map(len, payloads.values())) == 300
    assert all(is_unbroken(numbers(values)) for values in payloads.values())
