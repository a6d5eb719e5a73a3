"""Readings judged by a model: their values as its items, its answers as scores."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from celeriac import errors
from celeriac.applications.sensors.readings import Readings
from celeriac.messages import Prediction

Array = np.ndarray[Any, Any]


def items_of(readings: Readings) -> tuple[list[int], list[Any]]:
    """The readings without errors as items of a model, and their places."""
    places = [place for place in range(len(readings)) if place not in readings.errors]
    return places, [readings.values[place].tolist() for place in places]


def scores_of(
    readings: Readings, places: Sequence[int], outcomes: Sequence[Any], model: str
) -> Array:
    """A score for each reading, NaN where there is none; a reading that the model does not take
    gets its error. Raises RequestError if the model gives no numbers, and whatever is not the fault
    of single readings."""
    scores = np.full(len(readings), np.nan)
    for place, outcome in zip(places, outcomes, strict=True):
        if isinstance(outcome, errors.ItemError):
            readings.errors[place] = errors.InvalidItem(outcome.message)
        elif isinstance(outcome, Exception):
            raise outcome
        else:
            scores[place] = _score(outcome, model)
    return scores


def _score(prediction: Prediction, model: str) -> float:
    value = prediction.value
    if isinstance(value, (int, float)) and math.isfinite(value):
        return float(value)
    raise errors.RequestError(
        f"{model} answers with labels or several numbers; a model of readings answers with one, "
        'the higher the stranger: register an outlier detector with kind="regressor"'
    )
