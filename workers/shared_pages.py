"""What each process of a pool would load for itself, loaded once before they are forked: pages that
nobody writes to are there once for all of them."""

from __future__ import annotations

import gc
import importlib
import sys

from celery import platforms

from celeriac.memory import give_back, plug_holes
from celeriac.parent import end_with_parent

_OF_A_CHUNK = ("celeriac.datasets.parts", "pyarrow.pandas_compat")
"""What the first chunk would import."""


def prepare(*, scores: bool) -> None:
    """Called last before the fork. ``scores``: the processes will score datasets.

    Objects of now are not looked at by later collections, which would also write to their pages.
    """
    if sys.platform == "linux":
        # Billiard's own way has cffi, if that is installed, parse C: 8 MB, and 2 more a process.
        platforms._set_pdeathsig = end_with_parent
    if scores:
        for name in _OF_A_CHUNK:
            importlib.import_module(name)
    give_back()
    plug_holes()
    gc.freeze()
