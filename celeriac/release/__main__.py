"""``python -m celeriac.release ROOT NAME VERSION``: the process that checks a version.

What is wanted comes as JSON on stdin (``options``; ``measure``, and if so ``champion`` to measure
beside and ``factor``), the result leaves as JSON on stdout.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from celeriac import errors
from celeriac.registry.store import Registry
from celeriac.release.aside import answer_with
from celeriac.release.latency import compare, measure
from celeriac.runtimes import LoadOptions
from celeriac.scoring import Scorer

ALONE_S = 0.2
"""For each size, before the champion is loaded."""


def main(arguments: Sequence[str]) -> int:
    """The checking process."""
    root, name, version = arguments
    return answer_with(
        lambda wanted: _check(Registry(Path(root)), name, int(version), wanted),
        told=lambda error: errors.PromotionRefused(
            f"{name}@{version}: checking it raised {errors.told(error)}"
        ),
    )


def _check(
    registry: Registry, name: str, version: int, wanted: dict[str, Any]
) -> Iterator[dict[str, Any] | None]:
    options = LoadOptions(**wanted["options"])
    scorer = Scorer.load(registry, name, version, options)
    scorer.check_golden()
    if not wanted["measure"] or not scorer.manifest.golden or _is_elsewhere(scorer, options):
        yield {"ok": True}
        return
    if wanted["champion"] is None:
        yield {"ok": True, "latency": asdict(measure([scorer])[0])}
        return
    old = f"{name}@{wanted['champion']}"
    alone = {"ok": True, "latency": asdict(measure([scorer], ALONE_S)[0])}
    # A champion that is broken must not keep another from coming, whatever it does here.
    yield alone | {"uncompared": f"{old} crashed or hung when it was loaded beside it"}
    try:
        champion = _champion(registry, name, wanted["champion"], options)
    except Exception as error:  # noqa: BLE001 - whatever a model's code raises
        yield alone | {"uncompared": f"{old} cannot be tried: {errors.told(error)}"}
        return
    if champion is None:
        yield alone
        return
    yield None  # from here on a crash, or lost time, is no fault of the champion's
    new, before = compare(scorer, champion, wanted["factor"])
    yield {"ok": True, "latency": asdict(new), "champion": asdict(before)}


def _champion(
    registry: Registry, name: str, version: int, options: LoadOptions
) -> Scorer | None:
    """The champion, loaded and tried once; None if it cannot be measured here."""
    champion = Scorer.load(registry, name, version, options)
    if not champion.manifest.golden or _is_elsewhere(champion, options):
        return None
    measure([champion], 0)
    return champion


def _is_elsewhere(scorer: Scorer, options: LoadOptions) -> bool:
    """True if it runs on a GPU, and this process has none: its times here say nothing."""
    return scorer.manifest.device == "gpu" and options.device == "cpu"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
