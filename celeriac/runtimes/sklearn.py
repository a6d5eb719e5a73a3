"""``sklearn``: estimators and pipelines, through skops. Never pickle, never joblib.

A file may hold only types that are trusted here: those of skops itself, a fixed list of
scikit-learn's own compiled parts, and what ``[models] trusted_types`` adds. The list never comes
from the file.
"""

from __future__ import annotations

import math
import sys
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from celeriac import errors
from celeriac.outputs import concat
from celeriac.registry.manifest import Architecture, InputSchema, ModelVersion, OutputSchema
from celeriac.runtimes import LoadOptions, Output, Saved, frameworks, library
from celeriac.runtimes.sklearn_direct import UNKNOWN, UNUSUAL, Found, direct, kind_of

FILE = "model.skops"
SUFFIX = ".skops"
PIP = "scikit-learn 'skops>=0.13'"
RECIPE = ("direct",)
"""False: plain scikit-learn. Otherwise a shorter way, where there is one that agrees with it."""

TRUSTED = (
    "functools.partial",
    "numpy.dtype",
    "scipy.interpolate._bsplines.BSpline",
    "sklearn._loss.loss.HalfTweedieLossIdentity",
    "sklearn.calibration._CalibratedClassifier",
    "sklearn.calibration._SigmoidCalibration",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    "sklearn.gaussian_process._gpc._BinaryGaussianProcessClassifierLaplace",
    "sklearn.gaussian_process.kernels.ConstantKernel",
    "sklearn.gaussian_process.kernels.DotProduct",
    "sklearn.gaussian_process.kernels.ExpSineSquared",
    "sklearn.gaussian_process.kernels.Exponentiation",
    "sklearn.gaussian_process.kernels.Matern",
    "sklearn.gaussian_process.kernels.Product",
    "sklearn.gaussian_process.kernels.RBF",
    "sklearn.gaussian_process.kernels.RationalQuadratic",
    "sklearn.gaussian_process.kernels.Sum",
    "sklearn.gaussian_process.kernels.WhiteKernel",
    "sklearn.metrics._dist_metrics.ChebyshevDistance64",
    "sklearn.metrics._dist_metrics.EuclideanDistance64",
    "sklearn.metrics._dist_metrics.ManhattanDistance64",
    "sklearn.metrics._dist_metrics.MinkowskiDistance64",
    "sklearn.metrics._scorer._PassthroughScorer",
    "sklearn.model_selection._split.KFold",
    "sklearn.model_selection._split.StratifiedKFold",
    "sklearn.neighbors._ball_tree.BallTree",
    "sklearn.neighbors._kd_tree.KDTree",
    "sklearn.neural_network._stochastic_optimizers.AdamOptimizer",
    "sklearn.neural_network._stochastic_optimizers.SGDOptimizer",
    "sklearn.tree._tree.Tree",
    "sklearn.utils._bunch.Bunch",
    "sklearn.utils.validation.check_array",
)
"""Parts of scikit-learn's own estimators that skops does not list: data containers, kernels and
losses. None of them calls what a file names, but for ``partial``, whose function is looked up
here, too; ``check_array`` is that of boosted trees with categories."""

COPY_BYTES = 2_000_000
"""Of the rows that a pipeline's steps are given at once: each of them makes a copy."""

_TORCH_WRAPPER = "sklearn.externals.array_api_compat.torch"
_BY_ARGMAX = ("RandomForestClassifier", "ExtraTreesClassifier")
"""Estimators whose ``predict`` is by definition the most probable class: half the work."""


