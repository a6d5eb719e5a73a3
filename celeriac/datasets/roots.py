"""Which files a caller from elsewhere may name: those in configured folders, links followed."""

from __future__ import annotations

import glob
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path

from celeriac import errors
from celeriac.datasets.places import Place, S3Path, is_s3, linked, place

TENANT = "{tenant}"
"""Stands for the caller's tenant in a root."""


def roots_of(tenant: str, roots: Sequence[str]) -> tuple[str, ...]:
    """The roots of one tenant, absolute.

    >>> roots_of("shop", ["/data/{tenant}", "s3://lake/in"])
    ('/data/shop', 's3://lake/in')
    """
    named = (root.replace(TENANT, tenant) for root in roots)
    return tuple(
        str(place(root)) if is_s3(root) else str(Path(root).expanduser().absolute())
        for root in named
    )


def find_inside(name: str, roots: Sequence[str]) -> Place | None:
    """The file, folder or pattern that ``name`` means, with links resolved; None if it lies in
    none of the roots, whether it is there or not.

    A relative name is one in the first root. Nothing is looked at but links on the way.
    """
    if not roots or not name.isprintable() or ".." in Path(name).parts:
        return None
    if not is_s3(name) and not Path(name).is_absolute():
        name = f"{place(roots[0])}/{name}"
    try:
        found = place(name) if is_s3(name) else _resolved(name)
    except (errors.DatasetError, OSError, RuntimeError):  # no bucket; no such home folder
        return None
    return found if any(is_inside(found, root) for root in roots) else None


def is_inside(path: Place, root: str) -> bool:
    """True if a path, whose links are resolved, lies in a root or is the root itself."""
    top = place(root)
    if isinstance(path, S3Path) or isinstance(top, S3Path):
        if not isinstance(path, S3Path) or not isinstance(top, S3Path):
            return False
        return f"{path.key}/".startswith(f"{top.key}/")
    return path.is_relative_to(linked(top.expanduser()))


def relative_to(path: str, roots: Sequence[str]) -> str:
    """How a path is shown to who must not know the folders of this machine: below its root, or
    its last part alone.

    >>> relative_to("s3://lake/in/2026/a.csv", ["s3://lake/in"])
    '2026/a.csv'
    """
    for root in roots:
        top = top_of(root)
        if path.startswith(f"{top}/"):
            return path[len(top) + 1 :]
    return path.rpartition("/")[2]


@lru_cache(maxsize=256)
def top_of(root: str) -> str:
    """How paths in ``root`` begin, links resolved."""
    return str(place(root)) if is_s3(root) else str(linked(Path(root).expanduser()))


def checking(roots: Sequence[str]) -> Callable[[Place], None]:
    """A check of each file that a folder or pattern leads to. Raises DatasetError."""
    folders = lru_cache(maxsize=1_024)(linked)

    def check(path: Place) -> None:
        found = path
        if isinstance(path, Path):  # of many files in one folder, only links must be followed
            found = linked(path) if path.is_symlink() else folders(path.parent) / path.name
        if not any(is_inside(found, root) for root in roots):
            raise errors.DatasetError(
                f"{path.name}: leads out of the folders that datasets may come from"
            )

    return check


def _resolved(name: str) -> Path:
    """``name`` with the links of its part before any pattern resolved."""
    parts = Path(name).expanduser().parts
    fixed = next((n for n, part in enumerate(parts) if glob.has_magic(part)), len(parts))
    return linked(Path(*parts[:fixed])).joinpath(*parts[fixed:])
