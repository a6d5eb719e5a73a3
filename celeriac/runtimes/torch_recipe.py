"""What a version's recipe does to a network once its weights are in it."""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Mapping
from typing import Any

from celeriac import errors
from celeriac.logs import get_logger
from celeriac.runtimes import library

log = get_logger(__name__)

KNOWN = ("channels_last", "int8", "compile")


def applied(module: Any, recipe: Mapping[str, Any]) -> Any:
    """The network as the recipe wants it. Raises RegistryError if this torch cannot do it."""
    torch = library("torch", pip="torch")
    if recipe.get("channels_last"):
        module = module.to(memory_format=torch.channels_last)
    if recipe.get("int8"):
        module = _quantised(torch, module)
    return _compiled(torch, module) if recipe.get("compile") else module


def compiler() -> str | None:
    """The C++ compiler that torch.compile would use; None: there is none."""
    names = (os.environ.get("CXX"), "g++", "clang++")
    return next((found for name in names if name and (found := shutil.which(name))), None)


def _quantised(torch: Any, module: Any) -> Any:
    """Linear layers with weights of 8 bits, which are multiplied as such."""
    quantize = getattr(torch.ao.quantization, "quantize_dynamic", None)
    if quantize is None:
        raise errors.RegistryError("this release of torch has no dynamic quantisation")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is to move to another package
        return quantize(module, {torch.nn.Linear}, dtype=torch.qint8)


def _compiled(torch: Any, module: Any) -> Any:
    if compiler() is None:
        log.warning("no C++ compiler: the network runs as it is", wanted="torch.compile")
        return module
    # Its workers are processes of their own, which a forked worker must not have.
    library("torch._inductor.config", pip="torch").compile_threads = 1
    return torch.compile(module, dynamic=True)
