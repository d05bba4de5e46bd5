"""Mistakes in the config or on the command line: each told with its place, exit code 2, and no socket opened."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.aio import run
from tests.support.program import program, without_root_rights

GOOD = """\
version: 1
name: test
endpoints:
  feed: {url: "ws://127.0.0.1:1/all"}
subscriptions:
  all: {endpoint: feed, sinks: [out]}
sinks:
  out: {type: discard}
"""

TEN_MISTAKES = """\
version: 2
name: Wrong Name
endpoints:
  feed:
    url: https://127.0.0.1:1/all
    max_message_size: 4 parsecs
    ping: {every: 20}
    pools: {max_connections: 1}
    session: {subscribe: {via: carrier-pigeon}}
subscriptions:
  all: {endpoint: fed, sinks: [out, nowhere]}
sinks:
  out: {type: discrad}
shutdown_timeout: ${NO_SUCH_VARIABLE}
on_failure: panic
on_failure: stop
"""


def refused(
    folder: Path,
    text: str | bytes | None,
    *arguments: str,
    command: str = "run",
    prefix: tuple[str, ...] = (),
) -> str:
    """What it says to a config that cannot work; the exit code must be 2."""

    async def main() -> str:
        path = folder / "bad.yaml"
        if text is not None:
            path.write_bytes(text if isinstance(text, bytes) else text.encode())
        async with program(command, path, *arguments, prefix=prefix) as running:
            assert await running.exit() == 2, running.stderr
            assert running.events == []
            return running.stderr

    return run(main())


def test_ten_mistakes_are_told_at_once_each_with_its_line_and_column(tmp_path: Path) -> None:
    told = refused(tmp_path, TEN_MISTAKES)
    path = tmp_path / "bad.yaml"
    for place in (
        "1:10",
        "2:7",
        "5:10",
        "6:23",
        "7:19",
        "8:5",
        "9:32",
        "11:19",
        "11:37",
        "15:13",
        "13:15",
        "14:19",
        "16:1",
    ):
        assert f"{path}:{place}: " in told, f"{place} is missing in\n{told}"
    assert told.splitlines()[-1].endswith("problems found.")
    assert "did you mean pool" in told
    assert "discard" in told
    assert "NO_SUCH_VARIABLE" in told


@pytest.mark.parametrize("command", ["run", pytest.param("validate", marks=pytest.mark.slow)])
def test_a_wrong_scheme_is_told_with_its_place(tmp_path: Path, command: str) -> None:
    told = refused(tmp_path, GOOD.replace("ws://", "http://"), command=command)
    assert f"{tmp_path}/bad.yaml:4:15: " in told
    assert "expected an address that begins with wss://, ws:// or demo://, found the scheme http://" in told


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    assert "No such file or directory" in refused(tmp_path, None)


@pytest.mark.slow
def test_a_folder_in_place_of_the_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").mkdir()
    assert "is a directory" in refused(tmp_path, None)


@pytest.mark.slow
def test_an_unreadable_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").touch(mode=0)
    assert "is not readable" in refused(tmp_path, None, prefix=without_root_rights())


def test_an_unset_variable_is_told_with_its_place(tmp_path: Path) -> None:
    told = refused(tmp_path, GOOD.replace('"ws://127.0.0.1:1/all"', '"${THE_FEED_URL}"'))
    assert f"{tmp_path}/bad.yaml:4:15: " in told
    assert "THE_FEED_URL" in told


@pytest.mark.slow
def test_bytes_that_are_no_text_are_told(tmp_path: Path) -> None:
    assert "UTF-8" in refused(tmp_path, b"version: \xff\xfe1\n")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--max-records", "0"), "0 is not in the range"),
        (("--max-records", "many"), "'many' is not a valid integer"),
        (("--duration", "30"), "expected a duration"),
        (("--duration", "0s"), "expected a duration above zero"),
        (("--speed", "11"), "No such option"),
    ],
)
@pytest.mark.slow
def test_a_wrong_flag_is_told(tmp_path: Path, arguments: tuple[str, ...], told: str) -> None:
    assert told in refused(tmp_path, GOOD, *arguments)


@pytest.mark.slow
def test_a_secret_never_shows_in_what_is_said_of_its_place(tmp_path: Path) -> None:
    text = GOOD.replace(
        'url: "ws://127.0.0.1:1/all"',
        'url: "ws://127.0.0.1:1/all", headers: {Authorization: [s3cr3t-canary]}',
    )
    assert "s3cr3t-canary" not in refused(tmp_path, text)


@pytest.mark.slow
@pytest.mark.parametrize("command", ["run", "validate"])
def test_demo_parameters_that_cannot_be_are_told_with_their_place(tmp_path: Path, command: str) -> None:
    text = GOOD.replace("ws://127.0.0.1:1/all", "demo://feed/all?rate=fast&colour=red")
    told = refused(tmp_path, text, command=command)
    assert told.count(f"{tmp_path}/bad.yaml:4:15: endpoints.feed.url: ") == 2
    assert "'fast'" in told
    assert "'colour'" in told


@pytest.mark.slow
def test_a_certificate_authority_that_is_not_there_is_told_with_its_endpoint(tmp_path: Path) -> None:
    endpoint = 'url: "wss://127.0.0.1:1/all", tls: {ca_file: /nowhere/ca.pem}'
    path = tmp_path / "bad.yaml"
    path.write_text(GOOD.replace('url: "ws://127.0.0.1:1/all"', endpoint))

    async def main() -> None:
        async with program("run", path) as running:
            assert await running.exit() == 1
            assert "cannot start: endpoints.feed.tls.ca_file: cannot read /nowhere/ca.pem" in running.stderr

    run(main())


@pytest.mark.slow
def test_more_streams_than_the_pool_holds_is_told(tmp_path: Path) -> None:
    text = GOOD.replace(
        '{url: "ws://127.0.0.1:1/all"}',
        '{url: "ws://127.0.0.1:1", pool: {max_connections: 1}, session: {subscribe: {via: url, path: /ws/<stream>}}}',
    ).replace("endpoint: feed,", "endpoint: feed, streams: [a, b],")
    told = refused(tmp_path, text)
    assert f"{tmp_path}/bad.yaml:4:" in told
    assert "2 connections are needed, one for each stream, and the pool holds 1" in told
