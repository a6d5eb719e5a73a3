"""``python -m benchmarks.subjects.drift_check REFERENCE CURRENT``: Celeriac's check of two files.

Prints the seconds that the comparison of all rows took, without reading the files and without the
profile, which registration makes once.
"""

from __future__ import annotations

import sys
import time
from datetime import UTC, datetime

import pyarrow.parquet as pq

from celeriac.drift import features
from celeriac.drift.check import Current, check
from celeriac.drift.reference import make_profile, rows_taken
from celeriac.registry.manifest import Column, InputSchema

reference, current = (pq.read_table(path) for path in sys.argv[1:])
schema = InputSchema(
    kind="table", columns=tuple(Column(name=name) for name in reference.column_names)
)
taken = reference.take(rows_taken(reference.num_rows, "table"))  # as registration does
profile = make_profile(features.of_reference(taken, schema)[0])
started = time.perf_counter()
rows = Current(features=features.of_table(profile, current, schema), source="current")
found = check(profile, rows, model="m", version=1, now=datetime.now(UTC))
print(time.perf_counter() - started)
if found.drifted != ["x0"]:
    raise SystemExit(f"the drift of x0 alone was to be found, not of {found.drifted}")
