"""Every error of this package, arranged by who must act.

    JetSocketError
    ├── ConfigError              the author of the config: something in it cannot work
    ├── OperatorError            whoever runs the program: disk, broker, port, rights
    │   ├── SinkUnavailable      the destination is away; delivery tries again
    │   ├── SinkFailed           the destination refuses for good; the sink is marked failed
    │   └── OutputClosed         whoever read our output went away (`| head`); stop quietly
    ├── ProviderError            the peer behind the WebSocket
    │   ├── DialError            no connection came about (DNS, TCP, TLS, timeout)
    │   │   └── HandshakeRefused the peer answered the opening handshake with another HTTP status
    │   ├── ConnectionClosed     the connection is over, with its close code
    │   └── SubscriptionRefused  the peer rejected streams
    ├── PoolError                the user of a ConnectionPool
    │   ├── PoolExhaustedError   no connection within the time
    │   └── PoolClosedError      the pool is closed
    └── InternalError            a bug of ours: please report it

A message says what was expected, what came, where, and what to do.
"""

from __future__ import annotations


class JetSocketError(Exception):
    """Base of all errors raised by jetsocket-ingest."""


class ConfigError(JetSocketError):
    """The config cannot work; `problems` holds one located, complete sentence each."""

    def __init__(self, problems: list[str] | str) -> None:
        self.problems: list[str] = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(self.problems))


class OperatorError(JetSocketError):
    """The environment must be put right: disk, broker, port, rights."""


class SinkUnavailable(OperatorError):
    """The destination cannot take records now. Delivery waits and writes the batch again."""


class SinkFailed(OperatorError):
    """The destination will not take records until somebody acts. The sink is marked failed."""


class OutputClosed(OperatorError):
    """Whoever read our output went away, as `| head` does. Not a failure: the program stops with exit code 0."""


class ProviderError(JetSocketError):
    """The peer behind the WebSocket did something we cannot go on from."""


class DialError(ProviderError):
    """No connection came about: name resolution, TCP, TLS, proxy or a time-out.

    `fatal` tells a failure that repeating cannot cure (a certificate that does not verify) from one it may.
    """

    def __init__(self, message: str, *, fatal: bool = False) -> None:
        super().__init__(message)
        self.fatal = fatal


class HandshakeRefused(DialError):
    """The opening handshake was answered with an HTTP status other than 101.

    Attributes:
        status: the HTTP status.
        retry_after: the value of the `Retry-After` header, uninterpreted, or None.
        body: the first bytes of the answer, for the log.
    """

    def __init__(self, status: int, *, retry_after: str | None = None, body: bytes = b"") -> None:
        text = body[:200].decode("utf-8", "replace").strip()
        super().__init__(
            f"the peer answered the opening handshake with HTTP {status}" + (f": {text}" if text else "")
        )
        self.status = status
        self.retry_after = retry_after
        self.body = body


class ConnectionClosed(ProviderError):
    """The connection is over.

    Attributes:
        code: the close code received (or sent, when we closed it); 1006 where the peer vanished without one.
        reason: the peer's words, or ours.
    """

    def __init__(self, code: int, reason: str = "") -> None:
        super().__init__(f"connection closed with code {code}" + (f": {reason}" if reason else ""))
        self.code = code
        self.reason = reason


class SubscriptionRefused(ProviderError):
    """The peer rejected a subscription."""


class PoolError(JetSocketError):
    """Base of the errors that users of a `ConnectionPool` see."""


class PoolExhaustedError(PoolError):
    """No connection could be had within the time.

    Attributes:
        max_connections: the pool's limit.
        timeout: the seconds waited.
    """

    def __init__(self, max_connections: int, timeout: float) -> None:
        super().__init__(
            f"no connection could be had within {timeout:g} s (max_connections={max_connections}): all were in use, or "
            "the peer took too long to answer. Release sooner, raise max_connections, or allow a longer timeout."
        )
        self.max_connections = max_connections
        self.timeout = timeout


class PoolClosedError(PoolError):
    """The pool is closed and hands out nothing more."""

    def __init__(self, message: str = "the connection pool is closed") -> None:
        super().__init__(message)


class InternalError(JetSocketError):
    """A bug in jetsocket-ingest: an invariant does not hold."""
