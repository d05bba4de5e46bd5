"""The documents are true: links lead somewhere, configs validate, commands exist, code runs, generated parts are in step."""

from __future__ import annotations

import os
import re
import sqlite3
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple

import click
import pytest
from click.testing import CliRunner

from jetsocket_ingest.app import load
from jetsocket_ingest.cli import main
from jetsocket_ingest.net.life import diagram

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
SINK_PAGE = ROOT / "docs" / "writing-a-sink.md"
PROGRAM = (sys.executable, "-c", "from jetsocket_ingest.cli import main; main(prog_name='jetsocket-ingest')")

FENCE = re.compile(r"^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
CODE_SPAN = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#{1,6} (.+)$", re.MULTILINE)
CALL = re.compile(r"^(?:\$ )?jetsocket-ingest((?: [\w./=-]+)*)", re.MULTILINE)
MAKE = re.compile(r"\bmake ([a-z][a-z-]+)")


class Block(NamedTuple):
    language: str
    text: str


def blocks(page: Path) -> list[Block]:
    return [Block(found["language"], found["text"]) for found in FENCE.finditer(page.read_text())]


def prose(page: Path) -> str:
    return FENCE.sub("", page.read_text())


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    seen: dict[str, int] = {}
    found = set()
    for heading in HEADING.findall(prose(page)):
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", text.lower()).strip().replace(" ", "-")
        count = seen.get(slug, 0)
        seen[slug] = count + 1
        found.add(f"{slug}-{count}" if count else slug)
    return found


def links(page: Path) -> list[str]:
    text = CODE_SPAN.sub("", prose(page))
    return [target for target in LINK.findall(text) if "://" not in target]


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_every_relative_link_and_anchor_resolves(page: Path) -> None:
    for target in links(page):
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{page.name} links to {target}: there is no such file"
        if anchor:
            assert anchor in anchors(file), f"{page.name} links to {target}: there is no such heading"


def test_every_page_can_be_reached_from_the_readme() -> None:
    reached: set[Path] = set()
    waiting = [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        if page not in reached:
            reached.add(page)
            waiting += [
                file
                for target in links(page)
                if (file := (page.parent / target.partition("#")[0]).resolve()).suffix == ".md"
            ]
    assert set(PAGES) <= reached


def whole_configs() -> list[tuple[Path, str]]:
    """Every YAML block that is a whole config, save the one whose sink must be installed first."""
    return [
        (page, block.text)
        for page in PAGES
        if page != SINK_PAGE
        for block in blocks(page)
        if block.language == "yaml" and re.search(r"^version:", block.text, re.MULTILINE)
    ]


def test_every_whole_config_in_the_documents_validates(tmp_path: Path) -> None:
    found = whole_configs()
    assert len(found) >= 2
    for page, text in found:
        file = tmp_path / f"{page.stem}.yaml"
        file.write_text(text)
        assert load(file, {}).warnings == []


def calls() -> Iterator[tuple[Path, list[str]]]:
    """(page, words after the program's name) of every call in code."""
    for page in PAGES:
        text = page.read_text()
        snippets = [block.text for block in blocks(page) if block.language in ("sh", "text")]
        snippets += CODE_SPAN.findall(FENCE.sub("", text))
        for snippet in snippets:
            for found in CALL.findall(snippet):
                yield page, found.split()


def test_every_command_and_option_in_the_documents_exists() -> None:
    checked = 0
    for page, words in calls():
        command: click.Command = main
        context = click.Context(main)
        for word in words:
            options = {name for parameter in command.get_params(context) for name in parameter.opts}
            options |= {
                name for parameter in command.get_params(context) for name in parameter.secondary_opts
            }
            if word.startswith("-"):
                assert word.partition("=")[0] in options, f"{page.name}: jetsocket-ingest {' '.join(words)}"
                checked += 1
            elif isinstance(command, click.Group):
                found = command.get_command(context, word)
                assert found is not None, f"{page.name}: jetsocket-ingest {' '.join(words)}"
                command, context = found, click.Context(found)
                checked += 1
    assert checked >= 20


def test_every_make_target_in_the_documents_exists() -> None:
    targets = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {
        (page.name, target)
        for page in PAGES
        for code in [*(block.text for block in blocks(page)), *CODE_SPAN.findall(prose(page))]
        for target in MAKE.findall(code)
    }
    assert {"run", "test"} <= {target for _, target in named}
    assert {(page, target) for page, target in named if target not in targets} == set()


def test_every_file_and_module_that_the_documents_name_in_the_source_exists() -> None:
    packages = {"jetsocket_ingest": ROOT, "jetsocket_sinks": ROOT / "sinks"}
    for page in PAGES:
        for code in CODE_SPAN.findall(prose(page)):
            for path in re.findall(
                r"^(?:jetsocket_ingest|sinks|tests|configs|deploy|benchmarks)/[\w./-]*$", code
            ):
                assert (ROOT / path).exists(), f"{page.name} names {path}"
            if found := re.fullmatch(r"(jetsocket_ingest|jetsocket_sinks)((?:\.[a-z_]+)+)", code):
                path = packages[found[1]] / found[1] / found[2][1:].replace(".", "/")
                known = path.is_dir() or path.with_suffix(".py").exists() or code == "jetsocket_ingest.sinks"
                assert known, f"{page.name} names {code}"


def test_the_state_diagram_is_the_one_of_the_code() -> None:
    page = (ROOT / "docs" / "connections.md").read_text()
    drawn = page.partition("<!-- state diagram: begin -->\n")[2].partition("<!-- state diagram: end -->")[0]
    assert drawn == f"```mermaid\n{diagram()}\n```\n"


def test_the_configuration_page_is_what_the_program_prints() -> None:
    printed = CliRunner().invoke(main, ["config", "reference"])
    assert printed.exit_code == 0
    assert (ROOT / "docs" / "configuration.md").read_text() == printed.output, "run: make docs-generated"


def programs() -> list[tuple[str, str]]:
    """(name, source) of every Python block that is a whole program."""
    found = [
        (page.name, block.text)
        for page in PAGES
        for block in blocks(page)
        if block.language == "python"
        and block.text.endswith(("asyncio.run(main())\n", "run_virtual(main())\n"))
    ]
    return [(f"{name}-{number}", text) for number, (name, text) in enumerate(found)]


@contextmanager
def demo_feed() -> Iterator[str]:
    """`jetsocket-ingest demo` on a free port; its address."""
    with subprocess.Popen(
        [*PROGRAM, "demo", "--port", "0", "--rate", "500", "--duration", "60"],
        stdout=subprocess.PIPE,
        text=True,
    ) as feed:
        try:
            assert feed.stdout is not None
            found = re.search(r"ws://127\.0\.0\.1:\d+", feed.stdout.readline())
            assert found is not None
            yield found[0]
        finally:
            feed.terminate()
            feed.communicate(timeout=20)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "source"), programs(), ids=lambda value: value if "-" in value[:40] else "")
