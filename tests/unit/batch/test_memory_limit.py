"""A process that the system gives no more memory: real allocations fail, in numpy's own code."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

LIMITED = """
import json, resource, sys
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow.compute as pc

from celeriac.datasets.planner import plan
from celeriac.datasets.sources import open_source
from celeriac.jobs.chunk import run_chunk
from celeriac.jobs.folder import JobFolder
from celeriac.jobs.plan import Scoring, make_plan
from celeriac.outputs import TableAnswers

source, output, spare = sys.argv[1], sys.argv[2], int(sys.argv[3])
sizes = []

def predict(table):
    # A megabyte for each row, and a thousand for the large one.
    large = pc.sum(pc.equal(table["text"], "large")).as_py() or 0
    room = np.empty(table.num_rows * 1_000_000 + large * 1_000_000_000, dtype=np.uint8)
    sizes.append(table.num_rows)
    return TableAnswers({"prediction": pc.utf8_upper(table["text"]).combine_chunks()})

dataset = plan(open_source(source), chunk_rows=10_000)
scoring = Scoring(model="shout", version=1, device="cpu", needs=("text",), keeps=("id",),
                  output_format="csv")
now = datetime(2026, 11, 22, 3, tzinfo=UTC)
folder = JobFolder(output)
job = folder.create(make_plan(dataset, scoring, source="in", job_id="j", now=now), dataset.chunks)
if spare:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + spare,) * 2)
record = run_chunk(folder, job, dataset.chunks[0], predict)
part = folder.path / "parts" / record.part
print(json.dumps([record.rows_ok, record.failures, max(sizes), part.read_text()]))
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux")
def test_a_chunk_gets_by_with_the_memory_that_there_is(tmp_path: Path) -> None:
    """Smaller slices, the same part; the row that does not fit even alone is a failed one."""
    source = tmp_path / "in.csv"
    texts = ["large" if n == 700 else f"text {n}" for n in range(1_500)]
    source.write_text("id,text\n" + "".join(f"{n},{text}\n" for n, text in enumerate(texts)))
    found = {}
    for spare in (0, 400_000_000):
        argv = [sys.executable, "-c", LIMITED, source, tmp_path / f"out-{spare}", str(spare)]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr[-2_000:]
        found[spare] = json.loads(done.stdout)
    answered, failures, most, part = found[0]
    assert (answered, failures) == (1_500, {})
    assert most >= 1_024
    lines = part.splitlines(keepends=True)
    assert found[400_000_000][:2] == [1_499, {"resource_exhausted": 1}]
    assert 16 <= found[400_000_000][2] < 400
    assert found[400_000_000][3] == "".join(line for line in lines if not line.startswith("700,"))