class SklearnModel:
    """A fitted estimator. ``shorter`` is what came of looking for a shorter way through it."""

    def __init__(
        self, estimator: Any, output: OutputSchema, shorter: Found | None = None
    ) -> None:
        self._output = output
        self._shorter = None if shorter is None else shorter.way
        self.form = _form(shorter)
        self._transform, self._estimator = _split(estimator)
        self._gives_scores = output.kind == "regressor" and _is_outlier_detector(self._estimator)
        self._by_argmax = output.outputs == 1 and _is_by_argmax(self._estimator)
        self._is_stack = output.outputs > 1 and kind_of(self._estimator) == "StackingClassifier"
        self._width = getattr(estimator, "n_features_in_", None)
        self.part_bytes = None if self._transform is None else COPY_BYTES
        """Of the rows of a table that are taken at once; None: all that are given."""

    def predict(self, inputs: Any) -> Output:
        """Labels and, where the estimator gives them, probabilities; numbers of a regressor.

        Images become rows, if the estimator was fitted on rows of as many numbers.
        """
        if getattr(inputs, "ndim", 2) > 2 and self._width == math.prod(inputs.shape[1:]):
            inputs = inputs.reshape(len(inputs), self._width)
        found = self._shortly(inputs)
        if found is not None:
            return found
        if self._transform is None:
            return self._answered(inputs)
        return concat([
            self._answered(self._transform.transform(rows)) for rows in _in_parts(inputs)
        ])

    def _answered(self, inputs: Any) -> Output:
        """By the last step, or the only one."""
        if self._gives_scores:
            return Output(values=-np.asarray(self._estimator.score_samples(inputs)))
        if not self._output.probabilities:
            return Output(values=_flat(np.asarray(self._estimator.predict(inputs))))
        probabilities = self._probabilities(inputs)
        if self._by_argmax:
            values = self._estimator.classes_.take(probabilities.argmax(axis=1))
        else:
            values = _flat(np.asarray(self._estimator.predict(inputs)))
        return Output(values=values, probabilities=probabilities)

    def _probabilities(self, inputs: Any) -> Any:
        """``(n, labels)``; of several outputs, a list of one such array for each."""
        if self._is_stack:  # its own predict_proba gives that of each first label alone
            last = self._estimator.final_estimator_
            found = last.predict_proba(self._estimator.transform(inputs))
        else:
            found = self._estimator.predict_proba(inputs)
        if not isinstance(found, list):
            is_of_second = found.shape[1] == 1 and len(self._output.labels) == 2
            if self._output.outputs == 1 and not is_of_second:
                return found
            # One probability for each of several labels that may all be true.
            found = [np.column_stack([1 - column, column]) for column in found.T]
        return found[0] if self._output.outputs == 1 else found

    def _shortly(self, inputs: Any) -> Output | None:
        """None: there is no shorter way for these inputs."""
        if self._shorter is None:
            return None
        try:
            found = self._shorter(inputs)
        except UNUSUAL:
            return None
        if found is None:
            return None
        if self._output.kind == "regressor":
            return Output(values=found)
        return Output(values=self._estimator.classes_[found.argmax(axis=1)], probabilities=found)


