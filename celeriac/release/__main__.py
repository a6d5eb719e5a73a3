"""``python -m celeriac.release ROOT NAME VERSION``: the process that checks a version.

What is wanted comes as JSON on stdin (``options``, ``champion`` to measure beside, ``factor``), the
result leaves as JSON on stdout.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from celeriac import errors
from celeriac.registry.store import Registry
from celeriac.release.aside import answer_with
from celeriac.release.latency import compare, measure
from celeriac.runtimes import LoadOptions
from celeriac.scoring import Scorer


def main(arguments: Sequence[str]) -> int:
    """The checking process."""
    root, name, version = arguments
    return answer_with(
        lambda wanted: _check(Registry(Path(root)), name, int(version), wanted),
        told=lambda error: errors.PromotionRefused(
            f"{name}@{version}: checking it raised {errors.told(error)}"
        ),
    )


def _check(registry: Registry, name: str, version: int, wanted: dict[str, Any]) -> dict[str, Any]:
    options = LoadOptions(**wanted["options"])
    scorer = Scorer.load(registry, name, version, options)
    scorer.check_golden()
    if not scorer.manifest.golden or _is_elsewhere(scorer, options):
        return {"ok": True}
    champion = _champion(registry, name, wanted["champion"], options)
    if champion is None:
        return {"ok": True, "latency": asdict(measure([scorer])[0])}
    new, old = compare(scorer, champion, wanted["factor"])
    return {"ok": True, "latency": asdict(new), "champion": asdict(old)}


def _champion(
    registry: Registry, name: str, version: int | None, options: LoadOptions
) -> Scorer | None:
    """The champion, if it can be loaded here: one that cannot must not keep another from coming."""
    if version is None:
        return None
    try:
        champion = Scorer.load(registry, name, version, options)
    except errors.CeleriacError as error:
        sys.stderr.write(f"champion not measured: {error.message}\n")
        return None
    return champion if champion.manifest.golden and not _is_elsewhere(champion, options) else None


def _is_elsewhere(scorer: Scorer, options: LoadOptions) -> bool:
    """True if it runs on a GPU, and this process has none: its times here say nothing."""
    return scorer.manifest.device == "gpu" and options.device == "cpu"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
