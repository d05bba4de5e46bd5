"""The opening handshake, without I/O: the request to send, and what the answer means."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from websockets.client import ClientProtocol
from websockets.datastructures import Headers
from websockets.exceptions import InvalidHandshake, InvalidURI
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory, PerMessageDeflate
from websockets.http11 import Response
from websockets.typing import Subprotocol
from websockets.uri import WebSocketURI, parse_uri

from jetsocket_ingest.errors import DialError, HandshakeRefused
from jetsocket_ingest.net.transport import DialOptions

MAX_HEADER = 64 * 1024
"""Bytes of an answer's head, status line included."""
MAX_BODY = 1024
"""Bytes kept of the body of a refusal."""

_STATUS_LINE = re.compile(rb"HTTP/1\.[01] ([1-5][0-9]{2})(?: ([^\r\n]*))?")
_NAME = r"[-!#$%&'*+.^_`|~0-9A-Za-z]+"
_HEADER = re.compile(rb"(" + _NAME.encode() + rb"):[ \t]*([\t\x20-\x7e\x80-\xff]*?)[ \t]*")
_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
_OURS = frozenset(
    ("connection", "upgrade", "sec-websocket-key", "sec-websocket-version", "sec-websocket-extensions")
)


class HandshakeRedirected(HandshakeRefused):
    """The peer sends us elsewhere.

    Attributes:
        location: where to, as the peer wrote it; its query and login may be secret.
    """

    def __init__(self, status: int, location: str, *, why: str = "", body: bytes = b"") -> None:
        super().__init__(status, body=body)
        self.location = location
        words = (
            f"the peer answered the opening handshake with a redirect (HTTP {status}) to {_shown(location)}"
        )
        self.args = (f"{words}; {why}" if why else words,)

    def refused(self, why: str) -> HandshakeRedirected:
        """The same, that is not followed, and why."""
        return HandshakeRedirected(self.status, self.location, why=why, body=self.body)


class OpeningHandshake:
    """One handshake.

    Raises DialError with `fatal` where the URL or a header cannot be sent. Messages never hold the URL's query or a
    header's value: both may be secret.

    Attributes:
        host, port, secure: where to connect to.
        request: the bytes to send.
        subprotocol: what the peer chose, once accepted.
        deflate: the negotiated extension, once accepted; None where it was not.
    """

    def __init__(self, options: DialOptions) -> None:
        uri = _parse(options.url)
        self.host, self.port, self.secure = uri.host, uri.port, uri.secure
        # memLevel 5 halves the memory of a connection's compressor and costs next to nothing in size.
        factory = ClientPerMessageDeflateFactory(
            client_max_window_bits=True, compress_settings={"memLevel": 5}
        )
        self._protocol = ClientProtocol(
            uri,
            extensions=[factory] if options.compression else None,
            subprotocols=[Subprotocol(name) for name in options.subprotocols] or None,
        )
        self.request = self._build_request(options)
        self.subprotocol: str | None = None
        self.deflate: PerMessageDeflate | None = None
        self._received = bytearray()
        self._response: Response | None = None

    def _build_request(self, options: DialOptions) -> bytes:
        request = self._protocol.connect()
        request.headers["User-Agent"] = "jetsocket-ingest"
        for name, value in options.headers.items():
            if name.lower() in _OURS or not re.fullmatch(_NAME, name):
                raise DialError(
                    f"header {name!r} cannot be sent: it is not a legal header name, or the handshake sets it itself. "
                    "Remove it from `headers`",
                    fatal=True,
                )
            if not _VALUE.fullmatch(value):
                raise DialError(
                    f"the value of header {name!r} cannot be sent: expected printable characters on one line. "
                    "Check where it comes from (a trailing newline?)",
                    fatal=True,
                )
            if name in request.headers:
                del request.headers[name]
            request.headers[name] = value
        try:
            return request.serialize()
        except UnicodeEncodeError:
            raise DialError("the path of the URL has characters that cannot be sent", fatal=True) from None

    def feed(self, data: bytes) -> bytes | None:
        """Take bytes of the answer.

        Returns what follows the answer's head once the peer accepted, None while bytes are missing. Raises DialError,
        or HandshakeRefused once the refusal is complete (see `end` for one that stays incomplete).
        """
        received = self._received
        # A head that comes byte by byte is not searched from its start each time.
        searched = max(0, len(received) - 3)
        received += data
        while self._response is None:
            end = received.find(b"\r\n\r\n", searched)
            if end < 0:
                if len(received) > MAX_HEADER:
                    raise DialError(
                        f"the peer's answer to the opening handshake has more than {MAX_HEADER} bytes of head"
                    )
                if not b"HTTP/1.".startswith(received[:7]):
                    raise _not_http(bytes(received))
                return None
            response = parse_head(bytes(received[:end]))
            del received[: end + 4]
            searched = 0
            if response.status_code == 101:
                return self._accept(response, bytes(received))
            if response.status_code >= 200:
                self._response = response
        if len(received) >= min(MAX_BODY, _content_length(self._response)) or received.endswith(
            b"\r\n0\r\n\r\n"
        ):
            raise self._refusal(self._response)
        return None

    def end(self) -> DialError:
        """Why there is no connection, when the peer sends no more bytes."""
        if self._response is not None:
            return self._refusal(self._response)
        if self._received:
            return DialError(
                "the peer closed the connection in the middle of its answer to the opening handshake"
            )
        return DialError("the peer closed the connection without an answer to the opening handshake")

    @property
    def refused(self) -> bool:
        """The peer refused, and only the body of its answer is not complete."""
        return self._response is not None

    def _accept(self, response: Response, rest: bytes) -> bytes:
        protocol = self._protocol
        try:
            protocol.process_response(response)
        except InvalidHandshake as error:
            raise DialError(f"the peer's answer to the opening handshake is not valid: {error}") from None
        for extension in protocol.extensions:
            assert isinstance(extension, PerMessageDeflate), "nothing else is offered"
            self.deflate = extension
        self.subprotocol = protocol.subprotocol
        return rest

    def _refusal(self, response: Response) -> HandshakeRefused:
        body = bytes(self._received)
        if "chunked" in (_first(response, "Transfer-Encoding") or "").lower():
            body = _unchunk(body)
        body = body[:MAX_BODY]
        status = response.status_code
        if status in (301, 302, 303, 307, 308):
            return HandshakeRedirected(status, _first(response, "Location") or "", body=body)
        return HandshakeRefused(status, retry_after=_first(response, "Retry-After"), body=body)


