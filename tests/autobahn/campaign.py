"""Runs an engine through the units that it has not run, each against a server of its own."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Literal

from jetsocket_ingest.errors import DialError
from jetsocket_ingest.net.engines import dial_for
from jetsocket_ingest.net.transport import Dial
from tests.autobahn.client import ask, echo
from tests.autobahn.install import SUITE
from tests.autobahn.server import fuzzing_server
from tests.autobahn.suite import units
from tests.autobahn.verdicts import Results, UnitResult, judge

CASE_TIMEOUT = 600.0
"""Seconds for a case; the suite itself gives up after at most 480."""
ASK_TIMEOUT = 60.0

Say = Callable[[str], None]


class Campaign:
    """Both engines, every unit; what has run is kept below `home` until all has.

    Args:
        home: the suite's folder, with its Python in it.
        say: told what goes on, a line at a time.
    """

    def __init__(self, home: Path, python: Path, say: Say) -> None:
        self._home = home
        self._python = python
        self._say = say

    def results(self, engines: tuple[str, ...]) -> Results:
        """What has run so far, of these engines."""
        merged = Results(releases())
        for engine in engines:
            merged.engines |= self._progress(engine).engines
        return merged

    def forget(self, engines: tuple[str, ...]) -> None:
        """Let the next run begin anew."""
        for engine in engines:
            self._path(engine).unlink(missing_ok=True)

    async def run(self, engine: Literal["websockets", "picows"], deadline: float) -> bool:
        """Run what is missing; False where `deadline`, on the monotonic clock, came before the end of it.

        A unit that has begun is run to its end. Each is stored once it has run.
        """
        progress = self._progress(engine)
        missing = progress.missing(engine)
        for unit in missing:
            if time.monotonic() >= deadline:
                return False
            result = await self._run_unit(engine, dial_for(engine), unit)
            progress.engines.setdefault(engine, {})[unit] = result
            progress.write(self._path(engine))
            odd = "".join(f"; {one.case} {one.verdict}" for one in result.others)
            self._say(f"{engine}: group {unit} ({len(units())} in all): {result.ok} OK{odd}")
        return True

    async def _run_unit(self, engine: str, dial: Dial, unit: str) -> UnitResult:
        folder = self._home / "runs" / engine / unit
        async with fuzzing_server(self._python, folder, f"{unit}.*") as server:
            count = await ask(dial, f"{server.url}/getCaseCount", ASK_TIMEOUT)
            assert isinstance(count, int)
            assert count > 0, f"the suite has no cases {unit}.*"
            for case in range(1, count + 1):
                which = f"case={case}&agent={engine}"
                try:
                    await echo(dial, f"{server.url}/runCase?{which}", CASE_TIMEOUT)
                except (DialError, TimeoutError) as error:
                    # The suite judges that as a failure; what we saw of it helps to find out why.
                    self._say(f"{engine}: case {case} of group {unit}: {error or 'no end in sight'}")
                # Answered once the case is judged, which may be after we saw its end.
                await ask(dial, f"{server.url}/getCaseStatus?{which}", ASK_TIMEOUT)
            await ask(dial, f"{server.url}/updateReports?agent={engine}", ASK_TIMEOUT)
            verdicts = server.verdicts(engine)
        assert len(verdicts) == count, f"{count} cases ran in group {unit}, {len(verdicts)} were judged"
        return judge(verdicts, datetime.now(UTC).date().isoformat())

    def _path(self, engine: str) -> Path:
        return self._home / f"progress-{engine}.json"

    def _progress(self, engine: str) -> Results:
        """What has run with the releases that are installed now; other results would not tell of these."""
        path = self._path(engine)
        found = Results.read(path) if path.exists() else None
        return found if found is not None and found.releases == releases() else Results(releases())


def releases() -> dict[str, str]:
    """What is tested, with what."""
    name, _, version = SUITE.partition("==")
    return {name: version} | {
        name: metadata.version(name) for name in ("jetsocket-ingest", "websockets", "picows")
    }
