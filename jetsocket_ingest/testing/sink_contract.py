"""What every sink must do, as tests: derive from `SinkContract` and pytest runs them on a sink of yours.

class TestMySink(SinkContract):
    def make_sink(self, place, context):
        return MySink(MySink.Options(type="mine", path=str(place)), context)

    def read_back(self, place):
        return place.joinpath("out").read_bytes().splitlines()
"""

from __future__ import annotations

import asyncio
import json
from abc import abstractmethod
from collections.abc import Coroutine, Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
from pydantic import BaseModel, ValidationError

from jetsocket_ingest.sink import Batch, Kind, Record, Sink, SinkContext, SinkUnavailable, marker_payload
from jetsocket_ingest.testing.sink_support import AWKWARD, Chunks, Delivery, check_envelope

DEADLINE = 30.0
"""Seconds that a single test may take."""


class SinkContract:
    """Tests for a sink. Override the hooks; `place` is an empty folder, a new one for each test."""

    encoding: ClassVar[Literal["envelope", "raw"]] = "envelope"
    """The form of output of the sink that `make_sink` makes."""
    keeps_records: ClassVar[bool] = True
    """False for a sink whose records cannot be read back: only `count_back` is asked then."""
    secrets: ClassVar[tuple[str, ...]] = ()
    """Texts that `make_sink` puts into secret options."""

    @abstractmethod
    def make_sink(self, place: Path, context: SinkContext) -> Sink[Any]:
        """A new sink that writes to `place`."""

    def read_back(self, place: Path) -> list[bytes]:
        """After `close`: each data record (with inline markers among them, for envelopes) as the sink stored it,
        without framing, in order."""
        raise NotImplementedError("read_back must be overridden where keeps_records is True")

    def read_markers(self, place: Path) -> list[bytes]:
        """After `close`: the payloads of markers, for raw encoding and a sink that handles markers."""
        raise NotImplementedError("read_markers must be overridden for a raw sink that handles markers")

    def count_back(self, sink: Sink[Any], place: Path) -> int:
        """After `close`: how many records the sink took."""
        return len(self.read_back(place))

    def rejects(self, record: Record) -> bool:
        """Whether the sink's form has no place for this record, so that it must call `context.reject`."""
        return False

    def broken(self, sink: Sink[Any], place: Path) -> AbstractContextManager[None]:
        """Within it, the destination takes nothing, and the sink must raise SinkUnavailable."""
        pytest.skip("this sink's destination cannot be broken: `broken` is not overridden")

    # Order, counts and content

    def test_records_arrive_in_order_and_unchanged(self, tmp_path: Path) -> None:
        chunks = Chunks()
        self._check(
            tmp_path,
            [
                Batch([chunks.make([b'{"a":1}', b'{"a":2}']), chunks.make([b'{"a":3}'])]),
                Batch([chunks.make([b'{"b":%d}' % number for number in range(50)], numbered=True)]),
                Batch([chunks.make([b'{"c":1}'] * 3, streams=lambda _: None)]),
            ],
        )

    def test_awkward_payloads_arrive_unchanged(self, tmp_path: Path) -> None:
        chunks = Chunks()
        self._check(tmp_path, [Batch([chunks.make([payload], binary=binary) for binary, payload in AWKWARD])])

    def test_awkward_payloads_do_not_disturb_their_neighbours(self, tmp_path: Path) -> None:
        chunks = Chunks()
        for_text = [payload for binary, payload in AWKWARD if not binary]
        for_binary = [payload for binary, payload in AWKWARD if binary]
        self._check(tmp_path, [Batch([chunks.make(for_text), chunks.make(for_binary, binary=True)])])

    def test_names_from_messages_arrive_unchanged(self, tmp_path: Path) -> None:
        names = [
            'quo"te',
            "back\\slash",
            "new\nline",
            "per%cent %s %d",
            "../..",
            "ΩΨ",
            "",
            None,
            "\x00",
            "a" * 300,
        ]
        self._check(tmp_path, [Batch([Chunks().make([b"{}"] * len(names), streams=names.__getitem__)])])

    def test_a_big_batch_arrives_whole(self, tmp_path: Path) -> None:
        chunks = Chunks()
        big = [
            chunks.make([b'{"n":%d,"fill":"%b"}' % (n, b"x" * 180) for n in range(1000)]) for _ in range(20)
        ]
        self._check(tmp_path, [Batch(big)])

    def test_many_small_batches_arrive_whole(self, tmp_path: Path) -> None:
        chunks = Chunks()
        self._check(tmp_path, [Batch([chunks.make([b"%d" % number])]) for number in range(300)])

    def test_markers_arrive(self, tmp_path: Path) -> None:
        chunks = Chunks()
        facts = {"from": "2026-11-23T07:50:23Z", "count": None, "reason": 'a "quoted"\nreason'}
        kinds = [Kind.CONNECT, Kind.DATA, Kind.GAP, Kind.DATA, Kind.DISCONNECT]
        batch = Batch(
            [
                chunks.make([b'{"x":1}' if kind is Kind.DATA else marker_payload(kind, facts)], kind=kind)
                for kind in kinds
            ]
        )
        sink, delivery = self._run(tmp_path, [batch])
        assert delivery.rejected == []
        if not self.keeps_records:
            assert self.count_back(sink, tmp_path) == len(kinds)
        elif self.encoding == "envelope":
            self._check_stored(tmp_path, list(batch.records()))
        elif sink.handles_markers:
            sent = list(batch.records())
            self._check_stored(tmp_path, [record for record in sent if record.kind is Kind.DATA])
            stored = [json.loads(payload) for payload in self.read_markers(tmp_path)]
            assert stored == [json.loads(record.payload) for record in sent if record.kind is not Kind.DATA]

    # Life

    def test_batches_are_delivered_in_the_order_of_their_writes(self, tmp_path: Path) -> None:
        chunks = Chunks()
        _, delivery = self._run(tmp_path, [Batch([chunks.make([b"{}"])]) for _ in range(20)])
        assert delivery.finished == list(range(20))

    def test_waiting_for_one_batch_can_be_cancelled_without_harm_to_others(self, tmp_path: Path) -> None:
        chunks = Chunks()
        delivery = Delivery()
        sink = self.make_sink(tmp_path, delivery.context())

        async def scenario() -> None:
            await sink.open()
            first = await sink.write(Batch([chunks.make([b'"first"'])]))
            second = await sink.write(Batch([chunks.make([b'"second"'])]))
            if first is not None:
                waiter = asyncio.ensure_future(first)
                waiter.cancel()
                await asyncio.gather(waiter, return_exceptions=True)
            await sink.flush()
            if second is not None:
                await second
            await sink.close()

        _run(scenario())
        assert self.count_back(sink, tmp_path) == 2

    def test_records_written_but_not_flushed_are_kept_by_close(self, tmp_path: Path) -> None:
        sink = self.make_sink(tmp_path, Delivery().context())

        async def scenario() -> None:
            await sink.open()
            awaitable = await sink.write(Batch([Chunks().make([b"{}"] * 7)]))
            await sink.close()
            if awaitable is not None:
                await awaitable

        _run(scenario())
        assert self.count_back(sink, tmp_path) == 7

    def test_a_sink_without_records_opens_flushes_and_closes(self, tmp_path: Path) -> None:
        sink, delivery = self._run(tmp_path, [])
        assert self.count_back(sink, tmp_path) == 0
        assert delivery.rejected == []

    def test_closing_twice_or_before_open_is_harmless(self, tmp_path: Path) -> None:
        async def scenario() -> None:
            never_opened = self.make_sink(tmp_path, Delivery().context())
            await never_opened.close()
            sink = self.make_sink(tmp_path, Delivery().context())
            await sink.open()
            await sink.close()
            await sink.close()

        _run(scenario())

    def test_after_a_failure_the_same_batches_are_written_once(self, tmp_path: Path) -> None:
        chunks = Chunks()
        before, after = (Batch([chunks.make([b'{"n":%d}' % n for n in range(400)])]) for _ in range(2))
        delivery = Delivery()
        sink = self.make_sink(tmp_path, delivery.context())

        async def scenario() -> None:
            await sink.open()
            await delivery.write_all(sink, [before])
            with self.broken(sink, tmp_path), pytest.raises(SinkUnavailable) as caught:
                await delivery.write_all(sink, [after])
            assert len(str(caught.value)) > 20, "the message says what happened and what to do"
            await delivery.write_all(sink, [after])
            await sink.close()

        try:
            _run(scenario())
        finally:
            _run(sink.close())
        self._check_stored(tmp_path, [*before.records(), *after.records()])

    # What people see

    def test_nothing_that_prints_shows_a_secret(self, tmp_path: Path) -> None:
        sink = self.make_sink(tmp_path, Delivery().context())
        shown = [sink.describe(), repr(sink), str(sink), repr(sink.options), str(sink.options)]
        shown.append(sink.options.model_dump_json())
        assert sink.describe().strip()
        assert [secret for secret in self.secrets for text in shown if secret in text] == []

    def test_an_unknown_option_is_refused(self, tmp_path: Path) -> None:
        sink = self.make_sink(tmp_path, Delivery().context())
        with pytest.raises(ValidationError, match="no_such_option"):
            type(sink.options).model_validate({"type": sink.options.type, "no_such_option": 1})

    def test_every_option_is_described(self, tmp_path: Path) -> None:
        sink = self.make_sink(tmp_path, Delivery().context())
        assert list(_undescribed(type(sink.options))) == []
        assert type(sink.options).model_json_schema()["properties"]
        assert type(sink.options) is sink.Options

    # Machinery

    def _run(self, place: Path, batches: list[Batch]) -> tuple[Sink[Any], Delivery]:
        delivery = Delivery()
        sink = self.make_sink(place, delivery.context())

        async def scenario() -> None:
            await sink.open()
            try:
                await delivery.write_all(sink, batches)
            finally:
                await sink.close()

        _run(scenario())
        return sink, delivery

    def _check(self, place: Path, batches: list[Batch]) -> None:
        sink, delivery = self._run(place, batches)
        sent = [record for batch in batches for record in batch.records()]
        kept = [record for record in sent if not self.rejects(record)]
        assert [record for record, _ in delivery.rejected] == [
            record for record in sent if self.rejects(record)
        ]
        assert all(reason.strip() for _, reason in delivery.rejected)
        if self.keeps_records:
            self._check_stored(place, kept)
        else:
            assert self.count_back(sink, place) == len(kept)

    def _check_stored(self, place: Path, sent: list[Record]) -> None:
        stored = self.read_back(place)
        assert len(stored) == len(sent)
        for got, record in zip(stored, sent, strict=True):
            if self.encoding == "raw":
                assert got == record.payload
            else:
                check_envelope(got, record)


def _undescribed(model: type[BaseModel], path: str = "") -> Iterable[str]:
    for name, info in model.model_fields.items():
        if not info.description:
            yield path + name
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            yield from _undescribed(info.annotation, f"{path}{name}.")


def _run(scenario: Coroutine[Any, Any, None]) -> None:
    async def main() -> None:
        async with asyncio.timeout(DEADLINE):
            await scenario

    asyncio.run(main())
