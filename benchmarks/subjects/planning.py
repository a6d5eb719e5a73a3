"""One plan of a CSV, or one sequential scan of it by pyarrow, in a process of its own.

``python -m benchmarks.subjects.planning plan|scan PATH`` prints seconds and how far the peak of its
memory is above what it had before it began.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time

import pyarrow.csv as arrow_csv

from benchmarks.harness.processes import peak_bytes, resident_bytes
from celeriac.datasets import planner, sources


def plan(path: str) -> int:
    """What a submission does: types, records, chunks, digest."""
    return planner.plan(sources.open_source(path)).rows


def scan(path: str) -> int:
    """Every block parsed and converted, one after the other, and let go."""
    parse = arrow_csv.ParseOptions(newlines_in_values=True)
    read = arrow_csv.ReadOptions(use_threads=False)
    with arrow_csv.open_csv(path, read_options=read, parse_options=parse) as reader:
        return sum(block.num_rows for block in reader)


if __name__ == "__main__":
    work = {"plan": plan, "scan": scan}[sys.argv[1]]
    with tempfile.NamedTemporaryFile("w", suffix=".csv") as tiny:  # everything is imported
        tiny.write("a,b\n1,x\n")
        tiny.flush()
        work(tiny.name)
    before = resident_bytes("self")
    began = time.perf_counter()
    rows = work(sys.argv[2])
    seconds = time.perf_counter() - began
    told = {"rows": rows, "seconds": seconds, "cpu_s": time.process_time()}
    sys.stdout.write(json.dumps({**told, "grown": peak_bytes() - before}) + "\n")
