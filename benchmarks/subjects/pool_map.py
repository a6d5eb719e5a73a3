"""The tutorial's way: read all, cut in as many pieces as processes, ``Pool.map``, put together.

Its ``np.array_split`` no longer gives frames, so positions are split instead; each piece is pickled
to its process and comes back with its answers. The model is loaded before the processes are forked.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.subjects.bare_loop import NAMES, NICENESS, PROCESSES, load
from benchmarks.subjects.served import serve


def process_chunk(chunk: pd.DataFrame) -> pd.DataFrame:
    """A piece of the frame with two columns more."""
    labels, probabilities = ANSWER(chunk[NAMES].to_numpy(dtype=np.float32))
    return chunk.assign(prediction=labels, probability=probabilities)


def work(kind: str, source: str, output: str) -> dict[str, Any]:
    """The whole dataset in memory."""
    del kind
    Path(output).mkdir(parents=True)
    frame = pd.read_parquet(source)
    with multiprocessing.get_context("fork").Pool(PROCESSES) as pool:
        pieces = [frame.iloc[rows] for rows in np.array_split(np.arange(len(frame)), PROCESSES)]
        answered = pd.concat(pool.map(process_chunk, pieces))
    answered[["id", "prediction", "probability"]].to_parquet(f"{output}/all.parquet")
    return {"rows": len(answered)}


if __name__ == "__main__":
    os.nice(NICENESS)
    ANSWER = load(sys.argv[1])
    serve(work)
