"""A child on a leash: its own session, and a kill by the kernel when its supervisor is gone.

Run as a script by :mod:`workers.supervisor`, in place of ``preexec_fn``, which is not safe in a
program with threads: ``python -I -S leash.py SUPERVISOR_PID PROGRAM [ARGUMENT ...]``. It replaces
itself by PROGRAM. Needs nothing but the standard library.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main(argv: list[str]) -> None:
    """Put this process on the leash of the supervisor and become the program."""
    supervisor, program = int(argv[0]), argv[1:]
    # The kernel sends it when the supervisor's thread that started us ends, even by kill -9.
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != supervisor:
        raise SystemExit("the supervisor ended before its child began")
    try:
        os.execvp(program[0], program)  # noqa: S606 - a shell would be one process too many
    except OSError as error:
        raise SystemExit(f"{program[0]}: cannot be run: {error.strerror}") from error


if __name__ == "__main__":
    main(sys.argv[1:])
