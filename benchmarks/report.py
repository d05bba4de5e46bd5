"""Writes docs/performance.md from benchmarks/results/latest.json: `python -m benchmarks.report > docs/performance.md`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results" / "latest.json"

TEXT = """\
# Performance

<!-- Written by `python -m benchmarks.report` from benchmarks/results/latest.json. -->

What matters is CPU time a message: on one core it decides both how much a pipeline can take and what it costs while it
is idle. Each row below sets the whole program beside the **floor**: the least that native parts can do the same work
with (a bare picows loop; the same with a plain write of each read's lines; the same with librdkafka and a delivery
report for each message). Both take turns in one run on one core, fed by pre-encoded messages from another core.

| scenario | CPU µs a message | floor | ratio | messages/s | floor |
|---|---|---|---|---|---|
{rows}

Measured {date} with `{command}`: {messages:,} JSON messages of 200 bytes over {streams} streams, one connection, memory
buffer, median of {rounds} rounds; Python {python}, {versions}; {cores} cores, shared with other work, so compare
the ratios and not the times. The figure of a round is the difference between a long and a short run, so start-up and
shutdown are not in it. A run whose counts are not exact prints no figure.

Why a ratio can be below 1: the floor takes each message through a Python callback of picows, as its users do. Our default
engine cuts all frames of a read in one loop.

## What it costs, and what to do about it

- Kafka headers: most of the difference between the two Kafka rows is inside librdkafka, which copies each header.
  `headers: none` halves the CPU time; the envelope encoding carries the same facts in the value.
- Reading fields (`data.stream`, `event_time`, `sequence`) decodes a whole read at once into just these fields. A message
  that is not an object on one line, or an answer among data, sends its read down a slower road, message by message.
- `encoding: raw` writes what came. The envelope costs a JSON check and the joining of text for each record.
- More streams to a path (`path: "<stream>.jsonl"`) mean more open files: keep them below `max_open_files`.
"""


def write(results: dict[str, Any]) -> str:
    rows = "\n".join(
        f"| {row['scenario']} | {row['cpu_us']:.2f} | {row['floor_us']:.2f} | **{row['ratio']:.2f}** "
        f"| {row['per_second']:,} | {row['floor_per_second']:,} |"
        for row in results["rows"]
    )
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    return TEXT.format(**{**results, "rows": rows, "versions": versions, "streams": 100})


if __name__ == "__main__":
    print(write(json.loads(RESULTS.read_text())), end="")
