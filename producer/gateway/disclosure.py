"""What files about a job tell its tenant: paths as it names them, processes without their host.

The files themselves are for people on the machine. What has become shorter is filled up with
spaces, which mean nothing there, so that every size is that of the file.
"""

from __future__ import annotations

import html
import re
from collections.abc import Sequence

from celeriac.datasets.roots import top_of

ABOUT = frozenset({"errors", "report", "manifest"})
"""Kinds of such files; all others are the tenant's data and stay as they are."""

_ROW = b',"data":'
"""From here on a line of errors is the row itself."""
_HOST = re.compile(rb'(?<= code">)[^<:]+:(?=\d+</td>)')
"""Of ``HOST:PID`` in a report."""


class Disclosure:
    """What a tenant with such roots may see of them."""

    def __init__(self, roots: Sequence[str]) -> None:
        tops = {top_of(root) for root in roots}
        named = {text.encode() for top in tops for text in (top, html.escape(top))}
        longest_first = sorted(named, key=len, reverse=True)
        # Where a path begins, but not the id of a row: by that it is found again.
        self._root = re.compile(
            rb'(?<![\w.~/-])(?<!"id":")(?:%s)/' % b"|".join(map(re.escape, longest_first))
        )

    def of_file(self, data: bytes) -> bytes:
        """A whole manifest or report.

        >>> Disclosure(["/data"]).of_file(b'{"source": "/data/a.csv"}')
        b'{"source": "a.csv"}      '
        """
        return _HOST.sub(b"", self._root.sub(b"", data)).ljust(len(data))

    def of_errors(self, lines: bytes) -> bytes:
        """Whole lines of failed rows."""
        return b"\n".join(map(self._of_line, lines.split(b"\n")))

    def _of_line(self, line: bytes) -> bytes:
        head, mark, row = line.partition(_ROW)
        return b"".join((self._root.sub(b"", head), mark, row)).ljust(len(line))
