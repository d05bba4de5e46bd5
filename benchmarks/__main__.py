"""`make bench`: CPU time a message of the whole program, beside the floor of the same run.

Each figure is a difference: the CPU time (user and system, all threads) of a run over many messages less that of a run
over few, divided by the messages between. Start-up and shutdown cancel out. Program and floor take turns; the median of
the rounds and the ratio of the medians are told. A run whose counts are not exact fails.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PROGRAM_CORE, FEEDER_CORE = 0, 1
FEW = 200_000
TIMEOUT = 60.0
RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Cost:
    """CPU µs a message, and messages a second of wall time."""

    cpu_us: float
    per_second: float


@dataclass(frozen=True)
class Scenario:
    """One row: what the program does, and the floor it is held against.

    Attributes:
        session: the `session:` of the config, as YAML flow.
        sink: the sink, as YAML flow; {target} is a fresh file or topic.
        floor: kind of `benchmarks.floors`.
    """

    name: str
    sink: str
    floor: str
    session: str = "{}"
    streams: int = 100


KEYED = "{data: {stream: $.stream, event_time: {path: $.ts, unit: ms}, sequence: {last: $.seq}}}"
SCENARIOS = [
    Scenario("discard", "{{type: discard}}", "receive"),
    Scenario("discard, keyed with time and sequence", "{{type: discard}}", "receive", KEYED),
    Scenario("file, raw lines", "{{type: file, path: {target}, encoding: raw}}", "file"),
    Scenario("file, envelope", "{{type: file, path: {target}}}", "file"),
    Scenario(
        "Kafka, librdkafka, no headers",
        "{{type: kafka, bootstrap_servers: [{servers}], topic: {target}, headers: none, markers: none, create_topics: {{enabled: true}}}}",
        "kafka",
    ),
    Scenario(
        "Kafka, librdkafka, headers",
        "{{type: kafka, bootstrap_servers: [{servers}], topic: {target}, create_topics: {{enabled: true}}}}",
        "kafka",
    ),
]


@contextmanager
def feeder(messages: int, streams: int) -> Iterator[int]:
    command = [
        sys.executable,
        "-m",
        "benchmarks.feeder",
        "--messages",
        str(messages),
        "--streams",
        str(streams),
    ]
    with subprocess.Popen(
        [*command, "--core", str(FEEDER_CORE)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline())
        finally:
            process.terminate()


def measured(command: list[str]) -> tuple[float, float, str, str]:
    """CPU seconds, wall seconds, standard output and error of a command on the program's core."""
    began = time.perf_counter()
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            preexec_fn=lambda: os.sched_setaffinity(0, {PROGRAM_CORE}),
        )
        _, status, usage = _wait(process, TIMEOUT)
        process.returncode = os.waitstatus_to_exitcode(status)
        wall = time.perf_counter() - began
        out.seek(0)
        err.seek(0)
        output, errors = out.read(), err.read()
    if process.returncode != 0:
        sys.exit(f"{' '.join(command)} failed with {process.returncode}:\n{errors[-2000:]}")
    return usage.ru_utime + usage.ru_stime, wall, output, errors


def _wait(process: subprocess.Popen[bytes], timeout: float) -> tuple[int, int, Any]:
    """Its end and its resource usage; a run that hangs is killed and so fails."""
    deadline = time.monotonic() + timeout
    while True:
        ended = os.wait4(process.pid, os.WNOHANG)
        if ended[0]:
            return ended
        if time.monotonic() > deadline:
            process.kill()
        time.sleep(0.02)


def run_program(
    scenario: Scenario, port: int, messages: int, folder: Path, servers: str
) -> tuple[float, float]:
    target = _fresh(scenario, folder)
    config = folder / "bench.yaml"
    config.write_text(
        "version: 1\nname: bench\n"
        f"endpoints: {{feed: {{url: 'ws://127.0.0.1:{port}/{messages}', session: {scenario.session}}}}}\n"
        "subscriptions: {all: {endpoint: feed, sinks: [out]}}\n"
        f"sinks: {{out: {scenario.sink.format(target=target, servers=servers)}}}\n"
    )
    program = str(Path(sys.executable).with_name("jetsocket-ingest"))
    command = [program, "run", str(config), "--max-records", str(messages)]
    cpu, wall, _, errors = measured(command)
    stopped = next(json.loads(line) for line in errors.splitlines() if '"pipeline.stopped"' in line)
    # Beside the data there are a connect and a disconnect marker where the sink takes them.
    if not messages <= stopped["delivered"] <= messages + 2 or stopped["undelivered"] or stopped["rejected"]:
        sys.exit(f"{scenario.name}: counts do not match, no figure: {stopped}")
    if scenario.floor == "file":
        lines = sum(
            path.read_bytes().count(b"\n") for path in folder.glob("bench-out*") if "gaps" not in path.name
        )
        if not messages <= lines <= messages + 2:
            sys.exit(f"{scenario.name}: {lines} lines in the files of {messages} messages, no figure")
    return cpu, wall


