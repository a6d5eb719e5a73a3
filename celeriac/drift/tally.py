"""What a worker counts of single items: rows by bin of each feature of a version's profile."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa

from celeriac.drift import bins, features
from celeriac.drift.features import Features
from celeriac.drift.profile import FeatureProfile, ReferenceProfile, profile_digest, read_profile
from celeriac.inputs import Limits, collate
from celeriac.messages import decode_item
from celeriac.outputs import answer_columns
from celeriac.registry.manifest import InputSchema, ModelVersion, OutputSchema

Array = np.ndarray[Any, Any]
NOT_IN_ITEMS = ("image.width", "image.height")
"""Of files alone: a client may send an array as well, of the size that the model takes."""
FAST_ROWS, SLOW_ROWS = 512, 16
"""Rows that are counted in a go: less than a millisecond's work, where texts are to be read."""


@dataclass(frozen=True, kw_only=True)
class Standard:
    """What the items of a version are compared with."""

    profile: ReferenceProfile
    digest: str
    """Of the profile: counts of another one are not added up with these."""
    input: InputSchema
    output: OutputSchema

    @classmethod
    def of(cls, folder: Path, manifest: ModelVersion) -> Standard | None:
        """None if the version was registered without a reference. Raises RegistryError."""
        profile = read_profile(folder)
        if profile is None:
            return None
        return cls(
            profile=profile, digest=profile_digest(manifest), input=manifest.input,
            output=manifest.output,
        )

    @cached_property
    def watched(self) -> tuple[FeatureProfile, ...]:
        """The features that items have."""
        return tuple(one for one in self.profile.features if one.name not in NOT_IN_ITEMS)

    @cached_property
    def starts(self) -> tuple[int, ...]:
        """Where the bins of each feature begin, in counts of all; at the end, how many there are.
        """
        sizes = [feature.bins for feature in self.watched]
        return tuple(np.cumsum([0, *sizes]).tolist())

    @property
    def rows_at_once(self) -> int:
        return SLOW_ROWS if self.profile.texts or self.input.kind == "image" else FAST_ROWS

    def split(self, counts: Array) -> dict[str, Array]:
        """Counts by feature."""
        return {
            feature.name: counts[start : start + feature.bins]
            for feature, start in zip(self.watched, self.starts, strict=False)
        }


@dataclass(kw_only=True)
class Tally:
    """Counts of some items."""

    counts: Array
    """Rows by bin, of all features one after the other."""
    rows: int = 0
    """Items that were counted ..."""
    seen: int = 0
    """... of so many that came: the others came faster than they can be counted."""
    refused: int = 0
    """Items that are none: the model was never given them, and no bin has them."""

    @property
    def items(self) -> int:
        """Those that were looked at."""
        return self.rows + self.refused

    @classmethod
    def empty(cls, standard: Standard) -> Tally:
        return cls(counts=np.zeros(standard.starts[-1], dtype=np.int64))

    def add(self, other: Tally) -> None:
        self.counts += other.counts
        self.rows += other.rows
        self.seen += other.seen
        self.refused += other.refused


def tally(
    standard: Standard, items: Sequence[Any], answers: Sequence[Mapping[str, Any]],
    limits: Limits | None = None,
) -> Tally:
    """Count items as they came over the wire, and the answers to them.

    An item that is none (the model was never given it) is in no bin; one that the model failed on
    has a null as its answer.
    """
    found = Tally.empty(standard)
    for is_answered in (True, False):
        at = [place for place, one in enumerate(answers) if ("error" not in one) is is_answered]
        some = [items[place] for place in at]
        table = _table(standard.input, some) if is_answered else None
        if table is not None:
            inputs = features.of_table(standard.profile, table, standard.input)
            _add(found, standard, inputs, [answers[place] for place in at])
        elif some:
            collated = collate(some, standard.input, limits)
            found.refused += len(some) - len(collated.index)
            if not len(collated.index):
                continue
            inputs = _inputs(standard, [some[one] for one in collated.index], collated.inputs)
            _add(found, standard, inputs, [answers[at[one]] for one in collated.index])
    return found


