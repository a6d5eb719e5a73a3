"""Celeriac: a process that submits datasets and waits for them, as a user's program does."""

from __future__ import annotations

import shutil
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.subjects.served import serve
from celeriac.jobs.folder import JobFolder
from celeriac.jobs.manifest import read_manifest
from producer import Client
from producer.jobs import JobHandle

TIMEOUT_S = 600.0


def score(
    client: Client, source: str, output: str, model: str, light: bool = False, **options: Any
) -> dict[str, Any]:
    """Submit, and wait for the end; ``light``: no dataset is ever read in this process."""
    handle = client.submit_dataset(source, model, output, **options)
    submitted = time.perf_counter()
    status = handle.wait(TIMEOUT_S)
    waited_s = time.perf_counter() - submitted
    if status.state != "completed":
        raise RuntimeError(f"{source}: {status.state} {status.error}")
    if light and {"numpy", "pyarrow"} & {*sys.modules}:
        raise RuntimeError("a process that reads no dataset has loaded what reads them")
    return {"rows": status.rows_done, "chunks": status.chunks_total, "waited_s": waited_s,
            "job": handle.id}


def begin(
    client: Client, source: str, output: str, model: str, **options: Any
) -> dict[str, Any]:
    """Submit a long job, and wait until it is under way."""
    handle = client.submit_dataset(source, model, output, **options)
    while handle.status().chunks_done == 0:
        time.sleep(0.05)
    return {"job": handle.id}


def cancel(client: Client, job: str) -> dict[str, Any]:
    """End a long job; whether it was still under way."""
    handle = client.job(job)
    state = handle.status().state
    handle.cancel()
    handle.wait(TIMEOUT_S)
    return {"state": state}


def resume(client: Client, output: str, remove: int) -> dict[str, Any]:
    """Take the last chunks of a finished job away, resume it, and wait for the first new one."""
    folder = JobFolder(output)
    manifest = read_manifest(folder)
    if manifest is None:
        raise RuntimeError(f"{output} is not finished")
    for part in manifest.parts[-remove:]:
        path = Path(output) / part.file
        path.unlink()
        path.with_suffix(".json").unlink()
    folder.success.unlink()
    left = len(manifest.parts) - remove
    began = time.perf_counter()
    handle = JobHandle.from_output(client.broker, output)
    handle.resume()
    while handle.status().chunks_done <= left:
        time.sleep(0.002)
    first_s = time.perf_counter() - began
    handle.wait(TIMEOUT_S)
    return {"first_s": first_s, "done_before": left}


if __name__ == "__main__":
    ACTIONS = {"score": score, "begin": begin, "cancel": cancel, "resume": resume}
    with Client() as connected:

        def work(action: str, output: str = "", **options: Any) -> dict[str, Any]:
            if action == "forget":
                shutil.rmtree(output)
                return {}
            if output:
                options["output"] = output
            return ACTIONS[action](connected, **options)

        serve(work)
