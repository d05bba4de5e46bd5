"""Image, compose file, Prometheus and Grafana agree with the program and with each other, as far as no engine is needed."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from jetsocket_ingest.admin import probe
from jetsocket_ingest.admin.server import PAGES
from jetsocket_ingest.app import load
from jetsocket_ingest.cli import COMMANDS
from jetsocket_ingest.config.models import PipelineConfig
from jetsocket_ingest.config.types import parse_duration
from jetsocket_ingest.net.life import State
from jetsocket_ingest.telemetry.catalog import METRICS
from jetsocket_ingest.telemetry.metrics import Metrics
from tests.support.deploy import build_context, instructions, read_query
from tests.support.kafka_runtime import KAFKA_VERSION

ROOT = Path(__file__).resolve().parents[2]
COMPOSE_TEXT = (ROOT / "docker-compose.yml").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load(COMPOSE_TEXT)
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
DOCKERFILE = instructions(ROOT / "Dockerfile")
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
DASHBOARD: dict[str, Any] = json.loads((ROOT / "deploy/grafana/dashboards/jetsocket-ingest.json").read_text())
PANELS: list[dict[str, Any]] = DASHBOARD["panels"]

DURATION = re.compile(r"\d+(ms|s|m|h)")
SERVICE_KEYS: dict[str, type] = {
    "image": str,
    "build": str,
    "hostname": str,
    "command": list,
    "environment": dict,
    "ports": list,
    "volumes": list,
    "depends_on": dict,
    "healthcheck": dict,
    "restart": str,
    "stop_grace_period": str,
    "read_only": bool,
    "tmpfs": list,
    "cap_drop": list,
    "security_opt": list,
}


@pytest.fixture(scope="module")
def config() -> PipelineConfig:
    """configs/compose.yaml with nothing set."""
    return load(ROOT / "configs/compose.yaml", {}).config


def only(name: str, stage: int = 1) -> Any:
    """The one instruction of that name in the stage that becomes the image."""
    (found,) = [each for each in DOCKERFILE if each.name == name and each.stage == stage]
    return found


def variables(service: str) -> dict[str, str]:
    """A service's environment, with nothing set on the machine that starts it."""
    given = SERVICES[service]["environment"]
    return {name: re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", value) for name, value in given.items()}


def published(service: str) -> tuple[int, int]:
    """(port on this machine, port in the container)."""
    (mapping,) = SERVICES[service]["ports"]
    _, host, container = mapping.split(":")
    return int(host), int(container)


def mounts(service: str) -> dict[str, str]:
    """Path in the container → path or volume."""
    return {entry.split(":")[1]: entry.split(":")[0] for entry in SERVICES[service]["volumes"]}


# The compose file ----------------------------------------------------------------------------------------------------


def test_the_compose_file_has_nothing_but_what_compose_knows() -> None:
    assert set(COMPOSE) == {"name", "services", "volumes"}
    assert set(SERVICES) == {"kafka", "ingest", "prometheus", "grafana"}
    assert all(options is None for options in COMPOSE["volumes"].values())
    for service in SERVICES.values():
        for key, value in service.items():
            assert isinstance(value, SERVICE_KEYS[key]), key
            if isinstance(value, list):
                assert all(isinstance(item, str) for item in value), key
        assert service["restart"] == "unless-stopped"
        # A bare number or true in YAML is no environment variable's value.
        assert all(isinstance(value, str) for value in service.get("environment", {}).values())


@pytest.mark.parametrize("name", SERVICES)
def test_images_are_pinned_and_ports_open_on_this_machine_only(name: str) -> None:
    service = SERVICES[name]
    if "build" in service:
        assert (ROOT / service["build"] / "Dockerfile").is_file()
        assert service["image"].endswith(":local")
    else:
        assert re.fullmatch(r"[\w/-]+:v?\d+\.\d+\.\d+", service["image"])
    assert all(re.fullmatch(r"127\.0\.0\.1:\d+:\d+", mapping) for mapping in service["ports"])
    assert published(name)[0] not in {published(other)[0] for other in SERVICES if other != name}


@pytest.mark.parametrize("name", SERVICES)
def test_every_mounted_path_exists_and_is_read_only(name: str) -> None:
    for entry in SERVICES[name]["volumes"]:
        source, target, *mode = entry.split(":")
        assert target.startswith("/")
        if source.startswith("./"):
            assert (ROOT / source).exists(), source
            assert mode == ["ro"], entry
        else:
            assert source in COMPOSE["volumes"], source
    used = {source for service in SERVICES for source in mounts(service).values()}
    assert set(COMPOSE["volumes"]) <= used


@pytest.mark.parametrize("name", SERVICES)
def test_whoever_is_waited_for_has_a_health_check(name: str) -> None:
    for other, how in SERVICES[name].get("depends_on", {}).items():
        assert how == {"condition": "service_healthy"}
        assert "healthcheck" in SERVICES[other]
    if check := SERVICES[name].get("healthcheck"):
        assert set(check) <= {"test", "interval", "timeout", "retries", "start_period"}
        assert check["test"][0] == "CMD"
        assert all(DURATION.fullmatch(check[key]) for key in set(check) - {"test", "retries"})
    else:
        assert "build" in SERVICES[name], "only an image of ours brings its own check"


def test_every_variable_has_a_default_and_is_one_that_the_config_reads(config: PipelineConfig) -> None:
    named = set(re.findall(r"\$\{?(\w+)", COMPOSE_TEXT))
    assert named == set(re.findall(r"\$\{(\w+):-[^}]+\}", COMPOSE_TEXT)) == {"FEED_URL"}
    read = set(re.findall(r"\$\{(\w+):-", (ROOT / "configs/compose.yaml").read_text()))
    assert set(SERVICES["ingest"]["environment"]) == read
    with_variables = load(ROOT / "configs/compose.yaml", variables("ingest")).config
    assert with_variables == config


def test_kafka_is_the_release_that_the_tests_run() -> None:
    assert SERVICES["kafka"]["image"] == f"apache/kafka:{KAFKA_VERSION}"


def test_kafka_sends_each_side_to_an_address_that_it_can_reach(config: PipelineConfig) -> None:
    environment = variables("kafka")
    listen = dict(item.split("://:") for item in environment["KAFKA_LISTENERS"].split(","))
    advertised = dict(item.split("://") for item in environment["KAFKA_ADVERTISED_LISTENERS"].split(","))
    protocols = dict(
        item.split(":") for item in environment["KAFKA_LISTENER_SECURITY_PROTOCOL_MAP"].split(",")
    )
    assert set(protocols) == set(listen) == {*advertised, environment["KAFKA_CONTROLLER_LISTENER_NAMES"]}
    sink = config.sinks["bus"].model_dump()
    assert sink["bootstrap_servers"] == [advertised["INSIDE"]] == [f"kafka:{listen['INSIDE']}"]
    host_port, container_port = published("kafka")
    assert str(container_port) == listen["HOST"]
    assert advertised["HOST"] == f"127.0.0.1:{host_port}"
    assert f":-localhost:{host_port}}}" in (ROOT / "configs/to-kafka.yaml").read_text()
    assert environment["KAFKA_CONTROLLER_QUORUM_VOTERS"] == f"1@kafka:{listen['CONTROLLER']}"
    assert advertised["INSIDE"] in SERVICES["kafka"]["healthcheck"]["test"]
    assert environment["KAFKA_LOG_DIRS"] in mounts("kafka")


def test_ingest_has_longer_to_stop_than_it_takes(config: PipelineConfig) -> None:
    assert parse_duration(SERVICES["ingest"]["stop_grace_period"]) >= config.shutdown_timeout + 5


# The image -----------------------------------------------------------------------------------------------------------


def test_the_image_runs_the_config_that_compose_mounts(config: PipelineConfig) -> None:
    assert only("ENTRYPOINT").words == list(PROJECT["project"]["scripts"])
    command, path = only("CMD").words
    assert command in COMMANDS
    assert mounts("ingest")[path] == "./configs/compose.yaml"
    assert mounts("ingest")[only("VOLUME").text] == "ingest-data"
    assert only("WORKDIR").text == only("VOLUME").text
    assert config.admin is not None
    host, port = config.admin.address
    assert host == "0.0.0.0"
    assert published("ingest") == (port, port)
    assert only("EXPOSE").text == str(port)
    *options, asked = re.split(r"\s+(?=CMD )", only("HEALTHCHECK").text)
    check = json.loads(asked.removeprefix("CMD "))
    assert check[:3] == ["python", "-m", probe.__name__]
    assert importlib.util.find_spec(check[2])
    assert check[3] == f"http://127.0.0.1:{port}/livez"
    assert urlsplit(check[3]).path in PAGES
    timing = dict(option.removeprefix("--").split("=") for option in shlex.split(options[0]))
    assert set(timing) == {"interval", "timeout", "start-period", "retries"}
    assert parse_duration(timing["timeout"]) > probe.TIMEOUT
    assert only("STOPSIGNAL").text == "SIGTERM"


def test_the_image_runs_as_an_unprivileged_user_of_fixed_number_and_holds_no_build_tools() -> None:
    last = [each for each in DOCKERFILE if each.stage == 1]
    user = only("USER")
    uid, gid = user.text.split(":")
    assert int(uid) > 999
    assert int(gid) > 999
    (run,) = [each for each in last if each.name == "RUN"]
    assert last.index(run) < last.index(user)
    assert f"--uid {uid} --gid {gid}" in run.text
    assert f"--owner={uid} --group={gid}" in run.text
    assert "pip uninstall" in run.text
    assert not re.search(r"apt-get|gcc|build-essential", run.text)
    (copy,) = [each for each in last if each.name == "COPY"]
    venv = copy.words[-1]
    assert copy.words == ["--from=build", venv, venv]
    assert f"venv --without-pip {venv}" in " ".join(each.text for each in DOCKERFILE if each.name == "RUN")
    assert f"PATH={venv}/bin:$PATH" in only("ENV").text
    assert "PYTHONUNBUFFERED=1" in only("ENV").text


def test_the_image_stands_on_the_newest_python_that_the_project_declares() -> None:
    bases = {each.text.split(" ")[0] for each in DOCKERFILE if each.name == "FROM"}
    (base,) = bases
    release = re.fullmatch(r"python:3\.(\d+)-slim-[a-z]+", base)
    assert release
    declared = re.findall(r"Python :: 3\.(\d+)", " ".join(PROJECT["project"]["classifiers"]))
    assert int(release[1]) == max(map(int, declared))
    labels = dict(re.findall(r'image\.(\w+)="([^"]*)"', only("LABEL").text))
    project = PROJECT["project"]
    assert labels["title"] == project["name"]
    assert labels["description"] == project["description"]
    assert labels["licenses"] == project["license"]


def test_what_the_image_copies_is_enough_to_build_the_whole_wheel(tmp_path: Path) -> None:
    sources = [
        word for each in DOCKERFILE if (each.stage, each.name) == (0, "COPY") for word in each.words[:-1]
    ]
    build_context(ROOT, sources, tmp_path)
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", "dist"],
        cwd=tmp_path,
        check=True,
        capture_output=True,
        timeout=60,
    )
    (wheel,) = (tmp_path / "dist").glob("jetsocket_ingest-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    wanted = {
        str(path.relative_to(base))
        for base, package in ((ROOT, "jetsocket_ingest"), (ROOT / "sinks", "jetsocket_sinks"))
        for path in (base / package).rglob("*.py")
    }
    assert wanted <= names
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)
    assert not [name for name in names if name.startswith("tests/") or name.endswith(".pyc")]
    install = " ".join(each.text for each in DOCKERFILE if each.name == "RUN" and each.stage == 0)
    (extra,) = re.findall(r"\.whl\)\[(\w+)\]", install)
    assert extra in PROJECT["project"]["optional-dependencies"]


