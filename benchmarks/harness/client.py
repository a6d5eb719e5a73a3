"""The process that makes the load: it runs in the environment of what it measures.

``python -m benchmarks.harness.client MODULE ITEMS PLAN`` imports ``MODULE`` (of
:mod:`benchmarks.subjects`), runs the points of the plan and prints JSON lines: ``ready``, then
``begin`` and ``end`` of each point. Standard library only.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.harness import load


def main(module: str, items_file: str, plan_file: str) -> None:
    """Run the plan."""
    sys.setswitchinterval(0.005)
    subject = importlib.import_module(module)
    items = json.loads(Path(items_file).read_text(encoding="utf-8"))
    plan = json.loads(Path(plan_file).read_text(encoding="utf-8"))
    if plan.get("asyncio"):
        asyncio.run(_async(subject, items, plan))
    else:
        _threads(subject, items, plan)


def _threads(subject: Any, items: list[Any], plan: dict[str, Any]) -> None:
    with subject.connect(plan["model"]) as caller:
        items = [caller.prepare(item) for item in items]
        caller.call(items[0])
        tell(event="ready")
        for number, point in enumerate(plan["points"]):
            tell(event="end", point=number, result=_point(caller, items, point, number))


def _point(caller: Any, items: list[Any], point: dict[str, Any], number: int) -> dict[str, Any]:
    if point["kind"] == "many":
        return _many(caller, items, point["items"], number)
    window = load.Window(
        point["seconds"], point["warmup_s"], lambda: tell(event="begin", point=number)
    )
    if point["kind"] == "open":
        return load.open_threads(caller.call, items, point["per_s"], window, seed=number)
    return load.closed_threads(caller.call, items, point["in_flight"], window)


def _many(caller: Any, items: list[Any], count: int, number: int) -> dict[str, Any]:
    """``count`` items in one call."""
    tell(event="begin", point=number)
    began = time.perf_counter()
    answered = caller.many(items[i % len(items)] for i in range(count))
    seconds = time.perf_counter() - began
    return {"calls": answered, "per_s": answered / seconds, "errors": count - answered,
            "first_error": "", "late": 0, "quantiles_ms": []}


async def _async(subject: Any, items: list[Any], plan: dict[str, Any]) -> None:
    async with subject.connect_async(plan["model"]) as caller:
        items = [caller.prepare(item) for item in items]
        await caller.call(items[0])
        tell(event="ready")
        for number, point in enumerate(plan["points"]):
            window = load.Window(
                point["seconds"], point["warmup_s"],
                lambda number=number: tell(event="begin", point=number),
            )
            if point["kind"] == "open":
                run = load.open_async(caller.call, items, point["per_s"], window, seed=number)
            else:
                run = load.closed_async(caller.call, items, point["in_flight"], window)
            tell(event="end", point=number, result=await run)


def tell(**fields: Any) -> None:
    """One line for the benchmark's main process."""
    sys.stdout.write(json.dumps(fields) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
