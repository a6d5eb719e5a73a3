"""A batch that a model raised on: who is to blame, in as few passes as can be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from celeriac import errors, passes, runtimes
from celeriac.inputs import pick, take
from celeriac.outputs import Output, concat, in_order

PROBES = 16
"""Single items to try before a large batch that failed is searched."""
_MANY = 4 * PROBES
"""Items that are a large batch."""
_WEIGHT = 4
"""The distance between two bad items counts for one in so many in what is expected next."""
_SHARE = 0.7
"""Of that distance: a pass that is as likely to fail as not tells most (ln 2)."""

Group = tuple[Any, bool]
"""Positions of items, and whether they are alike."""
Isolated = tuple[Output | None, Sequence[int], dict[int, errors.CeleriacError]]
"""The output of the good items (None: there are none), their positions, and the others' errors."""


def isolate(model: runtimes.Model, inputs: Any, count: int) -> Isolated:
    """Predict ``count`` collated inputs; where that fails, look for the ones that fail alone.

    If single items from all over a large batch fail too, the model is at fault rather than an
    item, and all fail alike. So do many that lack the same values, where what they lack is to
    blame: each of those tried says the same. Any other item fails only if it fails alone.
    """
    found = _at_once(model, inputs, count)
    if found is not None:
        return found
    probed = _probed(model, inputs, count)
    if probed:
        return None, (), dict.fromkeys(range(count), _common(probed))
    groups = _groups(inputs)
    return _in_groups(model, inputs, groups) if groups else _Search(model, inputs, count).run()


def item_error(error: Exception) -> errors.CeleriacError:
    """What an item is told that raised ``error`` alone."""
    if isinstance(error, errors.ItemError):
        return error
    if is_out_of_memory(error):
        return errors.ResourceExhausted("not enough memory for this item, even alone")
    return errors.ModelFailed(f"the model raised {errors.told(error)}")


def is_out_of_memory(error: Exception) -> bool:
    """True of a GPU's memory, too: torch.OutOfMemoryError is no MemoryError."""
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"


def pass_on(error: Exception) -> None:
    """Raises what is no failure of the model on its items."""
    # A time limit of the task that we run in is known by its name, because the model half does not
    # import Celery. With a lost GPU all items fail.
    if isinstance(error, errors.DeviceLost) or type(error).__name__ == "SoftTimeLimitExceeded":
        raise error


def _predict(model: runtimes.Model, inputs: Any, start: int, stop: int) -> Output:
    passes.next_pass()
    return model.predict(take(inputs, start, stop))


def _at_once(model: runtimes.Model, inputs: Any, count: int) -> Isolated | None:
    """All in one pass; None if it fails and there are several to blame."""
    if not count:
        return None, (), {}
    try:
        return _predict(model, inputs, 0, count), range(count), {}
    except Exception as error:  # noqa: BLE001 - a model may raise anything
        pass_on(error)
        return (None, (), {0: item_error(error)}) if count == 1 else None


def _probed(model: runtimes.Model, inputs: Any, count: int) -> list[errors.CeleriacError]:
    """The errors of single items from all over a large batch; none if one is answered."""
    found: list[errors.CeleriacError] = []
    if count < _MANY:
        return found
    for probe in range(PROBES):
        position = probe * (count - 1) // (PROBES - 1)
        try:
            _predict(model, inputs, position, position + 1)
        except Exception as error:  # noqa: BLE001
            pass_on(error)
            found.append(item_error(error))
        else:
            return []
    return found


def _common(found: Sequence[errors.CeleriacError]) -> errors.CeleriacError:
    if _agree(found):
        return found[0]
    # Each tells of its own item, which is nobody else's to read.
    return errors.ModelFailed("the model fails with every item; send one alone for the reason")


def _agree(found: Sequence[errors.CeleriacError]) -> bool:
    return len({(error.code, error.message) for error in found}) == 1