def test_every_python_program_in_the_documents_runs(name: str, source: str) -> None:
    with demo_feed() as url:
        ran = subprocess.run(
            [sys.executable, "-W", "error", "-c", source.replace("ws://127.0.0.1:8765", url)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.strip()
    assert "Traceback" not in ran.stderr


@pytest.fixture(scope="module")
def sink_package(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """The package of writing-a-sink.md, built and installed: its folder, and an environment that sees it."""
    folder = tmp_path_factory.mktemp("jetsocket-sqlite")
    for block in blocks(SINK_PAGE):
        if found := re.match(r"# ([\w.]+)\n", block.text):
            (folder / found[1]).write_text(block.text)
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel"], cwd=folder, check=True, timeout=60
    )
    site = folder / "site"
    with zipfile.ZipFile(next((folder / "dist").glob("*.whl"))) as wheel:
        wheel.extractall(site)
    # Only the installed copy may be imported.
    (folder / "jetsocket_sqlite.py").unlink()
    return folder, {**os.environ, "PYTHONPATH": str(site)}


@pytest.mark.slow
def test_the_sink_of_the_documents_keeps_the_contract(sink_package: tuple[Path, dict[str, str]]) -> None:
    folder, environment = sink_package
    ran = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-W",
            "error",
            "-p",
            "no:cacheprovider",
            "--rootdir",
            ".",
            ".",
        ],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout
    assert "skipped" not in ran.stdout
    assert int(re.findall(r"(\d+) passed", ran.stdout)[0]) >= 15


@pytest.mark.slow
def test_the_sink_of_the_documents_works_in_a_pipeline(sink_package: tuple[Path, dict[str, str]]) -> None:
    folder, environment = sink_package
    arguments = ["run", "ticks.yaml", "--max-records", "100"]
    ran = subprocess.run(
        [*PROGRAM, *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert f"jetsocket-ingest {' '.join(arguments)}" in SINK_PAGE.read_text()
    with closing(sqlite3.connect(folder / "ticks.db")) as database:
        kinds = dict(database.execute("SELECT kind, count(*) FROM records GROUP BY kind"))
    assert kinds == {"connect": 1, "data": 100, "disconnect": 1}
    for what in ("schema", "reference"):
        told = subprocess.run(
            [*PROGRAM, "config", what], env=environment, capture_output=True, text=True, timeout=60
        )
        assert "lock_timeout" in told.stdout
