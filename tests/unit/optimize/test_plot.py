"""The plot of forms: throughput and latency over batch size."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

from celeriac.optimize.plot import svg


def line(name: str, verdict: str, **predict_ms: float) -> Any:
    times = {int(size[1:]): ms for size, ms in predict_ms.items()}
    return SimpleNamespace(name=name, verdict=verdict, predict_ms=times)


def test_both_panels_have_all_that_was_measured() -> None:
    drawn = svg([
        line("original", "original", b1=1.0, b32=10.0),
        line("a <b>", "winner", b1=0.1, b32=1.0),
        line("wrong", "differs", b1=0.1, b32=1.0),
        line("broken", "failed"),
    ], "m@1")
    root = ElementTree.fromstring(drawn)
    texts = [text.text for text in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"items/s", "ms for a batch", "items in a batch", "1", "32"} <= {*texts}
    assert {"original", "a <b> (winner)", "wrong (differs)"} <= {*texts}
    assert "broken" not in texts
    assert drawn.count("<circle") == 2 * 3 * 2


def test_faster_is_higher_in_one_and_lower_in_the_other() -> None:
    drawn = svg([line("slow", "original", b1=10.0), line("fast", "winner", b1=0.1)], "m@1")
    heights = [float(y) for y in re.findall(r'<circle cx="[\d.]+" cy="([\d.]+)"', drawn)]
    slow_rate, fast_rate, slow_ms, fast_ms = heights
    assert fast_rate < slow_rate  # y counts from the top
    assert fast_ms > slow_ms
