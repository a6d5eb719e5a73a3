"""What importing the producer half brings into a process: nothing heavy, nothing of the host's."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

pytestmark = pytest.mark.uncounted

HEAVY = {"torch", "sklearn", "numpy", "pandas", "pyarrow", "scipy", "onnxruntime", "skops"}
HOSTS = {"celeryconfig", "tasks", "workers"}
LIST_MODULES = "import sys, json; print(json.dumps(sorted(sys.modules)))"


def modules_after(statement: str, folder: Path) -> set[str]:
    """Top-level modules in a fresh interpreter after ``statement``."""
    ran = subprocess.run(
        [sys.executable, "-c", f"{statement}; {LIST_MODULES}"],
        cwd=folder, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    return {name.partition(".")[0] for name in json.loads(ran.stdout)}


@pytest.mark.parametrize(
    "statement",
    [
        "import producer",
        "from producer import Client, AsyncClient, Prediction, errors; Client()",
        "import producer.cli.main",
        "import producer.testing",
        "import producer.datasets, producer.jobs, producer.cli.batch",
    ],
)
def test_no_model_library_and_nothing_of_the_host_project(
    statement: str, tmp_path: Path
) -> None:
    found = modules_after(statement, tmp_path)

    assert "celeriac" in found or statement == "import producer"
    assert not found & HEAVY
    assert not found & HOSTS


def test_the_client_does_not_load_celery_until_it_is_needed(tmp_path: Path) -> None:
    assert "celery" not in modules_after("from producer import Client; Client()", tmp_path)


ABSENT = """
import sys
import workers.celery_command, workers.app, tasks.batch, structlog
found = [name for name in ("rich", "pygments") if name in sys.modules]
import pygments, rich.console
print(found, structlog.dev.rich)
"""


def test_a_worker_loads_nothing_that_draws_tracebacks(tmp_path: Path) -> None:
    """Who needs it can still import it."""
    ran = subprocess.run(
        [sys.executable, "-c", ABSENT], cwd=tmp_path, capture_output=True, text=True, timeout=60,
        check=True,
    )  # fmt: skip
    assert ran.stdout == "[] None\n"


def test_a_program_that_imports_us_still_draws_its_tracebacks(tmp_path: Path) -> None:
    """Its structlog is ours, too."""
    code = "from celeriac import release; import structlog; assert structlog.dev.rich"
    assert "structlog" in modules_after(code, tmp_path)


PLAN = """
import sys
from producer import Client
import producer.datasets
from celeriac.datasets import planner, sources

assert len(planner.plan(sources.open_source("rows.parquet")).chunks) == 1
print([name for name in ("kombu", "pyarrow.compute", "pyarrow.csv") if name in sys.modules])
"""


def test_who_submits_parquet_loads_no_parser_of_text(tmp_path: Path) -> None:
    pq.write_table(pa.table({"x": [1.0, 2.0]}), tmp_path / "rows.parquet")
    ran = subprocess.run(
        [sys.executable, "-c", PLAN], cwd=tmp_path, capture_output=True, text=True, timeout=60,
        check=True,
    )  # fmt: skip
    assert ran.stdout == "[]\n"


GATEWAY = "import producer.gateway.server, producer.cli.gateway"


def test_the_gateway_loads_no_model_library_and_none_of_our_modules_that_could(
    tmp_path: Path,
) -> None:
    found = modules_after(GATEWAY, tmp_path)
    assert {"fastapi", "uvicorn", "numpy"} <= found
    assert not found & ((HEAVY - {"numpy"}) | {"safetensors", "PIL", "joblib", "cloudpickle"})
    assert not found & HOSTS
    ours = own_modules_after(GATEWAY, tmp_path)
    assert not {name for name in ours if name.startswith(UNPACKERS)}


def test_what_the_gateway_loads_of_ours_runs_nothing_that_it_reads(tmp_path: Path) -> None:
    ours = own_modules_after(GATEWAY, tmp_path)
    assert len(ours) > 50
    for name in ours:
        tree = ast.parse(Path(ours[name]).read_text(encoding="utf-8"))
        assert not set(dangers(tree)), name


@pytest.mark.parametrize("code", [
    "import pickle", "from marshal import loads", "import yaml", "eval('1')", "exec('1')",
    "builtins.eval('1')", "import os; os.system('x')", "import subprocess", "import joblib as j",
])  # fmt: skip
def test_what_runs_what_it_reads_would_be_found(code: str) -> None:
    assert set(dangers(ast.parse(code)))


UNPACKERS = ("celeriac.runtimes", "celeriac.host", "celeriac.release", "celeriac.scoring")
RUNS_WHAT_IT_READS = {
    "pickle", "cPickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "yaml", "subprocess",
    "code", "codeop", "runpy",
}
RUNS = {"eval", "exec", "compile", "__import__", "system", "popen"}


def dangers(tree: ast.Module) -> Iterator[str]:
    """Imports and calls that could run what comes from elsewhere."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from {alias.name.partition(".")[0] for alias in node.names} & RUNS_WHAT_IT_READS
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from {node.module.partition(".")[0]} & RUNS_WHAT_IT_READS
        elif isinstance(node, ast.Call):
            called = node.func
            if isinstance(called, ast.Name):
                yield from {called.id} & RUNS
            elif isinstance(called, ast.Attribute) and isinstance(called.value, ast.Name):
                # Redis has an eval, too: of our own scripts.
                yield from {called.attr} & RUNS if called.value.id in ("builtins", "os") else ()


def own_modules_after(statement: str, folder: Path) -> dict[str, str]:
    """File of each of our modules in a fresh interpreter after ``statement``."""
    listed = (
        "import sys, json; print(json.dumps({n: m.__file__ for n, m in sys.modules.items() "
        "if n.startswith(('celeriac', 'producer')) and getattr(m, '__file__', None)}))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", f"{statement}; {listed}"],
        cwd=folder, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    found: dict[str, str] = json.loads(ran.stdout)
    return found
