"""A label beside what was predicted: right or wrong, or how far off."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from celeriac import errors
from celeriac.drift.prediction_ids import Predicted, short
from celeriac.registry.manifest import OutputSchema

MOST_SHOWN = 10
FARTHEST = 1e100
"""Of a number: the squares of such errors still add up."""


@dataclass(frozen=True, kw_only=True)
class Judged:
    """One of both."""

    right: bool | None = None
    """Of a class."""
    absolute_error: float | None = None
    """Of a number."""


def judge(predicted: Predicted, label: Any, output: OutputSchema) -> Judged:
    """Compare a label (a JSON value) with what a version answered.

    Raises RequestError, with the field ``label``, for one that the version could never give.
    """
    if is_class(predicted, output):
        return Judged(right=_known_class(label, output) == _named(predicted))
    if isinstance(predicted, (str, bytes)) or not _is_number(label):
        raise _wrong(f"the model answers with numbers; {_shown(label)} is none")
    off = abs(float(predicted) - float(label))
    if not off < FARTHEST:
        raise _wrong(f"{_shown(label)} is too far from what was predicted to be a label")
    return Judged(absolute_error=off)


def is_class(predicted: Predicted, output: OutputSchema) -> bool:
    """True if an answer is right or wrong, False if it is a number that is more or less off."""
    return output.kind == "classifier" or isinstance(predicted, (bool, str, bytes))


def from_text(text: str, predicted: Predicted, output: OutputSchema) -> Any:
    """A label from a file of texts: the class that is written so (1 also as 1.0, true also as
    True), or what is of the kind of the prediction. Itself if it is neither."""
    known = output.labels if output.outputs == 1 else ()
    for one in known:
        if _named(one) == _named(_as(one, text)):
            return one
    return text if known else _as(predicted, text)


def _as(one: Predicted, text: str) -> Any:
    """What ``text`` says, as a value of the kind of ``one``; itself if it cannot be."""
    if isinstance(one, bool):
        return {"true": True, "false": False}.get(text.lower(), text)
    if isinstance(one, (str, bytes)):
        return text
    try:
        return float(text)
    except ValueError:
        return text


def _known_class(label: Any, output: OutputSchema) -> tuple[str, Any]:
    if not isinstance(label, (bool, int, float, str)):
        raise _wrong(f"a label is a text, a number, true or false, not {_shown(label)}")
    named = _named(short(label))
    known = output.labels if output.outputs == 1 else ()
    if known and named not in [_named(short(one)) for one in known]:
        some = ", ".join(_shown(one) for one in known[:MOST_SHOWN])
        more = f" and {len(known) - MOST_SHOWN} more" if len(known) > MOST_SHOWN else ""
        raise _wrong(f"{_shown(label)} is no class of this version; it knows {some}{more}")
    return named


def _named(label: Any) -> tuple[str, Any]:
    """Kind and text: 1 and 1.0 are the same class, 1 and "1" and true are not."""
    if isinstance(label, bool):
        return "truth", str(label).lower()
    if isinstance(label, (int, float)):
        try:
            return "number", f"{label:.15g}"
        except OverflowError:  # a whole number beyond all others
            return "number", str(label)
    return "text", label


def _is_number(label: Any) -> bool:
    if isinstance(label, bool) or not isinstance(label, (int, float)):
        return False
    try:
        return math.isfinite(float(label))
    except OverflowError:
        return False


def _shown(label: Any) -> str:
    text = repr(label)
    return text if len(text) <= 40 else f"{text[:40]}..."


def _wrong(message: str) -> errors.RequestError:
    error = errors.RequestError(f"label: {message}")
    error.field = "label"
    return error
