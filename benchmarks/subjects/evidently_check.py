"""``python evidently_check.py REFERENCE CURRENT``: Evidently's check of two Parquet files.

Prints the seconds that the comparison took, without reading the files.
"""

from __future__ import annotations

import sys
import time

import pandas as pd
from evidently import Report
from evidently.presets import DataDriftPreset

reference, current = (pd.read_parquet(path) for path in sys.argv[1:])
started = time.perf_counter()
Report([DataDriftPreset()]).run(current_data=current, reference_data=reference)
print(time.perf_counter() - started)