def _add(
    found: Tally, standard: Standard, inputs: Features, answers: Sequence[Mapping[str, Any]]
) -> None:
    given = _answers(answers, standard.output)
    every = features.merged(inputs, given, standard.profile.answers)
    found.rows += len(answers)
    for feature, start in zip(standard.watched, standard.starts, strict=False):
        one = every.get(feature.name)
        if one is not None and len(answers):
            found.counts[start : start + feature.bins] += bins.counts(feature, one.values)


_TYPES = {"float": pa.float64(), "int": pa.float64(), "bool": pa.bool_(), "text": pa.string()}


def _table(schema: InputSchema, rows: Sequence[Any]) -> Any:
    """Rows that the model has answered, so they are sound, as whole columns; None if they are not
    such. To check each cell again takes ten times as long."""
    if schema.kind != "table" or not all(type(row) is dict for row in rows):
        return None
    try:
        return pa.table({
            column.name: pa.array([row[column.name] for row in rows], _TYPES[column.dtype])
            for column in schema.columns
        })
    except (KeyError, pa.ArrowException):
        return None


def _inputs(standard: Standard, items: Sequence[Any], inputs: Any) -> Features:
    if standard.input.kind != "any":
        return features.of_inputs(standard.profile, inputs, standard.input)
    rows = [decode_item(item) for item in items]
    if not all(isinstance(row, dict) for row in rows):
        return {}
    return features.of_table(standard.profile, pa.Table.from_pylist(rows), standard.input)


# --- answers -------------------------------------------------------------------------------------

_FIELDS = {"prediction": ("label", "value"), "probability": ("probability",)}


def _answers(answers: Sequence[Mapping[str, Any]], output: OutputSchema) -> Features:
    """Answers as they are on the wire, as the columns that a dataset would get."""
    columns = {name: _column(name, answers, output) for name in answer_columns(output)}
    return features.of_answers(columns)


def _column(name: str, answers: Sequence[Mapping[str, Any]], output: OutputSchema) -> Any:
    kind, _, number = name.partition("_")
    values = [_value(answer, _FIELDS[kind], number) for answer in answers]
    if output.kind == "any":
        texts = [
            None if value is None else json.dumps(value, ensure_ascii=False) for value in values
        ]
        return pa.array(texts, pa.string())
    if output.kind == "classifier" and kind == "prediction":
        return _labels(values, _known_labels(output, number))
    return pa.array(values, pa.float64())


def _value(answer: Mapping[str, Any], names: tuple[str, ...], number: str) -> Any:
    found = next((answer[name] for name in names if name in answer), None)
    return found[int(number)] if number and isinstance(found, (list, tuple)) else found


def _known_labels(output: OutputSchema, number: str) -> Sequence[Any]:
    labels = output.labels
    return labels[int(number)] if number and labels else labels


def _labels(values: list[Any], labels: Sequence[Any]) -> Any:
    """As :func:`celeriac.outputs.table_answers` has them: labels of several types are texts."""
    kinds = {type(label) for label in labels}
    if len(kinds) == 1 and kinds <= {str, int, bool, float}:
        return pa.array(values, pa.array(labels[:1]).type)
    return pa.array([None if value is None else str(value) for value in values], pa.string())


# --- on the wire ---------------------------------------------------------------------------------


class Packed(msgspec.Struct, frozen=True, array_like=True):
    """What one process has counted in one stretch of time, as Redis keeps it."""

    digest: str
    rows: int
    seen: int
    counts: bytes
    """Little-endian 32-bit numbers, compressed: most of them are nought."""
    refused: int = 0


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Packed).decode


def pack(standard: Standard, one: Tally) -> bytes:
    counts = zlib.compress(one.counts.astype("<u4").tobytes(), 1)
    return _encode(Packed(
        digest=standard.digest, rows=one.rows, seen=one.seen, counts=counts, refused=one.refused
    ))


def unpack(standard: Standard, data: bytes) -> Tally | None:
    """The reverse; None of what another profile was counted with, or what is no count at all."""
    try:
        found = _decode(data)
        if found.digest != standard.digest:
            return None
        counts = np.frombuffer(zlib.decompress(found.counts), dtype="<u4").astype(np.int64)
    except (msgspec.MsgspecError, zlib.error, ValueError):
        return None
    if len(counts) != standard.starts[-1]:
        return None
    return Tally(counts=counts, rows=found.rows, seen=found.seen, refused=found.refused)

