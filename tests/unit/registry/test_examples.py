"""Examples of inputs, read from files."""

from __future__ import annotations

import json
from pathlib import Path

from celeriac.release.examples import read_examples


def test_a_line_of_json_ends_with_a_line_feed_alone(tmp_path: Path) -> None:
    """Texts hold other line breaks of Unicode as they are."""
    texts = ["one\u2028two", "one\u0085two", "one\x1ctwo"]
    path = tmp_path / "examples.jsonl"
    lines = [json.dumps(text, ensure_ascii=False) for text in texts]
    path.write_text("\r\n".join([*lines, ""]), encoding="utf-8", newline="")
    assert read_examples(path, "text", None) == texts
