"""An estimator that does what its rows say; workers under test import it by this name."""

from __future__ import annotations

import ctypes
import time
from typing import Any

from sklearn.base import BaseEstimator, RegressorMixin

ANSWER, MEMORY, RAISE, HANG, HOLD = 0, 1, 2, 3, 4
"""First column: answer with the second one, raise, or hang for so many seconds (with the
interpreter's lock: HOLD)."""


class Acting(RegressorMixin, BaseEstimator):
    """Takes ``item_s`` for each row."""

    def __init__(self, item_s: float = 0.0) -> None:
        self.item_s = item_s

    def fit(self, x: Any, y: Any) -> Acting:
        self.n_features_in_ = 2
        return self

    def predict(self, x: Any) -> Any:
        for kind, value in x:
            if kind == MEMORY:
                raise MemoryError
            if kind == RAISE:
                raise ValueError("bad row")
            if kind == HANG:
                time.sleep(value)
            if kind == HOLD:
                ctypes.PyDLL(None).sleep(int(value))
        time.sleep(self.item_s * len(x))
        return x[:, 1]
