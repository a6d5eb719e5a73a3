"""The operator's half of the ``celeriac`` command."""

from __future__ import annotations

import importlib

import typer

COMMANDS: dict[str, tuple[str, ...]] = {
    "up": ("up",), "down": ("down",), "status": ("status",), "worker": ("worker",),
    "models": ("models", "aliases", "collect", "importing"), "optimize": ("optimize",),
    "gpu": ("gpu",), "drift": ("drift", "adaptation"),
}
"""The modules of ``workers.cli`` that have, or add to, the command; each has ``register(app)``."""


def register(app: typer.Typer, only: str | None = None) -> None:
    """Add the operator's commands to ``app``, or what belongs to ``only`` that one."""
    for name, modules in COMMANDS.items():
        if only in (None, name):
            for module in modules:
                importlib.import_module(f"workers.cli.{module}").register(app)
