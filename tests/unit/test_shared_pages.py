"""A process of a pool finds loaded what it would load for itself."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import ctypes, gc, importlib, os, sys
import cffi
from celery import platforms
from workers import shared_pages

shared_pages.prepare(scores=sys.argv[1] == "scores")
assert gc.get_freeze_count() > 10_000
child = os.fork()
if not child:
    before = set(sys.modules)
    platforms.set_pdeathsig("SIGKILL")
    told = ctypes.c_int()
    ctypes.CDLL(None).prctl(2, ctypes.byref(told))
    assert told.value == 9 and "pycparser" not in sys.modules
    importlib.import_module("celeriac.datasets.parts")
    print(sorted({name.partition(".")[0] for name in set(sys.modules) - before}), flush=True)
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
"""


def loaded(word: str) -> str:
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM, word], capture_output=True, text=True, check=False,
        timeout=60,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.strip()


def test_a_process_that_scores_imports_nothing_more() -> None:
    assert loaded("scores") == "[]"


def test_others_are_spared_what_they_do_not_need() -> None:
    assert "pyarrow" in loaded("other")
