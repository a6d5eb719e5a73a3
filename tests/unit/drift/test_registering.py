"""Profiles of every kind of input, and the features that they are compared by."""

from __future__ import annotations

import io
import math
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from PIL import Image
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline

from celeriac import errors, release
from celeriac.drift import features, registering
from celeriac.drift.dataset import check_dataset, sample
from celeriac.drift.features import Feature
from celeriac.drift.performance import auc, fell, misfit, performance
from celeriac.drift.profile import (
    PROFILE_NAME,
    Known,
    Performance,
    ReferenceProfile,
    read_profile,
)
from celeriac.drift.reference import make_profile
from celeriac.inputs import collate
from celeriac.outputs import TableAnswers
from celeriac.registry.manifest import Column, InputSchema, OutputSchema, Pixels
from celeriac.registry.store import Registry
from celeriac.runtimes import LoadOptions
from celeriac.scoring import Scorer

CHANCE = np.random.default_rng(0)
FRAME = pd.DataFrame({"a": CHANCE.normal(size=300), "b": CHANCE.normal(size=300)})
MODEL = LogisticRegression().fit(FRAME, FRAME["a"] > 0)
WORDS = [f"word{number}" for number in range(30)]


def profile(root: Path, model: object = MODEL, **options: object) -> ReferenceProfile | None:
    registry = Registry(root)
    version = release.register("m", model, registry=registry, **options)  # type: ignore[arg-type]
    folder = registry.folder("m", version.version)
    registry.verify("m", version.version)
    found = read_profile(folder)
    has_file = any(file.path == PROFILE_NAME for file in version.files)
    assert has_file == (found is not None)
    return found


def test_a_reference_of_a_table(tmp_path: Path) -> None:
    found = profile(tmp_path, examples=FRAME.head(10), reference=FRAME)
    assert found is not None
    assert (found.source, found.rows) == ("reference", 300)
    kinds = {feature.name: (feature.kind, feature.role) for feature in found.features}
    assert kinds == {
        "a": ("number", "input"), "b": ("number", "input"),
        "prediction": ("category", "answer"), "probability": ("number", "answer"),
    }
    assert found.performance is None
    assert found.coded is not None
    assert found.coded.matrix().shape == (300, 2)


def test_examples_serve_if_there_are_many(tmp_path: Path) -> None:
    assert profile(tmp_path, examples=FRAME.head(99)) is None
    found = profile(tmp_path, examples=FRAME)
    assert found is not None
    assert found.source == "examples"


def test_the_truth_is_kept_as_one_figure(tmp_path: Path) -> None:
    truth = [None] * 100 + (FRAME["a"] > 0).tolist()[100:]
    found = profile(tmp_path, examples=FRAME.head(10), reference=FRAME, reference_labels=truth)
    assert found is not None
    assert found.performance is not None
    assert (found.performance.measure, found.performance.rows) == ("AUC", 200)
    assert found.performance.value > 0.99


def test_a_regressor(tmp_path: Path) -> None:
    model = LinearRegression().fit(FRAME, FRAME["a"] * 2)
    found = profile(
        tmp_path, model, examples=FRAME.head(5), reference=FRAME,
        reference_labels=FRAME["a"] * 2 + 1,
    )
    assert found is not None
    assert found.by_name["prediction"].kind == "number"
    assert found.performance is not None
    assert found.performance.measure == "mean absolute error"
    assert found.performance.value == pytest.approx(1.0)


