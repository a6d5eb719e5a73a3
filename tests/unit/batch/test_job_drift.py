"""A job's report compares its rows with what the version was made for."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from celeriac import release
from celeriac.datasets.planner import plan as plan_dataset
from celeriac.datasets.sources import open_source
from celeriac.drift.profile import read_profile
from celeriac.inputs import columns_needed
from celeriac.jobs.chunk import run_chunk
from celeriac.jobs.drift import Reference
from celeriac.jobs.finalize import finalize
from celeriac.jobs.folder import JobFolder
from celeriac.jobs.manifest import Manifest
from celeriac.jobs.plan import Scoring, make_plan
from celeriac.jobs.report import make_report
from celeriac.registry.store import Registry
from celeriac.runtimes import LoadOptions
from celeriac.scoring import Scorer

NOW = datetime(2026, 11, 25, tzinfo=UTC)


def table(count: int, mean: float = 0.0, seed: int = 1) -> pd.DataFrame:
    """The same each time: of rows that are drawn anew, one set in a hundred may seem to drift."""
    chance = np.random.default_rng(seed)
    return pd.DataFrame({
        "size": chance.normal(mean, 1, count),
        "colour": chance.choice(["red", "green", "blue"], count),
        "prediction": chance.normal(size=count),
    })


def run_job(folder: Path, scorer: Scorer, reference: Reference | None, source: Path,
            text_column: str | None = None) -> tuple[JobFolder, Manifest]:
    output = JobFolder(folder)
    found = open_source(source)
    needs = tuple(columns_needed(scorer.manifest.input, found.names, text_column))
    scoring = Scoring(
        model="m", version=1, device="cpu", needs=needs, keeps=tuple(found.names),
        text_column=text_column,
    )
    dataset = plan_dataset(found, chunk_rows=500)
    plan = make_plan(
        dataset, scoring, source=str(source), job_id="j", now=NOW, sample_rows=100_000
    )
    output.create(plan, dataset.chunks)
    for chunk in dataset.chunks:
        run_chunk(
            output, plan, chunk, lambda rows: scorer.score_table(rows, text_column),
            reference=reference,
        )
    return output, finalize(output, NOW)


def registered(root: Path, model: Any, **options: Any) -> tuple[Scorer, Reference]:
    registry = Registry(root)
    release.register("m", model, registry=registry, **options)
    scorer = Scorer.load(registry, "m", 1, LoadOptions())
    profile = read_profile(registry.folder("m", 1))
    assert profile is not None
    return scorer, Reference(profile, scorer.manifest.input)


@pytest.fixture(scope="module")
def numbers(tmp_path_factory: pytest.TempPathFactory) -> tuple[Scorer, Reference]:
    known = table(2_000, seed=0)
    model = LogisticRegression().fit(known[["size", "prediction"]], known["size"] > 0)
    return registered(
        tmp_path_factory.mktemp("models"), model, examples=known[["size", "prediction"]].head(9),
        reference=known[["size", "prediction"]],
    )


def test_rows_that_have_drifted(numbers: tuple[Scorer, Reference], tmp_path: Path) -> None:
    table(1_500, mean=1).to_parquet(tmp_path / "now.parquet")
    folder, manifest = run_job(tmp_path / "out", *numbers, tmp_path / "now.parquet")
    assert manifest.drift is not None
    assert manifest.drift.state == "drift"
    assert manifest.drift.drifted[0] == "size"
    names = {one.name: one.state for one in manifest.drift.features}
    assert names["input.prediction"] == "stable"
    assert names["prediction"] == "drift"
    page = folder.report.read_bytes().decode()
    assert "<h2>Drift</h2>" in page
    assert "Drift</b>: 3 features of 4 have changed." in page
    assert "size</b>: has become larger" in page
    again = make_report(folder, again=True)
    assert "<h2>Drift</h2>" in again.read_bytes().decode()


def test_a_column_whose_name_begins_as_that_of_a_renamed_one(tmp_path: Path) -> None:
    names = ["input.size", "b"]
    known = table(2_000)[["size", "prediction"]].set_axis(names, axis=1)
    scorer, reference = registered(
        tmp_path / "models", LogisticRegression().fit(known, known["b"] > 0),
        examples=known.head(9), reference=known,
    )
    known.to_parquet(tmp_path / "now.parquet")
    _, manifest = run_job(tmp_path / "out", scorer, reference, tmp_path / "now.parquet")
    assert manifest.drift is not None
    assert manifest.drift.state == "stable"


def test_rows_that_have_not(numbers: tuple[Scorer, Reference], tmp_path: Path) -> None:
    table(1_500).to_csv(tmp_path / "now.csv", index=False)
    _, manifest = run_job(tmp_path / "out", *numbers, tmp_path / "now.csv")
    assert manifest.drift is not None
    assert (manifest.drift.state, manifest.drift.rows) == ("stable", 1_500)


def test_a_version_without_a_profile(numbers: tuple[Scorer, Reference], tmp_path: Path) -> None:
    table(600).to_csv(tmp_path / "now.csv", index=False)
    folder, manifest = run_job(tmp_path / "out", numbers[0], None, tmp_path / "now.csv")
    assert manifest.drift is None
    assert "<h2>Drift</h2>" not in folder.report.read_bytes().decode()


def reviews(count: int, words: list[str], seed: int = 1) -> pd.DataFrame:
    chance = np.random.default_rng(seed)
    texts = [" ".join(chance.choice(words, chance.integers(5, 40))) for _ in range(count)]
    return pd.DataFrame({"id": range(count), "review": texts})


def test_texts_are_measured_whole(tmp_path: Path) -> None:
    words = [f"word{number}" for number in range(300)]
    known = reviews(1_000, words, seed=0)["review"].tolist()
    model = make_pipeline(TfidfVectorizer(), LogisticRegression())
    model.fit(known, np.arange(1_000) % 2)
    scorer, reference = registered(
        tmp_path / "models", model, examples=known[:9], reference=known, text_column="review"
    )
    pd.DataFrame({"review": known}).to_csv(tmp_path / "itself.csv", index=False)
    _, manifest = run_job(
        tmp_path / "itself", scorer, reference, tmp_path / "itself.csv", "review"
    )
    assert manifest.drift is not None
    assert manifest.drift.state == "stable"
    for name, others, state in (("same", words, "stable"), ("new", ["unheard", "of"], "drift")):
        reviews(1_200, others).to_csv(tmp_path / f"{name}.csv", index=False)
        _, manifest = run_job(
            tmp_path / name, scorer, reference, tmp_path / f"{name}.csv", "review"
        )
        assert manifest.drift is not None
        by_name = {one.name: one for one in manifest.drift.features}
        assert by_name["review.new_words"].state == state
        assert by_name["review.characters"].rows == 1_200
        assert by_name["review.new_words"].null_share == 0