def _in_parts(inputs: Any) -> list[Any]:
    """Rows of an array, as equal parts as can be; whatever else it is in one piece."""
    if not isinstance(inputs, np.ndarray) or inputs.nbytes <= COPY_BYTES:
        return [inputs]
    return np.array_split(inputs, min(len(inputs), -(-inputs.nbytes // COPY_BYTES)))


def _is_outlier_detector(estimator: Any) -> bool:
    return bool(library("sklearn.base", pip=PIP).is_outlier_detector(estimator))


def takes(model: Any) -> bool:
    """True of an estimator. Whoever holds one has imported scikit-learn."""
    base = sys.modules.get("sklearn.base")
    return base is not None and isinstance(model, base.BaseEstimator)


def _is_by_argmax(estimator: Any) -> bool:
    """True if ``predict`` says what is most probable.

    A logistic regression compares the scores that its probabilities are made of. One against the
    rest (liblinear) is left out: far from the boundary several probabilities are 1.
    """
    kind = kind_of(estimator)
    if kind == "LogisticRegression":
        return estimator.solver != "liblinear" or len(estimator.classes_) == 2
    return kind in _BY_ARGMAX


def save(model: Any, folder: Path, *, architecture: Architecture | None) -> Saved:
    """Write a fitted estimator. Raises RegistryError if its kind is not known."""
    if architecture is not None:
        raise errors.RegistryError("an architecture is for torch; scikit-learn needs none")
    output = describe(model)
    _skops().dump(model, folder / FILE)
    return Saved(
        output=output, frameworks=frameworks("scikit-learn", "skops", "numpy"),
        may_score=_is_outlier_detector(model),
    )


def load(folder: Path, version: ModelVersion, options: LoadOptions) -> SklearnModel:
    """Read the estimator. Raises UntrustedModel, RuntimeMissing or RegistryError."""
    estimator = read(folder / FILE, options)
    in_one_thread(estimator)
    wanted = version.recipe.get("direct", True)
    found = shorter(estimator, version) if wanted else None
    return SklearnModel(estimator, version.output, found)


def in_one_thread(estimator: Any) -> None:
    """The workers are the parallel part; and threads add up a forest's trees in any order."""
    for part in _estimators(estimator):
        if getattr(part, "n_jobs", None) is not None:
            part.n_jobs = 1


def shorter(estimator: Any, version: ModelVersion) -> Found:
    """The shorter way of a version's estimator, if there is one; its golden texts are tried, too.
    """
    return direct(estimator, [one.item for one in version.golden if isinstance(one.item, str)])


def _form(found: Found | None) -> str:
    """For people: how it is run, and why not the shorter way if that was tried."""
    if found is None or found.why == UNKNOWN:
        return "original"
    return "direct" if found.way else f"original: {found.why}"


def wrap(model: Any, output: OutputSchema, _input: InputSchema) -> SklearnModel:
    """A Model of an estimator in memory."""
    return SklearnModel(model, output)


def read(path: Path, options: LoadOptions) -> Any:
    """The estimator in a skops file; the types are checked before anything is built.

    Raises UntrustedModel, which names the types, RuntimeMissing or RegistryError.
    """
    if not _is_skops(path):  # before a library is loaded
        raise errors.UntrustedModel(
            f"{path.name} is not a skops file; pickle and joblib files are never loaded. "
            "Write it with skops.io.dump(estimator, path)"
        )
    library("sklearn", pip=PIP)
    io = _skops()
    trusted = [*TRUSTED, *options.trusted_types]
    try:
        unknown = sorted(set(io.get_untrusted_types(file=path)) - set(trusted))
        if not unknown:
            with warnings.catch_warnings():
                # Another release of scikit-learn: the manifest says so, and we log it.
                warnings.filterwarnings("ignore", message="Trying to unpickle estimator")
                return io.load(path, trusted=trusted)
    except Exception as error:
        raise errors.RegistryError(
            f"{path.name} cannot be read: {errors.told(error)}"
        ) from error
    raise errors.UntrustedModel(
        f"the model holds types that are not trusted here: {', '.join(unknown)}; if you trust "
        "them, add them to [models] trusted_types in celeriac.toml, here and for the workers"
    )


def describe(estimator: Any) -> OutputSchema:
    """What a fitted estimator answers. Raises RegistryError if it cannot be told."""
    base = library("sklearn.base", pip=PIP)
    validation = library("sklearn.utils.validation", pip=PIP)
    name = type(estimator).__name__
    try:
        validation.check_is_fitted(estimator)
    except Exception as error:
        raise errors.RegistryError(f"the {name} is not fitted; fit it first") from error
    if base.is_outlier_detector(estimator):
        return OutputSchema(kind="classifier", labels=(-1, 1))
    if base.is_classifier(estimator):
        return _describe_classifier(estimator)
    if base.is_regressor(estimator):
        return OutputSchema(kind="regressor")
    raise errors.RegistryError(
        f"a {name} is neither a classifier, a regressor nor an outlier detector"
    )


def _describe_classifier(estimator: Any) -> OutputSchema:
    classes = estimator.classes_
    probabilities = hasattr(estimator, "predict_proba")
    if isinstance(classes, list):
        labels: tuple[Any, ...] = tuple(_labels(of_one) for of_one in classes)
        if len(classes) == 1:
            labels = labels[0]
        return OutputSchema(
            kind="classifier", labels=labels, outputs=len(classes), probabilities=probabilities
        )
    if _is_multilabel(_split(estimator)[1]):
        return OutputSchema(kind="classifier", labels=((0, 1),) * len(classes),
                            outputs=len(classes), probabilities=probabilities)
    return OutputSchema(kind="classifier", labels=_labels(classes), probabilities=probabilities)


def _is_multilabel(estimator: Any) -> bool:
    """True if it answers with one 0 or 1 for each class, rather than with one class."""
    binarizer = getattr(estimator, "_label_binarizer", None)
    kind = getattr(binarizer, "y_type_", "")
    return bool(getattr(estimator, "multilabel_", False)) or kind.startswith("multilabel")


def _labels(classes: Any) -> tuple[Any, ...]:
    values = classes.tolist()
    if all(isinstance(value, float) and value.is_integer() for value in values):
        return tuple(map(int, values))
    return tuple(values)


def _flat(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return values[:, 0] if values.ndim == 2 and values.shape[1] == 1 else values


def _split(estimator: Any) -> tuple[Any, Any]:
    """A pipeline as (all but the last step, last step): what is common is computed once.

    One of another library may have steps that do not transform, as imbalanced-learn's.
    """
    steps = getattr(estimator, "steps", None)
    if kind_of(estimator) != "Pipeline" or not steps or len(steps) < 2:
        return None, estimator
    return estimator[:-1], steps[-1][1]


def _skops() -> Any:
    """``skops.io`` without torch: to list the estimators it imports every part of scikit-learn,
    and one of them wraps torch. That is 180 MB in a worker that has no use for it."""
    if "skops.io" in sys.modules or "torch" in sys.modules:
        return library("skops.io", pip=PIP)
    sys.modules[_TORCH_WRAPPER] = None  # type: ignore[assignment]  # cannot be imported now
    try:
        return library("skops.io", pip=PIP)
    finally:
        del sys.modules[_TORCH_WRAPPER]


def _is_skops(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return "schema.json" in archive.namelist()
    except (zipfile.BadZipFile, OSError):
        return False


def _estimators(thing: Any, seen: set[int] | None = None) -> Iterator[Any]:
    """``thing`` and every estimator within it, however deep."""
    seen = set() if seen is None else seen
    if id(thing) in seen:
        return
    seen.add(id(thing))
    if hasattr(thing, "get_params"):
        yield thing
        inner: Any = vars(thing).values()
    elif isinstance(thing, dict):
        inner = thing.values()
    elif isinstance(thing, (list, tuple)):
        inner = thing
    elif isinstance(thing, np.ndarray) and thing.dtype.hasobject:
        inner = thing.ravel().tolist()
    else:
        return
    for part in inner:
        yield from _estimators(part, seen)
