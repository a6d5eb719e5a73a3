"""What each process of a pool would load for itself, loaded once before they are forked: pages that
nobody writes to are there once for all of them."""

from __future__ import annotations

import gc
import importlib
import sys

from celeriac.memory import give_back

_OF_A_CHUNK = ("celeriac.datasets.parts", "pyarrow.pandas_compat")
"""What the first chunk would import."""


def prepare(*, scores: bool) -> None:
    """Called last before the fork. ``scores``: the processes will score datasets.

    Objects of now are not looked at by later collections, which would also write to their pages.
    """
    _parse_c()
    if scores:
        for name in _OF_A_CHUNK:
            importlib.import_module(name)
    give_back()
    gc.freeze()


def _parse_c() -> None:
    """Billiard tells the kernel by cffi, if it is there, that a process ends with its parent: for
    that cffi makes a parser of C, which takes 8 MB, and keeps it."""
    if "cffi" in sys.modules:
        sys.modules["cffi"].FFI().cdef("int prctl (int __option, ...);")
