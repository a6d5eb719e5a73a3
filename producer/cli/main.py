"""Entry point of the ``celeriac`` command.

The wheel has the producer's commands. In a checkout of the repository the operator's commands
(``celeriac up``, ``worker``, ``models register`` ...) join them.
"""

from __future__ import annotations

import errno
import importlib
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer
from typer.main import get_command

import producer
from celeriac import __version__, errors

PRODUCER_COMMANDS = {
    "predict": "predict", "batch": "batch", "nightly": "nightly", "models": "models",
    "gateway": "gateway", "gateway-key": "gateway", "advise": "advise", "reviews": "reviews",
    "moderation": "moderation", "sensors": "sensors",
}
"""The module of ``producer.cli`` that has the command; each has ``register(app)``."""
PANELS = {
    "Predict": ("predict", "batch", "nightly", "advise"),
    "Models": ("models", "optimize", "drift"),
    "Applications": ("reviews", "sensors", "moderation"),
    "Operate": ("up", "down", "status", "worker", "gateway", "gateway-key", "gpu"),
}
"""How the help arranges the commands."""
_NEEDS_NONE = "--version"
OF_DATASETS = ("numpy", "pyarrow", "jinja2")
"""Libraries of the extra ``datasets``, which some commands need and the wheel does not bring."""

_STYLE = re.compile(r"\[(?=[a-z])")


def build(words: Sequence[str] = ()) -> typer.Typer:
    """The command-line application with every command that is installed here.

    ``words``: what follows ``celeriac``. If a command of ours comes first, it is the only one that
    is loaded: all of them take longer and hold more memory than most commands need.
    """
    first = words[0] if words else ""
    app = typer.Typer(
        name="celeriac",
        help="Machine-learning inference on Celery: single items and whole datasets.",
        epilog="The repository's docs/README.md lists the documents, by who reads them.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
    )
    app.callback()(_options)
    if first == _NEEDS_NONE:
        return app
    operators = importlib.import_module("workers.cli") if _in_checkout() else None
    theirs = operators.COMMANDS if operators else {}
    is_known = first in PRODUCER_COMMANDS or first in theirs
    named = PRODUCER_COMMANDS.get(first)
    for module in dict.fromkeys(PRODUCER_COMMANDS.values()):
        if module == named or not is_known:
            importlib.import_module(f"producer.cli.{module}").register(app)
    if operators:
        operators.register(app, first if is_known else None)
    return app


def main() -> None:
    """Run the command; an error of ours becomes one clear message and its exit code.

    So does a file or folder that cannot be read or written, and a library that only an extra has.
    """
    try:
        command = get_command(build(sys.argv[1:]))
        _refuse_operators(command, sys.argv[1:])
        _arrange(command)
        _tidy_help(command)
        command()
    except errors.CeleriacError as error:
        sys.stderr.write(f"celeriac: {error.message}\n")
        raise SystemExit(error.exit_code) from None
    except ModuleNotFoundError as error:
        if error.name not in OF_DATASETS:
            raise
        sys.stderr.write(
            f"celeriac: this needs {error.name}, which is not installed here: "
            'pip install "celeriac[datasets]"\n'
        )
        raise SystemExit(1) from None
    except OSError as error:
        is_printing = error.errno == errno.ENOSPC and error.filename is None
        name = "the output" if is_printing else error.filename
        if name is None or not error.strerror:
            raise
        sys.stderr.write(f"celeriac: {os.fsdecode(name)}: {error.strerror}\n")
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        sys.stderr.write("\nceleriac: stopped\n")
        raise SystemExit(130) from None


def _tell_version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"celeriac {__version__}\n")
        raise typer.Exit


def _options(
    version: bool = typer.Option(
        False, "--version", callback=_tell_version, is_eager=True,  # before a command is missed
        help="Print the version and leave.",
    ),
) -> None:
    del version


def _refuse_operators(command: Any, words: Sequence[str]) -> None:
    """Say of a command that is not in the wheel where it is, rather than that there is none."""
    first, second = (*words, "", "")[:2]
    known = {name for names in PANELS.values() for name in names}
    is_operators = first in known - set(command.commands)
    models = getattr(command.commands.get("models"), "commands", {})
    if first == "models" and second and not second.startswith("-"):
        is_operators = second not in models and not _in_checkout()
        first = f"models {second}"
    if is_operators:
        raise errors.RequestError(
            f"there is no `celeriac {first}` here: pip has installed the half for callers."
            " Models are registered, and stacks started, from a checkout of the repository"
            " (its README.md says how). `celeriac --help` lists what is here"
        )


def _arrange(command: Any) -> None:
    """Have the help show the commands that are here in their panels, in the order of those."""
    for panel, names in PANELS.items():
        for name in names:
            if name in command.commands:
                inner = command.commands.pop(name)
                inner.rich_help_panel = panel
                command.commands[name] = inner


def _tidy_help(command: Any) -> None:
    """Help says of a flag ``--wait``, not ``--wait <bool>``, which looks as if it took a value; and
    ``[moderation] policy`` as it is, where rich would take the brackets for a style.
    """
    for parameter in command.get_params(command.context_class(command)):
        if getattr(parameter, "is_flag", False):
            parameter.metavar = ""
        if getattr(parameter, "help", None):
            parameter.help = _STYLE.sub(r"\\[", parameter.help)
    for inner in getattr(command, "commands", {}).values():
        _tidy_help(inner)


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
