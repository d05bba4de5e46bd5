"""`${…}` in parsed scalars."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from jetsocket_ingest.config.document import Keys
from jetsocket_ingest.config.interpolate import MAX_FILE_BYTES, expand, interpolate
from jetsocket_ingest.config.types import Interpolated, Secret, current
from jetsocket_ingest.errors import OperatorError

ENVIRON = {"NAME": "value", "EMPTY": "", "YAML": "{a: [1]}", "NESTED": "${NAME}"}


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("${NAME}", "value"),
        ("a-${NAME}-${NAME}-b", "a-value-value-b"),
        ("${UNSET:-fallback}", "fallback"),
        ("${UNSET:-}", ""),
        ("${EMPTY:-fallback}", "fallback"),
        ("${EMPTY}", ""),
        ("${NAME:-fallback}", "value"),
        ("$${NAME}", "${NAME}"),
        ("$$${NAME}", "$${NAME}"),
        ("$NAME $", "$NAME $"),
        ("${YAML}", "{a: [1]}"),
        ("${NESTED}", "${NAME}"),
    ],
)
def test_references_are_replaced_by_text_that_is_never_parsed(text: str, result: str) -> None:
    assert expand(text, ENVIRON) == result


@pytest.mark.parametrize(
    "text", ["${", "${NAME", "${}", "${A B}", "${1}", "${A-b}", "${file:}", "${A:-${B}}", "${A:?x}"]
)
def test_what_looks_like_a_reference_and_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        expand(text, ENVIRON)


def test_an_unset_variable_is_reported_with_its_place_and_the_rest_goes_on() -> None:
    found: list[tuple[Keys, str]] = []
    tree: Any = {"a": ["${UNSET}", "${NAME}"], "b": {"c": "${"}, "d": 5}
    result = interpolate(tree, ENVIRON, lambda keys, message: found.append((keys, message)))
    assert [keys for keys, _ in found] == [("a", 0), ("b", "c")]
    assert "the variable UNSET is not set" in found[0][1]
    assert result["a"][1] == "value"
    assert result["d"] == 5


def test_a_secret_file_loses_one_newline_and_is_read_again_at_each_reveal(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_bytes(b"one\n\n")
    text = expand(f"Bearer ${{file:{file}}}", {})
    secret = Secret(text)
    assert secret.reveal() == "Bearer one\n"
    file.write_bytes(b"two\r\n")
    assert secret.reveal() == "Bearer two"
    assert current(text) == "Bearer two"
    assert text == "Bearer one\n"
    file.unlink()
    with pytest.raises(OperatorError, match="No such file"):
        secret.reveal()


def test_unreadable_files_are_told_in_words(tmp_path: Path) -> None:
    binary, large = tmp_path / "binary", tmp_path / "large"
    binary.write_bytes(b"\xff")
    large.write_bytes(b"x" * (MAX_FILE_BYTES + 1))
    for path, words in (
        (tmp_path, "not a file"),
        (binary, "UTF-8"),
        (large, "1 MiB"),
        (tmp_path / "no", "No such"),
    ):
        with pytest.raises(OperatorError, match=words):
            expand(f"${{file:{path}}}", {})


def test_interpolated_text_shows_as_it_was_written() -> None:
    text = expand("a-${NAME}", ENVIRON)
    assert isinstance(text, Interpolated)
    assert repr(text) == "'a-${NAME}'"
    assert "value" not in repr([text])
