"""Models of these tests that workers import, too."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from celeriac.settings import get_settings

MODULES = Path(__file__).parent
ROOT = MODULES.parents[1]


@contextmanager
def own_module(name: str, setting: str, value: str) -> Iterator[Any]:
    """A module of this folder, imported here, and there for workers that are started in the block.

    ``setting``: the environment variable that lets a model file name it, as ``value``.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(setting, value)
        patch.setenv("PYTHONPATH", f"{MODULES}{os.pathsep}{ROOT}")
        patch.syspath_prepend(str(MODULES))
        get_settings.cache_clear()
        yield importlib.import_module(name)
        del sys.modules[name]
    get_settings.cache_clear()
