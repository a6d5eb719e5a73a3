"""The benchmark's own machinery: real processes are started, measured and stopped."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks import batch
from benchmarks.harness import datasets, plot
from benchmarks.harness.load import SHARES
from benchmarks.harness.points import Failed, Measured, Meter, Point, Subject
from benchmarks.harness.processes import Child, PeakMemory
from benchmarks.subjects import bare_loop
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
@pytest.mark.timeout(600)
def test_the_whole_benchmark_runs(tmp_path: Path) -> None:
    done = subprocess.run(
        [ROOT / "scripts" / "bench", "realtime", "--quick", "--json", tmp_path / "rows.json"],
        capture_output=True, text=True, timeout=590, check=False,
    )
    assert done.returncode in (0, 1), done.stderr[-2000:]  # a busy machine may miss a goal
    assert (tmp_path / "rows.json").exists(), done.stderr[-2000:]  # or Python ended with 1
    rows = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert {"echo, 1 in flight, p50", "cache hit, p50"} <= {row["measure"] for row in rows}


def test_a_child_serves_commands_and_its_end_is_told(tmp_path: Path) -> None:
    program = (
        "import sys\nfrom benchmarks.subjects.served import serve\n"
        "serve(lambda a: {'twice': 2 * a} if a else sys.exit('no more'))"
    )
    with Child([PYTHON, "-c", program], tmp_path / "log", os.environ, piped=True) as child:
        assert child.ask(a=21)["twice"] == 42
        assert child.cpu_s() > 0
        with PeakMemory(lambda: [child.process.pid], every_s=0.01) as peak:
            assert child.ask(a=1)["seconds"] < 1
            time.sleep(0.1)
        assert 1_000_000 < peak.bytes <= child.memory_bytes() * 2
        with pytest.raises(RuntimeError, match="no more"):
            child.ask(a=0)


@pytest.mark.parametrize("kind", ["numeric", "text"])
def test_the_bare_loop_reads_each_row_once(tmp_path: Path, kind: str) -> None:
    if kind == "numeric":
        datasets.numeric_parquet(tmp_path / "data", 25_000)
    else:
        lines = "".join(f'{n},"text\n{n} {"x" * 300}"\n' for n in range(25_000))
        (tmp_path / "data").write_text(f"review_id,review\n{lines}")
    halves = [list(bare_loop.READERS[kind](str(tmp_path / "data"), half)) for half in (0, 1)]
    assert all(halves)
    ids = [one for half in halves for batch, _ in half for one in batch.to_pylist()]
    assert sorted(ids) == list(range(25_000))


def test_the_plot_of_batch_is_svg(tmp_path: Path) -> None:
    runs = [batch.Run(1.0), batch.Run(2.0)]
    plot.batch({("reviews", name): runs for name in (batch.CELERIAC, batch.BARE)},
               tmp_path / "plot.svg")
    assert "bare loop" in "".join(ElementTree.parse(tmp_path / "plot.svg").getroot().itertext())


@pytest.mark.slow
@pytest.mark.timeout(420)
def test_the_whole_batch_benchmark_runs(tmp_path: Path) -> None:
    done = subprocess.run(
        [ROOT / "scripts" / "bench", "batch", "--quick", "--json", tmp_path / "rows.json"],
        capture_output=True, text=True, timeout=400, check=False,
    )
    assert done.returncode in (0, 1), done.stderr[-2000:]  # a busy machine may miss a goal
    assert (tmp_path / "rows.json").exists(), done.stderr[-2000:]  # or Python ended with 1
    rows = json.loads((tmp_path / "rows.json").read_text())["rows"]
    measures = {row["measure"] for row in rows}
    assert {"numbers, lr", "long job", "reviews", "images, 8 x 8"} <= measures


def test_a_benchmark_is_found_by_its_name() -> None:
    done = subprocess.run(
        [ROOT / "scripts" / "bench", "nothing"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "benchmarks here: applications batch" in done.stderr


@pytest.mark.slow
def test_a_promotion_is_measured_until_every_worker_serves_it() -> None:
    ran = subprocess.run(
        [PYTHON, "-m", "benchmarks.subjects.swaps", "--megabytes", "1", "--workers", "1",
         "--rounds", "1"],
        cwd=ROOT, capture_output=True, text=True, timeout=110, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr[-3000:]
    found = json.loads(ran.stdout.splitlines()[-1])
    assert (found["megabytes"], found["failed"]) == (1, 0)
    assert found["requests"] > 10
    (once,) = found["rounds"]
    assert 0 < once["spread_s"] < 5
    assert 0 < once["rollback_s"] < 5
    assert 0 < once["command_s"] < 30