def test_a_model_that_is_slow_is_known_by_the_answers_that_it_gave(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Rows that nobody had answered looked like answers that are missing."""
    clock = SimpleNamespace(s=0.0)
    monkeypatch.setattr(registering, "time", SimpleNamespace(monotonic=lambda: clock.s))

    def predict(table: pa.Table) -> TableAnswers:
        clock.s += 0.02 * table.num_rows
        return TableAnswers({"prediction": pa.array(table["a"].to_numpy() * 2)})

    rows = pd.DataFrame({"a": np.random.default_rng(0).normal(size=3_000)})
    found = registering.profile_of(
        rows, InputSchema(kind="table", columns=(Column(name="a", dtype="float"),)),
        OutputSchema(kind="regressor"), predict, truth=rows["a"],
    )
    answer = found.by_name["prediction"]
    assert (found.rows, answer.rows, answer.nulls) == (3_000, 2_064, 0)
    assert answer.autocorrelation_rows < 2
    assert answer.calibration is not None
    assert found.performance is not None
    assert found.performance.rows == 2_064
    assert "answered 2,064 of its 3,000 rows within 30 s" in found.warnings[-1]


def test_a_reference_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    for wrong, options in (
        (FRAME[["a"]], {}), (FRAME.astype(str), {}), (FRAME, {"reference_labels": [1, 2]}),
        (None, {"reference_labels": [1, 2]}), (object, {}),
    ):
        with pytest.raises(errors.RegistryError):
            release.register(
                "m", MODEL, registry=Registry(tmp_path), examples=FRAME.head(5), reference=wrong,
                **options,
            )
    assert Registry(tmp_path).names() == []


def reviews(rows: int, words: list[str], seed: int = 0) -> list[str]:
    chance = np.random.default_rng(seed)
    return [" ".join(chance.choice(words, chance.integers(3, 9))) for _ in range(rows)]


def test_a_reference_of_texts(tmp_path: Path) -> None:
    texts = reviews(200, WORDS)
    model = make_pipeline(CountVectorizer(), LogisticRegression())
    model.fit(texts, np.arange(200) % 2)
    found = profile(
        tmp_path, model, examples=texts[:5], reference=texts, text_column="review"
    )
    assert found is not None
    assert set(found.by_name) == {
        "review.characters", "review.new_words", "prediction", "probability"
    }
    assert "word1" not in found.dump().decode()  # nobody's words
    schema = InputSchema(kind="text", columns=(Column(name="review", dtype="text"),))
    others = [*reviews(5, ["entirely", "different"]), None, ""]
    table = pa.table({"body": pa.array(others)})
    now = features.of_table(found, table, schema, text_column="body")
    assert now["review.new_words"].values[:5].tolist() == [1] * 5
    assert np.isnan(now["review.new_words"].values[5:]).all()
    assert now["review.characters"].values[6] == 0
    same = features.of_inputs(found, others[:5], schema)
    for name, feature in same.items():
        np.testing.assert_array_equal(feature.values, now[name].values[:5])


def test_new_words_are_expected_as_often_as_they_come() -> None:
    """A reference of 400 texts, and 400 more of the same language."""
    chance = np.random.default_rng(1)
    ranks = chance.zipf(1.5, size=(800, 20))
    texts = np.array([" ".join(f"w{rank}" for rank in row) for row in ranks], dtype=object)
    schema = InputSchema(kind="text", columns=(Column(name="t", dtype="text"),))
    before, kept = features.of_reference(pa.table({"t": pa.array(texts[:400])}), schema)
    profile = ReferenceProfile(rows=400, rows_given=400, features=(), texts=kept)
    now = features.of_table(profile, pa.table({"t": pa.array(texts[400:])}), schema)
    expected = before["t.new_words"].values.mean()
    assert now["t.new_words"].values.mean() == pytest.approx(expected, rel=0.15)


def png(brightness: int, side: int = 8) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((side, side, 3), brightness, dtype=np.uint8)).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize("channels", ["last", "first"])
def test_images(channels: str) -> None:
    shape = (8, 8, 3) if channels == "last" else (3, 8, 8)
    schema = InputSchema(
        kind="image", shape=shape, dtype="float32",
        pixels=Pixels(channels=channels, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4)),  # type: ignore[arg-type]
    )
    reds = np.zeros((8, 8, 3), dtype=np.uint8)
    reds[..., 0] = 255
    file = io.BytesIO()
    Image.fromarray(reds).save(file, "PNG")
    items = [png(0), png(255, side=16), b"no image", file.getvalue()]
    found, _ = features.of_reference(pa.table({"image": pa.array(items, pa.binary())}), schema)
    shown = {name: feature.values.round(3).tolist() for name, feature in found.items()}
    nan = pytest.approx(float("nan"), nan_ok=True)
    assert shown["image.brightness"] == [0, 1, nan, pytest.approx(1 / 3, abs=1e-3)]
    assert shown["image.colour"] == [0, 0, nan, 1]
    assert shown["image.warmth"] == [0, 0, nan, 1]
    assert shown["image.width"] == [8, 16, nan, 8]
    inputs = collate([items[0], items[1], items[3]], schema).inputs
    profile = ReferenceProfile(rows=0, rows_given=0, features=())
    same = features.of_inputs(profile, inputs, schema)
    assert same["image.brightness"].values.round(3).tolist() == [0, 1, 0.333]


@pytest.mark.parametrize(("column", "wrong"), [
    (pa.array([b"no image"] * 3), ""),
    (pa.array([None] * 3, pa.binary()), ""),
    (pa.nulls(3), ""),
    (pa.array(["a", "b", "c"]), "cannot be measured: column 'image' of the dataset is of type"),
])
def test_images_of_which_none_can_be_read(column: pa.Array, wrong: str) -> None:
    schema = InputSchema(kind="image", shape=(8, 8, 3), dtype="float32")
    table = pa.table({"image": pa.array([png(number) for number in range(3)])})
    known, _ = features.of_reference(table, schema)
    found = features.of_table(make_profile(known), pa.table({"image": column}), schema)
    assert set(found) >= {"image.brightness", "image.contrast", "image.colour", "image.warmth"}
    for feature in found.values():
        assert np.isnan(feature.values).all()
        assert feature.wrong.startswith(wrong)
        assert bool(feature.wrong) is bool(wrong)


@pytest.mark.parametrize(("column", "wrong"), [
    (pa.nulls(3), ""),
    (pa.array([1.0, 2.0, 3.0]), "has changed its type: now it is double"),
])
def test_a_column_of_texts_that_holds_none(column: pa.Array, wrong: str) -> None:
    schema = InputSchema(kind="text", columns=(Column(name="t", dtype="text"),))
    known, kept = features.of_reference(pa.table({"t": ["a b", "c", "d"]}), schema)
    found = features.of_table(
        make_profile(known, texts=kept), pa.table({"t": column}), schema
    )
    assert set(found) == {"t.characters", "t.new_words"}
    assert {feature.wrong for feature in found.values()} == {wrong}
    assert all(np.isnan(feature.values).all() for feature in found.values())


def test_arrays_small_and_large() -> None:
    small = InputSchema(kind="array", shape=(2, 2))
    table = pa.table({f"x{number}": [1.0, 2.0] for number in range(4)})
    found, _ = features.of_reference(table, small)
    assert set(found) == {"x0", "x1", "x2", "x3"}
    large = InputSchema(kind="array", shape=(10, 10))
    table = pa.table({f"x{number}": [1.0, float(number)] for number in range(100)})
    found, _ = features.of_reference(table, large)
    assert found["array.mean"].values.tolist() == [1, 49.5]
    profile = ReferenceProfile(rows=0, rows_given=0, features=())
    inputs = np.stack([np.ones((10, 10)), np.arange(100.0).reshape(10, 10)])
    again = features.of_inputs(profile, inputs, large)
    assert again["array.mean"].values.tolist() == [1, 49.5]


def test_a_column_that_is_neither_numbers_nor_texts() -> None:
    schema = InputSchema(kind="table", frame=True, columns=(Column(name="n", dtype="float"),))
    known, _ = features.of_reference(pa.table({"n": [1.0, 2.0]}), schema)
    table = pa.table({"n": pa.array([datetime(2026, 1, 1, tzinfo=UTC)] * 2)})
    found = features.of_table(make_profile(known), table, schema)["n"]
    assert found.wrong == "has changed its type: now it is timestamp[us, tz=UTC]"
    assert np.isnan(found.values).all()


def test_columns_of_a_table_are_numbers_categories_or_texts() -> None:
    schema = InputSchema(kind="table", frame=True, columns=tuple(
        Column(name=name, dtype=dtype)  # type: ignore[arg-type]
        for name, dtype in (("n", "float"), ("flag", "bool"), ("c", "text"), ("note", "text"))
    ))
    rows = 60
    table = pa.table({
        "n": [1.0, None] * 30, "flag": [True, False] * 30, "c": ["x", "y"] * 30,
        "note": [f"this is note number {number}" for number in range(rows)],
        "unused": list(range(rows)),
    })
    found, texts = features.of_reference(table, schema)
    assert set(found) == {"n", "flag", "c", "note.characters", "note.new_words"}
    assert [text.column for text in texts] == ["note"]
    assert found["flag"].values.tolist()[:2] == ["true", "false"]
    profile = ReferenceProfile(rows=rows, rows_given=rows, features=(), texts=texts)
    inputs = collate(table.drop_columns("unused").to_pylist()[:4], schema).inputs
    assert set(features.of_inputs(profile, inputs, schema)) == set(found)


def test_labels_that_are_whole_numbers_are_categories() -> None:
    found = features.of_answers({"prediction": pa.array([4, None, 7]), "value": pa.array([0.5])})
    assert found["prediction"].values.tolist() == ["4", None, "7"]
    assert found["value"].values.dtype == float


def test_an_input_with_the_name_of_an_answer_keeps_apart() -> None:
    one = features.Feature(np.zeros(2))
    assert set(features.merged({"prediction": one, "a": one}, {"prediction": one})) == {
        "input.prediction", "a", "prediction"
    }
    assert set(features.merged({"prediction": one}, {}, ["prediction"])) == {"input.prediction"}


def test_a_version_that_is_away_is_none_without_a_profile(tmp_path: Path) -> None:
    with pytest.raises(errors.RegistryError, match=r"profile.json cannot be read \(No such file"):
        read_profile(tmp_path / "m" / "1")


def test_a_damaged_profile_says_so(tmp_path: Path) -> None:
    (tmp_path / PROFILE_NAME).write_bytes(b'{"contract": 2}')
    with pytest.raises(errors.RegistryError, match="damaged or of another release"):
        read_profile(tmp_path)
    with pytest.raises(errors.RegistryError, match="damaged"):
        Known.read("////")


def test_auc_by_hand_and_with_ties() -> None:
    assert auc(np.array([0.1, 0.4, 0.35, 0.8]), np.array([False, False, True, True])) == 0.75
    assert auc(np.array([0.5, 0.5]), np.array([False, True])) == 0.5


def test_performance_of_odd_truths() -> None:
    said = features.Feature(np.array(["1", "0", None], dtype=object), role="answer")
    numbers = features.Feature(np.array([1.0, 0.0, np.nan]), role="answer")
    for given in (said, numbers):
        found = performance({"prediction": given}, [1, 1, 1], (0, 1))
        assert found is not None
        assert (found.measure, found.value, found.rows) == ("accuracy", 0.5, 2)
    assert performance({"prediction": said}, [None] * 3, (0, 1)) is None
    assert performance({}, [1], (0, 1)) is None
    value = features.Feature(np.array([1.0, 2.0, 5.0]), role="answer")
    found = performance({"prediction": value}, [None, 2.5, 5.0])
    assert found is not None
    assert (found.measure, found.value, found.rows) == ("mean absolute error", 0.25, 2)
    assert performance({"prediction": value}, [None] * 3) is None
    assert performance({"prediction": said}, [1], (0, 1)) is None


def test_a_truth_that_no_answer_can_be_is_none() -> None:
    said = Feature(np.array(["late", "on time"] * 60, dtype=object), role="answer")
    labels = ("late", "on time")
    assert performance({"prediction": said}, ["LATE"] * 120, labels) is None
    assert misfit(["LATE", None], labels) == (
        "none of its values is a label of this version ('late', 'on time'), as 'LATE'"
    )
    assert misfit([None, math.nan]) == "no value is known"
    assert misfit(["1.5"]) == "its values are no numbers, as '1.5'"
    assert misfit(["late", "cancelled"], labels) == misfit([Decimal("1.5")]) == ""
    found = performance({"prediction": said}, ["late", "cancelled"] * 60, labels)
    assert found is not None
    assert (found.measure, found.value) == ("accuracy", 0.5)
    numbers = Feature(np.array([1.0, 2.0]), role="answer")
    off = performance({"prediction": numbers}, [Decimal("1.5"), Decimal("2.5")])
    assert off is not None
    assert off.value == 0.5


def test_labels_that_say_nothing_are_told(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    version = release.register("m", MODEL, examples=FRAME[:5], reference=FRAME, registry=registry)
    scorer = Scorer.load(registry, "m", 1, LoadOptions())
    rows = FRAME.assign(truth="yes", empty=None)
    for label, said in (
        ("truth", "none of its values is a label of this version (False, True), as 'yes'"),
        ("empty", "no value is known"),
    ):
        report = check_dataset(
            version, read_profile(registry.folder("m", 1)), rows, label=label,
            predict=scorer.score_table, now=datetime.now(UTC),
        )
        assert report.quality is None
        assert report.warnings[-1] == f"{label!r} does not say how good the answers are: {said}"


def test_numbers_in_names_of_folders_are_numbers(tmp_path: Path) -> None:
    """They are texts where no model says what they are."""
    version = release.register("m", MODEL, examples=FRAME[:5], registry=Registry(tmp_path / "m"))
    folder = tmp_path / "in" / "b=-07" / "c=08"
    folder.mkdir(parents=True)
    FRAME[["a"]].to_csv(folder / "a.csv", index=False)
    rows = sample(tmp_path / "in", version, 2, label="c").table
    assert [rows[name][0].as_py() for name in ("b", "c")] == [-7.0, "08"]


@pytest.mark.parametrize(("options", "said"), [
    ({"reference_labels": ["yes"] * 300}, "reference_labels: none of its values is a label"),
    ({"reference": "a text"}, "a reference is many inputs"),
    ({"reference": {"a": [1.0]}}, "a reference is many inputs"),
    ({"reference": FRAME.assign(a=[10**30] * 300)}, "the reference is no table"),
])
def test_a_reference_that_is_none(tmp_path: Path, options: dict[str, Any], said: str) -> None:
    with pytest.raises(errors.RegistryError, match=said):
        profile(tmp_path, examples=FRAME.head(10), **({"reference": FRAME} | options))


def test_a_reference_without_a_wrong_answer_is_not_right_for_ever() -> None:
    """Of a model that is right in 98 of 100 each seventh reference of 100 rows has none wrong."""
    answers = {"prediction": Feature(np.array(["a"] * 5_000, dtype=object), role="answer")}
    few = {"prediction": Feature(np.array(["a"] * 100, dtype=object), role="answer")}
    reference = performance(few, ["a"] * 100, ("a", "b", "c"))
    now, worse = (
        performance(answers, ["b"] * wrong + ["a"] * (5_000 - wrong), ("a", "b", "c"))
        for wrong in (100, 400)
    )
    assert reference is not None
    assert now is not None
    assert worse is not None
    assert not fell(reference, now)
    assert fell(reference, worse)


@pytest.mark.parametrize("area", [0.9, 0.99, 1.0])
def test_answers_are_not_worse_because_few_labels_were_kept_apart(area: float) -> None:
    """Of pairs of 0.99, whose reference often has no wrong answer among 100, 14 were worse."""
    chance = np.random.default_rng(3)

    def measured(rows: int, area: float) -> Performance:
        truth = np.where(np.arange(rows) % 2, "yes", "no")
        said = np.where(chance.random(rows) < area, truth, truth[::-1]).astype(object)
        answers = {
            "prediction": Feature(said, role="answer"),
            "probability": Feature(1 - chance.random(rows) / 2, role="answer"),
        }
        found = performance(answers, truth.tolist(), ("no", "yes"))
        assert found is not None
        assert found.measure == "AUC"
        return found

    pairs = [(measured(100, area), measured(1_000, area)) for _ in range(100)]
    assert sum(fell(*pair) for pair in pairs) <= 1
    assert fell(measured(300, area), measured(1_000, area - 0.15))
