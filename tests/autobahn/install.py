"""Gets the test suite, which runs on Python 2.7 only, into a folder of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

SUITE = "autobahntestsuite==0.8.2"
VIRTUALENV = "virtualenv==20.21.1"  # the last line of releases that makes environments of Python 2.7

_IS_27 = "import ssl, sys, zlib; sys.exit(sys.version_info[:2] != (2, 7))"


class Unavailable(Exception):
    """The suite cannot be had here. The message says why and what to do."""


def install(home: Path) -> Path:
    """Python 2.7 with the suite, below `home`; made at the first call. Raises Unavailable."""
    python = home / "py27" / "bin" / "python"
    done = home / "py27" / f".installed-{SUITE}"
    if done.exists():
        return python
    python27 = find_python27(os.environ)
    tools = home / "tools"
    print(f"Installing {SUITE} into {home} ...", flush=True)
    _run("make an environment", [sys.executable, "-m", "venv", str(tools)])
    _run("install virtualenv", [*_pip(tools / "bin" / "python"), VIRTUALENV])
    _run(
        "make an environment of Python 2.7",
        [
            str(tools / "bin" / "python"),
            *("-m", "virtualenv", "-q", "--no-periodic-update", "-p"),
            python27,
            str(home / "py27"),
        ],
    )
    _run("install the suite", [*_pip(python), SUITE])
    done.touch()
    return python


def find_python27(environ: Mapping[str, str]) -> str:
    """A Python 2.7 that runs and has ssl and zlib: from PATH, or from pyenv. Raises Unavailable."""
    for candidate in _candidates(environ):
        try:
            found = subprocess.run([candidate, "-c", _IS_27], capture_output=True, timeout=30, check=False)
        except (OSError, subprocess.TimeoutExpired):
            continue
        if found.returncode == 0:
            return candidate
    raise Unavailable(
        "The Autobahn test suite runs on Python 2.7 only. Expected a python2.7 with ssl and zlib on PATH or below "
        "$PYENV_ROOT/versions (~/.pyenv/versions), found none. Install one (`pyenv install 2.7.18`; on Debian 11 and "
        "older, `apt install python2.7`) and run this again."
    )


def _candidates(environ: Mapping[str, str]) -> Iterator[str]:
    # On PATH it may be a shim of pyenv that only says that it is not the version chosen.
    on_path = shutil.which("python2.7", path=environ.get("PATH", ""))
    if on_path is not None:
        yield on_path
    home = Path(environ["HOME"]) if "HOME" in environ else Path.home()
    root = Path(environ.get("PYENV_ROOT") or home / ".pyenv")
    yield from sorted(map(str, root.glob("versions/2.7*/bin/python2.7")), reverse=True)


def _pip(python: Path) -> list[str]:
    return [str(python), "-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check"]


def _run(what: str, command: list[str]) -> None:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode != 0:
        raise Unavailable(
            f"The Autobahn test suite cannot be installed: could not {what} (exit code {done.returncode}).\n"
            f"{' '.join(command)}\n{done.stdout.strip()}\n"
            "It needs a package index that can be reached, and a C compiler."
        )
