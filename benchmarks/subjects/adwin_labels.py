"""``python adwin_labels.py STREAMS.npy``: first alarms of river's ADWIN, one a line; -1: none."""

from __future__ import annotations

import sys

import numpy as np
from river.drift import ADWIN

for stream in np.load(sys.argv[1]):
    adwin, first = ADWIN(), -1
    before = 0.0
    for number, wrong in enumerate(stream.tolist(), 1):
        before = adwin.estimation
        adwin.update(float(wrong))
        if adwin.drift_detected and adwin.estimation > before:
            first = number
            break
    print(first)
