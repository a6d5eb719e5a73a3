"""What a process leaves free in its heap, before others are forked from it."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import ctypes
from celeriac import memory

library = ctypes.CDLL(None)
library.malloc.restype, library.malloc.argtypes = ctypes.c_void_p, (ctypes.c_size_t,)
library.free.argtypes = (ctypes.c_void_p,)
blocks = [library.malloc(600) for _ in range(4_000)]
gaps = set(blocks[::2])
for address in gaps:
    library.free(address)
assert memory.plug_holes() >= len(gaps)
fresh = [library.malloc(600) for _ in range(1_000)]
assert not gaps & {*fresh}, "what is new went into the gaps"
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc only")
def test_what_is_new_does_not_go_into_the_gaps() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False, timeout=60
    )
    assert ran.returncode == 0, ran.stderr


THREADED = """
import re, threading
from pathlib import Path
from celeriac import memory

def dirty_mb():
    told = Path("/proc/self/smaps_rollup").read_text()
    return int(re.search(r"Private_Dirty: +(\\d+)", told)[1]) / 1_024

def work():
    pieces = [b"x" * 500_000 for _ in range(40)]

memory.one_heap()
memory.keep_freed()
before = dirty_mb()
thread = threading.Thread(target=work)
thread.start()
thread.join()
memory.trim()
print(dirty_mb() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc only")
def test_what_threads_have_freed_goes_back() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", THREADED], capture_output=True, text=True, check=True, timeout=60
    )
    assert float(ran.stdout) < 5  # of 20 MB
