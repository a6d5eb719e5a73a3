"""One form of a model, measured in a process of its own: ``python -m celeriac.optimize.measuring``.

The task comes as JSON on stdin, the result goes as JSON to stdout, the answers to a file. So a form
that hangs, crashes or takes all memory costs its own process, and each library reads its number of
threads when it starts.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from celeriac import errors
from celeriac.optimize.model_task import ModelTask
from celeriac.release.aside import answer_with

if TYPE_CHECKING:
    from celeriac.runtimes import LoadOptions
    from celeriac.scoring import Scorer

_LEAST_CALLS, _MOST_CALLS = 5, 20_000
_WARM_CALLS = 3
_SCORE_SHARE = 0.5
"""Of a size's time, for whole items, with decoding and answers."""


@dataclass(frozen=True, kw_only=True)
class Task(ModelTask):
    """What is measured, and for how long."""

    answers: str
    """The file (.npz) that the answers go to."""
    batch_sizes: Sequence[int]
    size_s: float
    """For each batch size."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What came of it."""

    load_s: float
    """Until it had answered the first time."""
    predict_s: dict[int, float]
    """The forward pass, by batch size: the lower quartile of many."""
    score_s: dict[int, float]
    """The same with decoding and answers: what a batch costs a worker."""
    memory_mb: float
    """Of the process, at its most."""
    golden: list[dict[str, Any]]
    """What it answers, or errors, to the golden items of its ``model.json`` where they are checked:
    on the CPU."""


def measure(task: Task, threads: int, limit_s: float) -> Measured:
    """Run a task in a process that has ``threads``.

    Raises ModelFailed, or the error of ours that it ended with, if it fails or takes longer than
    ``limit_s``.
    """
    found = task.run("celeriac.optimize.measuring", threads, limit_s)
    return Measured(
        load_s=found["load_s"], memory_mb=found["memory_mb"], golden=found["golden"],
        predict_s={int(size): seconds for size, seconds in found["predict_s"].items()},
        score_s={int(size): seconds for size, seconds in found["score_s"].items()},
    )


def faster(one: Measured, other: Measured) -> Measured:
    """Of two measurements of the same, the shorter times."""
    return replace(
        one,
        predict_s={size: min(s, other.predict_s[size]) for size, s in one.predict_s.items()},
        score_s={size: min(s, other.score_s[size]) for size, s in one.score_s.items()},
    )


def read_answers(path: Path) -> Any:
    """The ``Output`` that a process wrote. Nothing in it is unpickled."""
    import numpy as np

    from celeriac.outputs import Output

    with np.load(path, allow_pickle=False) as file:
        values = np.array(json.loads(str(file["values"])))
        several = sorted(name for name in file.files if name.startswith("p"))
        probabilities: Any = [file[name] for name in several] or None
    if probabilities and len(probabilities) == 1:
        probabilities = probabilities[0]
    return Output(values=values, probabilities=probabilities)


# --- in the process ------------------------------------------------------------------------------


def main() -> int:
    """The measuring process."""
    return answer_with(
        lambda wanted: [asdict(_measured(Task(**wanted)))],
        told=lambda error: errors.ModelFailed(errors.told(error)),
    )


def _measured(task: Task) -> Measured:
    import resource

    from celeriac.inputs import collate, take
    from celeriac.scoring import Scorer

    manifest, options, items = task.read()
    started = time.perf_counter()
    scorer = Scorer.open(Path(task.folder), manifest, options)
    model = scorer.model
    collated = collate(items, manifest.input, scorer.limits)
    if len(collated.index) < len(items):
        first = next(iter(collated.errors.values()))
        raise errors.RequestError(f"a sample does not fit the model: {first.message}")
    model.predict(take(collated.inputs, 0, 1))
    load_s = time.perf_counter() - started
    _keep(model.predict(collated.inputs), Path(task.answers))
    predict_s, score_s = {}, {}
    for size in task.batch_sizes:
        some = [items[place % len(items)] for place in range(size)]
        inputs = collate(some, manifest.input, scorer.limits).inputs
        predict_s[size] = _usual_s(partial(model.predict, inputs), task.size_s)
        score_s[size] = _usual_s(partial(scorer.score, some), task.size_s * _SCORE_SHARE)
    most_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return Measured(
        load_s=load_s, predict_s=predict_s, score_s=score_s, memory_mb=most_kb / 1e3,
        golden=_golden(_on_cpu(scorer, task.folder, options)),
    )


def _on_cpu(scorer: Scorer, folder: str, options: LoadOptions) -> Scorer:
    from celeriac.scoring import Scorer

    if options.device == "cpu":
        return scorer
    return Scorer.open(Path(folder), scorer.manifest, replace(options, device="cpu"))


def _golden(scorer: Scorer) -> list[dict[str, Any]]:
    return scorer.score([example.item for example in scorer.manifest.golden])


def _usual_s(call: Callable[[], Any], budget_s: float) -> float:
    for _ in range(_WARM_CALLS):
        call()
    took: list[float] = []
    end_s = time.perf_counter() + budget_s
    while len(took) < _LEAST_CALLS or (time.perf_counter() < end_s and len(took) < _MOST_CALLS):
        started = time.perf_counter()
        call()
        took.append(time.perf_counter() - started)
    # The lower quartile: what others do on the machine only ever adds.
    return sorted(took)[len(took) // 4]


def _keep(output: Any, path: Path) -> None:
    import numpy as np

    values = output.values
    plain = values.tolist() if hasattr(values, "tolist") else list(values)
    given = output.probabilities
    each = given if isinstance(given, list) else [] if given is None else [given]
    arrays: dict[str, Any] = {f"p{number:03}": one for number, one in enumerate(each)}
    np.savez(path, values=np.array(json.dumps(plain)), **arrays)


if __name__ == "__main__":
    sys.exit(main())
