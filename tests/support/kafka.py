"""A real Kafka broker for the tests: a given one, a container, or jars started here in KRaft mode."""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path

from tests.support import kafka_runtime

USERS = {"admin": "admin-secret", "writer": "writer-secret", "guest": "guest-secret"}
"""Name → password for PLAIN and SCRAM. `guest` may sign in and has no right to anything."""

START_TIMEOUT = 90.0
STOP_TIMEOUT = 20.0
LISTENERS = ("PLAINTEXT", "SASL", "TLS", "CONTROLLER")


class BrokerError(Exception):
    """No broker could be had, or it did not start; the message says what to do."""


@dataclass
class KafkaBroker:
    """One node, broker and controller in one, on ports and data that stay the same over `restart`.

    Attributes:
        bootstrap_servers: the plain listener; whoever connects to it may do everything.
        sasl_servers: the listener that asks for one of `USERS`, by PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512.
        tls_servers: the listener with a certificate signed by `ca_file`.
        folder: configuration, data and log (`broker.log`) of the broker.
    """

    folder: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="kafka-")))
    ports: dict[str, int] = field(
        default_factory=lambda: dict(zip(LISTENERS, _free_ports(len(LISTENERS)), strict=True))
    )
    owned: bool = True
    _runtime: kafka_runtime.Runtime | None = None

    @property
    def bootstrap_servers(self) -> str:
        return f"127.0.0.1:{self.ports['PLAINTEXT']}"

    @property
    def sasl_servers(self) -> str:
        return f"127.0.0.1:{self.ports['SASL']}"

    @property
    def tls_servers(self) -> str:
        return f"127.0.0.1:{self.ports['TLS']}"

    @property
    def ca_file(self) -> Path:
        return self.folder / "ca.pem"

    def start(self) -> KafkaBroker:
        """Start for the first time; returns when it answers. BrokerError where no way leads to a broker."""
        atexit.register(self.stop)
        try:
            self._runtime = kafka_runtime.find()
        except kafka_runtime.NoRuntimeError as error:
            raise BrokerError(str(error)) from error
        self._write_certificates()
        self._write_properties()
        self._runtime.start(self.folder, [self.ports[name] for name in LISTENERS[:3]])
        self._wait_until_ready()
        self._create_scram_users()
        return self

    def alive(self) -> bool:
        """Whether the process runs, frozen or not."""
        return self._started().alive()

    def kill(self) -> None:
        """End it as a crash would: SIGKILL, nothing flushed, no good-bye."""
        self._started().kill()

    def restart(self) -> None:
        """Start it again, after `kill` or after a stop of the process, on the same ports and data."""
        self._started().start(self.folder, [self.ports[name] for name in LISTENERS[:3]])
        self._wait_until_ready()

    def pause(self) -> None:
        """Freeze it: connections stay open and nothing is answered."""
        self._started().signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._started().signal(signal.SIGCONT)

    def stop(self) -> None:
        """End it and remove its files; its log stays as .cache/kafka/broker.log. A second call does nothing."""
        atexit.unregister(self.stop)
        if self._runtime is not None:
            self._runtime.stop(STOP_TIMEOUT)
            self._runtime = None
            log = self.folder / "broker.log"
            if log.exists():
                kafka_runtime.CACHE.mkdir(parents=True, exist_ok=True)
                shutil.copy(log, kafka_runtime.CACHE / "broker.log")
        shutil.rmtree(self.folder, ignore_errors=True)

    def new_topic(self, prefix: str = "t", *, partitions: int = 1, **configs: str) -> str:
        """Create a topic with a unique name; `configs` with underscores for dots (`max_message_bytes="2000"`)."""
        from kafka.admin import KafkaAdminClient

        name = f"{prefix}-{uuid.uuid4().hex[:10]}"
        settings = {key.replace("_", "."): value for key, value in configs.items()}
        admin = KafkaAdminClient(bootstrap_servers=self.bootstrap_servers)
        try:
            admin.create_topics(
                {name: {"num_partitions": partitions, "replication_factor": 1, "configs": settings}},
                wait_for_metadata=True,
            )
        finally:
            admin.close()
        return name

    def topics(self) -> set[str]:
        from kafka.admin import KafkaAdminClient

        admin = KafkaAdminClient(bootstrap_servers=self.bootstrap_servers)
        try:
            return set(admin.list_topics())
        finally:
            admin.close()

    def log_tail(self, lines: int = 25) -> str:
        path = self.folder / "broker.log"
        return (
            "\n".join(path.read_text("utf-8", "replace").splitlines()[-lines:])
            if path.exists()
            else "(no log)"
        )

    def _started(self) -> kafka_runtime.Runtime:
        if self._runtime is None:
            raise BrokerError("this broker was not started here: it can neither be killed nor restarted")
        return self._runtime

    def _wait_until_ready(self) -> None:
        """It is ready when it names itself in metadata; a port alone opens seconds before."""
        from kafka.admin import KafkaAdminClient
        from kafka.errors import KafkaError

        runtime = self._started()
        deadline = time.monotonic() + START_TIMEOUT
        while time.monotonic() < deadline:
            if not runtime.alive():
                raise BrokerError(
                    f"the Kafka broker ended while starting; its log ends with:\n{self.log_tail()}"
                )
            try:
                with socket.create_connection(("127.0.0.1", self.ports["PLAINTEXT"]), 1):
                    pass
                admin = KafkaAdminClient(bootstrap_servers=self.bootstrap_servers, bootstrap_timeout_ms=5000)
            except (OSError, KafkaError):
                time.sleep(0.1)
                continue
            admin.close()
            return
        raise BrokerError(
            f"the Kafka broker did not answer within {START_TIMEOUT:g} s; its log ends with:\n{self.log_tail()}"
        )

    def _create_scram_users(self) -> None:
        """SCRAM credentials live in the cluster's metadata; PLAIN ones stand in the configuration."""
        from kafka.admin import KafkaAdminClient, ScramMechanism, UserScramCredentialUpsertion

        admin = KafkaAdminClient(bootstrap_servers=self.bootstrap_servers)
        try:
            # One request takes each user once.
            for mechanism in (ScramMechanism.SCRAM_SHA_256, ScramMechanism.SCRAM_SHA_512):
                answer = admin.alter_user_scram_credentials(
                    [
                        UserScramCredentialUpsertion(user, mechanism, password)
                        for user, password in USERS.items()
                    ]
                )
                if any(answer.values()):
                    raise BrokerError(f"the broker took no SCRAM users: {answer}")
        finally:
            admin.close()

    def _write_certificates(self) -> None:
        import trustme
        from cryptography.hazmat.primitives import serialization

        authority = trustme.CA()
        authority.cert_pem.write_to_path(self.ca_file)
        server = authority.issue_cert("127.0.0.1", "localhost")
        key = serialization.load_pem_private_key(server.private_key_pem.bytes(), None)
        # Kafka reads PKCS#8 only.
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        chain = b"".join(blob.bytes() for blob in server.cert_chain_pems)
        (self.folder / "server.pem").write_bytes(pem + chain)
        client = authority.issue_cert("client@example.org")
        client.private_key_pem.write_to_path(self.folder / "client-key.pem")
        client.cert_chain_pems[0].write_to_path(self.folder / "client.pem")

    def _write_properties(self) -> None:
        runtime = self._started()
        home = runtime.path_of(self.folder)
        plain_users = " ".join(f'user_{name}="{password}"' for name, password in USERS.items())
        lines = {
            "process.roles": "broker,controller",
            "node.id": "1",
            "controller.quorum.voters": f"1@127.0.0.1:{self.ports['CONTROLLER']}",
            "listeners": ",".join(f"{name}://{runtime.bind}:{self.ports[name]}" for name in LISTENERS),
            "advertised.listeners": ",".join(
                f"{name}://127.0.0.1:{self.ports[name]}" for name in LISTENERS[:3]
            ),
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,SASL:SASL_PLAINTEXT,TLS:SSL,CONTROLLER:PLAINTEXT",
            "inter.broker.listener.name": "PLAINTEXT",
            "controller.listener.names": "CONTROLLER",
            "log.dirs": runtime.data_path(self.folder),
            "offsets.topic.replication.factor": "1",
            "offsets.topic.num.partitions": "3",
            "transaction.state.log.replication.factor": "1",
            "transaction.state.log.min.isr": "1",
            "transaction.state.log.num.partitions": "3",
            "group.initial.rebalance.delay.ms": "0",
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": "User:ANONYMOUS;User:admin;User:writer",
            "sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512",
            "listener.name.sasl.plain.sasl.jaas.config": (
                f"org.apache.kafka.common.security.plain.PlainLoginModule required {plain_users};"
            ),
            "listener.name.sasl.scram-sha-256.sasl.jaas.config": (
                "org.apache.kafka.common.security.scram.ScramLoginModule required;"
            ),
            "listener.name.sasl.scram-sha-512.sasl.jaas.config": (
                "org.apache.kafka.common.security.scram.ScramLoginModule required;"
            ),
            "listener.name.tls.ssl.keystore.type": "PEM",
            "listener.name.tls.ssl.keystore.location": f"{home}/server.pem",
            "listener.name.tls.ssl.truststore.type": "PEM",
            "listener.name.tls.ssl.truststore.location": f"{home}/ca.pem",
            "listener.name.tls.ssl.client.auth": "requested",
            # Whoever comes over TLS without a certificate is ANONYMOUS, with one is this:
            "ssl.principal.mapping.rules": "RULE:^.*$/admin/",
        }
        text = "".join(f"{key}={value}\n" for key, value in lines.items())
        (self.folder / "server.properties").write_text(text)


