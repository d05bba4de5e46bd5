"""Records as envelope JSON: one object a record, on one line, with the payload as it came."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import repeat
from typing import Any

import msgspec

from jetsocket_ingest.sink.record import Chunk, Kind

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# `Raw` makes msgspec check a document without building it. `decode_lines` would be one call for all payloads, but it
# takes `1 2` for two documents, so that payloads could shift against each other; one strict call each costs as much
# as the comparison that would find this out.
_check_json = msgspec.json.Decoder(msgspec.Raw).decode


class EnvelopeEncoder:
    """Turns chunks into envelopes.

    Keys, in this order: `kind`, `pipeline`, `subscription`, `stream`, `connection`, `received`, `event_time`,
    `sequence`, `position`, and `payload` or `payload_base64`. Times are ISO 8601 in UTC with nanoseconds. A payload
    that is valid JSON stands as it came, byte for byte, save for line breaks between its tokens, which are left out;
    any other text becomes a JSON string; what is not text becomes `payload_base64`. JSON nested deeper than the
    interpreter's recursion limit (about 1,000 levels), or with half a surrogate pair in it, counts as other text.
    """

    def __init__(self, pipeline: str) -> None:
        self._pipeline = json_text(pipeline)

    def encode(self, chunk: Chunk) -> list[bytes]:
        """One JSON object for each record, without a line break."""
        key, values = _payload_column(chunk)
        return [head + value + b"}" for head, value in zip(self._heads(chunk, key), values, strict=True)]

    def encode_lines(self, chunk: Chunk) -> bytes:
        """The same objects, each ended by a line feed."""
        key, values = _payload_column(chunk)
        parts = [b"}\n"] * (3 * len(values))
        parts[0::3] = self._heads(chunk, key)
        parts[1::3] = values
        return b"".join(parts)

    def _heads(self, chunk: Chunk, payload_key: bytes) -> list[bytes]:
        """Everything before the payload, rendered as far as possible once for the chunk or once for a stream."""
        timed = chunk.event_times_ns is not None or chunk.sequences is not None
        start = b'{"kind":"%b","pipeline":%b,"subscription":%b,"stream":' % (
            chunk.kind.value.encode(),
            self._pipeline,
            json_text(chunk.subscription),
        )
        rest = b',"connection":%b,"received":%b,"event_time":' % (
            json_text(chunk.connection),
            _json_time(chunk.received_ns),
        )
        start, rest, payload_key = (part.replace(b"%", b"%%") for part in (start, rest, payload_key))
        rest += b'%b,"sequence":%b,"position":%d,' if timed else b'null,"sequence":null,"position":%d,'
        rest += payload_key
        positions = range(chunk.first_position, chunk.first_position + len(chunk))
        templates = {
            stream: start + (b"null" if stream is None else json_text(stream).replace(b"%", b"%%")) + rest
            for stream in set(chunk.streams)
        }
        if timed:
            columns = zip(chunk.streams, _times(chunk), _numbers(chunk), positions, strict=True)
            return [
                templates[stream] % (time, number, position) for stream, time, number, position in columns
            ]
        if len(templates) == 1:
            return list(map(templates.popitem()[1].__mod__, positions))
        return [
            templates[stream] % position for stream, position in zip(chunk.streams, positions, strict=True)
        ]


def marker_payload(kind: Kind, facts: Mapping[str, Any]) -> bytes:
    """The payload of a marker: a JSON object on one line with its `kind` first, then the facts."""
    content = {"kind": kind.value, **facts}
    try:
        return msgspec.json.encode(content)
    except UnicodeEncodeError:  # half a surrogate pair, as in the text of an error about a file name
        return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def json_text(text: str) -> bytes:
    """A JSON string. What UTF-8 cannot express (half a surrogate pair) becomes a question mark."""
    try:
        return msgspec.json.encode(text)
    except UnicodeEncodeError:
        return msgspec.json.encode(text.encode("utf-8", "replace").decode())


def _payload_column(chunk: Chunk) -> tuple[bytes, list[bytes]]:
    """Key and JSON value of each payload; the key is empty where each value had to bring its own."""
    if chunk.binary:
        return b'"payload_base64":', [b'"%b"' % b64encode(payload) for payload in chunk.payloads]
    text = b"\n".join(chunk.payloads)
    if (
        text.count(b"\n") == len(chunk) - 1
        and b"\r" not in text
        and _is_utf8(text)
        and _all_json(chunk.payloads)
    ):
        return b'"payload":', chunk.payloads
    return b"", list(map(_payload_member, chunk.payloads))


def _payload_member(payload: bytes) -> bytes:
    if not _is_utf8(payload):
        return b'"payload_base64":"%b"' % b64encode(payload)
    if _all_json((payload,)):
        # A line break inside valid JSON can only stand between tokens, where nothing is needed.
        return b'"payload":' + payload.translate(None, b"\r\n")
    return b'"payload":' + msgspec.json.encode(payload.decode())


def _is_utf8(payload: bytes) -> bool:
    if payload.isascii():
        return True
    try:
        payload.decode()
    except UnicodeDecodeError:
        return False
    return True


def _all_json(payloads: Iterable[bytes]) -> bool:
    try:
        for _ in map(_check_json, payloads):
            pass
    except (msgspec.DecodeError, RecursionError):
        return False
    return True


def _times(chunk: Chunk) -> Iterable[bytes]:
    return (
        repeat(b"null", len(chunk)) if chunk.event_times_ns is None else map(_json_time, chunk.event_times_ns)
    )


def _numbers(chunk: Chunk) -> Iterable[bytes]:
    if chunk.sequences is None:
        return repeat(b"null", len(chunk))
    return (b"null" if number is None else b"%d" % number for number in chunk.sequences)


def _json_time(time_ns: int | None) -> bytes:
    """A JSON string such as "2026-11-23T07:50:23.123456789Z"; null for no time, or one outside the years 1 to 9999."""
    if time_ns is None:
        return b"null"
    seconds, fraction = divmod(time_ns, 1_000_000_000)
    try:
        return b'"%b.%09dZ"' % (_iso_second(seconds), fraction)
    except OverflowError:
        return b"null"


@lru_cache(maxsize=1024)
def _iso_second(seconds: int) -> bytes:
    return (_EPOCH + timedelta(seconds=seconds)).isoformat()[:19].encode()
