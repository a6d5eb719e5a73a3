"""How much a process gives way to others, and how long it has waited for them."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path

_AUTOGROUP = Path("/proc/self/autogroup")
_TRIES, _PAUSE_S = 20, 0.05
"""The kernel takes one such request in a tenth of a second, of all processes together."""


def give_way(niceness: int) -> None:
    """Run at ``niceness`` more than now, whoever else wants a core.

    Linux mostly weighs sessions against each other, not their processes (autogroup, see
    ``man 7 sched``): within a session of its own a process would give way to nobody. So its session
    gets its niceness, too. One that others share keeps what it has.
    """
    if not niceness:
        return
    now = os.nice(niceness)
    if os.getsid(0) == os.getpid():
        _weigh_session(now)


def waited_s(thread: int) -> float:
    """How long a thread, of any process, has been ready to run while others had the processor.

    ``thread`` as the kernel numbers it; a process is its main thread. 0.0 where the kernel does not
    tell, or the thread has ended.
    """
    try:
        told = Path(f"/proc/{thread}/schedstat").read_text(encoding="ascii")
        return int(told.split()[1]) / 1e9
    except (OSError, ValueError, IndexError):
        return 0.0


def _weigh_session(niceness: int) -> None:
    for _ in range(_TRIES):
        try:
            _AUTOGROUP.write_text(str(niceness))
        except OSError as error:
            if error.errno != errno.EAGAIN:  # no autogroups here: niceness is all there is
                return
            time.sleep(_PAUSE_S)
        else:
            return
