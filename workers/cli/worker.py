"""``celeriac worker``: one worker of a role, in the foreground."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

import typer
from rich.console import Console

from celeriac import errors
from celeriac.settings import Settings, config_path, load_settings, variables
from workers import devices, gpu_workers
from workers.child_settings import environment
from workers.commands import ROOT, worker_command
from workers.roles import ROLES

_NAME = re.compile(r"[\w.-]+", re.ASCII)
NAMES = [role.name for role in ROLES]


def register(app: typer.Typer) -> None:
    app.command("worker")(worker)


def worker(
    role: str = typer.Argument(help=f"One of: {', '.join(NAMES)}."),
    concurrency: int = typer.Option(
        0, "--concurrency", "-c", min=0, max=256, help="Processes; 0: what the role has."
    ),
    name: str = typer.Option(
        "", "--name", "-n", help="Of a second worker of a role on a machine; default: the role."
    ),
) -> None:
    """Run one worker, as `celery -A workers.app worker -Q ROLE` would.

    Of a gpu role it runs one for each GPU, and starts one again that died.
    """
    if role not in NAMES:
        raise errors.ConfigError(f"no role is named {role!r}; roles are: {', '.join(NAMES)}")
    if name and not _NAME.fullmatch(name):
        raise errors.ConfigError(f"--name {name!r}: want letters, digits, '.', '_' and '-'")
    if name and role in gpu_workers.GPU_ROLES:
        raise errors.ConfigError(
            f"workers of the role {role} are named by their GPUs; leave --name out"
        )
    settings = load_settings()
    os.environ.update(environment(settings))
    file = config_path(os.environ) or Path(os.devnull)  # tables are read once more, from ROOT
    os.environ[variables.CONFIG] = str(file.absolute())
    if role in gpu_workers.GPU_ROLES:
        _on_each_gpu(role, concurrency, settings)
        return
    argv = worker_command(role, concurrency, name)
    os.chdir(ROOT)  # the app, its configuration and its tasks are found from here
    os.execv(argv[0], argv)  # noqa: S606 - becomes the worker


def _on_each_gpu(role: str, concurrency: int, settings: Settings) -> None:
    if concurrency > 1:
        raise errors.ConfigError(
            f"the role {role} has one process for each GPU; leave --concurrency out"
        )
    console = Console(highlight=False)
    gpus = devices.usable(os.environ, settings.gpu.devices)
    for gpu in gpus:
        size = f"{gpu.memory_bytes / 1e9:.0f} GB"
        console.print(f"GPU {gpu.label}: {gpu.name}, {size}, {gpu.uuid}", markup=False)
    gpu_workers.run(
        gpu_workers.specs(role, gpus, os.environ, settings),
        lambda line: console.print(f"{time.strftime('%H:%M:%S')} {line}", markup=False),
    )
