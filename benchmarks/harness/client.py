"""The process that makes the load: it runs in the environment of what it measures.

``python -m benchmarks.harness.client MODULE ITEMS PLAN`` imports ``MODULE`` (of
:mod:`benchmarks.subjects`), runs the points of the plan and prints JSON lines: ``ready``, then
``begin`` and ``end`` of each point. Standard library only.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import json
import selectors
import sys
import tempfile
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
        # epoll waits whole milliseconds, which would make clumps of calls that come by chance.
        with asyncio.Runner(loop_factory=_precise_loop) as runner:
            runner.run(_async(subject, items, plan))
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
    if point["kind"] == "paced":
        return load.paced(caller.call, items, window)
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


def _precise_loop() -> asyncio.AbstractEventLoop:
    return asyncio.SelectorEventLoop(selectors.SelectSelector())


async def _async(subject: Any, items: list[Any], plan: dict[str, Any]) -> None:
    async with subject.connect_async(plan["model"]) as caller:
        items = [caller.prepare(item) for item in items]
        await caller.call(items[0])
        tell(event="ready")
        for number, point in enumerate(plan["points"]):
            if point["kind"] == "open":
                # Else collections stop the load, and thirty calls come at once.
                gc.collect()
                gc.freeze()
            window = load.Window(
                point["seconds"], point["warmup_s"],
                lambda number=number: tell(event="begin", point=number),
            )
            if point["kind"] == "open":
                run = load.open_async(caller.call, items, point["per_s"], window, seed=number)
            elif point["kind"] == "overload":
                run = _overload(subject.__name__, caller.call, items, point, window)
            else:
                run = load.closed_async(caller.call, items, point["in_flight"], window)
            tell(event="end", point=number, result=await run)


async def _overload(
    module: str, call: load.AsyncCall, items: list[Any], point: dict[str, Any], window: load.Window
) -> dict[str, Any]:
    """More than the model can do, while another process asks another model now and then."""
    with tempfile.TemporaryDirectory() as folder:
        items_file, plan_file = Path(folder, "items.json"), Path(folder, "plan.json")
        items_file.write_text(json.dumps(["x"]), encoding="utf-8")
        plan_file.write_text(json.dumps({
            "model": point["calm_model"], "points": [{**point, "kind": "paced"}],
        }), encoding="utf-8")
        calm = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "benchmarks.harness.client", module, items_file, plan_file,
            stdout=asyncio.subprocess.PIPE,
        )
        result = await load.open_async(call, items, point["per_s"], window, seed=1)
        output, _ = await calm.communicate()
    told = json.loads(output.splitlines()[-1])["result"]
    result["errors"] += told["errors"] + told["refused"]
    result["first_error"] = result["first_error"] or told["first_error"]
    # Waits are long here: those that began before the window were answered in it, too.
    result |= {"calls": window.completed, "per_s": window.completed / window.seconds}
    result["calm_ms"] = told["quantiles_ms"]
    return result


def tell(**fields: Any) -> None:
    """One line for the benchmark's main process."""
    sys.stdout.write(json.dumps(fields) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
