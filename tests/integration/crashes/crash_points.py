"""Imported by a worker under test (``-I crash_points``): named places where it is killed.

A file of a point's name in the folder ``CRASH_POINTS`` kills, once, whoever comes by: the process
itself, or with the content ``worker`` its whole worker. The product knows nothing of this.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tasks.batch
import tasks.submissions
from celeriac.jobs import extras, finalize, lease, report, staged
from celeriac.jobs.ledger import Ledger
from celeriac.submissions.ledger import SubmissionLedger
from producer import reconciler

FOLDER = Path(os.environ["CRASH_POINTS"])


def pass_by(point: str) -> None:
    """Die here if somebody wants it."""
    wish = FOLDER / point
    mine = FOLDER / f"{point}.{os.getpid()}"
    try:
        wish.rename(mine)  # of several processes one dies
    except FileNotFoundError:
        return
    kind = mine.read_text()
    mine.rename(FOLDER / f"{point}.done")
    if kind == "pause":  # a process that sleeps through its lease
        (FOLDER / f"{point}.paused").write_text(str(os.getpid()))
        os.kill(os.getpid(), signal.SIGSTOP)
        return
    if kind == "hang":
        time.sleep(600)
    os.kill(0 if kind == "worker" else os.getpid(), signal.SIGKILL)


def before(point: str, place: Any, name: str) -> None:
    """Pass by ``point`` before each call of ``place.name``."""
    called: Callable[..., Any] = getattr(place, name)

    def passing(*args: Any, **kwargs: Any) -> Any:
        pass_by(point)
        return called(*args, **kwargs)

    setattr(place, name, passing)


def after(point: str, place: Any, name: str) -> None:
    """Pass by ``point`` after each call of ``place.name``."""
    called: Callable[..., Any] = getattr(place, name)

    def passing(*args: Any, **kwargs: Any) -> Any:
        result = called(*args, **kwargs)
        pass_by(point)
        return result

    setattr(place, name, passing)


lease.EXIT_GRACE_S = 0.5
reconciler.FINALIZER_S = 2.0
before("claimed", tasks.batch, "_score")
before("scored", staged.StagedFiles, "write_part")
after("part-staged", staged.StagedFiles, "write_part")
before("staged", staged.StagedChunk, "publish")
after("recorded", staged, "create_file")
after("settled", staged.StagedFiles, "settle")
before("written", Ledger, "commit")
after("committed", Ledger, "commit")
before("merging", extras, "write_merged")
after("merged", extras, "write_merged")
after("aggregated", extras, "write_aggregates")
after("reported", report, "write_file")
before("checked", finalize, "write_file")
after("manifest", finalize, "write_file")
before("submission-claim", SubmissionLedger, "claim")
after("submission-claimed", SubmissionLedger, "claim")
before("submission-predicted", SubmissionLedger, "commit")
after("submission-committed", SubmissionLedger, "commit")


def _poisoned(*args: Any, **kwargs: Any) -> Any:
    """A model that ends its process on the item ``poison``."""
    if "poison" in args[1]:
        os.kill(os.getpid(), signal.SIGKILL)
    return _score(*args, **kwargs)


_score = tasks.submissions.score
tasks.submissions.score = _poisoned
