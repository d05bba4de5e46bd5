"""One input of `make fuzz`, under atheris: `python -m tests.fuzz.target [libFuzzer's options] [corpus or input]`.

The first byte of an input says how the rest is played, the second how it is cut.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["jetsocket_ingest.net"]):
    from tests.fuzz.harness import DEFLATE, ENGINES, Outcome, Plan, play, play_answer

KINDS = list(DEFLATE)
LIMITS = [125, 4096]

_loop = asyncio.new_event_loop()


def encode(answer: bool, plan: Plan, data: bytes) -> bytes:
    """An input that is played so."""
    how = answer | KINDS.index(plan.deflate) << 1 | plan.glued << 3 | plan.pausing << 4 | plan.late << 5
    return bytes((how | LIMITS.index(plan.limit) << 6, plan.step)) + data


def decode(given: bytes) -> tuple[bool, Plan, bytes]:
    how, step = given[0], given[1]
    plan = Plan(
        deflate=KINDS[how >> 1 & 3],
        glued=bool(how & 8),
        pausing=bool(how & 16),
        late=bool(how & 32),
        limit=LIMITS[how >> 6 & 1],
        step=step,
    )
    return bool(how & 1), plan, given[2:]


async def play_both(given: bytes) -> None:
    """Play it through both engines, which must agree."""
    answer, plan, data = decode(given)
    outcomes: list[Outcome] = []
    for engine in ENGINES:
        outcomes.append(await (play_answer if answer else play)(engine, data, plan))  # noqa: PERF401  (clearer)
    assert outcomes[0].agrees_with(outcomes[1]), outcomes


def one(given: bytes) -> None:
    if len(given) >= 2:
        _loop.run_until_complete(play_both(given))


def write_seeds(folder: Path) -> None:
    """The valid streams and answers, for the fuzzer to start from."""
    from tests.fuzz.streams import ANSWERS, CLOSES, GOOD_PACKED, GOOD_STREAM, PACKED, PLAIN

    seeds = [encode(True, Plan(kind), answer) for answer in ANSWERS for kind in ("off", "context")]
    for stream in (*PLAIN, *CLOSES, GOOD_STREAM):
        seeds += [encode(False, Plan("off"), stream), encode(False, Plan("off", step=3), stream)]
    for stream in (*PACKED, GOOD_PACKED):
        seeds += [encode(False, Plan(kind), stream) for kind in KINDS[1:]]
    folder.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(seeds):
        (folder / f"seed-{number:03}").write_bytes(seed)


if __name__ == "__main__":
    atheris.Setup(sys.argv, one)
    atheris.Fuzz()
