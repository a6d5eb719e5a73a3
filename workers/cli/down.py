"""``celeriac down``: stop the local stack."""

from __future__ import annotations

import os
import signal
import time

import typer

from celeriac import errors
from celeriac.settings import load_settings
from workers.lock import StateLock


def register(app: typer.Typer) -> None:
    app.command("down")(down)


def down(
    timeout_s: float = typer.Option(
        60.0, "--timeout-s", min=1.0, max=3600.0, help="Seconds to wait for the workers to finish."
    ),
) -> None:
    """Stop the stack that `celeriac up` runs on this state folder."""
    state_dir = load_settings().stack.state_dir.absolute()
    lock = StateLock(state_dir)
    pid = lock.holder()
    if pid is None:
        typer.echo(f"No stack runs on {state_dir}.")
        return
    typer.echo(f"Stopping the stack (pid {pid}): workers finish what they have begun ...")
    stop(lock, pid, timeout_s)
    typer.echo("Stopped.")


def stop(lock: StateLock, pid: int, timeout_s: float) -> None:
    """TERM the holder of the lock and wait until it has let go. Raises WorkerError if it stays."""
    try:
        os.kill(pid, signal.SIGTERM)
    except ProcessLookupError:
        return
    except PermissionError:
        raise errors.WorkerError(f"the stack (pid {pid}) belongs to another user") from None
    deadline = time.monotonic() + timeout_s
    while lock.holder() == pid:
        if time.monotonic() >= deadline:
            raise errors.WorkerError(
                f"the stack (pid {pid}) was told to stop but still runs after {timeout_s:g} s; "
                "wait longer with --timeout-s, or end it with all its workers: "
                f"kill -9 {pid}"
            )
        time.sleep(0.1)
