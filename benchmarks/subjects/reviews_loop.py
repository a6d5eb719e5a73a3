"""Reviews summed up by product without Celeriac: the bare loop, and the tutorial's way.

* ``bare``: two warm processes parse the CSV (whose quoted line breaks forbid to cut it), score
  every second block, and send home counts, sums and squares of each product; nothing is written
  but the table of products
* ``tutorial``: ``pd.read_csv``, ``np.array_split`` by as many pieces as processes, ``Pool.map``,
  ``pd.concat``, ``groupby(...).mean()``; each piece is scored as a whole, which is kinder than the
  tutorial's ``apply``, a text at a time

Both have the same model, loaded before their processes are forked.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv as arrow_csv

from benchmarks.subjects.bare_loop import NICENESS, PROCESSES, load
from benchmarks.subjects.served import serve


def sentiments(texts: Any) -> Any:
    """-1 to 1."""
    labels, probabilities = ANSWER(texts)
    return (2 * probabilities - 1) * np.where(labels == POSITIVE, 1, -1)


def half(source: str, which: int) -> pa.Table:
    """Sums of the blocks of one process, by product."""
    parse = arrow_csv.ParseOptions(newlines_in_values=True)
    read = arrow_csv.ReadOptions(use_threads=False)
    sums = []
    with arrow_csv.open_csv(source, read_options=read, parse_options=parse) as reader:
        for number, block in enumerate(reader):
            if number % PROCESSES == which:
                values = pa.array(sentiments(block["review"].to_pylist()))
                table = pa.table({
                    "product": block["product"], "s": values,
                    "q": pa.array(values.to_numpy() ** 2),
                })
                sums.append(table.group_by("product", use_threads=False).aggregate(
                    [("s", "sum"), ("q", "sum"), ("s", "count")]
                ))
    return pa.concat_tables(sums)


def bare(source: str, output: str) -> int:
    """Mean and spread by product; how many reviews."""
    halves = POOL.starmap(half, [(source, which) for which in range(PROCESSES)], chunksize=1)
    sums = pa.concat_tables(halves).to_pandas().groupby("product").sum()
    count, total, squares = sums["s_count"], sums["s_sum"], sums["q_sum"]
    spread = np.sqrt((squares - total**2 / count) / (count - 1))
    table = pd.DataFrame({"reviews": count, "mean": total / count, "spread": spread})
    table.to_csv(output)
    return int(count.sum())


def process_chunk(chunk: pd.DataFrame) -> pd.DataFrame:
    """A piece of the frame with a column more."""
    return chunk.assign(sentiment=sentiments(chunk["review"].tolist()))


def tutorial(source: str, output: str) -> int:
    """As the slides have it; how many reviews."""
    reviews = pd.read_csv(source)
    with multiprocessing.get_context("fork").Pool(PROCESSES) as pool:
        cuts = np.array_split(np.arange(len(reviews)), PROCESSES)
        analysed = pd.concat(pool.map(process_chunk, [reviews.iloc[rows] for rows in cuts]))
    table = analysed.groupby("product")["sentiment"].agg(["count", "mean", "std"])
    table.set_axis(["reviews", "mean", "spread"], axis=1).to_csv(output)
    return len(analysed)


WAYS = {"bare": bare, "tutorial": tutorial}

if __name__ == "__main__":
    os.nice(NICENESS)
    ANSWER, POSITIVE = load(sys.argv[1]), sys.argv[2]
    with multiprocessing.get_context("fork").Pool(PROCESSES) as POOL:

        def work(way: str, source: str, output: str) -> dict[str, Any]:
            return {"rows": WAYS[way](source, output)}

        serve(work)
