"""``celeriac worker``: one worker of a role, in the foreground."""

from __future__ import annotations

import os

import typer

from celeriac import errors
from celeriac.settings import load_settings
from workers.roles import ROLES
from workers.stack import ROOT, environment, worker_command

NAMES = [role.name for role in ROLES]


def register(app: typer.Typer) -> None:
    app.command("worker")(worker)


def worker(
    role: str = typer.Argument(help=f"One of: {', '.join(NAMES)}."),
    concurrency: int = typer.Option(
        0, "--concurrency", "-c", min=0, max=256, help="Processes; 0: what the role has."
    ),
) -> None:
    """Run one worker, as `celery -A workers.app worker -Q ROLE` would."""
    if role not in NAMES:
        raise errors.ConfigError(f"no role is named {role!r}; roles are: {', '.join(NAMES)}")
    os.environ.update(environment(load_settings()))
    if "CELERIAC_CONFIG" in os.environ:
        os.environ["CELERIAC_CONFIG"] = os.path.abspath(os.environ["CELERIAC_CONFIG"])  # noqa: PTH100
    argv = worker_command(role, concurrency)
    os.chdir(ROOT)  # the app, its configuration and its tasks are found from here
    os.execv(argv[0], argv)  # noqa: S606 - becomes the worker