def _in_groups(model: runtimes.Model, inputs: Any, groups: Sequence[Group]) -> Isolated:
    """One group after the other; the answers in their order again."""
    import numpy as np

    outputs: list[Output] = []
    answered: list[Any] = []
    failed: dict[int, errors.CeleriacError] = {}
    for group, alike in groups:
        output, kept, bad = _of_group(model, pick(inputs, group), len(group), alike=alike)
        failed.update((int(group[at]), error) for at, error in bad.items())
        if output is not None:
            outputs.append(output)
            answered.append(group[np.asarray(kept)])
    if not outputs:
        return None, (), failed
    positions = np.concatenate(answered)
    order = positions.argsort()
    return in_order(concat(outputs), order), positions[order].tolist(), failed


def _of_group(model: runtimes.Model, rows: Any, count: int, *, alike: bool) -> Isolated:
    found = _at_once(model, rows, count)
    if found is not None:
        return found
    probed = _probed(model, rows, count) if alike else []
    if probed and _agree(probed) and not isinstance(probed[0], errors.ResourceExhausted):
        return None, (), dict.fromkeys(range(count), probed[0])
    return _Search(model, rows, count).run()


def _groups(inputs: Any) -> list[Group]:
    """Rows of a table by the columns in which they lack a value, which is what most models that
    raise do not take; groups that are not large are put together."""
    import numpy as np

    missing = _missing(inputs)
    if missing is None or not missing.any():
        return []
    patterns = np.packbits(missing, axis=1)
    _, kinds, sizes = np.unique(patterns, axis=0, return_inverse=True, return_counts=True)
    kinds = kinds.reshape(-1)  # numpy 2.0 keeps the axis
    kinds = np.where(sizes[kinds] < _MANY, -1, kinds)
    found = [(np.flatnonzero(kinds == kind), kind >= 0) for kind in np.unique(kinds).tolist()]
    return found if len(found) > 1 else []


def _missing(inputs: Any) -> Any:
    """Which cells of a table are missing; None if it is no table, or cannot lack any."""
    if hasattr(inputs, "isna"):
        return inputs.isna().to_numpy()
    if getattr(inputs, "ndim", 0) != 2 or inputs.dtype.kind != "f":
        return None
    import numpy as np

    return np.isnan(inputs)


class _Search:
    """Looks for the bad items of a batch that failed, from its first to its last.

    As many at once are tried as are expected to hold about one bad item: many where bad ones are
    rare, one where they are frequent. So an item costs about one pass at worst; halving the whole
    until only the bad ones are left costs two.
    """

    def __init__(self, model: runtimes.Model, inputs: Any, count: int) -> None:
        self._model, self._inputs, self._count = model, inputs, count
        self._outputs: list[Output] = []
        self._kept: list[int] = []
        self._failed: dict[int, errors.CeleriacError] = {}

    def run(self) -> Isolated:
        start, good, distance, at_once = 0, 0, float(self._count), max(1, self._count // 2)
        while start < self._count:
            known, before, stop = len(self._failed), start, min(start + at_once, self._count)
            start = self._until_one_fails(start, stop)
            good += start - before
            if len(self._failed) > known:
                distance += (good - distance) / _WEIGHT
                good = 0
            elif start < stop:  # they were too many at once, and none of them is to blame
                distance, good = float(start - before), 0
            at_once = max(1, int(_SHARE * max(distance, good / 2)))
        return (concat(self._outputs) if self._outputs else None), self._kept, self._failed

    def _until_one_fails(self, start: int, stop: int) -> int:
        """Answer items until one of these fails alone, or all are answered; where to go on."""
        error = self._tried(start, stop)
        if error is None:
            return stop
        while stop - start > 1:
            middle = (start + stop) // 2
            first = self._tried(start, middle)
            if first is None:  # one of the others is to blame then, as far as one can tell
                start, error = middle, None
            else:
                stop, error = middle, first
        error = error or self._tried(start, stop)
        if error is not None:
            self._failed[start] = error
        return stop

    def _tried(self, start: int, stop: int) -> errors.CeleriacError | None:
        """Why some items cannot be answered together; None: they are."""
        try:
            output = _predict(self._model, self._inputs, start, stop)
        except Exception as error:  # noqa: BLE001 - a model may raise anything
            pass_on(error)
            return item_error(error)
        self._outputs.append(output)
        self._kept += range(start, stop)
        return None
