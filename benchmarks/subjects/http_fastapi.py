"""FastAPI that calls the model itself: ``/async`` on the event loop, ``/def`` in a thread."""

from __future__ import annotations

import os
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel

from benchmarks.subjects.portable import model

answers = model()
app = FastAPI()


class Text(BaseModel):
    item: str


class Image(BaseModel):
    item: list[list[float]]


Item = Text if os.environ["BENCH_MODEL"] == "text" else Image


async def on_loop(request: Item) -> dict[str, Any]:  # type: ignore[valid-type]
    return answers([request.item])[0]  # type: ignore[attr-defined]


def in_thread(request: Item) -> dict[str, Any]:  # type: ignore[valid-type]
    return answers([request.item])[0]  # type: ignore[attr-defined]


app.post("/async")(on_loop)
app.post("/def")(in_thread)
