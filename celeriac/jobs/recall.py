"""Rows of texts that were answered before, by a job or in real time, are not scored again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from celeriac.cache import Answerer
from celeriac.inputs import columns_needed
from celeriac.outputs import TableAnswers
from celeriac.registry.manifest import ModelVersion
from celeriac.scoring import Scorer


class AnswerCache(Protocol):
    """What a job needs of the result cache. Never raises."""

    def recall(self, who: Answerer, items: Sequence[Any]) -> Sequence[dict[str, Any] | None]:
        """Answers by position; None where nothing is known."""
        ...

    def keep(
        self, who: Answerer, items: Sequence[Any], answers: Sequence[dict[str, Any]]
    ) -> None:
        """Have answers kept."""
        ...


def shares_cache(version: ModelVersion) -> bool:
    """True if jobs of the version use the cache: it takes texts and has one output.

    To look a row of numbers up costs more than to score it.
    """
    kinds = {type(label) for label in version.output.labels}
    return (
        version.serving.cache and version.input.kind == "text"
        and version.output.kind != "any" and version.output.outputs == 1 and len(kinds) <= 1
    )


class RecallingScorer:
    """Scores the rows of a table that the cache does not know, and has their answers kept."""

    def __init__(self, scorer: Scorer, cache: AnswerCache) -> None:
        self._scorer = scorer
        self._cache = cache
        self._who = Answerer.of(scorer.manifest)
        self._kind = scorer.manifest.output.kind

    def score_table(self, table: pa.Table, text_column: str | None = None) -> TableAnswers:
        """As the scorer's own, with the same result. Raises DatasetError as it does."""
        needed = columns_needed(self._scorer.manifest.input, table.column_names, text_column)[0]
        texts = table.column(needed).to_pylist()
        rows = [row for row, text in enumerate(texts) if isinstance(text, str)]
        recalled = self._cache.recall(self._who, [texts[row] for row in rows])
        known = {
            row: answer for row, answer in zip(rows, recalled, strict=True)
            if answer is not None and self._fits(answer)
        }
        new = [row for row in range(len(texts)) if row not in known]
        scored = self._scorer.score_table(_rows(table, new) if known else table, text_column)
        self._keep([texts[row] for row in new], scored)
        return _together(scored, new, known, self._kind) if known else scored

    def _fits(self, answer: dict[str, Any]) -> bool:
        output = self._scorer.manifest.output
        if output.kind == "regressor":
            return isinstance(answer.get("value"), float)
        return answer.get("label") in output.labels and (
            isinstance(answer.get("probability"), float) or not output.probabilities
        )

    def _keep(self, texts: list[Any], scored: TableAnswers) -> None:
        named = {"model": self._scorer.name, "version": self._scorer.version}
        keys = [_key(name, self._kind) for name in scored.columns]
        cells = zip(*(column.to_pylist() for column in scored.columns.values()), strict=True)
        good = [
            (text, {**named, **dict(zip(keys, values, strict=True))})
            for row, (text, values) in enumerate(zip(texts, cells, strict=True))
            if row not in scored.errors
        ]
        self._cache.keep(self._who, [text for text, _ in good], [answer for _, answer in good])


def _key(column: str, kind: str) -> str:
    if column == "prediction":
        return "label" if kind == "classifier" else "value"
    return column


def _rows(table: pa.Table, rows: list[int]) -> pa.Table:
    return table.take(pa.array(rows, pa.int64()))


def _together(
    scored: TableAnswers, new: list[int], known: dict[int, dict[str, Any]], kind: str
) -> TableAnswers:
    """The scored rows and the recalled ones in the table's order."""
    order = np.empty(len(new) + len(known), dtype=np.int64)
    order[[*new, *known]] = np.arange(len(order))
    columns = {}
    for name, column in scored.columns.items():
        key = _key(name, kind)
        recalled = pa.array([answer[key] for answer in known.values()], column.type)
        columns[name] = pa.concat_arrays([column, recalled]).take(pa.array(order))
    return TableAnswers(columns, {new[row]: error for row, error in scored.errors.items()})
