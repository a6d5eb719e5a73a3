"""What reviewers say, as labels of the predictions behind it: so that accuracy and drift know."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from celeriac import errors
from celeriac.applications.moderation.decision import Asked, scores_of
from celeriac.applications.moderation.policy import Policy
from celeriac.applications.moderation.reviews import Label
from celeriac.logs import get_logger
from celeriac.messages import Prediction
from celeriac.registry.catalogue import ModelInfo
from producer.applications.moderation.asking import Outcome
from producer.feedback import Feedbacks

log = get_logger(__name__)


def behind(
    asked: Asked, outcomes: Iterable[Outcome], policy: Policy
) -> dict[tuple[str, str], Prediction]:
    """The prediction that gave each part and category its score: of several, the worst."""
    found: dict[tuple[str, str], tuple[float, Prediction]] = {}
    for question, outcome in zip(asked.questions, outcomes, strict=True):
        if not isinstance(outcome, Prediction):
            continue
        for name, score in scores_of(question, outcome, policy):
            known = found.get((question.part, name))
            if known is None or score > known[0]:
                found[question.part, name] = score, outcome
    return {key: prediction for key, (_, prediction) in found.items()}


def ids_of(
    predictions: Mapping[tuple[str, str], Prediction], feedbacks: Feedbacks, tenant: str
) -> dict[str, str]:
    """By ``PART CATEGORY``; empty if ids cannot be made now: a review matters more."""
    try:
        return {
            f"{part} {category}": feedbacks.id_of(prediction, tenant)
            for (part, category), prediction in predictions.items()
        }
    except errors.CeleriacError as error:
        log.warning("a review without ids of its predictions", problem=error.message)
        return {}


def belongs(label: Label) -> dict[str, bool]:
    """What is sure by a label: does ``PART CATEGORY`` belong to its category?

    Of an allowed post nothing does, unless it is named. Of a blocked one what is named does, and
    what is not named does not; nothing is sure if nothing is named. Of several parts of one
    category nobody said which it is.
    """
    keys = list(label.review.predictions)
    if label.decision == "block" and not label.categories:
        return {}
    parts: dict[str, int] = {}
    for key in keys:
        category = key.split(" ", 1)[1]
        parts[category] = parts.get(category, 0) + 1
    found = {}
    for key in keys:
        category = key.split(" ", 1)[1]
        if category not in label.categories:
            found[key] = False
        elif parts[category] == 1:
            found[key] = True
    return found


def give(
    label: Label, policy: Policy, models: Mapping[str, ModelInfo], feedbacks: Feedbacks,
    timeout_s: float,
) -> int:
    """Tell which predictions were right; how many were told. What cannot be told is logged."""
    count = 0
    for key, is_so in belongs(label).items():
        category = policy.categories.get(key.split(" ", 1)[1])
        truth = None if category is None else _truth(
            category.label, is_so, _labels(key, label, models)
        )
        if truth is None:
            continue
        try:
            feedbacks.give(
                label.review.predictions[key], truth, timeout_s=timeout_s,
                tenant=label.review.record.tenant,
            )
            count += 1
        except errors.CeleriacError as error:  # too old, or Redis has forgotten: no harm
            log.warning("a label was not counted", decision=label.id, problem=error.message)
    return count


def _labels(key: str, label: Label, models: Mapping[str, ModelInfo]) -> Sequence[Any]:
    part, category = key.split(" ", 1)
    for score in label.review.record.scores:
        if (score.part, score.category) == (part, category):
            name, _, version = score.model.partition("@")
            info = models.get(name)
            found = info.versions.get(int(version)) if info else None
            return found.output.labels if found else ()
    return ()


def _truth(ours: Any, is_so: bool, labels: Sequence[Any]) -> Any:
    """The label that is right; None if that is not known: of several others it could be any."""
    if is_so:
        return ours
    others = [label for label in labels if label != ours]
    return others[0] if len(others) == 1 else None
