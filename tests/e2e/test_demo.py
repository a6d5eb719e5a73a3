"""The demonstration, and every command and code block of the README and docs, on its stack."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

import pytest

from workers.valkey import free_port

pytestmark = pytest.mark.uncounted

ROOT = Path(__file__).parents[2]
ELSEWHERE = ("moderation.md",)
"""Pages that need other models; they are run on stacks of their own."""
PAGES = [
    page for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
    if page.name not in ELSEWHERE
]
CURL_ELSEWHERE = ("asynchronous.md", "build-your-application.md", "http.md", "oip.md")
"""Pages whose requests are run by tests of the gateway and of the template."""
JOB = re.compile(r"\bJOB\b")
"""Where a page wants the id that the command before it answered."""
START_S = 240


class Demo:
    """``scripts/demo --keep`` in an empty folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.flower_port = free_port()
        redis_port = free_port()
        self.url = f"http://127.0.0.1:{free_port()}"
        self.environment = os.environ | {
            "CELERIAC_STACK_REDIS_PORT": str(redis_port),
            "CELERIAC_STACK_FLOWER_PORT": str(self.flower_port),
            "CELERIAC_STACK_METRICS_PORT": "0",
            "CELERIAC_GATEWAY_PORT": self.url.rpartition(":")[2],
            "CELERIAC_GATEWAY_ADMIN_PORT": str(free_port()),
        }
        self.log = folder / "demo.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "demo", "--keep"],
                cwd=folder, env=self.environment, stdin=subprocess.DEVNULL,
                stdout=log, stderr=subprocess.STDOUT,
            )  # fmt: skip
        self.client_environment = os.environ | {
            "CELERIAC_BROKER_URL": f"redis://127.0.0.1:{redis_port}/0",
            "CELERIAC_URL": self.url,
            "COLUMNS": "120",
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        }

    def wait(self) -> str:
        deadline = time.monotonic() + START_S
        while "The stack is running" not in (text := self.log.read_text()):
            assert self.process.poll() is None, text
            assert time.monotonic() < deadline, text
            time.sleep(0.2)
        return text

    def run(self, *command: str, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [part.replace("http://127.0.0.1:8000", self.url) for part in command],
            cwd=self.folder, env=self.client_environment, timeout=timeout_s,
            capture_output=True, text=True, check=False,
        )  # fmt: skip

    def run_of_job(self, job: str, *command: str) -> subprocess.CompletedProcess[str]:
        """A command of a page about ``JOB``, until the job has ended."""
        deadline = time.monotonic() + 60
        while True:
            done = self.run(*(JOB.sub(job, part) for part in command))
            if done.returncode == 0 or time.monotonic() > deadline:
                return done
            time.sleep(0.2)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    demo = Demo(tmp_path_factory.mktemp("demo"))
    try:
        demo.wait()
        yield demo
    finally:
        demo.process.send_signal(signal.SIGINT)
        code = demo.process.wait(60)
    state = json.loads((demo.folder / ".celeriac/demo/state/stack.json").read_text()) if (
        demo.folder / ".celeriac/demo/state/stack.json"
    ).exists() else {}  # fmt: skip
    assert code == 0, demo.log.read_text()
    assert "Done." in demo.log.read_text()
    left = [pid for pid in _pids(state) if Path(f"/proc/{pid}").exists()]
    assert not left, "processes that the demonstration left behind"


def _pids(value: object) -> list[int]:
    if isinstance(value, dict):
        return [pid for key, inner in value.items() for pid in _pids(inner) if key != "ports"]
    if isinstance(value, list):
        return [pid for inner in value for pid in _pids(inner)]
    return [value] if isinstance(value, int) and value > 1 else []


RUN_BLOCKS = """
import sys, types
page, *blocks = sys.argv[1:]
for line, source in zip(blocks[::2], blocks[1::2]):
    sys.modules["__main__"] = module = types.ModuleType("__main__")
    exec(compile("\\n" * (int(line) - 1) + source, page, "exec"), module.__dict__)
"""
"""Python blocks that follow each other share a process, which is most of what they cost, but for
those of clients, whose threads outlive them; none sees the names of another."""


