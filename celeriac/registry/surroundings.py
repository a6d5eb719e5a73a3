"""What a process loads models with: the releases of Python and of the libraries that run them."""

from __future__ import annotations

import platform
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version

import celeriac

LIBRARIES = (
    "numpy", "scipy", "pandas", "scikit-learn", "skops", "joblib", "torch", "safetensors",
    "onnxruntime", "pillow",
)
"""What the runtimes here import. Those of others are named by the versions that they wrote
(``frameworks``)."""


def releases(*others: str) -> dict[str, str]:
    """The release of Python, of this package, and of each library that is installed.

    ``others``: libraries to look for besides :data:`LIBRARIES`. Nothing is imported; each is looked
    for once in a process.

    >>> sorted(releases().keys() & {"python", "celeriac", "numpy"})
    ['celeriac', 'numpy', 'python']
    """
    found = {name: _installed(name) for name in sorted({*LIBRARIES, *others})}
    return {
        "python": platform.python_version(), "celeriac": celeriac.__version__,
        **{name: release for name, release in found.items() if release},
    }


@lru_cache(maxsize=256)
def _installed(package: str) -> str:
    """Empty if it is not installed."""
    try:
        return version(package)
    except (PackageNotFoundError, ValueError):  # ValueError: no name at all
        return ""
