"""Virtual environments of other task queues, made once and kept under ``.celeriac/bench``."""

from __future__ import annotations

import subprocess
import sys
import venv
from collections.abc import Sequence
from pathlib import Path


def ensure(folder: Path, requirements: Sequence[str]) -> Path:
    """The ``python`` of an environment that holds ``requirements``; made at first use.

    Raises RuntimeError with pip's own words if they cannot be installed.
    """
    python = folder / "bin" / "python"
    stamp = folder / "installed.txt"
    wanted = "\n".join(requirements)
    if stamp.is_file() and stamp.read_text() == wanted:
        return python
    sys.stderr.write(f"Making an environment for {requirements[0]}, once\n")
    venv.create(folder, with_pip=True, clear=True)
    done = subprocess.run(
        [python, "-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check",
         *requirements],
        capture_output=True, text=True, check=False, timeout=300,
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(requirements)} could not be installed: {done.stderr[-500:]}")
    stamp.write_text(wanted)
    return python
