"""What every runtime keeps: one suite, run over models of every format and kind."""

from __future__ import annotations

import copy
import io
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from PIL import Image
from sklearn.compose import make_column_transformer
from sklearn.datasets import load_diabetes, load_digits
from sklearn.ensemble import (
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    IsolationForest,
    RandomForestClassifier,
)
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from celeriac import errors, release, runtimes
from celeriac.inputs import collate
from celeriac.messages import decode_item, encode_item
from celeriac.optimize import convert
from celeriac.outputs import answer_columns
from celeriac.registry.manifest import InputSchema, Pixels
from celeriac.registry.store import Registry
from celeriac.runtimes import LoadOptions
from celeriac.runtimes.sklearn import describe
from celeriac.samples import as_samples
from celeriac.scoring import Scorer, same_answer
from celeriac.settings import get_settings
from demo.linear_runtime import Linear

ROOT = Path(__file__).parents[2]
TEXTS = ["good coffee", "stale tea", "the best I had", "never again", "fine", "too sweet"] * 4
GOOD = ["great", "other"] * 12


@dataclass
class Case:
    model: Any
    examples: Any
    bad: Any
    """An item that the model's schema refuses."""
    labels: list[Any] | None = None
    input: InputSchema | None = None
    raw: Any = None
    """The examples as the model itself takes them, where it does not take items."""
    origin: Any = None
    """The model that this one was converted from, which says what is right."""


def _text() -> Case:
    model = make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(TEXTS, GOOD)
    return Case(model, TEXTS, 7)


def _digits() -> tuple[np.ndarray, np.ndarray]:
    x, y = load_digits(return_X_y=True)
    return x[:120], y[:120]


def _frame() -> pd.DataFrame:
    frame = load_diabetes(as_frame=True).data.head(60)
    return frame.assign(old=frame["age"] > 0, visits=np.arange(60) % 5)


def _forest() -> Case:
    x, y = _digits()
    return Case(RandomForestClassifier(5, n_jobs=2, random_state=1).fit(x, y), x, [1.0])


def _frame_regressor() -> Case:
    frame = _frame()
    model = HistGradientBoostingRegressor(max_iter=5, min_samples_leaf=5)
    return Case(model.fit(frame, frame["bmi"] * 2), frame, {"age": 1.0})


def _two_numbers() -> Case:
    x, y = load_diabetes(return_X_y=True)
    return Case(make_pipeline(StandardScaler(), LinearRegression()).fit(x, np.c_[y, -y]), x, "no")


def _two_labels() -> Case:
    x, y = _digits()
    model = RandomForestClassifier(4, random_state=1).fit(x, np.c_[y % 2, y % 3])
    return Case(model, x, [True] * 64)


def _many_labels() -> Case:
    x, y = _digits()
    model = make_pipeline(StandardScaler(), MLPClassifier((8,), max_iter=400, tol=1e-2))
    return Case(model.fit(x, np.c_[y > 4, y % 2 == 0].astype(int)), x, None)


def _outliers() -> Case:
    x, _ = _digits()
    return Case(IsolationForest(n_estimators=5, random_state=1).fit(x), x, {"x0": 1})


def _cnn() -> Case:
    from celeriac.runtimes.architectures import DigitCNN

    x, _ = _digits()
    return Case(DigitCNN(scale=16.0), x.reshape(-1, 8, 8), [[1.0]], labels=list(range(10)))


def _pictures() -> Case:
    from celeriac.runtimes.architectures import DigitCNN

    x, _ = _digits()
    raw = x.reshape(-1, 8, 8)[:40].astype(np.float32)
    schema = InputSchema(
        kind="image", shape=(8, 8), dtype="float32", pixels=Pixels(mode="L", scale=1 / 15)
    )
    return Case(DigitCNN(scale=16.0), [_png(image) for image in raw * 15], encode_item(b"no"),
                labels=list(range(10)), input=schema, raw=raw)


def _scans() -> Case:
    """An estimator of rows, asked with files of images."""
    x, y = _digits()
    schema = InputSchema(kind="image", shape=(8, 8), pixels=Pixels(mode="L", scale=16 / 240))
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=200)).fit(x, y)
    return Case(model, [_png(image) for image in x[:40].reshape(-1, 8, 8) * 15],
                encode_item(b"no"), input=schema, raw=x[:40])


def _png(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image.round().astype(np.uint8)).save(file, "PNG")
    return file.getvalue()


