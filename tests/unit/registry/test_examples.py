"""Examples of inputs, read from files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from celeriac import errors
from celeriac.release import importing
from celeriac.release.examples import read_examples
from workers.cli.models import read_labels


def test_a_line_of_json_ends_with_a_line_feed_alone(tmp_path: Path) -> None:
    """Texts hold other line breaks of Unicode as they are."""
    texts = ["one\u2028two", "one\u0085two", "one\x1ctwo"]
    path = tmp_path / "examples.jsonl"
    lines = [json.dumps(text, ensure_ascii=False) for text in texts]
    path.write_text("\r\n".join([*lines, ""]), encoding="utf-8", newline="")
    assert read_examples(path, "text", None) == texts


@pytest.mark.parametrize(("text", "labels"), [
    ("0,1, -2", [0, 1, -2]), ("00,01,10", ["00", "01", "10"]), ("01,1", ["01", "1"]),
    ("-0,1", ["-0", "1"]), ("a,1", ["a", "1"]),
])
def test_labels_of_a_command_line(text: str, labels: list[object]) -> None:
    assert read_labels(text) == labels


def test_a_table_without_the_column_of_texts(tmp_path: Path) -> None:
    path = tmp_path / "examples.csv"
    path.write_text("id,review\n1,Delicious\n")
    with pytest.raises(errors.RequestError, match=r"no column 'text'.*--text-column.*id, review"):
        read_examples(path, "text", None)
    path.write_text("a,b\n1,2\n")
    assert read_examples(path, "text", None).tolist() == [[1, 2]]


def test_an_import_that_runs_out_of_memory_says_what_gives_it_more() -> None:
    assert "--memory-mb" in importing._told(MemoryError()).message
    assert "ValueError" in importing._told(ValueError("x")).message
