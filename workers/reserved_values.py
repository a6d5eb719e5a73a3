"""Files of a pool's metrics whose blocks are there before they are written.

A write into a hole of a file on a full disk ends the process (SIGBUS), and the next one, too: work
on other disks would stop, and nobody would be told why.
"""

from __future__ import annotations

import os
from contextlib import suppress

from prometheus_client.mmap_dict import MmapedDict

from celeriac.logs import get_logger

log = get_logger(__name__)

SIZE = 65_536
"""Of a new file: about 500 values. A larger one grows as the library has it."""


class ReservedValues(MmapedDict):
    """In memory where there is no room: such a process works on, and its metrics are not seen."""

    def __init__(self, filename: str, read_mode: bool = False) -> None:
        if not read_mode and not _reserve(filename):
            memory = os.memfd_create("metrics")  # kept open: it is this process's to the end
            filename = f"/proc/self/fd/{memory}"
        super().__init__(filename, read_mode)  # type: ignore[no-untyped-call]


def _reserve(filename: str) -> bool:
    """False if there is no room for it, or nothing can be written there."""
    try:
        with open(filename, "ab") as file:  # noqa: PTH123 - as the library opens it
            os.posix_fallocate(file.fileno(), 0, SIZE)
    except OSError as error:
        with suppress(OSError):  # an empty one cannot be read
            os.unlink(filename)  # noqa: PTH108
        log.warning("metrics of this process are not seen", file=filename, reason=error.strerror)
        return False
    return True
