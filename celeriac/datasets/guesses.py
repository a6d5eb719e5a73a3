"""Types that were guessed from the head of a file, held against the whole of it.

A guess that one later value does not fit gives way: the column is a text (JSON lines: JSON) in all
of the output. No row is lost by a column that nobody but its reader needs.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

LONGEST_BYTES = 1 << 26
"""A record that is longer is not looked at: every guess gives way."""
_PENDING = 1
"""Stretches that are at or before the thread that looks, at most, while another is read: with more
the peak hangs on how busy the machine is, and the longer the file, the likelier is the worst."""

Types = dict[str, str]
Look = Callable[[bytes, Types], Types]
"""Whole records and the guesses so far; what becomes of the guesses."""


class Guesses:
    """Guessed types by column, for all files of a dataset, one after the other."""

    def __init__(self, types: Types, look: Look, widest: str) -> None:
        self._types = dict(types)
        self._look = look
        self._widest = widest
        self._gave_up = False

    @contextmanager
    def watching(self, start: int) -> Iterator[Watch]:
        """Of one file, whose first record is at ``start``. At the end ``types`` are right.

        Raises DatasetError if records cannot be parsed at all.
        """
        with ThreadPoolExecutor(1, "guesses") as thread:
            watch = Watch(self, thread, start)
            yield watch
            watch.finish()

    @property
    def types(self) -> Types:
        """What has become of the guesses."""
        return dict.fromkeys(self._types, self._widest) if self._gave_up else self._types

    @property
    def open(self) -> Types:
        """The guesses that can still give way."""
        return {name: kind for name, kind in self.types.items() if kind != self._widest}

    def look(self, records: memoryview) -> None:
        """Hold the guesses against some records."""
        if self.open:
            self._types |= self._look(bytes(records), self.open)

    def give_up(self) -> None:
        """Nothing is known: every guess gives way."""
        self._gave_up = True


class Watch:
    """Takes the blocks of one file and where records end; a thread looks at the records."""

    def __init__(self, guesses: Guesses, thread: ThreadPoolExecutor, start: int) -> None:
        self._guesses = guesses
        self._thread = thread
        self._at = start
        self._blocks: list[bytes] = []
        self._held = 0
        self._looks: deque[Future[None]] = deque()

    def feed(self, block: bytes) -> None:
        """The next bytes of the file."""
        if not self._guesses.open:
            self._blocks.clear()
            return
        self._blocks.append(block)
        self._held += len(block)
        if self._held > LONGEST_BYTES:
            self._guesses.give_up()

    def ended(self, offset: int) -> None:
        """A record ends before the byte ``offset`` of the file."""
        if not self._blocks:
            return
        data = b"".join(self._blocks)
        size = offset - self._at
        self._blocks, self._held, self._at = [data[size:]], len(data) - size, offset
        self._looks.append(self._thread.submit(self._guesses.look, memoryview(data)[:size]))
        self._settle(_PENDING)

    def finish(self) -> None:
        """Wait until all is looked at."""
        self._settle(0)

    def _settle(self, most: int) -> None:
        while len(self._looks) > most:
            self._looks.popleft().result()