def commands(page: Path) -> list[tuple[int, list[str]]]:
    """What a page tells its reader to run, in its order: line, and command.

    Python blocks, and of bash blocks the commands ``celeriac``, but those that start or stop a
    stack, and ``curl``, but on pages whose requests have a test of their own; a block that begins
    with the gateway's URL as one.
    """
    found: list[tuple[int, list[str]]] = []
    text = page.read_text()
    for match in re.finditer(r"^```(python|bash)\n(.*?)^```", text, re.M | re.S):
        line = text[: match.start()].count("\n") + 2
        if match[1] == "python":
            if not found or found[-1][1][0] == "bash" or "from producer" in text:
                run = [sys.executable, "-W", "error", "-c", RUN_BLOCKS, page.name]
                found.append((line, run))
            found[-1][1].extend((str(line), match[2]))
            continue
        asked_here = page.name not in CURL_ELSEWHERE
        if asked_here and match[2].startswith("URL="):
            found.append((line, ["bash", "-c", f"set -eo pipefail\n{match[2]}"]))
            continue
        for command in re.finditer(r"^(?:.*\\\n)*.*$", match[2], re.M):
            here = line + match[2][: command.start()].count("\n")
            ours = re.match(r"(?:\.venv/bin/)?celeriac (?!up|down|worker|gateway$)(.*)", command[0])
            if ours:
                ours_here = f'"{Path(sys.executable).parent}/celeriac" {ours[1]}'
                found.append((here, ["bash", "-c", ours_here]))
            elif asked_here and command[0].startswith("curl "):
                asks = command[0].replace("curl -s ", "curl -sS --fail-with-body ")
                found.append((here, ["bash", "-c", asks]))
    return found


def settings_of(page: Path) -> str:
    """The nights and the registry that a page has its reader write into ``celeriac.toml``."""
    blocks = re.findall(r"^```toml\n(.*?)^```", page.read_text(), re.M | re.S)
    wanted = ("[nightly.", "[models]\nroot")
    return "\n".join(block for block in blocks if block.startswith(wanted))


@pytest.mark.timeout(400)
def test_it_says_what_it_did(demo: Demo) -> None:
    text = demo.log.read_text()
    accuracies = [float(found) for found in re.findall(r"accuracy (0\.\d+) on", text)]
    assert len(accuracies) == 3
    assert accuracies[0] > 0.75
    assert accuracies[1] > 0.7
    assert accuracies[2] > 0.95
    assert len(re.findall(r"completed, [\d,]+ rows, [\d,]+ rows/s", text)) == 2
    correlation = re.search(r"verdicts: (0\.\d+)", text)
    assert correlation is not None
    assert float(correlation[1]) > 0.8
    killed = re.search(r"killed after (\d+) of (\d+) chunks", text)
    assert killed is not None
    assert 10 <= int(killed[1]) < int(killed[2])
    assert f"{killed[2]} parts, each identical to the other job's" in text
    assert re.search(r'\{"category":"great","confidence":0\.\d+\}', text)  # over HTTP
    assert "2 features of 13 have changed; the answers have not become worse." in text  # July
    assert (demo.folder / ".celeriac/demo/out/drift/drift.html").exists()
    output = demo.folder / ".celeriac/demo/out/reviews_x10"
    assert json.loads((output / "manifest.json").read_text())["rows_in"] == 10_000
    assert (output / "_SUCCESS").exists()


@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    "page", [pytest.param(page, id=page.name) for page in PAGES if commands(page)]
)
def test_a_page_runs_from_top_to_bottom(demo: Demo, page: Path) -> None:
    (demo.folder / "celeriac.toml").write_text(settings_of(page))
    job = ""
    for line, command in commands(page):
        if JOB.search(command[-1]) and command[0] == "bash":
            done = demo.run_of_job(job, *command)
        else:
            done = demo.run(*command, timeout_s=180)
        if begun := re.search(r'"id":"(job[^"]*|[0-9a-f-]+)"', done.stdout):
            job = begun[1]
        where = f"{page.name}:{line}"
        assert done.returncode == 0, f"{where}\n{done.stderr}"
        assert command[0] != "bash" or done.stdout.strip(), f"{where} prints nothing"


@pytest.mark.timeout(400)
def test_flower_shows_the_work_and_no_payload(demo: Demo) -> None:
    deadline = time.monotonic() + 15
    while True:
        with urlopen(f"http://127.0.0.1:{demo.flower_port}/tasks/datatable"
                     "?draw=1&start=0&length=5000&order[0][column]=0&order[0][dir]=asc"
                     "&search[value]=&columns[0][data]=name", timeout=10) as answer:  # fmt: skip
            page = answer.read().decode()
        names = {row["name"] for row in json.loads(page)["data"]}
        if names >= {f"celeriac.{name}" for name in ("batch.chunk", "predict.envelope")}:
            break
        assert time.monotonic() < deadline, names
        time.sleep(0.5)
    assert "Best coffee" not in page
    assert "items=" in page
    assert "job_id=" in page
