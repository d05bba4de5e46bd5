"""The page of figures says what the committed results say."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.report import RESULTS, write

PAGE = Path(__file__).parents[2] / "docs" / "performance.md"


def test_the_page_is_the_one_that_the_results_make() -> None:
    assert PAGE.read_text() == write(json.loads(RESULTS.read_text()))
