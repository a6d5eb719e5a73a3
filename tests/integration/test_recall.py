"""Jobs and single items share answers, and a job's output does not depend on it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.svm import LinearSVC

from celeriac import release
from celeriac.cache import Answerer, Cache, MemoryStore
from celeriac.cache.worker import WorkerCache
from celeriac.datasets.copies import Copies
from celeriac.datasets.planner import plan
from celeriac.datasets.sources import open_source
from celeriac.jobs.chunk import run_chunk
from celeriac.jobs.folder import JobFolder
from celeriac.jobs.plan import Scoring, make_plan
from celeriac.jobs.recall import RecallingScorer, shares_cache
from celeriac.registry.manifest import Serving
from celeriac.registry.store import Registry
from celeriac.runtimes import LoadOptions
from celeriac.scoring import Scorer

WORDS = np.array(["good", "bad", "coffee", "tea", "stale", "best", "never", "again", "sweet"])
TEXTS: list[str | None] = [
    " ".join(words) for words in np.random.default_rng(7).choice(WORDS, (600, 6)).tolist()
]
GOOD = ["great" if "good" in str(text) else "other" for text in TEXTS]
MODELS = {
    "labels and probabilities": (LogisticRegression(), GOOD),
    "whole numbers as labels": (LogisticRegression(), [int(label == "great") for label in GOOD]),
    "labels alone": (LinearSVC(), GOOD),
    "numbers": (Ridge(), [len(str(text)) / 7 for text in TEXTS]),
}


@pytest.fixture(params=list(MODELS))
def scorer(request: pytest.FixtureRequest, tmp_path: Path) -> Scorer:
    last, targets = MODELS[request.param]
    model = make_pipeline(TfidfVectorizer(), last).fit(TEXTS, targets)
    registry = Registry(tmp_path / "models")
    release.register("m", model, examples=TEXTS, registry=registry, serving=Serving(cache=True))
    return Scorer.load(registry, "m", 1, LoadOptions())


class Recorded(WorkerCache):
    """Remembers what was asked."""

    def __init__(self) -> None:
        super().__init__(Cache(MemoryStore()), max_entries=100_000, ttl_s=60)
        self.found = 0

    def recall(self, who: Answerer, items: Sequence[Any]) -> list[dict[str, Any] | None]:
        answers = super().recall(who, items)
        self.found += len(answers) - answers.count(None)
        return answers


@pytest.mark.parametrize(
    "type_", [pa.string(), pa.large_string(), pa.dictionary(pa.int8(), pa.string())]
)
def test_a_job_answers_the_same_with_an_empty_a_mixed_and_a_full_cache(
    scorer: Scorer, type_: pa.DataType
) -> None:
    rows: list[str | None] = [*TEXTS[:40], None, *TEXTS[30:60], "", None]
    table = pa.table({"id": range(len(rows)), "text": pa.array(rows).cast(type_)})
    expected = scorer.score_table(table)
    cache = Recorded()
    recalling = RecallingScorer(scorer, cache)
    for first, last, found in ((0, 50, 0), (25, 73, 25), (0, 73, 71)):
        piece = table.slice(first, last - first)
        cache.found = 0
        answers = recalling.score_table(piece)
        assert cache.flush(30)
        assert cache.found >= found
        for name, column in expected.columns.items():
            assert answers.columns[name].equals(column.slice(first, last - first))
            assert answers.columns[name].type == column.type
        assert {row + first: error.message for row, error in answers.errors.items()} == {
            row: error.message for row, error in expected.errors.items() if first <= row < last
        }


def test_a_job_answers_the_same_when_equal_rows_are_scored_once(
    scorer: Scorer, tmp_path: Path
) -> None:
    """To the byte, with rows that fail and rows that are all alone."""
    texts = [*TEXTS[:300], None, *TEXTS[100:500], "", "alone", None, *TEXTS[:300]]
    table = pa.table({"id": range(len(texts)), "text": texts})
    parts = []
    for dedupe in (False, True):
        folder = JobFolder(tmp_path / str(dedupe))
        dataset = plan(
            open_source(table), chunk_rows=10_000, copies=Copies(tmp_path / "input")
        )
        scoring = Scoring(
            model="m", version=1, device="cpu", needs=("text",), keeps=("id",), id_column="id",
            dedupe=dedupe,
        )
        job = make_plan(dataset, scoring, source="x", job_id="x", now=datetime.now(UTC))
        job = folder.create(job, dataset.chunks)
        for chunk in dataset.chunks:
            run_chunk(folder, job, chunk, scorer.score_table)
        numbers = [chunk.number for chunk in dataset.chunks]
        parts.append([
            (folder.part(n, "parquet").read_bytes(), folder.errors(n).read_bytes())
            for n in numbers
        ])
    assert parts[0] == parts[1]


def test_what_a_job_kept_is_the_answer_to_a_single_item(scorer: Scorer) -> None:
    cache = Recorded()
    RecallingScorer(scorer, cache).score_table(pa.table({"text": TEXTS}))
    assert cache.flush(30)
    assert cache.recall(Answerer.of(scorer.manifest), TEXTS) == scorer.score(TEXTS)


def test_and_the_other_way_round(scorer: Scorer) -> None:
    cache = Recorded()
    cache.keep(Answerer.of(scorer.manifest), TEXTS, scorer.score(TEXTS))
    assert cache.flush(30)
    found = RecallingScorer(scorer, cache).score_table(pa.table({"text": TEXTS}))
    assert cache.found == len(TEXTS)
    expected = scorer.score_table(pa.table({"text": TEXTS}))
    assert all(found.columns[name].equals(expected.columns[name]) for name in expected.columns)


def test_an_answer_of_another_kind_is_computed_anew(scorer: Scorer) -> None:
    cache = Recorded()
    other = {"model": "m", "version": 1, "label": "?", "value": "?"}
    cache.keep(Answerer.of(scorer.manifest), TEXTS, [other] * 600)
    assert cache.flush(30)
    found = RecallingScorer(scorer, cache).score_table(pa.table({"text": TEXTS}))
    assert cache.found == len(TEXTS)
    expected = scorer.score_table(pa.table({"text": TEXTS}))
    assert all(found.columns[name].equals(expected.columns[name]) for name in expected.columns)


def test_tables_are_scored_and_not_looked_up(tmp_path: Path) -> None:
    registry = Registry(tmp_path / "models")
    rows = np.random.default_rng(1).random((20, 3))
    model = Ridge().fit(rows, rows[:, 0])
    version = release.register(
        "t", model, examples=rows, registry=registry, serving=Serving(cache=True)
    )
    assert not shares_cache(version)
    text = make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(TEXTS, GOOD)
    assert not shares_cache(release.register("x", text, examples=TEXTS, registry=registry))
