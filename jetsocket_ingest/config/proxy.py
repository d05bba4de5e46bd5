"""The address of a proxy, taken apart."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, cast
from urllib.parse import unquote, urlsplit

Scheme = Literal["http", "socks5", "socks5h"]
_DEFAULT_PORTS = {"http": 8080, "socks5": 1080, "socks5h": 1080}
_EXAMPLE = "http://proxy.example.com:3128 or socks5h://user:password@proxy.example.com:1080"


@dataclass(frozen=True, slots=True)
class ProxyAddress:
    """Where a proxy listens, what it speaks, and who we are to it.

    Attributes:
        scheme: `http` asks it to CONNECT; `socks5` hands it an address that we resolved, `socks5h` the host's name.
        host, port: of the proxy.
        user, password: decoded; empty where it wants none.
    """

    scheme: Scheme
    host: str
    port: int
    user: str = field(default="", repr=False)
    password: str = field(default="", repr=False)


def parse_proxy(url: str) -> ProxyAddress:
    """Raises ValueError, whose words never quote the URL: it may hold a password."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ValueError(
            f"expected a proxy such as {_EXAMPLE}, found one with an invalid host or port"
        ) from None
    if parts.scheme == "https":
        raise ValueError(
            "expected http://, socks5:// or socks5h://, found https://: a proxy that is spoken to over TLS is not "
            "supported; wss:// is encrypted end to end through an http:// proxy, too"
        )
    if parts.scheme not in _DEFAULT_PORTS:
        raise ValueError(f"expected a proxy such as {_EXAMPLE}, found another scheme or none")
    if not parts.hostname or port == 0 or any(c.isspace() or not c.isprintable() for c in url):
        raise ValueError(f"expected a proxy such as {_EXAMPLE}, found one without a valid host and port")
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        raise ValueError(
            f"expected a proxy such as {_EXAMPLE}, found more after the port "
            "(a / ? or # in the password must be written as %2F, %3F or %23)"
        )
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    _check_login(parts.scheme, user, password)
    return ProxyAddress(
        cast("Scheme", parts.scheme), parts.hostname, port or _DEFAULT_PORTS[parts.scheme], user, password
    )


def _check_login(scheme: str, user: str, password: str) -> None:
    if bool(user) != bool(password) and (password or scheme != "http"):
        raise ValueError("expected a user and a password for the proxy, found only one of them")
    if not all(c.isprintable() for c in user + password):
        raise ValueError("expected a proxy's user and password without control characters")
    if scheme == "http" and ":" in user:
        raise ValueError("expected a proxy's user without a colon: HTTP cannot transmit it")
    if scheme != "http" and not (user + password).isascii():
        raise ValueError("expected a SOCKS proxy's user and password in ASCII")
    if scheme != "http" and max(len(user), len(password)) > 255:
        raise ValueError("expected a SOCKS proxy's user and password of at most 255 bytes each")
