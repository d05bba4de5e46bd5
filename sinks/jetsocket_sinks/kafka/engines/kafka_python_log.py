"""What kafka-python logs: kept from the screen, and heard for the cause of an outage."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

Hear = Callable[[str, BaseException | None], None]


class LastWords(logging.Handler):
    """Hears the warnings of one client, which it knows by the name of the thread that speaks.

    They become debug lines of our own log: kafka-python warns at each attempt of each connection.
    """

    def __init__(self, client_id: str, log: Any, hear: Hear) -> None:
        super().__init__(logging.WARNING)
        self._client_id = client_id
        self._log = log
        self._hear = hear

    def emit(self, record: logging.LogRecord) -> None:
        if self._client_id not in (record.threadName or ""):
            return
        arguments = record.args if isinstance(record.args, tuple) else ()
        causes = [argument for argument in arguments if isinstance(argument, BaseException)]
        if record.exc_info and record.exc_info[1] is not None:
            causes.append(record.exc_info[1])
        message = record.getMessage()
        self._log.debug("sink.kafka.client", message=message)
        self._hear(message, causes[-1] if causes else None)

    def stop(self) -> None:
        """Listen no more."""
        with _lock:
            _kafka.removeHandler(self)


_kafka = logging.getLogger("kafka")
_lock = threading.Lock()


def listen(client_id: str, log: Any, hear: Hear) -> LastWords:
    """Hear a client's warnings from now on; `hear` is called on its threads with the words and the exception."""
    handler = LastWords(client_id, log, hear)
    with _lock:
        # Its lines would go to the program's log otherwise, or to standard error where there is none.
        _kafka.propagate = False
        _kafka.addHandler(handler)
    return handler
