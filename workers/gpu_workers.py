"""Workers of a gpu role: one process for each GPU, kept alive on it.

The program that starts them, be it ``celeriac worker`` or the stack, never touches CUDA itself:
each worker is told its GPU by its environment, from its first instruction on.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from celeriac.settings import Settings
from workers import threads
from workers.commands import ROOT, drain_s, worker_command
from workers.devices import Gpu, environment_of
from workers.roles import ROLES
from workers.stop_signals import Stop, StopSignals
from workers.supervisor import ChildSpec, Supervisor

GPU_ROLES = tuple(role.name for role in ROLES if role.device == "gpu")


def specs(
    role: str, gpus: Sequence[Gpu], environ: Mapping[str, str], settings: Settings,
    log: Callable[[str], Path | None] = lambda _: None,
) -> list[ChildSpec]:
    """One worker for each GPU, with the GPU's label in its name; it dies and rises on that GPU.

    ``log`` says where the output of a worker goes.
    """
    shared = dict(environ)
    if role.startswith("batch."):  # one process for each GPU, and the cores are theirs together
        threads.limit(shared, max(1, threads.cores() // max(1, len(gpus))))
    found = []
    for gpu in gpus:
        name = f"{role}-{gpu.label}"
        found.append(ChildSpec(
            name=name, argv=worker_command(role, name=name), log=log(name),
            env={**shared, **environment_of(gpu)}, cwd=ROOT, drain_s=drain_s(settings),
        ))
    return found


def run(children: Sequence[ChildSpec], say: Callable[[str], None]) -> None:
    """Keep ``children`` alive until a signal, then have them finish what they have begun."""
    supervisor = Supervisor(say)
    signals = StopSignals(supervisor.hurry)
    try:
        for child in children:
            say(f"{child.name} starts (pid {supervisor.launch(child)})")
        threading.Event().wait()
    except Stop:
        say("Stopping: workers finish what they have begun (Ctrl-C again: at once) ...")
    finally:
        signals.stopping = True
        supervisor.stop()
