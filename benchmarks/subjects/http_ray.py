"""Ray Serve with ``@serve.batch``: up to 32 items, or what comes within 2 ms."""

from __future__ import annotations

import logging
import signal
import sys
import threading
from typing import Any

import ray
from ray import serve
from starlette.requests import Request

from benchmarks.subjects.portable import model


@serve.deployment(max_ongoing_requests=512, ray_actor_options={"num_cpus": 1})
class Service:
    def __init__(self) -> None:
        self.answers = model()

    @serve.batch(max_batch_size=32, batch_wait_timeout_s=0.002)
    async def predict(self, items: list[Any]) -> list[dict[str, Any]]:
        return self.answers(items)

    async def __call__(self, request: Request) -> dict[str, Any]:
        return await self.predict((await request.json())["item"])


def main(port: int) -> None:
    """Serve until TERM."""
    ended = threading.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, lambda *_: ended.set())
    ray.init(num_cpus=2, include_dashboard=False, logging_level=logging.WARNING,
             log_to_driver=False, object_store_memory=200_000_000)
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    serve.run(Service.bind(), route_prefix="/predict")
    ended.wait()
    serve.shutdown()
    ray.shutdown()


if __name__ == "__main__":
    main(int(sys.argv[1]))
