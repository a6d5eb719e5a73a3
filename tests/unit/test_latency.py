"""A version that is much slower than the champion is refused, with figures, unless it is forced."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from celeriac import errors, release
from celeriac.registry.store import Registry
from celeriac.release import checking
from celeriac.release.latency import Latency, too_slow
from celeriac.settings import Settings


def latency(one_ms: float, batch_ms: float, batch_items: int = 32) -> Latency:
    return Latency(one_ms=one_ms, batch_ms=batch_ms, batch_items=batch_items)


@pytest.mark.parametrize(
    ("new", "old", "says"),
    [
        (latency(3, 30), latency(2, 20), ""),
        (latency(9, 30), latency(2, 20), "one item takes 9 ms, and 2 ms with the champion"),
        (latency(3, 90), latency(2, 20), "a batch of 32 takes 90 ms, and 20 ms with the champion"),
        (latency(0.9, 0.9), latency(0.01, 0.01), ""),  # nobody waits for that
        (latency(3, 20, 8), latency(2, 80), ""),  # smaller batches: by what an item takes
        (latency(3, 60, 8), latency(2, 80),
         "a batch of 8 takes 60 ms, and 20 ms with the champion"),
    ],
)
def test_what_is_too_slow(new: Latency, old: Latency, says: str) -> None:
    assert too_slow(new, old, 2.0) == says


def test_a_slow_version_is_promoted_by_force_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry, settings = Registry(tmp_path), Settings()
    for _ in range(2):
        release.register("m", "echo", examples=["a"], registry=registry)
    registry.aliases("m").promote(1, expected=None, who="ann", why="")
    new, old = latency(90, 900), latency(20, 200)

    def measured(*_: object, **__: object) -> dict[str, Any]:
        return {"latency": asdict(new), "champion": asdict(old)}

    monkeypatch.setattr(checking, "run_aside", measured)
    with pytest.raises(errors.PromotionRefused, match=(
        r"m@2 is slower than the champion by more than 2 times: one item takes 90 ms, and 20 ms "
        r"with the champion; a batch of 32 .*--force.*max_slowdown"
    )):
        release.promote(registry, "m@2", settings=settings, who="ann")
    assert registry.aliases("m").read() == {"champion": 1}
    assert release.promote(registry, "m@2", settings=settings, who="ann", force=True)["changed"]
    moves = {move.alias: move for move in registry.aliases("m").history()}
    assert moves["champion"].metrics == new.figures()
