"""Where a redirect of the opening handshake may lead: to the same host, and never to less protection."""

from __future__ import annotations

import re
from urllib.parse import SplitResult, urljoin, urlsplit

from jetsocket_ingest.net.handshake import HandshakeRedirected

MAX_REDIRECTS = 5

_SCHEMES = {"http": "ws", "https": "wss", "ws": "ws", "wss": "wss"}
_PRINTABLE = re.compile(r"[\x21-\x7e]+")


class Trail:
    """The addresses that one dial was sent to, from `url` on."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._seen = [_without_login(urlsplit(url))]

    def follow(self, redirect: HandshakeRedirected) -> str:
        """The URL to dial next. Raises `HandshakeRedirected` with the reason where it must not be followed.

        Host and login stay those of the dial, whatever the peer writes: headers and credentials go to nobody else.
        """
        here = urlsplit(self._url)
        try:
            there = urlsplit(urljoin(self._url, redirect.location))
            scheme, host, port = _SCHEMES.get(there.scheme), there.hostname, there.port
        except ValueError:
            scheme, host, port = None, None, None
        if not _PRINTABLE.fullmatch(redirect.location) or scheme is None or host is None or port == 0:
            raise redirect.refused("that is no address of a WebSocket: tell the provider")
        if host.rstrip(".") != (here.hostname or "").rstrip("."):
            raise redirect.refused(
                "another host is not followed, since it would get our headers; "
                "if you trust it, write its address into `url`"
            )
        if (here.scheme, scheme) == ("wss", "ws"):
            raise redirect.refused("wss:// to ws:// is not followed, since it would give up encryption")
        target = there._replace(scheme=scheme, fragment="")
        known = _without_login(target)
        if known in self._seen:
            raise redirect.refused("that was asked before: the peer redirects in a circle; tell the provider")
        if len(self._seen) > MAX_REDIRECTS:
            raise redirect.refused(f"no more than {MAX_REDIRECTS} in a row are followed")
        self._seen.append(known)
        login, at, _ = here.netloc.rpartition("@")
        self._url = known._replace(netloc=login + at + known.netloc).geturl()
        return self._url


def _without_login(parts: SplitResult) -> SplitResult:
    return parts._replace(netloc=parts.netloc.rpartition("@")[2].lower(), path=parts.path or "/")
