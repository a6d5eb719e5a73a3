"""Tasks that train badly, or not at all, beside the one of ``docs/drift.md`` (module ``shop``)."""

from __future__ import annotations

import importlib
import os
import signal
import time
from typing import Any

import numpy as np
from sklearn.linear_model import LinearRegression

from celeriac import release

shop: Any = importlib.import_module("shop")
app: Any = shop.app


@app.task(name="shop.worse")
def worse(request: dict[str, Any]) -> str:
    """A version that always answers 0; told as NAME@VERSION."""
    rows = shop.rows_of(request["labelled"]).drop(columns=request["label"])
    never = LinearRegression().fit(rows, np.zeros(len(rows)))
    return release.register(request["model"], never, examples=rows.head(9)).ref


@app.task(name="shop.dies")
def dies(request: dict[str, Any]) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@app.task(name="shop.raises")
def raises(request: dict[str, Any]) -> None:
    raise ValueError(f"no rows for {request['event']['kind']}")


@app.task(name="shop.hangs")
def hangs(request: dict[str, Any]) -> None:
    time.sleep(600)


@app.task(name="shop.forgets")
def forgets(request: dict[str, Any]) -> str:
    return "done"
