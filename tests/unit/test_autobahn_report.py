"""The Autobahn runner: verdicts are summed up, explained, kept between runs and written down; the client echoes."""

from __future__ import annotations

import asyncio
import itertools
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from jetsocket_ingest.net.engines import dial_for
from tests.autobahn import __main__ as command
from tests.autobahn.campaign import Campaign, releases
from tests.autobahn.client import ask, echo
from tests.autobahn.explanations import explain
from tests.autobahn.install import Unavailable, find_python27
from tests.autobahn.report import faults, page, reasons, table
from tests.autobahn.server import fuzzing_server
from tests.autobahn.suite import ENGINES, GROUPS, group_of, units
from tests.autobahn.verdicts import BadResults, Oddity, Results, UnitResult, judge
from tests.support.aio import run

STRANGE = Oddity("5.6", "FAILED", "FAILED", "OK", None, "Actual events differ.")
LATE = Oddity("6.4.1", "NON-STRICT", "NON-STRICT", "OK", 1007, "Actual events match.")


def report(behavior: str = "OK", close: str = "OK", **changes: Any) -> dict[str, Any]:
    told = {"behavior": behavior, "behaviorClose": close, "remoteCloseCode": 1000, "duration": 5}
    return {**told, "result": "As expected.", "resultClose": "Closed properly.", **changes}


def complete(**others: list[Oddity]) -> Results:
    """Every case OK, but for those named by engine."""
    results = Results({"websockets": "1.0"})
    for engine in ENGINES:
        by_unit = results.engines[engine] = {unit: UnitResult(0, [], "2026-01-02") for unit in units()}
        for one in others.get(engine, []):
            by_unit[group_of(one.case)].others.append(one)
        for group, (_, number) in GROUPS.items():
            first = next(unit for unit in by_unit if group_of(unit) == group)
            by_unit[first].ok = number - len(by_unit[first].others)
    return results


# Verdicts --------------------------------------------------------------------------------------------------------


def test_a_case_counts_with_the_worse_of_its_two_judgements() -> None:
    reports = {
        "7.1.1": report(),
        "7.1.2": report("OK", "UNCLEAN"),
        "7.1.3": report("NON-STRICT", "OK"),
        "7.1.4": report("NON-STRICT", "WRONG CODE"),
        "7.1.5": report("INFORMATIONAL", "INFORMATIONAL"),
        "7.1.6": report("UNIMPLEMENTED", "OK"),
    }
    result = judge(reports, "2026-01-02")
    assert result.ok == 1
    assert {one.case: one.verdict for one in result.others} == {
        "7.1.2": "FAILED",
        "7.1.3": "NON-STRICT",
        "7.1.4": "FAILED",
        "7.1.5": "INFORMATIONAL",
        "7.1.6": "UNIMPLEMENTED",
    }


def test_an_odd_case_keeps_what_the_suite_said_in_the_order_of_numbers() -> None:
    result = judge(
        {"7.1.10": report("FAILED", remoteCloseCode=None), "7.1.9": report("FAILED")}, "2026-01-02"
    )
    assert [one.case for one in result.others] == ["7.1.9", "7.1.10"]
    assert result.others[1] == Oddity(
        "7.1.10", "FAILED", "FAILED", "OK", None, "As expected. Closed properly."
    )
    assert (result.day, result.seconds) == ("2026-01-02", 0.01)


def test_results_are_read_as_they_were_written(tmp_path: Path) -> None:
    results = complete(picows=[LATE])
    results.write(tmp_path / "new" / "results.json")
    assert Results.read(tmp_path / "new" / "results.json") == results