def _yes_no() -> Case:
    from celeriac.runtimes.architectures import MLP

    x, _ = _digits()
    return Case(MLP(64, 1, hidden=[8]), x, "text", labels=["no", "yes"])


def _network_regressor() -> Case:
    from celeriac.runtimes.architectures import MLP

    x, _ = _digits()
    return Case(MLP(64, 3, hidden=[8]), x, [float("inf")] * 64)


def _mixed_frame() -> pd.DataFrame:
    ages = np.r_[np.arange(39.0), np.nan]
    return pd.DataFrame({"city": ["Bern", "Cairo", "Lima", "Oslo"] * 10, "age": ages,
                         "visits": np.arange(40) % 7, "member": [True, False] * 20})


def _mixed_pipeline() -> Case:
    frame = _mixed_frame()
    columns = make_column_transformer(
        (OneHotEncoder(handle_unknown="ignore"), ["city"]),
        (SimpleImputer(), ["age", "visits"]), remainder="passthrough",
    )
    model = make_pipeline(columns, RandomForestClassifier(5, random_state=1))
    return Case(model.fit(frame, ["no", "yes"] * 20), frame, {"city": 1})


def _missing_texts() -> Case:
    """As pandas reads them: texts that are missing, which the pipeline knows what to do with."""
    frame = _mixed_frame()
    frame.loc[::5, "city"] = None
    columns = make_column_transformer(
        (make_pipeline(SimpleImputer(strategy="constant", fill_value="?"), OneHotEncoder()),
         ["city"]),
        (SimpleImputer(), ["age", "visits"]),
    )
    model = make_pipeline(columns, RandomForestClassifier(5, random_state=1))
    return Case(model.fit(frame, ["no", "yes"] * 20), frame, {"city": 1})


def _converted(case: Case, input: InputSchema | None = None) -> Case:
    """The same model as an ONNX graph."""
    schema = input or as_samples(case.examples, count=1).schema
    graph = convert.from_sklearn(case.model, schema, describe(case.model))
    return replace(case, model=graph, origin=case.model)


def _onnx_frame() -> Case:
    frame = _mixed_frame().drop(columns=["member", "age"])
    columns = make_column_transformer(
        (OneHotEncoder(handle_unknown="ignore"), ["city"]), (StandardScaler(), ["visits"]),
    )
    model = make_pipeline(columns, LogisticRegression()).fit(frame, ["no", "yes"] * 20)
    return _converted(Case(model, frame, {"city": 1}))


def _onnx_boosted() -> Case:
    """With values that are missing, in the training and in the examples."""
    x, y = _digits()
    names = [f"pixel ({number})" for number in range(64)]
    frame = pd.DataFrame(np.where(x == 13, np.nan, x), columns=names)
    model = HistGradientBoostingClassifier(max_iter=4, min_samples_leaf=5)
    return _converted(Case(model.fit(frame, y % 3), frame, {"x": 1}))


def _onnx_text() -> Case:
    model = make_pipeline(
        TfidfVectorizer(token_pattern="[a-zA-Z]+"), LogisticRegression()
    ).fit(TEXTS, GOOD)
    return _converted(Case(model, TEXTS, 7))


def _onnx_network(case: Case, schema: InputSchema) -> Case:
    return replace(case, model=convert.from_torch(case.model.eval(), schema), origin=case.model)


def _onnx_pictures() -> Case:
    case = _pictures()
    assert case.input is not None
    return _onnx_network(case, case.input)


def _onnx_cnn() -> Case:
    return _onnx_network(_cnn(), InputSchema(kind="array", shape=(8, 8), dtype="float32"))


def _linear() -> Case:
    x, y = _digits()
    fitted = LogisticRegression(max_iter=50).fit(x / 16, y > 4)
    weights = np.column_stack([-fitted.coef_[0], fitted.coef_[0]]) / 32
    return Case(Linear(weights, np.zeros(2), ["low", "high"]), x, None)


def _echo() -> Case:
    return Case("echo", [{"a": [1, "x", None]}, "text", 3.5, [True]], {"$array": "!", "dtype": 1})


