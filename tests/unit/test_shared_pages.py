"""A process of a pool finds loaded what it would load for itself."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import gc, importlib, os, sys
import cffi
from billiard import util
from workers import shared_pages

shared_pages.prepare(scores=sys.argv[1] == "scores")
assert gc.get_freeze_count() > 10_000
child = os.fork()
if not child:
    before = set(sys.modules)
    util.set_pdeathsig(9)
    importlib.import_module("celeriac.datasets.parts")
    print(sorted({name.partition(".")[0] for name in set(sys.modules) - before}), flush=True)
    os._exit(0)
os.waitpid(child, 0)
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
    found = loaded("other")
    assert "pyarrow" in found
    assert "pycparser" not in found
