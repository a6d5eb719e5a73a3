"""One loaded version that answers items and tables; bad items never spoil the others."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from celeriac import errors, passes, runtimes
from celeriac.inputs import IMAGE_COLUMN, Limits, collate, collate_table
from celeriac.isolation import is_out_of_memory, isolate, item_error, pass_on
from celeriac.logs import get_logger
from celeriac.outputs import TableAnswers, answers, table_answers, together
from celeriac.registry.manifest import ModelVersion
from celeriac.registry.store import Registry

log = get_logger(__name__)

_RELATIVE, _ABSOLUTE = 1e-4, 1e-6
"""Tolerance of golden answers: libraries and processors differ in the last digits."""

IMAGES_BYTES = 64_000_000
"""How large the images of a dataset that are decoded at once may become."""


class Scorer:
    """A loaded version. Safe with threads."""

    def __init__(
        self, manifest: ModelVersion, model: runtimes.Model, limits: Limits | None = None
    ) -> None:
        self.manifest = manifest
        self.limits = limits
        self._model = model

    @classmethod
    def load(
        cls, registry: Registry, name: str, version: int, options: runtimes.LoadOptions
    ) -> Scorer:
        """Verify the files, load the model, and warm it on its golden items.

        Raises ModelNotFound, VersionNotFound, or RegistryError and its kinds: also if it answers
        none of them, as where a library or the memory for it is missing.
        """
        with passes.under_way(name, version, 0):
            folder = registry.folder(name, version)
            manifest = registry.verify(name, version)
            scorer = cls.open(folder, manifest, options)
            scorer.warm()
            return scorer

    @classmethod
    def open(
        cls, folder: Path, manifest: ModelVersion, options: runtimes.LoadOptions
    ) -> Scorer:
        """Load what lies in ``folder``, neither verified nor warmed."""
        return cls(manifest, runtimes.load(folder, manifest, options), limits_of(options))

    @property
    def model(self) -> runtimes.Model:
        """What answers, without decoding and labels."""
        return self._model

    def warm(self) -> None:
        """Answer all golden items at once, and one alone: a compiled version has a form for each.

        Raises RegistryError if not one of them is answered.
        """
        items = [example.item for example in self.manifest.golden]
        found = self.score(items)
        if found and all("error" in answer for answer in found):
            raise errors.RegistryError(
                f"{self.ref}: it answers none of its golden examples here: "
                f"{found[0]['error']['message']}"
            )
        if len(items) > 1:
            self.score(items[:1])

    @property
    def name(self) -> str:
        return self.manifest.name

    @property
    def version(self) -> int:
        return self.manifest.version

    @property
    def ref(self) -> str:
        """``NAME@VERSION``."""
        return self.manifest.ref

    @property
    def form(self) -> str:
        """How its runtime runs it, for people: "original", or what it says."""
        return getattr(self._model, "form", "original")

    def answer(self, items: Sequence[Any], max_items: int) -> list[dict[str, Any]]:
        """As :meth:`score`, in passes of at most ``max_items``; it raises nothing.

        Where a pass fails outside the model (too little memory to put its items together, say),
        it is halved until only the items are left that fail alone.
        """
        found: list[dict[str, Any]] = []
        for start in range(0, len(items), max_items):
            found += self._answer(items[start : start + max_items])
        return found

    def _answer(self, items: Sequence[Any]) -> list[dict[str, Any]]:
        try:
            with passes.under_way(self.name, self.version, len(items)):
                return self.score(items)
        except Exception as error:
            pass_on(error)
            if len(items) == 1:
                log.exception("item failed outside the model", model=self.ref)
                return [{"error": _outside(error).to_wire()}]
        middle = len(items) // 2
        return self._answer(items[:middle]) + self._answer(items[middle:])

    def score(self, items: Sequence[Any]) -> list[dict[str, Any]]:
        """Answer items as they came over the wire, in their order.

        Each entry is a prediction, or ``{"error": {"code", "message"}}`` for that item alone.
        """
        collated = collate(items, self.manifest.input, self.limits)
        output, kept, failed = isolate(self._model, collated.inputs, len(collated.index))
        result: list[dict[str, Any]] = [{} for _ in items]
        for position, error in collated.errors.items():
            result[position] = {"error": error.to_wire()}
        for position, error in failed.items():
            result[collated.index[position]] = {"error": error.to_wire()}
        if output is not None:
            scored = answers(output, self.manifest.output, self.name, self.version)
            for position, answer in zip(kept, scored, strict=True):
                result[collated.index[position]] = answer
        return result

    def score_table(self, table: Any, text_column: str | None = None) -> TableAnswers:
        """Answer all rows of a pyarrow table as whole columns.

        Raises DatasetError if a column is missing or of a wrong type.
        """
        at_once = self._rows_at_once(table.column_names)
        parts = [
            self._score_rows(table.slice(start, at_once), text_column)
            for start in range(0, max(table.num_rows, 1), at_once)
        ]
        return parts[0] if len(parts) == 1 else together(parts)

    def _rows_at_once(self, columns: Sequence[str]) -> int:
        """Image files become many times larger when they are decoded. And what the model takes in
        parts need not be put together as a whole."""
        schema = self.manifest.input
        if schema.kind == "image" and IMAGE_COLUMN in columns:
            return max(1, IMAGES_BYTES // (8 * math.prod(schema.shape)))
        part_bytes: int | None = getattr(self._model, "part_bytes", None)
        if part_bytes is None or schema.kind != "table" or schema.frame:
            return 1 << 62
        import numpy as np

        return max(1, part_bytes // (np.dtype(schema.dtype).itemsize * len(schema.columns)))

    def _score_rows(self, table: Any, text_column: str | None) -> TableAnswers:
        collated = collate_table(
            table, self.manifest.input, text_column=text_column, limits=self.limits
        )
        output, kept, failed = isolate(self._model, collated.inputs, len(collated.index))
        bad = dict(collated.errors)
        bad.update((collated.index[position], error) for position, error in failed.items())
        index = collated.index
        if failed:
            index = [collated.index[position] for position in kept]
        return table_answers(output, self.manifest.output, index, bad, table.num_rows)

    def check_golden(self) -> None:
        """Raises PromotionRefused unless every golden item gets the recorded answer again."""
        golden = self.manifest.golden
        found = self.score([example.item for example in golden])
        for number, (example, answer) in enumerate(zip(golden, found, strict=True), start=1):
            if not same_answer(example.answer, answer):
                raise errors.PromotionRefused(
                    f"{self.ref}: golden example {number} of {len(golden)} should answer "
                    f"{essence(example.answer)}; it answered {essence(answer)}"
                    f"{runtimes.cure_of(self.manifest)}"
                )


def limits_of(options: runtimes.LoadOptions) -> Limits:
    """What items may be on this server."""
    return Limits(item_bytes=options.max_item_bytes, image_pixels=options.max_image_pixels)


def same_answer(expected: dict[str, Any], found: dict[str, Any]) -> bool:
    """True if two answers agree: labels equal, numbers within tolerance."""
    return _close(essence(expected), essence(found))


def essence(answer: dict[str, Any]) -> dict[str, Any]:
    """An answer without the model's name and version, and without what is not set."""
    return {
        key: value for key, value in answer.items()
        if key not in ("model", "version") and value is not None
    }


def _close(expected: Any, found: Any) -> bool:
    if isinstance(expected, dict) and isinstance(found, dict):
        return expected.keys() == found.keys() and all(
            _close(value, found[key]) for key, value in expected.items()
        )
    if isinstance(expected, list) and isinstance(found, list):
        return len(expected) == len(found) and all(map(_close, expected, found))
    if isinstance(expected, float) and isinstance(found, (int, float)):
        return math.isclose(expected, found, rel_tol=_RELATIVE, abs_tol=_ABSOLUTE)
    return bool(expected == found)


def _outside(error: Exception) -> errors.CeleriacError:
    if isinstance(error, errors.CeleriacError):
        return error
    if is_out_of_memory(error):
        return item_error(error)
    return errors.WorkerError("the item could not be scored; the worker's log names the reason")