CASES: dict[str, Callable[[], Case]] = {
    "sklearn text classifier": _text,
    "sklearn forest on arrays": _forest,
    "sklearn regressor on frames": _frame_regressor,
    "sklearn two regressions": _two_numbers,
    "sklearn two classifications": _two_labels,
    "sklearn many labels": _many_labels,
    "sklearn outlier detector": _outliers,
    "sklearn classifier of image files": _scans,
    "torch image classifier": _cnn,
    "torch classifier of image files": _pictures,
    "torch yes or no": _yes_no,
    "torch three regressions": _network_regressor,
    "sklearn pipeline of texts and numbers": _mixed_pipeline,
    "sklearn pipeline of texts that may be missing": _missing_texts,
    "onnx text classifier": _onnx_text,
    "onnx forest on arrays": lambda: _converted(_forest()),
    "onnx two regressions": lambda: _converted(_two_numbers()),
    "onnx outlier detector": lambda: _converted(_outliers()),
    "onnx pipeline of texts and numbers": _onnx_frame,
    "onnx boosted trees": _onnx_boosted,
    "onnx image classifier": _onnx_cnn,
    "onnx classifier of image files": _onnx_pictures,
    "onnx classifier of image files, of rows": lambda: _converted(_scans(), _scans().input),
    "a runtime of one's own": _linear,
    "echo": _echo,
}


@pytest.fixture(scope="module", autouse=True)
def _a_runtime_of_ones_own() -> Iterator[None]:
    patch = pytest.MonkeyPatch()
    patch.setenv("CELERIAC_MODELS_RUNTIMES", "demo.linear_runtime")
    get_settings.cache_clear()
    yield
    patch.undo()
    get_settings.cache_clear()


@dataclass
class Subject:
    registry: Registry
    case: Case
    scorer: Scorer
    items: list[Any]


