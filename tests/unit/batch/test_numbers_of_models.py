"""A number means the same to a model in CSV, in JSON lines and in real time, or its row fails."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from celeriac import inputs
from celeriac.datasets.planner import plan
from celeriac.datasets.reader import read_chunk
from celeriac.datasets.sources import open_source
from celeriac.registry.manifest import Column, InputSchema

BAD = "a row that fails"
NUMBERS = {  # as they are written: as a float, as a whole number
    "3": (3.0, 3), "-0": (0.0, 0), "3.0": (3.0, 3), "-3.00": (-3.0, -3), "1e5": (1e5, 100_000),
    "1e+05": (1e5, 100_000), "1.5e1": (15.0, 15), "0.5": (0.5, BAD), "1e-2": (0.01, BAD),
    "9007199254740993": (2.0**53, 2**53 + 1), "9223372036854775807": (2.0**63, 2**63 - 1),
    "9223372036854775808": (2.0**63, BAD), "1e18": (1e18, 10**18), "1e19": (1e19, BAD),
    "1e99": (1e99, BAD), "true": (BAD, BAD), "NaN": (None, BAD), "null": (None, BAD),
    "Infinity": (BAD, BAD), "-Infinity": (BAD, BAD),
}
"""JSON has them, too."""
ONLY_CSV = {
    "+3": (3.0, 3), " 3 ": (3.0, 3), "007": (7.0, 7), "1.": (1.0, 1), ".5": (0.5, BAD),
    "9007199254740993.0": (2.0**53, 2**53 + 1), "1_000": (BAD, BAD), "1,000": (BAD, BAD),
    "0x10": (BAD, BAD), "-0XFF": (BAD, BAD), "0xFFFFFFFFFFFFFFFF": (BAD, BAD), "١٢": (BAD, BAD),
    "1e400": (BAD, BAD), "inf": (BAD, BAD), "two": (BAD, BAD), "": (None, BAD), "NA": (None, BAD),
}


def schema(dtype: Any) -> InputSchema:
    return InputSchema(kind="table", columns=(Column(name="x", dtype=dtype),), frame=True)


def of_dataset(path: Path, dtype: str, rows: int) -> list[Any]:
    dataset = plan(open_source(path), dtypes={"x": dtype})
    (chunk,) = dataset.chunks
    found = read_chunk(dataset.format, dataset.files, chunk, dataset.columns, ["x"])
    collated = inputs.collate_table(found.table, schema(dtype))
    values: list[Any] = [BAD] * rows
    for position, value in zip(collated.index, collated.inputs["x"].tolist(), strict=True):
        values[found.numbers[position] - 1] = None if value != value else value  # noqa: PLR0124
    return values


def csv_of(folder: Path, texts: list[str]) -> Path:
    path = folder / "a.csv"
    path.write_text("\n".join(["x,y", *(f'"{text}",1' for text in texts)]) + "\n")
    return path


@pytest.mark.parametrize("dtype", ["float", "int"])
@pytest.mark.parametrize("alone", [True, False])
def test_numbers_mean_the_same_everywhere(tmp_path: Path, dtype: str, alone: bool) -> None:
    """Each in a file of its own, and all in one, so that nothing hangs on the neighbours."""
    at = ["float", "int"].index(dtype)
    in_csv = {text: found[at] for text, found in (NUMBERS | ONLY_CSV).items()}
    in_json = {text: found[at] for text, found in NUMBERS.items()}
    for group in [[one] for one in in_csv] if alone else [[*in_csv]]:
        path = csv_of(tmp_path, group)
        assert of_dataset(path, dtype, len(group)) == [in_csv[text] for text in group]
    for group in [[one] for one in in_json] if alone else [[*in_json]]:
        path = tmp_path / "a.jsonl"
        path.write_text("".join(f'{{"x": {text}, "y": 1}}\n' for text in group))
        assert of_dataset(path, dtype, len(group)) == [in_json[text] for text in group]


@pytest.mark.parametrize("dtype", ["float", "int"])
def test_single_items_mean_the_same(dtype: str) -> None:
    at = ["float", "int"].index(dtype)
    items = [{"x": json.loads(text)} for text in NUMBERS]
    collated = inputs.collate(items, schema(dtype))
    values: list[Any] = [BAD] * len(items)
    for position, value in zip(collated.index, collated.inputs["x"].tolist(), strict=True):
        values[position] = None if value != value else value  # noqa: PLR0124
    assert values == [found[at] for found in NUMBERS.values()]
