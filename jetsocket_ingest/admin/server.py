"""The admin endpoint: health, readiness, metrics, version and status over HTTP."""

from __future__ import annotations

import errno
import json
import platform
import socket
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from jetsocket_ingest.errors import ConfigError, InternalError, OperatorError
from jetsocket_ingest.telemetry.log import get_logger
from jetsocket_ingest.telemetry.metrics import Metrics
from jetsocket_ingest.telemetry.version import package_version

if TYPE_CHECKING:
    from aiohttp import web

    Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

PAGES = {
    "/livez": "200 as long as the event loop turns",
    "/readyz": "200 when data can flow, 503 with the reasons when it cannot",
    "/metrics": "metrics in the Prometheus text format",
    "/version": "the release that runs",
    "/status": "what runs now, as JSON",
}

CLOSE_GRACE = 1.0
"""Seconds that requests under way have when the server stops."""


class AdminServer:
    """Serves `PAGES` by GET and HEAD; any other path or method gets 404 with the list of pages.

    Args:
        listen: `host:port`; an IPv6 host in brackets; port 0 takes a free one.
        metrics: what `/metrics` renders.
        ready: whether data can flow, and the reasons by subject as a JSON-able mapping.
        status: what runs, as a JSON-able mapping. Secrets in it print as `***`.

    The callables run on the event loop and must return at once. Raises ConfigError for a `listen` that is no address.
    """

    def __init__(
        self,
        listen: str,
        metrics: Metrics,
        ready: Callable[[], tuple[bool, dict[str, Any]]],
        status: Callable[[], dict[str, Any]],
    ) -> None:
        self._listen = listen
        self._host, self._port = parse_listen(listen)
        self._metrics = metrics
        self._ready = ready
        self._status = status
        self._log = get_logger()
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        """Listen. Raises OperatorError where the address cannot be had."""
        # Imported here: a run without an admin endpoint starts a good deal sooner.
        from aiohttp import web

        @web.middleware
        async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
            return await self._guard(request, handler)

        app = web.Application(middlewares=[guard])
        for path, handler in {
            "/livez": self._livez,
            "/readyz": self._readyz,
            "/metrics": self._metrics_page,
            "/version": self._version,
            "/status": self._status_page,
        }.items():
            app.router.add_get(path, handler)
        app.router.add_route("*", "/{rest:.*}", self._not_found)
        runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=CLOSE_GRACE)
        await runner.setup()
        try:
            await web.TCPSite(runner, self._host, self._port).start()
        except OSError as error:
            await runner.cleanup()
            raise OperatorError(_why_not(self._listen, error)) from error
        except BaseException:
            await runner.cleanup()
            raise
        self._runner = runner
        self._log.info("admin.listening", url=f"http://{self.address}")

    async def stop(self) -> None:
        """Stop listening and end every connection. Idempotent."""
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()

    @property
    def address(self) -> str:
        """`host:port` as bound, so with the real port where 0 was asked for. Only between `start` and `stop`."""
        if self._runner is None or not self._runner.addresses:
            raise InternalError("the admin server has an address only while it runs")
        host, port = self._runner.addresses[0][:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except Exception:  # noqa: BLE001  (a bug behind one page; it is reported, and the pipeline goes on)
            self._log.exception("admin.request_failed", path=request.path)
            return _json(500, {"error": "this page could not be made; the log says why"})

    async def _livez(self, _: web.Request) -> web.Response:
        return _json(200, {"alive": True})

    async def _readyz(self, _: web.Request) -> web.Response:
        ready, reasons = self._ready()
        return _json(200 if ready else 503, {"ready": ready, "reasons": reasons})

    async def _metrics_page(self, _: web.Request) -> web.Response:
        from aiohttp import web

        body, content_type = self._metrics.render()
        return web.Response(body=body, headers={"Content-Type": content_type, "Cache-Control": "no-store"})

    async def _version(self, _: web.Request) -> web.Response:
        return _json(
            200,
            {"name": "jetsocket-ingest", "version": package_version(), "python": platform.python_version()},
        )

    async def _status_page(self, _: web.Request) -> web.Response:
        return _json(200, self._status())

    async def _not_found(self, request: web.Request) -> web.Response:
        return _json(404, {"error": f"there is no {request.method} {request.path}", "pages": PAGES})


def parse_listen(listen: str) -> tuple[str, int]:
    """`127.0.0.1:8686`, `localhost:8686`, `[::1]:8686` → (host, port). Raises ConfigError."""
    host, colon, port = listen.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    bare = host[1:-1] if bracketed else host
    if (
        not colon
        or not bare
        or not (port.isascii() and port.isdigit())
        or int(port) > 65535
        or (":" in bare) != bracketed
    ):
        raise ConfigError(
            f"admin.listen: expected host:port, such as 127.0.0.1:8686 or [::1]:8686 "
            f"(0.0.0.0:8686 for all of this machine's addresses), found {listen!r}"
        )
    return bare, int(port)


def _why_not(listen: str, error: OSError) -> str:
    start = f"cannot listen on {listen} (admin.listen): "
    if error.errno == errno.EADDRINUSE:
        return start + "another program listens there. Stop it, or set admin.listen to a free port"
    if error.errno in (errno.EACCES, errno.EPERM):
        return start + "this user may not. Ports below 1024 need extra rights: choose a higher one"
    if error.errno == errno.EADDRNOTAVAIL or isinstance(error, socket.gaierror):
        return (
            start + "this machine has no such address. Use 127.0.0.1, 0.0.0.0 or an address of this machine"
        )
    return start + (error.strerror or str(error))


def _json(status: int, body: dict[str, Any]) -> web.Response:
    from aiohttp import web

    text = json.dumps(body, default=str, allow_nan=False) + "\n"
    return web.Response(
        status=status, text=text, content_type="application/json", headers={"Cache-Control": "no-store"}
    )
