"""What a process that scores scikit-learn models need not load."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PROGRAM = """
import sys
from pathlib import Path
from celeriac import release
from celeriac.registry.store import Registry
from celeriac.runtimes import LoadOptions
from celeriac.scoring import Scorer
from sklearn.linear_model import LogisticRegression

registry = Registry(Path(sys.argv[1]))
if len(sys.argv) == 2:
    model = LogisticRegression().fit([[0.0], [1.0]], [0, 1])
    release.register("m", model, registry=registry, examples=[[0.0], [1.0]])
else:
    Scorer.load(registry, "m", 1, LoadOptions())
    print("torch" in sys.modules)
    import torch, sklearn.externals.array_api_compat.torch
"""


def test_torch_is_not_imported_for_scikit_learn(tmp_path: Path) -> None:
    def run(*words: str) -> str:
        argv = [sys.executable, "-c", PROGRAM, str(tmp_path), *words]
        return subprocess.run(argv, capture_output=True, text=True, check=True, timeout=120).stdout

    run()
    assert run("load") == "False\n"
