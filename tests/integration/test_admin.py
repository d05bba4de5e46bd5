"""The admin endpoint over real HTTP, and the probe that a container asks it with."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import structlog

from jetsocket_ingest.admin.probe import probe
from jetsocket_ingest.admin.server import AdminServer, parse_listen
from jetsocket_ingest.config.types import Secret
from jetsocket_ingest.errors import ConfigError, InternalError, OperatorError
from jetsocket_ingest.telemetry import Metrics
from tests.support.aio import run

ROOT = Path(__file__).parents[2]


class Pipeline:
    """What the server asks, to be set by a test."""

    def __init__(self) -> None:
        self.ready: tuple[bool, dict[str, Any]] = (True, {})
        self.status: dict[str, Any] = {"name": "ticks"}
        self.metrics = Metrics("ticks")
        self.metrics.observe("jetsocket.up", lambda: [(1, {})])

    def server(self, listen: str = "127.0.0.1:0") -> AdminServer:
        return AdminServer(listen, self.metrics, lambda: self.ready, lambda: self.status)

    @contextlib.asynccontextmanager
    async def serving(self, listen: str = "127.0.0.1:0") -> AsyncIterator[str]:
        """The server's address, `http://host:port`."""
        server = self.server(listen)
        await server.start()
        try:
            yield f"http://{server.address}"
        finally:
            await server.stop()
            self.metrics.abandon()


def request(url: str, method: str = "GET") -> tuple[int, dict[str, str], bytes]:
    """(status, headers with lower-case names, body), whatever the status."""
    asked = urllib.request.Request(url, method=method)
    try:
        with urllib.request.urlopen(asked, timeout=10) as answer:
            return (
                answer.status,
                {name.lower(): value for name, value in answer.headers.items()},
                answer.read(),
            )
    except urllib.error.HTTPError as error:
        with error:
            return error.code, {name.lower(): value for name, value in error.headers.items()}, error.read()


def ask(pipeline: Pipeline, path: str, method: str = "GET") -> tuple[int, dict[str, str], bytes]:
    async def asked() -> tuple[int, dict[str, str], bytes]:
        async with pipeline.serving() as url:
            return await asyncio.to_thread(request, url + path, method)

    return run(asked())


def test_livez_answers_as_long_as_the_loop_turns() -> None:
    status, headers, body = ask(Pipeline(), "/livez")
    assert (status, json.loads(body)) == (200, {"alive": True})
    assert headers["content-type"].startswith("application/json")


def test_readyz_says_yes() -> None:
    status, _, body = ask(Pipeline(), "/readyz")
    assert (status, json.loads(body)) == (200, {"ready": True, "reasons": {}})


def test_readyz_says_no_with_the_reasons() -> None:
    pipeline = Pipeline()
    pipeline.ready = (False, {"endpoint desk": "not connected: HTTP 401"})
    status, _, body = ask(pipeline, "/readyz")
    assert status == 503
    assert json.loads(body) == {"ready": False, "reasons": {"endpoint desk": "not connected: HTTP 401"}}


def test_metrics_are_prometheus_text() -> None:
    status, headers, body = ask(Pipeline(), "/metrics")
    assert status == 200
    assert headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert b'jetsocket_up{pipeline="ticks"} 1.0\n' in body


def test_version_names_program_release_and_python() -> None:
    status, _, body = ask(Pipeline(), "/version")
    found = json.loads(body)
    assert status == 200
    assert found["name"] == "jetsocket-ingest"
    assert found["version"]
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))


def test_status_shows_what_runs_without_secrets() -> None:
    pipeline = Pipeline()
    pipeline.status = {
        "name": "ticks",
        "connections": list(range(500)),
        "headers": {"Authorization": Secret("canary")},
    }
    status, headers, body = ask(pipeline, "/status")
    found = json.loads(body)
    assert status == 200
    assert headers["cache-control"] == "no-store"
    assert len(found["connections"]) == 500
    assert "***" in found["headers"]["Authorization"]
    assert b"canary" not in body


@pytest.mark.parametrize(
    ("path", "method"), [("/", "GET"), ("/livez/", "GET"), ("/x/../y", "GET"), ("/livez", "POST")]
)
def test_anything_else_is_404_with_the_list_of_pages(path: str, method: str) -> None:
    status, headers, body = ask(Pipeline(), path, method)
    found = json.loads(body)
    assert status == 404
    assert headers["content-type"].startswith("application/json")
    assert set(found["pages"]) == {"/livez", "/readyz", "/metrics", "/version", "/status"}
    assert method in found["error"]


def test_head_is_answered_like_get_without_a_body() -> None:
    assert ask(Pipeline(), "/livez", "HEAD")[::2] == (200, b"")


def test_a_page_that_cannot_be_made_is_500_and_told_with_its_traceback() -> None:
    pipeline = Pipeline()
    pipeline.status = {"rate": float("nan")}
    with structlog.testing.capture_logs() as captured:
        status, _, body = ask(pipeline, "/status")
    assert status == 500
    assert "log" in json.loads(body)["error"]
    failed = [line for line in captured if line["event"] == "admin.request_failed"]
    assert [(line["path"], line["exc_info"]) for line in failed] == [("/status", True)]


def test_a_taken_port_is_told_in_words() -> None:
    async def both() -> None:
        pipeline = Pipeline()
        async with pipeline.serving() as url:
            second = pipeline.server(url.removeprefix("http://"))
            with pytest.raises(
                OperatorError, match=r"cannot listen on 127\.0\.0\.1:\d+ \(admin\.listen\): another"
            ):
                await second.start()
            await second.stop()

    run(both())


