"""Where a broker process comes from: a container engine that answers, or Java with jars resolved by Maven."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
import uuid
from abc import ABC, abstractmethod
from contextlib import suppress
from pathlib import Path

KAFKA_VERSION = "4.1.0"
IMAGE = f"apache/kafka:{KAFKA_VERSION}"
CACHE = Path(__file__).resolve().parents[2] / ".cache" / "kafka"
POM = """<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>
<groupId>tests</groupId><artifactId>kafka-broker</artifactId><version>1</version><dependencies>
<dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>{version}</version></dependency>
{logging}</dependencies></project>
"""
SIMPLE_LOGGING = "<dependency><groupId>org.slf4j</groupId><artifactId>slf4j-simple</artifactId><version>1.7.36</version></dependency>"
JAVA_OPTIONS = [
    "-Xms256m",
    "-Xmx512m",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-Djava.awt.headless=true",
]


class NoRuntimeError(Exception):
    """Neither a container engine nor Java and Maven are there; the message says what to install."""


class Runtime(ABC):
    """Runs one broker from a folder that holds `server.properties`."""

    bind: str
    """The address that its listeners bind."""

    @abstractmethod
    def path_of(self, folder: Path) -> str:
        """The folder as the broker sees it."""

    @abstractmethod
    def data_path(self, folder: Path) -> str:
        """Where the broker keeps its data."""

    @abstractmethod
    def start(self, folder: Path, ports: list[int]) -> None:
        """Format the data where it is new, and start."""

    @abstractmethod
    def alive(self) -> bool: ...

    @abstractmethod
    def kill(self) -> None:
        """SIGKILL, and wait for the end."""

    @abstractmethod
    def signal(self, number: signal.Signals) -> None: ...

    @abstractmethod
    def stop(self, timeout: float) -> None:
        """End for good: politely first, by force after `timeout` seconds."""


def find() -> Runtime:
    """The first that can be had: a container engine, Java and Maven, Java and Maven after installing them."""
    docker = shutil.which("docker")
    if docker and _succeeds([docker, "info"], 20):
        return ContainerRuntime(docker)
    missing = [
        package
        for package, tool in (("default-jre-headless", "java"), ("maven", "mvn"))
        if not shutil.which(tool)
    ]
    if missing:
        _install(missing)
    return JavaRuntime(_classpath())


class JavaRuntime(Runtime):
    bind = "127.0.0.1"

    def __init__(self, classpath: str) -> None:
        self._classpath = classpath
        self._process: subprocess.Popen[bytes] | None = None
        self._guard: subprocess.Popen[bytes] | None = None

    def path_of(self, folder: Path) -> str:
        return str(folder)

    def data_path(self, folder: Path) -> str:
        return str(folder / "data")

    def start(self, folder: Path, ports: list[int]) -> None:
        log = folder / "broker.log"
        properties = str(folder / "server.properties")
        with log.open("ab") as output:
            if not (folder / "data").exists():
                command = self._java(
                    "kafka.tools.StorageTool", "format", "-t", _cluster_id(), "-c", properties
                )
                subprocess.run(command, stdout=output, stderr=output, check=True, timeout=60)
            # Its own session keeps a Ctrl-C on the terminal from it: we end it in our order.
            self._process = subprocess.Popen(
                self._java("kafka.Kafka", properties),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        # However we end, even killed, the pipe closes then, and this ends the broker.
        self._guard = subprocess.Popen(
            ["sh", "-c", f"read -r line; kill -KILL {self._process.pid}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def _java(self, *arguments: str) -> list[str]:
        return ["java", *JAVA_OPTIONS, "-cp", self._classpath, *arguments]

    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def kill(self) -> None:
        if self._process is not None:
            self._end_guard()
            self._process.kill()
            self._process.wait()

    def _end_guard(self) -> None:
        if self._guard is not None:
            self._guard.kill()
            self._guard.communicate()
            self._guard = None

    def signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)

    def stop(self, timeout: float) -> None:
        if self._process is None:
            return
        self._end_guard()
        self._process.send_signal(signal.SIGCONT)
        self._process.terminate()
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None


class ContainerRuntime(Runtime):
    bind = "0.0.0.0"

    def __init__(self, docker: str) -> None:
        self._docker = docker
        self._name = f"jetsocket-tests-kafka-{uuid.uuid4().hex[:8]}"
        self._created = False

    def path_of(self, folder: Path) -> str:
        return "/conf"

    def data_path(self, folder: Path) -> str:
        return "/tmp/kafka-data"

    def start(self, folder: Path, ports: list[int]) -> None:
        if self._created:
            self._run("start", self._name)
            return
        for path in folder.iterdir():
            path.chmod(0o644)  # the image runs as a user of its own
        folder.chmod(0o755)
        script = (
            f"/opt/kafka/bin/kafka-storage.sh format --ignore-formatted -t {_cluster_id()} -c /conf/server.properties"
            " && exec /opt/kafka/bin/kafka-server-start.sh /conf/server.properties"
        )
        publish = [f"--publish=127.0.0.1:{port}:{port}" for port in ports]
        self._created = True
        self._run(
            "run", "--detach", f"--name={self._name}", f"--volume={folder}:/conf:ro", *publish,
            "--entrypoint=sh", IMAGE, "-c", script,
        )  # fmt: skip

    def alive(self) -> bool:
        state = self._run("inspect", "--format={{.State.Running}}", self._name)
        return state.strip() == "true"

    def kill(self) -> None:
        self._run("kill", self._name)

    def signal(self, number: signal.Signals) -> None:
        self._run("kill", f"--signal={number.name}", self._name)

    def stop(self, timeout: float) -> None:
        if self._created:
            self._run("rm", "--force", "--volumes", self._name)
            self._created = False

    def _run(self, *arguments: str) -> str:
        done = subprocess.run(
            [self._docker, *arguments], capture_output=True, text=True, timeout=600, check=False
        )
        if done.returncode != 0:
            raise NoRuntimeError(f"docker {arguments[0]} failed: {done.stderr.strip()}")
        return done.stdout


def _classpath() -> str:
    """Jars of the broker, resolved once by Maven; the list is kept under .cache/kafka."""
    cached = CACHE / f"classpath-{KAFKA_VERSION}"
    if cached.exists():
        classpath = cached.read_text()
        if all(Path(jar).exists() for jar in classpath.split(os.pathsep)):
            return classpath
    CACHE.mkdir(parents=True, exist_ok=True)
    said = ""
    # Offline first, since resolving online asks for updates; without a logging back-end rather than not at all.
    for offline, logging in ((True, SIMPLE_LOGGING), (False, SIMPLE_LOGGING), (True, ""), (False, "")):
        pom = CACHE / f"pom-{os.getpid()}.xml"
        output = CACHE / f"classpath-{os.getpid()}"
        pom.write_text(POM.format(version=KAFKA_VERSION, logging=logging))
        command = ["mvn", *(["--offline"] if offline else []), "--quiet", "--batch-mode", f"--file={pom}",
                   "dependency:build-classpath", f"-Dmdep.outputFile={output}"]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
        pom.unlink()
        if done.returncode == 0:
            output.replace(cached)
            return cached.read_text()
        output.unlink(missing_ok=True)
        said = done.stdout[-2000:]
    raise NoRuntimeError(
        f"Maven could not resolve Kafka {KAFKA_VERSION}. Give it access to a repository, start a container engine, "
        f"or set KAFKA_BOOTSTRAP_SERVERS to a broker that tests may use. Maven said:\n{said}"
    )


def _install(packages: list[str]) -> None:
    words = " ".join(packages)
    if os.geteuid() == 0 and shutil.which("apt-get"):
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        for command in (
            ["apt-get", "update"],
            ["apt-get", "install", "-y", "--no-install-recommends", *packages],
        ):
            subprocess.run(command, env=environment, capture_output=True, timeout=900, check=False)
    tools = [tool for tool in ("java", "mvn") if not shutil.which(tool)]
    if tools:
        raise NoRuntimeError(
            f"the tests need a Kafka broker, and {' and '.join(tools)} cannot be found. Install them "
            f"(Debian: apt-get install {words}; macOS: brew install openjdk maven), or start a container engine, "
            "or set KAFKA_BOOTSTRAP_SERVERS to a broker that tests may use."
        )


def _succeeds(command: list[str], timeout: float) -> bool:
    deadline = time.monotonic() + timeout
    with suppress(subprocess.TimeoutExpired, OSError):
        done = subprocess.run(command, capture_output=True, timeout=deadline - time.monotonic(), check=False)
        return done.returncode == 0
    return False


def _cluster_id() -> str:
    return "amV0c29ja2V0LXRlc3RzMQ"
