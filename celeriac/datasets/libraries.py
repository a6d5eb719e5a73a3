"""The libraries that read and write data: callers that never do need not have them."""

from __future__ import annotations

import importlib

from celeriac import errors


def require_readers(otherwise: str = "") -> None:
    """Raises DatasetError if one of them is not installed here; it ends with ``otherwise``."""
    for library in ("numpy", "pyarrow"):
        try:
            importlib.import_module(library)
        except ImportError as error:
            raise errors.DatasetError(
                f"datasets need {library}, which is not installed here: "
                f'pip install "celeriac[datasets]"{otherwise}'
            ) from error