def test_an_address_of_another_machine_is_told_in_words() -> None:
    async def start() -> None:
        pipeline = Pipeline()
        with pytest.raises(OperatorError, match=r"\(admin\.listen\): this machine has no such address"):
            await pipeline.server("192.0.2.1:0").start()
        pipeline.metrics.abandon()

    run(start())


@pytest.mark.parametrize(
    ("listen", "expected"),
    [
        ("127.0.0.1:8686", ("127.0.0.1", 8686)),
        ("localhost:0", ("localhost", 0)),
        ("[::1]:80", ("::1", 80)),
        ("0.0.0.0:65535", ("0.0.0.0", 65535)),
    ],
)
def test_an_address_is_host_and_port(listen: str, expected: tuple[str, int]) -> None:
    assert parse_listen(listen) == expected


@pytest.mark.parametrize(
    "listen",
    [
        "",
        "8686",
        ":8686",
        "host",
        "host:",
        "host:x",
        "host:-1",
        "host:65536",
        "::1:80",
        "[]:80",
        "[h]:80",
        "h:²",
    ],
)
def test_what_is_no_address_is_the_configs_mistake(listen: str) -> None:
    with pytest.raises(ConfigError, match=r"admin\.listen: expected host:port"):
        parse_listen(listen)


def test_it_serves_ipv6() -> None:
    async def asked() -> None:
        async with Pipeline().serving("[::1]:0") as url:
            assert url.startswith("http://[::1]:")
            assert (await asyncio.to_thread(request, url + "/livez"))[0] == 200

    run(asked())


def test_stopping_ends_open_connections_and_frees_the_port() -> None:
    async def use() -> None:
        pipeline = Pipeline()
        server = pipeline.server()
        with pytest.raises(InternalError, match="only while it runs"):
            _ = server.address
        await server.start()
        address = server.address
        host, port = parse_listen(address)
        reader, writer = await asyncio.open_connection(host, port)
        writer.write(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        await server.stop()
        await server.stop()
        assert (await reader.read(-1)).endswith(b'{"alive": true}\n')  # and then the end of the stream
        writer.close()
        await writer.wait_closed()
        with socket.create_server((host, port)):
            pass
        pipeline.metrics.abandon()

    run(use())


def test_requests_are_not_logged() -> None:
    with structlog.testing.capture_logs() as captured:
        ask(Pipeline(), "/livez")
    assert [line["event"] for line in captured] == ["admin.listening"]


# The probe ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def elsewhere() -> Iterator[str]:
    """A server that redirects everything to a page that would answer 200."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(302 if self.path == "/livez" else 204)
            self.send_header("Location", "/healthy")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            """A test's server does not print."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def probe_pipeline(pipeline: Pipeline, path: str) -> int:
    async def probed() -> int:
        async with pipeline.serving() as url:
            return await asyncio.to_thread(probe, url + path)

    return run(probed())


def test_the_probe_says_0_for_a_healthy_pipeline_whatever_proxy_is_set(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert probe_pipeline(Pipeline(), "/livez") == 0
    assert capsys.readouterr().err == ""


def test_the_probe_says_1_and_why_for_one_that_is_not_ready(capsys: pytest.CaptureFixture[str]) -> None:
    pipeline = Pipeline()
    pipeline.ready = (False, {"desk": "down"})
    assert probe_pipeline(pipeline, "/readyz") == 1
    assert 'answered 503: {"ready": false, "reasons": {"desk": "down"}}' in capsys.readouterr().err


def test_the_probe_says_1_where_nobody_listens(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # bound and not listening: refuses
        assert probe(f"http://127.0.0.1:{held.getsockname()[1]}/livez") == 1
    assert "does not answer" in capsys.readouterr().err


def test_the_probe_says_1_where_an_answer_never_comes(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert probe(f"http://127.0.0.1:{silent.getsockname()[1]}/livez", timeout=0.05) == 1
    assert "timed out" in capsys.readouterr().err


def test_the_probe_says_1_where_the_answer_is_not_http(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            peer, _ = server.accept()
            with peer:
                peer.recv(1000)
                peer.sendall(b"\x1b[2Jhello\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        assert probe(f"http://127.0.0.1:{server.getsockname()[1]}/livez") == 1
        thread.join()
    assert "\x1b" not in capsys.readouterr().err


@pytest.mark.parametrize("path", ["/livez", "/healthy"])
def test_the_probe_follows_no_redirect_and_takes_nothing_but_200(elsewhere: str, path: str) -> None:
    assert probe(elsewhere + path) == 1


@pytest.mark.parametrize(
    "url", ["127.0.0.1:8686/livez", "file:///etc/passwd", "http://[bad", "http://h:port/", ""]
)
def test_the_probe_says_2_for_what_is_no_address(url: str) -> None:
    assert probe(url) == 2


def test_the_probe_is_a_command() -> None:
    def command(*arguments: str) -> subprocess.CompletedProcess[str]:
        asked = [sys.executable, "-m", "jetsocket_ingest.admin.probe", *arguments]
        return subprocess.run(asked, capture_output=True, text=True, cwd=ROOT, check=False)

    assert command().returncode == 2
    refused = command("http://127.0.0.1:1/livez")
    assert (refused.returncode, refused.stderr.count("\n")) == (1, 1)
