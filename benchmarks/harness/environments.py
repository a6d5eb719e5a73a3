"""Virtual environments of peers, made once and kept under ``.celeriac/bench``."""

from __future__ import annotations

import subprocess
import sys
import time
import venv
from collections.abc import Sequence
from pathlib import Path

INSTALL_S = 300.0
TORCH_INDEX = "https://download.pytorch.org/whl/cpu"


def ensure(
    folder: Path, requirements: Sequence[str], *, torch: str = "", limit_s: float = INSTALL_S
) -> Path:
    """The ``python`` of an environment that holds ``requirements``; made at first use.

    ``torch``: a version of which it gets the CPU build, too. Raises RuntimeError with pip's own
    words if something cannot be installed, or not within ``limit_s``.
    """
    python = folder / "bin" / "python"
    stamp = folder / "installed.txt"
    wanted = "\n".join([*requirements, torch])
    if stamp.is_file() and stamp.read_text() == wanted:
        return python
    sys.stderr.write(f"Making an environment for {requirements[0]}, once\n")
    venv.create(folder, with_pip=True, clear=True)
    end_s = time.monotonic() + limit_s
    if torch:
        _install_torch(python, torch, end_s)
    install(python, requirements, end_s)
    stamp.write_text(wanted)
    return python


def _install_torch(python: Path, version: str, end_s: float) -> None:
    """The CPU build from this machine's package sources, or from PyTorch's own."""
    try:
        install(python, [f"torch=={version.partition('+')[0]}+cpu"], end_s)
    except RuntimeError:
        install(python, ["--extra-index-url", TORCH_INDEX, f"torch=={version}"], end_s)


def install(python: Path, words: Sequence[str], end_s: float) -> None:
    """``pip install`` until the monotonic time ``end_s``. Raises RuntimeError."""
    left_s = max(0.01, end_s - time.monotonic())
    try:
        done = subprocess.run(
            [python, "-m", "pip", "install", "--quiet", "--no-input",
             "--disable-pip-version-check", *words],
            capture_output=True, text=True, check=False, timeout=left_s,
        )
        if not done.returncode:
            return
        said = done.stderr[-500:]
    except subprocess.TimeoutExpired:
        said = "it took too long"
    raise RuntimeError(f"{' '.join(words)} could not be installed: {said}")