@pytest.mark.parametrize(
    "content", [None, "", "{}", "[]", '{"releases": {}, "engines": {"picows": {"1": {}}}}']
)
def test_a_file_without_results_is_named_with_what_to_do(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "results.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(BadResults, match=r"results\.json holds no results .*make autobahn"):
        Results.read(path)


def test_a_case_too_few_is_a_gap() -> None:
    results = complete()
    assert results.gaps() == []
    results.engines["picows"]["3"].ok -= 1
    del results.engines["websockets"]["13.7"], results.engines["websockets"]["10"]
    assert results.gaps() == ["websockets: group 10 has 0 of 1 cases", "picows: group 3 has 6 of 7 cases"]
    assert results.missing("websockets") == ["10", "13.7"]


# The page --------------------------------------------------------------------------------------------------------


def test_the_table_has_a_row_for_each_group_and_sums_them() -> None:
    lines = table(complete(picows=[STRANGE, LATE]), "picows").splitlines()
    assert lines[0] == "| group | cases | ok | non-strict | informational | unimplemented | failed |"
    assert "| 5 Fragmentation | 20 | 19 | 0 | 0 | 0 | 1 |" in lines
    assert "| 6 UTF-8 | 145 | 144 | 1 | 0 | 0 | 0 |" in lines
    assert lines[-1] == "| all | 517 | 515 | 1 | 0 | 0 | 1 |"
    assert len(lines) == 2 + len(GROUPS) + 1


def test_the_reason_of_a_case_is_told_once_for_both_engines() -> None:
    late = [Oddity(f"6.4.{part}", "NON-STRICT", "NON-STRICT", "OK", 1007, "") for part in (1, 2)]
    rows = reasons(complete(websockets=late[:1], picows=late)).splitlines()
    assert len(rows) == 3
    assert rows[2].startswith("| 6.4.1, 6.4.2 (picows) | non-strict | ")
    assert reasons(complete()) == "None."


def test_a_case_without_a_reason_is_a_fault_and_stands_out_on_the_page() -> None:
    unknown = Oddity("12.1.1", "UNIMPLEMENTED", "UNIMPLEMENTED", "OK", 1000, "No compression.")
    results = complete()
    results.engines["picows"]["12.1"].others.append(unknown)
    assert faults(results) == ["picows: case 12.1.1 is UNIMPLEMENTED: No compression."]
    assert "**Unexplained.** No compression." in page(results)


def test_a_reason_does_not_hold_for_another_verdict_or_close_code() -> None:
    assert explain(LATE) is not None
    assert explain(Oddity("6.4.1", "FAILED", "FAILED", "OK", 1007, "")) is None
    assert explain(Oddity("6.4.1", "NON-STRICT", "NON-STRICT", "OK", 1002, "")) is None


def test_a_failed_case_is_a_fault_and_a_non_strict_one_is_not() -> None:
    assert faults(complete(websockets=[LATE], picows=[STRANGE])) == [
        "picows: case 5.6 is FAILED: Actual events differ."
    ]


def test_the_units_are_the_groups_or_all_of_their_subgroups() -> None:
    assert [group for group, _ in itertools.groupby(units(), group_of)] == list(GROUPS)
    assert len(set(units())) == len(units())
    assert sum(number for _, number in GROUPS.values()) == 517


def test_the_committed_results_are_complete_without_fault_and_the_page_tells_them() -> None:
    results = Results.read(command.RESULTS)
    assert results.gaps() == []
    assert faults(results) == []
    assert command.PAGE.read_text() == page(results)


# Running ---------------------------------------------------------------------------------------------------------


def program(path: Path, body: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


def test_a_python_on_the_path_that_does_not_run_is_passed_over(tmp_path: Path) -> None:
    program(tmp_path / "bin" / "python2.7", "exit 127")
    program(tmp_path / "pyenv" / "versions" / "2.7.9" / "bin" / "python2.7", "exit 1")
    good = program(tmp_path / "pyenv" / "versions" / "2.7.18" / "bin" / "python2.7", "exit 0")
    environ = {"PATH": str(tmp_path / "bin"), "PYENV_ROOT": str(tmp_path / "pyenv")}
    assert find_python27(environ) == str(good)


def test_a_python_on_the_path_comes_first(tmp_path: Path) -> None:
    good = program(tmp_path / "bin" / "python2.7", "exit 0")
    program(tmp_path / ".pyenv" / "versions" / "2.7.18" / "bin" / "python2.7", "exit 0")
    assert find_python27({"PATH": str(tmp_path / "bin"), "HOME": str(tmp_path)}) == str(good)


def test_without_python_27_the_command_says_so_and_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "HOME", tmp_path / "home")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    with pytest.raises(Unavailable):
        find_python27({"PATH": str(tmp_path), "PYENV_ROOT": str(tmp_path)})
    assert command.main([]) == command.BAD
    told = capsys.readouterr().err
    assert "Python 2.7" in told
    assert "pyenv install" in told
    assert not (tmp_path / "home").exists()


def test_a_server_that_does_not_start_is_told_with_its_log(tmp_path: Path) -> None:
    async def main() -> None:
        with pytest.raises(RuntimeError, match="autobahntestsuite"):
            async with fuzzing_server(Path(sys.executable), tmp_path, "1.*"):
                pass

    run(main())


def test_a_run_goes_on_with_what_is_missing(tmp_path: Path) -> None:
    kept = Results(releases(), {"picows": complete().engines["picows"]})
    kept.write(tmp_path / "progress-picows.json")
    campaign = Campaign(tmp_path, Path("/nowhere"), lambda line: None)
    # There is no server to run: it would fail if anything began.
    assert run(campaign.run("picows", time.monotonic() + 60)) is True
    assert run(campaign.run("websockets", time.monotonic() - 1)) is False
    assert campaign.results(ENGINES).engines == kept.engines


def test_results_of_other_releases_are_not_gone_on_with(tmp_path: Path) -> None:
    Results({**releases(), "picows": "0.1"}, complete().engines).write(tmp_path / "progress-picows.json")
    campaign = Campaign(tmp_path, Path("/nowhere"), lambda line: None)
    assert campaign.results(("picows",)).engines == {}


# The client ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ENGINES)
def test_the_client_echoes_each_message_with_its_type_over_compression(engine: Any) -> None:
    sent: list[str | bytes] = ["grüß", b"\x00\xff", "", b"", "x" * 100_000]
    echoed: list[str | bytes] = []
    extensions: list[str] = []

    async def fuzz(socket: ServerConnection) -> None:
        extensions.extend(extension.name for extension in socket.protocol.extensions)
        for message in sent:
            await socket.send(message)
            echoed.append(await socket.recv())
        await socket.close(4000, "enough")

    async def main() -> None:
        async with serve(fuzz, "127.0.0.1", 0) as server:
            assert await echo(dial_for(engine), url_of(server), 10) == (4000, "enough")

    run(main())
    assert echoed == sent
    assert extensions == ["permessage-deflate"]


def test_what_the_server_says_is_read_as_json() -> None:
    async def tell(socket: ServerConnection) -> None:
        await socket.send("[16]")

    async def main() -> None:
        async with serve(tell, "127.0.0.1", 0) as server:
            assert await ask(dial_for("websockets"), url_of(server), 10) == [16]

    run(main())


def test_a_server_that_never_closes_is_left_after_the_timeout() -> None:
    async def main() -> None:
        left = asyncio.Event()

        async def hang(socket: ServerConnection) -> None:
            try:
                await socket.recv()
            except ConnectionClosed:
                left.set()

        async with serve(hang, "127.0.0.1", 0) as server:
            with pytest.raises(TimeoutError):
                await echo(dial_for("websockets"), url_of(server), 0.2)
            await left.wait()

    run(main())


def url_of(server: Any) -> str:
    return f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
