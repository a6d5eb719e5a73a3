"""The benchmark's own machinery: real processes are started, measured and stopped."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks.harness import plot
from benchmarks.harness.load import SHARES
from benchmarks.harness.points import Failed, Measured, Meter, Point, Subject
from workers.valkey import EmbeddedServer

ROOT = Path(__file__).parents[2]
PYTHON = Path(sys.executable)


@pytest.fixture
def items(tmp_path: Path) -> Path:
    file = tmp_path / "items.json"
    file.write_text(json.dumps(["x" * 200]))
    return file


@pytest.fixture
def meter(server: EmbeddedServer, tmp_path: Path) -> Meter:
    assert server.process is not None
    env = os.environ | {"BENCH_REDIS_URL": server.url}
    return Meter(tmp_path, server.process.pid, env)


def subject(module: str, *worker: str | Path) -> Subject:
    return Subject(name="raw", module=module, python=PYTHON, worker=worker, model="echo")


def test_a_subject_is_measured(meter: Meter, items: Path) -> None:
    raw = subject("benchmarks.subjects.raw", PYTHON, "-m", "benchmarks.subjects.raw")
    points = [
        Point(kind="closed", in_flight=8, seconds=0.5, warmup_s=0.1),
        Point(kind="open", per_s=100, seconds=0.5, warmup_s=0.1),
    ]
    closed, open_ = meter.run(raw, items, points)
    assert closed.per_s == closed.calls / 0.5 > open_.per_s > 0
    assert 0 < closed.ms(0.5) <= closed.ms(0.99)
    assert set(closed.cpu_us) == {"client", "worker", "redis"}
    assert closed.worker_bytes > 1_000_000


def test_a_subject_without_a_worker_fails_with_the_reason(meter: Meter, items: Path) -> None:
    with pytest.raises(Failed, match="No module named"):
        meter.run(subject("benchmarks.subjects.nothing"), items, [Point(kind="closed")])


def test_the_plot_is_svg(tmp_path: Path) -> None:
    measured = Measured(per_s=1_000, calls=10, late=0, quantiles_ms=[*range(1, len(SHARES) + 1)])
    found = {(name, "echo", plot.IN_FLIGHT): measured for name in plot.COLOURS}
    plot.realtime(found, tmp_path / "plot.svg")
    root = ElementTree.parse(tmp_path / "plot.svg").getroot()
    assert root.tag.endswith("svg")
    assert "plain Celery" in "".join(root.itertext())


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_whole_benchmark_runs(tmp_path: Path) -> None:
    done = subprocess.run(
        [ROOT / "scripts" / "bench", "realtime", "--quick", "--json", tmp_path / "rows.json"],
        capture_output=True, text=True, timeout=290, check=False,
    )
    assert done.returncode in (0, 1), done.stderr[-2000:]  # a busy machine may miss a goal
    rows = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert {"echo, 1 in flight, p50", "cache hit, p50"} <= {row["measure"] for row in rows}


def test_a_benchmark_is_found_by_its_name() -> None:
    done = subprocess.run(
        [ROOT / "scripts" / "bench", "nothing"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "benchmarks here: realtime" in done.stderr
