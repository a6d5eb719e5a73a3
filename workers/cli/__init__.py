"""The operator's half of the ``celeriac`` command."""

from __future__ import annotations

import importlib

import typer

COMMANDS: tuple[str, ...] = (
    "up", "down", "status", "worker", "models", "optimize", "aliases", "collect", "importing",
    "gpu", "drift", "adaptation",
)
"""Modules of ``workers.cli``; each has ``register(app)``."""


def register(app: typer.Typer) -> None:
    """Add the operator's commands to ``app``."""
    for name in COMMANDS:
        importlib.import_module(f"workers.cli.{name}").register(app)
