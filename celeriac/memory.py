"""Memory that is free goes back to the system; the C library would keep it for the next model."""

from __future__ import annotations

import ctypes
import gc


def give_back() -> None:
    """Collect what is in cycles, and have the C library return what is free."""
    gc.collect()
    trim()


def trim() -> None:
    """Have the C library return what is free."""
    try:
        malloc_trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError):  # not glibc
        return
    malloc_trim(0)


_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
"""Names of ``mallopt``."""


def one_heap() -> None:
    """Have all threads of this process, and of those that it forks, share one heap.

    The C library gives threads heaps of their own, and :func:`trim` does not return what is free at
    the end of those. To be called before there are threads.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):  # not glibc
        return
    mallopt(_ARENA_MAX, 1)


def keep_freed() -> None:
    """Have the C library keep what is freed, in pieces of up to 32 MB, until :func:`trim`.

    By itself it returns pieces of megabytes as they are freed, and each page of the next one costs
    a fault: a tenth of the time, and more, of work that frees and takes the like again and again.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):  # not glibc
        return
    mallopt(_MMAP_THRESHOLD, 1 << 25)
    mallopt(_TRIM_THRESHOLD, 1 << 30)


class _Info(ctypes.Structure):
    """``struct mallinfo2`` of glibc 2.33 and newer."""

    _fields_ = [(name, ctypes.c_size_t) for name in (
        "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks",
        "fordblks", "keepcost",
    )]  # fmt: skip


_PAGE = 4_096
_LARGEST = 1 << 20
_STEP = 16
"""By so much sizes in the C library's heap differ."""


def plug_holes() -> int:
    """Take what is free in the C library's heap in pieces of less than a page, for good; how many
    there were.

    Processes that are forked then put what is new on pages of their own. Otherwise they would put
    it in the gaps, and for a few bytes each copy a page that they share. Larger pieces, whose pages
    went back, stay free. Only glibc.
    """
    library = ctypes.CDLL(None)
    try:
        library.mallinfo2.restype = _Info
        library.sbrk.restype = library.malloc.restype = ctypes.c_void_p
    except AttributeError:  # not glibc
        return 0
    library.malloc.argtypes, library.free.argtypes = (ctypes.c_size_t,), (ctypes.c_void_p,)
    top = library.sbrk(0) - library.mallinfo2().keepcost
    large: list[int] = []
    size = _LARGEST
    while size > _PAGE:
        large += _take(library, size, top)
        size //= 2
    count = sum(
        len(_take(library, size, top)) for size in range(_PAGE, _STEP, -_STEP)
    )
    for address in large:
        library.free(address)
    return count


def _take(library: ctypes.CDLL, size: int, top: int) -> list[int]:
    """All free pieces of so many bytes below ``top``, from where the heap grows."""
    found: list[int] = []
    while (address := library.malloc(size)) and address < top:
        found.append(address)
    library.free(address)
    return found
