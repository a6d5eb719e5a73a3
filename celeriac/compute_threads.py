"""What the environment of a process says of its compute threads.

Libraries read these variables once, when they are imported.
"""

from __future__ import annotations

COUNTS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")
_WAITING = {"OMP_WAIT_POLICY": "passive"}
"""OpenMP's threads that wait for each other sleep. GNU's spin otherwise, and where one of them has
lost its core to another program, the others spin until the scheduler stops them."""


def environment(threads: int) -> dict[str, str]:
    """Of a process that computes with ``threads``.

    >>> environment(2)["OMP_NUM_THREADS"]
    '2'
    """
    return {**dict.fromkeys(COUNTS, str(threads)), **_WAITING}
