"""What workers count of single items, beside what a batch job would count of the same rows."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.feature_extraction.text import HashingVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from celeriac import release
from celeriac.drift import bins, features
from celeriac.drift.profile import ReferenceProfile
from celeriac.drift.registering import as_table
from celeriac.drift.tally import Standard, Tally, pack, tally, unpack
from celeriac.messages import encode_item
from celeriac.registry.manifest import InputSchema, OutputSchema, Pixels
from celeriac.registry.store import Registry
from celeriac.runtimes import LoadOptions
from celeriac.scoring import Scorer

ROWS = 600


class Model:
    """A registered version that is loaded, and what its items are counted with."""

    def __init__(self, root: Path, model: Any, rows: Any) -> None:
        registry = Registry(root)
        release.register("m", model, examples=rows[:10], reference=rows, registry=registry)
        self.scorer = Scorer.load(registry, "m", 1, LoadOptions())
        found = Standard.of(registry.folder("m", 1), self.scorer.manifest)
        assert found is not None
        self.standard = found

    def count(self, items: list[Any]) -> Tally:
        wire = [encode_item(item) for item in items]
        return tally(self.standard, wire, self.scorer.score(wire))

    def count_table(self, rows: Any) -> dict[str, list[int]]:
        """As a dataset is counted."""
        table = as_table(rows, self.scorer.manifest.input)
        profile = self.standard.profile
        every = features.merged(
            features.of_table(profile, table, self.scorer.manifest.input),
            features.of_answers(self.scorer.score_table(table).columns), profile.answers,
        )
        return {
            one.name: bins.counts(one, every[one.name].values).tolist()
            for one in self.standard.watched
        }


def by_name(model: Model, found: Tally) -> dict[str, list[int]]:
    return {name: one.tolist() for name, one in model.standard.split(found.counts).items()}


@pytest.fixture(scope="module")
def sizes(tmp_path_factory: pytest.TempPathFactory) -> Model:
    chance = np.random.default_rng(0)
    rows = pd.DataFrame({
        "size": chance.normal(size=ROWS), "number": chance.integers(0, 9, ROWS),
        "is_new": chance.random(ROWS) < 0.3, "colour": chance.choice(["red", "green"], ROWS),
    })
    from sklearn.compose import make_column_transformer
    from sklearn.impute import SimpleImputer
    from sklearn.preprocessing import OneHotEncoder

    model = make_pipeline(
        make_column_transformer(
            (SimpleImputer(), ["size", "number", "is_new"]),
            (OneHotEncoder(handle_unknown="ignore"), ["colour"]),
        ),
        LogisticRegression(),
    ).fit(rows, np.where(rows["size"] > 0, "large", "small"))
    return Model(tmp_path_factory.mktemp("sizes"), model, rows)


def items_of(rows: int, seed: int = 1) -> list[dict[str, Any]]:
    chance = np.random.default_rng(seed)
    return [
        {"size": float(chance.normal()), "number": int(chance.integers(0, 9)),
         "is_new": bool(chance.random() < 0.3), "colour": str(chance.choice(["red", "green"]))}
        for _ in range(rows)
    ]


def test_rows_of_a_table_are_counted_as_a_dataset_is(sizes: Model) -> None:
    items = items_of(200)
    found = sizes.count(items)
    assert found.rows == 200
    assert by_name(sizes, found) == sizes.count_table(pd.DataFrame(items))


def test_rows_without_names_are_counted_alike(sizes: Model) -> None:
    items = items_of(50)
    bare = sizes.count([list(item.values()) for item in items])
    assert bare.counts.tolist() == sizes.count(items).counts.tolist()


def test_nulls_and_new_values_are_counted(sizes: Model) -> None:
    odd = [one | {"size": None, "colour": "mauve"} for one in items_of(7)]
    found = by_name(sizes, sizes.count([*items_of(5), *odd]))
    assert found["size"][-1] == 7
    assert found["colour"][-2] == 7
    assert sum(found["colour"]) == 12


def test_items_that_are_none_are_left_out(sizes: Model) -> None:
    bad: list[Any] = [{"size": 1.0}, "no row", None, [1, 2], items_of(1)[0] | {"size": "large"}]
    found = sizes.count([*bad, *items_of(3)])
    assert (found.rows, found.refused, found.items) == (3, 5, 8)
    again = unpack(sizes.standard, pack(sizes.standard, found))
    assert again is not None
    assert (again.rows, again.refused) == (3, 5)
    assert {sum(one) for one in by_name(sizes, found).values()} == {3}


def test_an_item_that_the_model_failed_on_has_no_answer(sizes: Model) -> None:
    failed = {"error": {"code": "model_failed", "message": ""}}
    found = by_name(sizes, tally(sizes.standard, items_of(2), [failed, failed]))
    assert sum(found["size"]) == 2
    assert found["prediction"][-1] == found["probability"][-1] == 2


def test_texts_are_counted_as_a_dataset_is(tmp_path: Path) -> None:
    chance = np.random.default_rng(0)
    texts = [" ".join(chance.choice(["good", "bad", "film", "cup"], 9)) for _ in range(300)]
    model = make_pipeline(HashingVectorizer(n_features=64), LogisticRegression())
    known = Model(tmp_path, model.fit(texts, [n % 2 for n in range(300)]), texts)
    some = [*texts[:40], "entirely new words", "", "!?"]
    found = known.count(some)
    assert found.rows == len(some)
    assert by_name(known, found) == known.count_table(some)
    # Labels that are whole numbers are categories on both ways.
    assert [one.kind for one in known.standard.watched if one.name == "prediction"] == ["category"]


def test_arrays_are_counted_as_a_dataset_is(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(300, 3))
    model = LogisticRegression().fit(values, values[:, 0] > 0)
    known = Model(tmp_path, model, values)
    found = known.count(list(values[:20]))
    assert by_name(known, found) == known.count_table(values[:20])


def test_counts_are_packed_and_come_back(sizes: Model) -> None:
    found = sizes.count(items_of(30))
    found.seen = 90
    packed = pack(sizes.standard, found)
    assert len(packed) < 300
    back = unpack(sizes.standard, packed)
    assert back is not None
    assert (back.rows, back.seen) == (30, 90)
    assert back.counts.tolist() == found.counts.tolist()


def test_counts_of_another_profile_are_none(sizes: Model) -> None:
    from dataclasses import replace

    packed = pack(replace(sizes.standard, digest="other"), sizes.count(items_of(3)))
    assert unpack(sizes.standard, packed) is None
    assert unpack(sizes.standard, b"nothing of ours") is None
    assert unpack(sizes.standard, b"") is None


def test_numbers_beyond_everything(sizes: Model) -> None:
    items = [one | {"size": size} for one, size in zip(
        items_of(4), (1e308, -1e308, math.nan, 0.0), strict=True
    )]
    found = tally(sizes.standard, items, [{"label": "large", "probability": 0.5}] * 4)
    counts = by_name(sizes, found)["size"]
    assert (counts[0], counts[-2], counts[-1]) == (1, 1, 1)


@pytest.mark.parametrize("schema", [
    InputSchema(kind="image", shape=(8, 8, 3), dtype="float32"),
    InputSchema(kind="image", shape=(3, 8, 8), dtype="float32", pixels=Pixels(channels="first")),
    InputSchema(kind="array", shape=(10, 10), dtype="float32"),
])
def test_items_of_which_none_is_any_are_counted_as_refused(schema: InputSchema) -> None:
    standard = Standard(
        profile=ReferenceProfile(rows=0, rows_given=0, features=()), digest="", input=schema,
        output=OutputSchema(kind="classifier", labels=(0, 1)),
    )
    refused = {"error": {"code": "item_invalid", "message": ""}}
    found = tally(standard, ["none", None, [1, 2]], [refused] * 3)
    assert (found.rows, found.refused) == (0, 3)
