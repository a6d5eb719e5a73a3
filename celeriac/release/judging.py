"""Champion and challenger on the newest labelled rows, in a process of its own.

``python -m celeriac.release.judging ROOT NAME`` is that process.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from celeriac import errors
from celeriac.drift import features
from celeriac.drift.adaptation import Compared, Figure
from celeriac.drift.dataset import newest
from celeriac.drift.performance import is_known, labels_of, performance
from celeriac.registry.store import Registry
from celeriac.release.aside import answer_with, run_aside
from celeriac.runtimes import LoadOptions
from celeriac.scoring import Scorer
from celeriac.settings import Settings
from celeriac.settings.adapt import AdaptSettings

LEAST_SHARE = 0.5
"""Of the held-out rows must have a label and an answer, or nothing is said."""
MOST_LOST = 0.01
"""Of the rows, that the champion answers and a challenger does not."""


def judge(  # noqa: PLR0913 - two versions, and on what
    registry: Registry, name: str, champion: int, challenger: int, *, rule: AdaptSettings,
    settings: Settings,
) -> Compared:
    """Have both versions answer the newest ``rule.held_out_rows`` rows of ``rule.labelled``.

    Raises DatasetError if the rows cannot be read or too few are labelled, RegistryError and its
    kinds if a version cannot be loaded, PromotionRefused if the challenger leaves rows without an
    answer that the champion answers, or the process crashes or takes longer than
    ``rule.judge_timeout_s``.
    """
    wanted = {
        "options": asdict(LoadOptions.of(settings)), "champion": champion,
        "challenger": challenger, "rule": rule.model_dump(mode="json"),
    }
    what = f"{name}@{challenger} beside {name}@{champion}"
    found = run_aside(
        "celeriac.release.judging", [str(registry.root.absolute()), name], wanted,
        timeout_s=rule.judge_timeout_s, kind=errors.PromotionRefused,
        what=f"{what}: the process that compared them",
        late=f"{what}: comparing them on {rule.held_out_rows:,} rows took longer than "
        f"{rule.judge_timeout_s:g} s (judge_timeout_s)",
    )
    return msgspec.convert(found["compared"], Compared)


def main(arguments: Sequence[str]) -> int:
    """The process that compares."""
    root, name = arguments
    return answer_with(
        lambda wanted: _compare(Registry(Path(root)), name, wanted),
        told=lambda error: errors.PromotionRefused(
            f"{name}: comparing champion and challenger raised {errors.told(error)}"
        ),
    )


def _compare(registry: Registry, name: str, wanted: dict[str, Any]) -> Iterator[dict[str, Any]]:
    rule = AdaptSettings.model_validate(wanted["rule"])
    options = LoadOptions(**wanted["options"])
    versions = [wanted["champion"], wanted["challenger"]]
    manifests = [registry.get(name, version) for version in versions]
    sampled = newest(
        rule.labelled, manifests, rule.held_out_rows, rule.text_column, rule.label
    )
    scorers = [Scorer.load(registry, name, version, options) for version in versions]
    answers = [
        features.of_answers(one.score_table(sampled.table, rule.text_column).columns)
        for one in scorers
    ]
    truth = _of_both(sampled.table[rule.label].to_pylist(), scorers, answers)
    (old, old_right), (new, new_right) = (
        _measured(scorer, given, truth, rule)
        for scorer, given in zip(scorers, answers, strict=True)
    )
    accuracies = (old_right, new_right) if old_right and new_right else None
    compared = Compared(champion=old, challenger=new, accuracies=accuracies)
    yield {"compared": msgspec.to_builtins(compared)}


def _of_both(
    truth: list[Any], scorers: Sequence[Scorer], answers: Sequence[features.Features]
) -> list[Any]:
    """The truth of the rows that both answer, None elsewhere: who leaves out what is hard would
    seem to be better. Raises PromotionRefused if the challenger leaves out too much."""
    has_old, has_new = (_answered(one, len(truth)) for one in answers)
    lost = int((has_old & ~has_new).sum())
    if lost > MOST_LOST * len(truth):
        champion, challenger = (one.ref for one in scorers)
        raise errors.PromotionRefused(
            f"{challenger} has no answer to {lost:,} of the newest {len(truth):,} rows that "
            f"{champion} answers"
        )
    both = (has_old & has_new).tolist()
    return [value if is_there else None for value, is_there in zip(truth, both, strict=True)]


def _answered(answers: features.Features, rows: int) -> np.ndarray[Any, Any]:
    given = answers.get("prediction")
    if given is None:
        return np.zeros(rows, dtype=bool)
    return np.array([is_known(value) for value in given.values.tolist()], dtype=bool)


def _measured(
    scorer: Scorer, answers: features.Features, truth: list[Any], rule: AdaptSettings
) -> tuple[Figure, Figure | None]:
    """By the best measure, and by the share of right answers if that is another one."""
    labels = labels_of(scorer.manifest.output)
    found = performance(answers, truth, labels)
    rows = found.rows if found is not None else 0
    if found is None or rows < max(2, LEAST_SHARE * rule.held_out_rows):
        raise errors.DatasetError(
            f"{rule.labelled}: of its newest {len(truth):,} rows {rows:,} have a {rule.label!r} "
            f"and an answer of both versions; comparing takes half of {rule.held_out_rows:,} "
            "(held_out_rows)"
        )
    if found.measure != "AUC":
        return Figure.of(found), None
    right = performance({"prediction": answers["prediction"]}, truth, labels)
    return Figure.of(found), Figure.of(right) if right is not None else None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
