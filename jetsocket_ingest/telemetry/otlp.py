"""What metrics and traces share on their way to a collector. Imported only where a collector is configured."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from typing import Literal
from urllib.parse import urlsplit, urlunsplit

from jetsocket_ingest.errors import ConfigError
from jetsocket_ingest.telemetry.log import get_logger

Signal = Literal["metrics", "traces"]


def signal_url(base: str, signal: Signal) -> str:
    """Where one signal goes: an address without a path gets the standard one, `/v1/metrics` or `/v1/traces`."""
    parts = urlsplit(base)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(
            f"telemetry.{signal}.otlp: expected the http:// or https:// address of an OTLP/HTTP collector, "
            f"such as http://collector:4318, found {without_login(base)!r}"
        )
    return urlunsplit(parts._replace(path=f"/v1/{signal}")) if parts.path in ("", "/") else base


def without_login(url: str) -> str:
    """The address as it may be shown: no user, password, query or fragment."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


class Outage:
    """Tells once that a collector takes nothing, and once that it does again.

    The exporters tell their reasons only in log lines of their own, one for each attempt; this takes them from there
    and keeps them out of the log.
    """

    def __init__(self, signal: Signal, url: str, exporter_logger: str) -> None:
        self._log = get_logger()
        self._signal = signal
        self._url = without_login(url)
        self._reason = "unknown"
        self._away = False
        self._source = logging.getLogger(exporter_logger)
        self._source.addFilter(self._listen)

    def _listen(self, record: logging.LogRecord) -> bool:
        self._reason = record.getMessage()
        return False

    def report(self, *, success: bool) -> None:
        """The outcome of one export."""
        if success and self._away:
            self._log.info("telemetry.recovered", signal=self._signal, url=self._url)
        elif not success and not self._away:
            self._log.warning(
                "telemetry.unavailable", signal=self._signal, url=self._url, reason=self._reason
            )
        self._away = not success

    def close(self) -> None:
        self._source.removeFilter(self._listen)


async def in_thread(work: Callable[[], object]) -> None:
    """Do blocking work on a thread that keeps nobody waiting: cancelled, or at exit, it is simply left behind.

    (`asyncio.to_thread` would hold up the end of the program until the last request has timed out.)
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()

    def settle(error: BaseException | None) -> None:
        if done.done():
            return
        if error is None:
            done.set_result(None)
        else:
            done.set_exception(error)

    def body() -> None:
        failure: BaseException | None = None
        try:
            work()
        except BaseException as error:  # noqa: BLE001  (carried over to the loop, whatever it is)
            failure = error
        try:
            loop.call_soon_threadsafe(settle, failure)
        except RuntimeError:
            # The loop closed meanwhile: nobody waits any more.
            pass

    threading.Thread(target=body, name="jetsocket-otlp", daemon=True).start()
    await done
