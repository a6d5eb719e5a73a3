"""How a command finds the job that it is asked about."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from celeriac import errors
from celeriac.datasets.places import place
from celeriac.settings import get_settings
from producer.broker import Broker
from producer.jobs import JobHandle

Job = Annotated[str, typer.Argument(help="Id of the job, or its output folder.")]


@contextmanager
def open_broker() -> Iterator[Broker]:
    """Connections for one command."""
    broker = Broker(get_settings())
    try:
        yield broker
    finally:
        broker.close()


def open_job(broker: Broker, job: str) -> JobHandle:
    """The job with this id or output folder. Raises JobNotFound."""
    folder = place(job)
    if (folder / "job.json").is_file():
        return JobHandle.from_output(broker, folder)
    if "/" in job or folder.is_dir():
        raise errors.JobNotFound(f"{job}: is not the output of a job")
    return JobHandle.open(broker, job)
