"""Celeriac: a process that has datasets of reviews summed up, as a user's program does."""

from __future__ import annotations

from typing import Any

from benchmarks.subjects.served import serve
from producer import Client
from producer.applications.reviews import Reviews

TIMEOUT_S = 600.0

if __name__ == "__main__":
    with Client() as connected:

        def work(
            model: str, source: str, output: str, product: str, text_column: str
        ) -> dict[str, Any]:
            found = Reviews(connected, model).summarise(
                source, output, product=product, text_column=text_column, timeout_s=TIMEOUT_S
            )
            return {"rows": found.overall.reviews if found.overall else 0}

        serve(work)
