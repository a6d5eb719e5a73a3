"""The libraries that read and write data: callers that never do need not have them."""

from __future__ import annotations

import importlib

from celeriac import errors


def require_readers() -> None:
    """Raises DatasetError if one of them is not installed here."""
    for library in ("numpy", "pyarrow"):
        try:
            importlib.import_module(library)
        except ImportError as error:
            raise errors.DatasetError(
                f"datasets need {library}, which is not installed here: "
                'pip install "celeriac[datasets]"'
            ) from error
