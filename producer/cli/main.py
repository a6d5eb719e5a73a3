"""Entry point of the ``celeriac`` command.

The wheel has the producer's commands. In a checkout of the repository the operator's commands
(``celeriac up``, ``worker``, ``models register`` ...) join them.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import typer

import producer
from celeriac import __version__, errors

PRODUCER_COMMANDS = (
    "predict", "batch", "nightly", "models", "gateway", "advise", "reviews", "moderation",
    "sensors",
)
"""Modules of ``producer.cli``; each has ``register(app)``."""


def build() -> typer.Typer:
    """The command-line application with every command that is installed here."""
    app = typer.Typer(
        name="celeriac",
        help="Machine-learning inference on Celery: single items and whole datasets.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
    )
    app.callback()(_options)
    for name in PRODUCER_COMMANDS:
        importlib.import_module(f"producer.cli.{name}").register(app)
    if _in_checkout():
        importlib.import_module("workers.cli").register(app)
    return app


def main() -> None:
    """Run the command; an error of ours becomes one clear message and its exit code."""
    try:
        build()()
    except errors.CeleriacError as error:
        sys.stderr.write(f"celeriac: {error.message}\n")
        raise SystemExit(error.exit_code) from None
    except KeyboardInterrupt:
        sys.stderr.write("\nceleriac: stopped\n")
        raise SystemExit(130) from None


def _options(
    version: bool = typer.Option(False, "--version", help="Print the version and leave."),
) -> None:
    if version:
        sys.stdout.write(f"celeriac {__version__}\n")
        raise typer.Exit


def _in_checkout() -> bool:
    """True if this package lies in the repository (then ``workers`` beside it is ours).

    A project that has installed the wheel may have its own ``workers``; it is never looked at.
    """
    root = Path(producer.__file__).resolve().parents[1]
    project = root / "pyproject.toml"
    if not (root / "workers" / "cli").is_dir() or not project.is_file():
        return False
    if 'name = "celeriac"' not in project.read_text(encoding="utf-8"):
        return False
    if str(root) not in sys.path[:1]:
        sys.path.insert(0, str(root))
    return True


if __name__ == "__main__":
    main()