class GivenBroker(KafkaBroker):
    """The broker that `KAFKA_BOOTSTRAP_SERVERS` names: used, never stopped."""

    def __init__(self, servers: str) -> None:
        super().__init__(folder=Path(tempfile.mkdtemp(prefix="kafka-")), ports={}, owned=False)
        self._servers = servers

    @property
    def bootstrap_servers(self) -> str:
        return self._servers

    def start(self) -> KafkaBroker:
        return self


def make_broker() -> KafkaBroker:
    """The broker of a test run, not started yet."""
    servers = os.environ.get("KAFKA_BOOTSTRAP_SERVERS")
    return GivenBroker(servers) if servers else KafkaBroker()


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


def main() -> int:
    """Start one broker, print its addresses, and run it until Ctrl-C or SIGTERM."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    broker = make_broker()
    try:
        broker.start()
        print(f"bootstrap servers  {broker.bootstrap_servers}", flush=True)  # noqa: T201  (a command that prints)
        if broker.owned:
            print(f"SASL               {broker.sasl_servers}  users {', '.join(USERS)}", flush=True)  # noqa: T201
            print(f"TLS                {broker.tls_servers}  authority {broker.ca_file}", flush=True)  # noqa: T201
        print("Ctrl-C stops it.", flush=True)  # noqa: T201
        while True:
            signal.pause()
    except KeyboardInterrupt:
        return 0
    except (BrokerError, subprocess.SubprocessError) as error:
        print(f"error: {error}", flush=True)  # noqa: T201
        return 1
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):  # a second Ctrl-C must not leave the broker behind
            signal.signal(number, signal.SIG_IGN)
        broker.stop()


if __name__ == "__main__":
    raise SystemExit(main())