def run_floor(
    scenario: Scenario, port: int, messages: int, folder: Path, servers: str
) -> tuple[float, float]:
    target = _fresh(scenario, folder)
    command = [sys.executable, "-m", "benchmarks.floors", scenario.floor, str(port), str(messages)]
    if scenario.floor == "kafka":
        target = f"{servers}/{target}"
    cpu, wall, output, _ = measured([*command, target])
    if int(output) < messages:
        sys.exit(f"floor of {scenario.name}: saw {output} of {messages}, no figure")
    return cpu, wall


def _fresh(scenario: Scenario, folder: Path) -> str:
    for path in folder.glob("bench-out*"):
        path.unlink()
    return f"bench-{time.time_ns()}" if scenario.floor == "kafka" else str(folder / "bench-out.jsonl")


def cost(run: Callable[[int], tuple[float, float]], messages: int) -> Cost:
    few_cpu, few_wall = run(FEW)
    many_cpu, many_wall = run(messages)
    between = messages - FEW
    return Cost((many_cpu - few_cpu) / between * 1e6, between / max(many_wall - few_wall, 1e-9))


def measure(scenario: Scenario, messages: int, rounds: int, folder: Path, servers: str) -> dict[str, Any]:
    program: list[Cost] = []
    floor: list[Cost] = []
    with feeder(messages, scenario.streams) as port:
        for _ in range(rounds):
            program.append(cost(lambda n: run_program(scenario, port, n, folder, servers), messages))
            floor.append(cost(lambda n: run_floor(scenario, port, n, folder, servers), messages))
    ours = statistics.median(c.cpu_us for c in program)
    least = statistics.median(c.cpu_us for c in floor)
    return {
        "scenario": scenario.name,
        "cpu_us": round(ours, 3),
        "floor_us": round(least, 3),
        "ratio": round(ours / least, 2),
        "range": [round(min(c.cpu_us for c in program), 3), round(max(c.cpu_us for c in program), 3)],
        "per_second": round(statistics.median(c.per_second for c in program)),
        "floor_per_second": round(statistics.median(c.per_second for c in floor)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--messages", type=int, default=1_500_000, help="messages of the longer run")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="", help="scenarios whose name contains this")
    parser.add_argument("--no-kafka", action="store_true", help="leave out what needs a broker")
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/latest.json")
    arguments = parser.parse_args()
    chosen = [
        s for s in SCENARIOS if arguments.only in s.name and not (arguments.no_kafka and s.floor == "kafka")
    ]
    rows = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        servers = ""
        if any(s.floor == "kafka" for s in chosen):
            from tests.support.kafka import KafkaBroker

            broker = KafkaBroker()
            broker.start()
            stack.callback(broker.stop)
            servers = broker.bootstrap_servers
        print(f"{'scenario':44}{'CPU us/msg':>11}{'floor':>8}{'ratio':>7}{'msg/s':>12}{'floor':>12}")
        for scenario in chosen:
            row = measure(scenario, arguments.messages, arguments.rounds, folder, servers)
            rows.append(row)
            print(
                f"{row['scenario']:44}{row['cpu_us']:>11.2f}{row['floor_us']:>8.2f}{row['ratio']:>7.2f}"
                f"{row['per_second']:>12,}{row['floor_per_second']:>12,}",
                flush=True,
            )
    if arguments.save:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "latest.json").write_text(json.dumps(_report(arguments, rows), indent=2) + "\n")


def _report(arguments: argparse.Namespace, rows: list[dict[str, Any]]) -> dict[str, Any]:
    from importlib.metadata import version

    return {
        "command": "make bench",
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("picows", "uvloop", "msgspec", "confluent-kafka")},
        "cores": os.cpu_count(),
        "messages": arguments.messages,
        "rounds": arguments.rounds,
        "rows": rows,
    }


if __name__ == "__main__":
    main()