def _shown(location: str) -> str:
    """A redirect's target without what may be secret."""
    try:
        target = urlsplit(location)
    except ValueError:
        return "a malformed address"
    place = target.netloc.rpartition("@")[2]
    shown = f"{target.scheme}://{place}{target.path}" if place else target.path
    return shown[:200] or "nowhere"


def _parse(url: str) -> WebSocketURI:
    try:
        return parse_uri(url)
    except InvalidURI as error:
        reason = error.msg
    except (ValueError, UnicodeError):
        reason = "the host or port is malformed"
    raise DialError(
        f"the URL cannot be dialled: {reason}; expected ws://host[:port]/path or wss://host[:port]/path",
        fatal=True,
    )


def parse_head(head: bytes, *, sender: str = "the peer", advice: str = "check host and port") -> Response:
    """Status line and headers of an answer, without the empty line at its end. Raises DialError, where `sender` names
    who sent it, and `advice` tells what to do where it is no HTTP."""
    lines = head.split(b"\r\n")
    status = _STATUS_LINE.fullmatch(lines[0])
    if status is None:
        raise _not_http(head, sender, advice)
    headers = Headers()
    for line in lines[1:]:
        header = _HEADER.fullmatch(line)
        if header is None:
            raise DialError(
                f"the answer of {sender} to the opening handshake has a malformed header: {line[:100]!r}"
            )
        headers[header[1].decode("ascii")] = header[2].decode("latin-1")
    return Response(int(status[1]), (status[2] or b"").decode("latin-1"), headers)


def _not_http(received: bytes, sender: str = "the peer", advice: str = "check host and port") -> DialError:
    if received[:1] in (b"\x15", b"\x16"):
        advice = "it may speak TLS: try wss://"
    return DialError(
        f"{sender} does not answer in HTTP/1.1; expected a status line, found {received[:40]!r}; {advice}"
    )


def _first(response: Response, name: str) -> str | None:
    """The header's first value: asking the library for the only one raises where a peer repeats it."""
    return next(iter(response.headers.get_all(name)), None)


def _content_length(response: Response) -> int:
    """Bytes of body to wait for; without a length, until the peer closes."""
    values = response.headers.get_all("Content-Length")
    if len(set(values)) == 1 and re.fullmatch(r"[0-9]{1,18}", values[0]):
        return int(values[0])
    return MAX_BODY


def _unchunk(body: bytes) -> bytes:
    """The chunks that have arrived, as far as they are well formed."""
    whole = bytearray()
    while match := re.match(rb"([0-9A-Fa-f]{1,8})[^\r\n]*\r\n", body):
        size = int(match[1], 16)
        whole += body[match.end() : match.end() + size]
        body = body[match.end() + size + 2 :]
        if not size:
            break
    return bytes(whole)
