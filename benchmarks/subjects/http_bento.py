"""BentoML with adaptive batching of up to 32 items."""

from __future__ import annotations

from typing import Any

import bentoml

from benchmarks.subjects.portable import model


@bentoml.service(
    workers=1, resources={"cpu": "1"}, traffic={"timeout": 60},
    logging={"access": {"enabled": False}},
)
class Service:
    def __init__(self) -> None:
        self.answers = model()

    @bentoml.api(batchable=True, max_batch_size=32, max_latency_ms=2_000, route="/predict")
    def predict(self, items: list[Any]) -> list[dict[str, Any]]:
        return self.answers(items)
