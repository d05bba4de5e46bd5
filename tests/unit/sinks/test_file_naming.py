"""Names from messages as parts of a path: nothing escapes, nothing collides, everything can be read back."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from jetsocket_ingest.sink import SinkUnavailable
from jetsocket_ingest.testing.sink_support import Chunks
from jetsocket_sinks.file.naming import PART_BYTES, STEM_BYTES, PathTemplate, safe_part
from jetsocket_sinks.file.part import Name, parse_temporary
from tests.support.aio import run
from tests.unit.sinks.files import Surroundings, batch_of, finished, lines

HOSTILE = [
    *(
        "..",
        ".",
        "...",
        "",
        "/",
        "//",
        "/etc/passwd",
        "../../etc/passwd",
        "a/../../b",
        "\\..\\",
        "~root",
        "-rf",
        " ",
    ),
    *(
        "\x00",
        "a\x00b",
        "\n",
        "\r\n",
        "\x1b[2J",
        "\x7f",
        "\x85",
        "\u202e",
        "\u2028",
        "%",
        "%2E",
        "%00",
        "%none",
        "%2F",
    ),
    *(
        "a" * 255,
        "a" * 256,
        "ä" * 200,
        "🚀" * 100,
        ".x.open",
        "con",
        "a:b",
        "*",
        "?",
        "$HOME",
        "`id`",
        "'",
        '"',
    ),
    *("\ud800", "e\u0301", "é", "a.gaps.jsonl", "x-20261123T075023Z-00000000000000000001"),
]
names = st.one_of(
    st.none(), st.sampled_from(HOSTILE), st.text(), st.text(alphabet="./%\\\x00a", max_size=300)
)


@settings(max_examples=1000)
@given(names, names)
def test_no_name_leads_outside_its_folder(stream: str | None, connection: str | None) -> None:
    template = PathTemplate("data/<stream>/<connection>-<stream>/<stream><connection>.jsonl")
    place = template.place({"stream": stream, "connection": connection})
    for part in (*place.folders, place.stem):
        assert part not in ("", ".", "..")
        assert "/" not in part
        assert part.isprintable()
        assert not part.startswith(".")
        assert len(part.encode()) <= PART_BYTES
    temporary = Name(place.stem, "20261123T075023Z", 2**63, ".jsonl.zst").temporary("length_prefixed", "gzip")
    assert len(temporary.encode()) <= PART_BYTES
    assert template.folder_pattern(0).fullmatch(place.folders[0])


@settings(max_examples=500)
@given(names, names)
def test_different_values_have_different_names(one: str | None, other: str | None) -> None:
    template = PathTemplate("<stream>.jsonl")
    same = template.place({"stream": one}) == template.place({"stream": other})
    assert same == (one == other)


@settings(max_examples=1000)
@given(st.text(min_size=1))
def test_an_escaped_value_can_be_read_back(value: str) -> None:
    assert unquote_to_bytes(safe_part(value).encode()) == value.encode("utf-8", "surrogatepass")


@pytest.mark.parametrize("plain", ["btcusdt@trade", "BTC-USD", "a.b", "Ωmega", "with space", "a:b", "x..y"])
def test_a_harmless_value_stands_as_it_is(plain: str) -> None:
    assert safe_part(plain) == plain


def test_a_long_name_is_cut_and_told_apart_by_a_digest() -> None:
    template = PathTemplate("<stream>.jsonl")
    one, other = (template.place({"stream": "ä" * 200 + end}).stem for end in "ab")
    assert one != other
    assert max(len(one.encode()), len(other.encode())) <= STEM_BYTES
    assert one.startswith("ää")


@settings(max_examples=300)
@given(
    st.text(alphabet="ab-.2Z%", min_size=1, max_size=30),
    st.integers(0, 2**64),
    st.sampled_from(["", ".a.zst"]),
)
def test_a_temporary_tells_its_name(stem: str, position: int, extension: str) -> None:
    name = Name(stem, "20261123T075023Z", position, extension)
    leftover = parse_temporary(name.temporary("length_prefixed", "zstd"))
    assert leftover is not None
    assert leftover.name == name
    assert (leftover.framing, leftover.codec) == ("length_prefixed", "zstd")


@pytest.mark.parametrize(
    ("text", "root", "extension", "depth"),
    [
        ("ticks.jsonl", ".", ".jsonl", 0),
        ("data/ticks.jsonl.zst", "data", ".jsonl.zst", 0),
        ("/var/lib/x/<stream>/<received.date>/ticks.jsonl", "/var/lib/x", ".jsonl", 2),
        ("/<stream>.bin", "/", ".bin", 0),
        ("../out/<stream>/fixed/a", "../out", "", 2),
        ("data/v1.2-<stream>", "data", "", 0),
        ("data/<<stream>>/x.y.z.txt", "data/<stream>", ".z.txt", 0),
        ("data/<stream>//./x.txt", "data", ".txt", 1),
    ],
)
def test_a_path_is_cut_at_its_first_placeholder(text: str, root: str, extension: str, depth: int) -> None:
    template = PathTemplate(text)
    assert (template.root, template.extension, template.depth) == (root, extension, depth)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("data/", "ends in the name of a file"),
        ("", "ends in the name of a file"),
        ("data/..", "ends in the name of a file"),
        ("data/.hidden", "without a leading dot"),
        ("data/.<stream>", "without a leading dot"),
        ("data/<stream>/../x.jsonl", "no '..' after the first placeholder"),
        ("a\0b", "NUL"),
        ("x" * 200, "at most 75 bytes"),
    ],
)
def test_a_path_that_cannot_work_is_refused(path: str, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Surroundings().options(path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"framing": "length_prefixed"}, "goes with encoding: raw only"),
        (
            {"path": "a.zst", "compression": "gzip"},
            r"ends in \.zst, which says zstd, but compression is gzip",
        ),
        ({"path": "a.gz", "compression": "none"}, r"ends in \.gz"),
        ({"level": 3}, "needs a compression"),
        ({"compression": "gzip", "level": 10}, "expected 1 to 9, found 10"),
        ({"compression": "zstd", "level": 0}, "expected 1 to 19, found 0"),
        ({"file_mode": "888"}, "pattern"),
        ({"rotate": {"records": 0}}, "greater than or equal to 1"),
        ({"max_open_files": 1}, "greater than or equal to 2"),
    ],
)
def test_options_that_contradict_each_other_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Surroundings().options(**{"path": "a.jsonl", **options})  # type: ignore[arg-type]  (wrong on purpose)


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(names, min_size=1, max_size=50, unique=True), st.integers(0, 2**60))
def test_hostile_names_on_a_real_disk_stay_below_the_root(
    tmp_path: Path, streams: list[str | None], salt: int
) -> None:
    root = tmp_path / f"{salt}-{os.urandom(4).hex()}" / "root"
    surroundings = Surroundings()
    writer = surroundings.writer(root / "<stream>" / "<stream>.txt", encoding="raw", max_open_files=16)
    writer.open()
    payloads = [f"{index}".encode() for index in range(len(streams))]
    writer.write(batch_of(Chunks(), *payloads, streams=streams.__getitem__))
    writer.close()
    assert [path.name for path in root.parent.iterdir()] == ["root"]
    files = finished(root)
    assert sorted(line for path in files for line in lines(path)) == sorted(payloads)
    assert len(files) == len(streams), "one file for each stream"
    assert all(path.parent.parent == root for path in files)


@pytest.mark.parametrize("dangling", [True, False])
def test_a_link_below_the_root_is_not_followed(tmp_path: Path, dangling: bool) -> None:
    outside = tmp_path / "outside"
    if not dangling:
        outside.mkdir()
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "evil").symlink_to(outside)

    async def scenario() -> None:
        sink = Surroundings().sink(tmp_path / "root" / "<stream>" / "ticks.jsonl")
        await sink.open()
        with pytest.raises(
            Exception, match="links below the fixed part of the path are not followed"
        ) as caught:
            await sink.write(batch_of(Chunks(), b"{}", streams=lambda _: "evil"))
        assert not isinstance(caught.value, SinkUnavailable)
        await sink.write(batch_of(Chunks(), b"{}", streams=lambda _: "good"))
        await sink.close()

    run(scenario())
    assert not dangling or not outside.exists()
    assert dangling or list(outside.iterdir()) == []
    assert len(finished(tmp_path / "root" / "good")) == 1


def test_the_root_itself_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "big-disk").mkdir()
    (tmp_path / "data").symlink_to(tmp_path / "big-disk")
    writer = Surroundings().writer(tmp_path / "data" / "ticks.jsonl")
    writer.open()
    writer.write(batch_of(Chunks(), b"{}"))
    writer.close()
    assert len(finished(tmp_path / "big-disk")) == 1
