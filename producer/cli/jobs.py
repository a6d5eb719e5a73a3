"""How a command finds, or makes, the job that it is about."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from celeriac import errors
from celeriac.datasets.places import place
from celeriac.settings import get_settings
from producer.broker import Broker
from producer.cli import aside
from producer.jobs import JobHandle

Job = Annotated[str, typer.Argument(help="Id of the job, or its output folder.")]


def open_broker() -> Broker:
    """Connections for one command, which closes them."""
    return Broker(get_settings())


@contextmanager
def made_aside(make: Callable[[Broker], JobHandle]) -> Iterator[JobHandle]:
    """The job that ``make`` gives, to be waited for. It is made in a process of its own: whoever
    waits for hours does without the libraries and the memory that this takes."""
    get_settings()  # what is said of them is said once

    def work() -> dict[str, Any]:
        # For so short a life no allocator of Arrow's own, which is 4 MB.
        os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
        with open_broker() as broker:
            handle = make(broker)
            return {"id": handle.id, "output": str(handle.output), "resumed": handle.resumed}

    made = aside.run(work)
    with open_broker() as broker:
        yield JobHandle(broker, made["id"], made["output"], resumed=made["resumed"])


def open_job(broker: Broker, job: str) -> JobHandle:
    """The job with this id or output folder. Raises JobNotFound."""
    folder = place(job)
    if (folder / "job.json").is_file():
        return JobHandle.from_output(broker, folder)
    if "/" in job or folder.is_dir():
        raise errors.JobNotFound(f"{job}: is not the output of a job")
    return JobHandle.open(broker, job)