@pytest.fixture(scope="module", params=list(CASES))
def subject(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Subject:
    registry = Registry(tmp_path_factory.mktemp("models"))
    case = CASES[request.param]()
    version = release.register(
        "model", case.model, examples=case.examples, labels=case.labels, registry=registry,
        input=case.input, golden=6,
    )
    scorer = Scorer.load(registry, "model", version.version, LoadOptions())
    return Subject(registry, case, scorer, [example.item for example in version.golden])


def _agree(one: list[dict[str, Any]], other: list[dict[str, Any]]) -> bool:
    return len(one) == len(other) and all(map(same_answer, one, other))


def test_batch_equals_single_items_in_order(subject: Subject) -> None:
    singles = [subject.scorer.score([item])[0] for item in subject.items]
    assert not any("error" in answer for answer in singles)
    assert _agree(singles, subject.scorer.score(subject.items))
    assert _agree(singles[::-1], subject.scorer.score(subject.items[::-1]))


def test_answers_are_those_of_the_model_itself(subject: Subject) -> None:
    examples = subject.case.examples
    if isinstance(examples, pd.DataFrame):
        examples = examples.astype(object).where(examples.notna(), None)
    rows = examples.to_dict("records") if isinstance(examples, pd.DataFrame) else list(examples)
    found = subject.scorer.score([encode_item(row) for row in rows])
    plain = [answer["label"] if "label" in answer else answer["value"] for answer in found]
    for value, own in zip(plain, _own_answers(subject.case), strict=True):
        assert same_answer({"value": own}, {"value": value})


def _own_answers(case: Case) -> list[Any]:
    """What the model says with nothing of ours around it."""
    model = case.model if case.origin is None else case.origin
    if isinstance(model, str):
        return list(case.examples)
    if isinstance(model, Linear):
        return [model.labels[n] for n in (case.examples @ model.weights).argmax(axis=1)]
    raw = case.examples if case.raw is None else case.raw
    if hasattr(model, "predict"):
        return np.asarray(model.predict(raw)).tolist()
    with torch.inference_mode():
        values = model.eval()(torch.tensor(raw, dtype=torch.float32))
    if case.labels is None:
        return values.tolist()
    chosen = values.argmax(1) if values.shape[1] > 1 else values[:, 0] > 0
    return [case.labels[int(number)] for number in chosen]


def test_answers_name_model_and_version_and_are_plain_json(subject: Subject) -> None:
    found = subject.scorer.score(subject.items)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert {(answer["model"], answer["version"]) for answer in found} == {("model", 1)}


def test_the_runtime_of_ones_own_is_short() -> None:
    """docs/models.md promises it of the example."""
    assert len((ROOT / "demo" / "linear_runtime.py").read_text().splitlines()) < 100


def test_golden_examples_reproduce(subject: Subject) -> None:
    subject.scorer.check_golden()


def test_input_is_not_changed(subject: Subject) -> None:
    before = copy.deepcopy(subject.items)
    subject.scorer.score(subject.items)
    assert subject.items == before


def test_no_items_no_answers(subject: Subject) -> None:
    assert subject.scorer.score([]) == []


def test_a_bad_item_leaves_the_others_alone(subject: Subject) -> None:
    expected = subject.scorer.score(subject.items)
    middle = len(subject.items) // 2
    mixed = [*subject.items[:middle], subject.case.bad, *subject.items[middle:]]
    found = subject.scorer.score(mixed)
    assert found.pop(middle)["error"]["code"] == errors.InvalidItem.code
    assert _agree(expected, found)


def test_threads_get_the_same_answers(subject: Subject) -> None:
    expected = subject.scorer.score(subject.items)
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(subject.scorer.score, [subject.items] * 24):
            assert _agree(expected, found)


def test_loaded_again_it_answers_the_same(subject: Subject) -> None:
    again = Scorer.load(subject.registry, "model", 1, LoadOptions())
    assert _agree(subject.scorer.score(subject.items), again.score(subject.items))


def test_a_table_gets_the_answers_of_its_rows(subject: Subject) -> None:
    manifest = subject.scorer.manifest
    if manifest.input.kind in ("array", "image"):
        rows = [np.ravel(item).tolist() for item in _decoded(subject)]
        names = [f"x{number}" for number in range(len(rows[0]))]
        table = pa.table(dict(zip(names, zip(*rows, strict=True), strict=True)))
    elif manifest.input.kind == "any":
        table = pa.table({"a": [1, 2]})
    elif manifest.input.kind == "text":
        table = pa.table({"text": subject.items})
    else:
        names = [column.name for column in manifest.input.columns]
        rows = [list(item.values()) if isinstance(item, dict) else item for item in subject.items]
        table = pa.table(dict(zip(names, zip(*rows, strict=True), strict=True)))
    scored = subject.scorer.score_table(table)
    assert not scored.errors
    assert list(scored.columns) == answer_columns(manifest.output)
    assert {len(column) for column in scored.columns.values()} == {table.num_rows}
    if manifest.input.kind != "any":
        _assert_same_table(scored.columns, subject.scorer.score(subject.items))


def _decoded(subject: Subject) -> list[Any]:
    if subject.scorer.manifest.input.kind == "image":
        return list(collate(subject.items, subject.scorer.manifest.input).inputs)
    return [decode_item(item) for item in subject.items]


def _assert_same_table(columns: dict[str, Any], answers: list[dict[str, Any]]) -> None:
    for name, column in columns.items():
        kind, _, number = name.partition("_")
        for cell, answer in zip(column.to_pylist(), answers, strict=True):
            key = "probability" if kind == "probability" else (
                "label" if "label" in answer else "value"
            )
            expected = answer[key][int(number)] if number else answer[key]
            assert same_answer({"value": expected}, {"value": cell})


def test_a_changed_byte_is_refused_before_loading(subject: Subject, tmp_path: Path) -> None:
    import shutil

    root = tmp_path / "copy"
    shutil.copytree(subject.registry.root, root)
    files = subject.scorer.manifest.files
    if not files:
        pytest.skip("this format has no files")
    path = root / "model" / "1" / files[0].path
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(errors.ModelCorrupt, match=rf"model@1: {files[0].path}"):
        Scorer.load(Registry(root), "model", 1, LoadOptions())


def test_a_recipe_of_a_later_release_is_refused(subject: Subject) -> None:
    version = subject.scorer.manifest
    if not hasattr(runtimes.runtime(version.format), "RECIPE"):
        pytest.skip("this runtime does not say what it knows")
    later = version.model_copy(update={"recipe": {**version.recipe, "new": True}})
    with pytest.raises(errors.RegistryError, match="model@1: its recipe asks for new, which"):
        runtimes.load(subject.registry.folder("model", 1), later, LoadOptions())


def test_items_as_a_client_sends_them(subject: Subject) -> None:
    if subject.scorer.manifest.input.kind not in ("array", "image", "table"):
        pytest.skip("arrays are for models that take numbers")
    if subject.scorer.manifest.input.frame:
        pytest.skip("a frame's columns differ in type")
    arrays = [encode_item(np.asarray(item)) for item in _decoded(subject)]
    assert _agree(subject.scorer.score(subject.items), subject.scorer.score(arrays))
