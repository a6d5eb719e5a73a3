"""From a model's answer to a sentiment: a number from -1 (as bad as can be) to 1."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from celeriac import errors
from celeriac.messages import Prediction
from celeriac.registry.manifest import OutputSchema

POSITIVE = ("positive", "pos", "good", "great", "fresh", "happy", "like", "love")
"""Labels that need no explanation."""


class Sentiment(msgspec.Struct, frozen=True, kw_only=True):
    """How one review sounds."""

    sentiment: float
    """-1 to 1: twice the probability of the positive label, minus 1."""
    label: Any
    probability: float
    """Of that label."""
    model: str
    version: int


def check_review(text: Any) -> str:
    """``text`` itself. Raises InvalidItem unless it is a text with something in it."""
    if not isinstance(text, str):
        raise errors.InvalidItem(f"a review is a text, not {type(text).__name__}")
    if not text.strip():
        raise errors.InvalidItem("the review is empty: there is nothing to be judged")
    return text


def checked(text: Any) -> str | errors.InvalidItem:
    """As :func:`check_review`, with the error as the answer: one of many harms no other."""
    try:
        return check_review(text)
    except errors.InvalidItem as error:
        return error


def positive_label(output: OutputSchema, wanted: str | None, model: str) -> Any:
    """The positive one of a model's two labels: ``wanted``, or the one that we know.

    Raises RequestError if the model cannot tell sentiments, or it is not clear which label it is.
    """
    if output.kind != "classifier" or output.outputs != 1 or not output.probabilities:
        raise errors.RequestError(
            f"model {model!r} gives no probabilities of labels; sentiments need a classifier of "
            "two labels that does"
        )
    labels = output.labels
    if len(labels) != 2:
        raise errors.RequestError(
            f"model {model!r} has {len(labels)} labels; sentiments need one of two labels"
        )
    found = [one for one in labels if _is(one, [wanted] if wanted is not None else POSITIVE)]
    if len(found) != 1:
        shown = " or ".join(repr(one) for one in labels)
        said = f"has no label {wanted!r}" if wanted is not None else "does not say which is good"
        raise errors.RequestError(
            f"model {model!r} {said}: name the positive label, {shown} (`positive`)"
        )
    return found[0]


def sentiment_of(prediction: Prediction, positive: Any) -> Sentiment:
    """The sentiment that a prediction stands for. ``positive`` is one of the model's two labels.

    Raises WorkerError for an answer without a probability.
    """
    probability = prediction.probability
    if not isinstance(probability, (int, float)):
        raise errors.WorkerError(
            f"{prediction.model}@{prediction.version} answered without a probability"
        )
    sign = 1 if prediction.label == positive else -1
    return Sentiment(
        sentiment=sign * (2.0 * probability - 1.0), label=prediction.label,
        probability=float(probability), model=prediction.model, version=prediction.version,
    )


def _is(label: Any, names: Sequence[str]) -> bool:
    return str(label).lower() in [name.lower() for name in names]