# Metrics -------------------------------------------------------------------------------------------------------------


def rendered() -> dict[str, set[str]]:
    """Sample name → labels, of every metric in the catalogue, as the admin endpoint renders them."""
    metrics = Metrics("p")
    for metric in METRICS:
        attributes = dict.fromkeys(metric.attributes, "x")
        if metric.kind == "histogram":
            metrics.histogram(metric.name).record(0.5, attributes)
        else:
            metrics.observe(metric.name, lambda attributes=attributes: [(1.0, attributes)])
    text = metrics.render()[0].decode()
    metrics.abandon()
    return {
        sample.name: set(sample.labels)
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_prometheus_scrapes_the_admin_endpoint(config: PipelineConfig) -> None:
    settings = yaml.safe_load((ROOT / "deploy/prometheus.yml").read_text())
    assert set(settings) == {"global", "scrape_configs"}
    assert set(settings["global"]) == {"scrape_interval", "scrape_timeout"}
    interval = settings["global"]["scrape_interval"]
    assert parse_duration(settings["global"]["scrape_timeout"]) < parse_duration(interval)
    (job,) = settings["scrape_configs"]
    assert set(job) == {"job_name", "metrics_path", "static_configs"}
    assert job["metrics_path"] in PAGES
    assert config.admin is not None
    assert job["static_configs"] == [{"targets": [f"ingest:{config.admin.address[1]}"]}]
    flags = dict(flag.removeprefix("--").split("=") for flag in SERVICES["prometheus"]["command"])
    assert mounts("prometheus")[flags["config.file"]] == "./deploy/prometheus.yml"
    assert mounts("prometheus")[flags["storage.tsdb.path"]] == "prometheus-data"


def test_grafana_finds_its_data_source_and_its_dashboard() -> None:
    folder = ROOT / "deploy/grafana/provisioning"
    (source,) = yaml.safe_load((folder / "datasources/prometheus.yml").read_text())["datasources"]
    assert source["url"] == f"http://prometheus:{published('prometheus')[1]}"
    scrape = yaml.safe_load((ROOT / "deploy/prometheus.yml").read_text())["global"]["scrape_interval"]
    assert source["jsonData"]["timeInterval"] == scrape
    (provider,) = yaml.safe_load((folder / "dashboards/jetsocket-ingest.yml").read_text())["providers"]
    dashboards = provider["options"]["path"]
    assert mounts("grafana")[dashboards] == "./deploy/grafana/dashboards"
    home = variables("grafana")["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert (ROOT / "deploy/grafana/dashboards" / Path(home).relative_to(dashboards)).is_file()
    for kind in ("datasources", "dashboards"):
        assert (
            mounts("grafana")[f"/etc/grafana/provisioning/{kind}"] == f"./deploy/grafana/provisioning/{kind}"
        )
    used = [DASHBOARD["templating"]["list"][0]["datasource"], *(panel["datasource"] for panel in PANELS)]
    used += [target["datasource"] for panel in PANELS for target in panel["targets"]]
    assert {(each["type"], each["uid"]) for each in used} == {(source["type"], source["uid"])}


def test_every_metric_and_label_of_the_dashboard_is_one_that_the_program_exports() -> None:
    real = rendered()
    (variable,) = DASHBOARD["templating"]["list"]
    named, label = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["query"]["query"]).groups()
    assert label in real[named]
    assert variable["definition"] == variable["query"]["query"]
    for panel in PANELS:
        for target in panel["targets"]:
            query = read_query(target["expr"])
            for metric, labels in query.metrics.items():
                assert metric in real, f"{panel['title']}: {metric}"
                assert set(labels) <= real[metric], f"{panel['title']}: {labels}"
                assert labels[variable["name"]] == f"${variable['name']}"
                assert "state" not in labels or labels["state"] in list(State)
                assert query.grouped <= real[metric], f"{panel['title']}: {query.grouped}"
            legend = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            assert legend == query.grouped - {"le"}, panel["title"]


def test_the_dashboard_reads_counters_as_rates_or_says_since_when_they_count() -> None:
    for panel in PANELS:
        for target in panel["targets"]:
            counters = re.findall(r"(\w+_(?:total|bucket|sum|count))\{", target["expr"])
            rates = re.findall(r"rate\((\w+)\{[^}]*\}\[\$__rate_interval\]\)", target["expr"])
            assert rates == ([] if panel["title"].endswith("since start") else counters), panel["title"]


def test_the_dashboard_leaves_out_only_what_another_panel_tells() -> None:
    shown = {
        metric
        for panel in PANELS
        for target in panel["targets"]
        for metric in read_query(target["expr"]).metrics
    }
    left_out = {name for name in rendered() if name != "target_info"} - shown
    assert left_out == {
        # As messages in, and as records out.
        "jetsocket_records_total",
        "jetsocket_delivered_bytes_total",
        # The parts of a histogram that its panel does not need.
        "jetsocket_delivery_latency_seconds_sum",
        "jetsocket_delivery_latency_seconds_count",
        "jetsocket_delivery_batch_bucket",
    }


def test_panels_have_room_of_their_own_and_say_what_they_show() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in PANELS:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert place["x"] + place["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells
        assert panel["description"].endswith(".")
    assert len({panel["id"] for panel in PANELS}) == len({panel["title"] for panel in PANELS}) == len(PANELS)
