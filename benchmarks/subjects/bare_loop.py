"""The bare loop: two warm processes that score one half of a dataset each. No queue, no safety.

What a careful engineer writes for one night: the model is loaded once, before the two processes are
forked; each streams its half, answers it as whole arrays, and writes one Parquet file. Nothing is
checked, flushed to the disk, recorded or resumable.

* ``numeric``: row groups of a Parquet file, the first half and the second; one row group at a time
* ``text``: a CSV with quoted line breaks cannot be cut without reading it, so both processes parse
  all of it (pyarrow, in blocks) and score every second block
* ``images``: the sorted files of a folder, the first half and the second; 256 at a time, each made
  as small as the network's input
* ``slices``: every second 20 rows of a CSV without quotes, parsed and answered, and nothing
  written: what a small chunk must compute
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as arrow_csv
import pyarrow.parquet as pq

from benchmarks.subjects.served import serve

PROCESSES = 2
NICENESS = 10
"""That of Celeriac's batch workers: on a busy machine, who is nicer waits longer."""
COLUMNS = 50
NAMES = [f"x{number}" for number in range(COLUMNS)]
IMAGES_AT_ONCE = 256
SLICE_ROWS = 20

Batch = tuple[pa.Array | pa.ChunkedArray, Any]
"""Ids, and inputs as the model takes them."""


def load(model: str) -> Callable[[Any], tuple[Any, Any]]:
    """The model as a function from inputs to labels and their probabilities."""
    from celeriac import runtimes
    from celeriac.registry.store import Registry
    from celeriac.runtimes import sklearn

    registry = Registry(Path(os.environ["CELERIAC_MODELS_ROOT"]))
    folder = registry.folder(model, 1)
    options = runtimes.LoadOptions(threads=1)
    if (folder / "model.skops").exists():
        return _of_estimator(sklearn.read(folder / "model.skops", options))
    return _of_network(registry, model, folder, options)


def _of_estimator(estimator: Any) -> Callable[[Any], tuple[Any, Any]]:
    def answer(inputs: Any) -> tuple[Any, Any]:
        probabilities = estimator.predict_proba(inputs)
        best = probabilities.argmax(axis=1)
        return estimator.classes_[best], probabilities[np.arange(len(best)), best]

    return answer


def _of_network(registry: Any, model: str, folder: Path, options: Any) -> Any:
    import torch

    from celeriac.runtimes import torch as runtime

    version = registry.verify(model, 1)
    module = runtime.read(folder / runtime.FILE, version.architecture, options).eval()

    def answer(inputs: Any) -> tuple[Any, Any]:
        with torch.inference_mode():
            best = torch.softmax(module(torch.from_numpy(inputs)), dim=1).max(dim=1)
        return best.indices.numpy(), best.values.numpy().astype(np.float64)

    return answer


def numeric(source: str, half: int) -> Iterator[Batch]:
    """One row group at a time."""
    with pq.ParquetFile(source) as file:
        groups = file.num_row_groups
        for group in range(groups * half // PROCESSES, groups * (half + 1) // PROCESSES):
            table = file.read_row_group(group, use_threads=False)
            yield table["id"], np.column_stack([table[name].to_numpy() for name in NAMES])


def text(source: str, half: int) -> Iterator[Batch]:
    """Every second block of a CSV."""
    parse = arrow_csv.ParseOptions(newlines_in_values=True)
    read = arrow_csv.ReadOptions(use_threads=False)
    with arrow_csv.open_csv(source, read_options=read, parse_options=parse) as reader:
        for number, block in enumerate(reader):
            if number % PROCESSES == half:
                yield block["review_id"], block["review"].to_pylist()


def images(source: str, half: int) -> Iterator[Batch]:
    """Files, decoded and scaled to 0 to 16."""
    from PIL import Image

    paths = sorted(str(path) for path in Path(source).glob("*.png"))
    mine = paths[len(paths) * half // PROCESSES : len(paths) * (half + 1) // PROCESSES]
    for start in range(0, len(mine), IMAGES_AT_ONCE):
        some = mine[start : start + IMAGES_AT_ONCE]
        yield pa.array(some), np.stack([_pixels(Image.open(path)) for path in some])


def _pixels(image: Any) -> Any:
    image = image.convert("L")
    if image.size != (8, 8):
        image = image.resize((8, 8), 2)  # bilinear
    return np.asarray(image, dtype=np.float32) * np.float32(16 / 255)


def slices(source: str, half: int) -> Iterator[Batch]:
    """Every second 20 rows of a CSV."""
    with Path(source).open("rb") as file:
        header = file.readline().decode().strip().split(",")
        read = arrow_csv.ReadOptions(use_threads=False, column_names=header)
        types = arrow_csv.ConvertOptions(column_types=dict.fromkeys(NAMES, pa.float64()))
        pieces = iter(lambda: b"".join(islice(file, SLICE_ROWS)), b"")
        for lines in islice(pieces, half, None, PROCESSES):
            table = arrow_csv.read_csv(pa.BufferReader(lines), read, convert_options=types)
            yield table["id"], np.column_stack([table[name].to_numpy() for name in NAMES])


READERS = {"numeric": numeric, "text": text, "images": images, "slices": slices}


def score_half(kind: str, source: str, output: str, half: int) -> int:
    """Read, answer, write; how many rows."""
    rows, writer = 0, None
    for ids, inputs in READERS[kind](source, half):
        labels, probabilities = ANSWER(inputs)
        if kind == "slices":
            rows += len(ids)
            continue
        columns = {"id": ids, "prediction": pa.array(labels), "probability": probabilities}
        table = pa.table(columns)
        if writer is None:
            writer = pq.ParquetWriter(f"{output}/part-{half}.parquet", table.schema)
        writer.write_table(table)
        rows += table.num_rows
    if writer is not None:
        writer.close()
    return rows


if __name__ == "__main__":
    os.nice(NICENESS)
    ANSWER = load(sys.argv[1])
    with multiprocessing.get_context("fork").Pool(PROCESSES) as pool:

        def work(kind: str, source: str, output: str) -> dict[str, Any]:
            Path(output).mkdir(parents=True)
            halves = [(kind, source, output, half) for half in range(PROCESSES)]
            return {"rows": sum(pool.starmap(score_half, halves, chunksize=1))}

        serve(work)
