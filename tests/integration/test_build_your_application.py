"""docs/build-your-application.md, run from top to bottom by a stranger with an empty home."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import ROOT
from workers.valkey import free_port

pytestmark = [pytest.mark.uncounted, pytest.mark.timeout(400)]

PAGE = (ROOT / "docs" / "build-your-application.md").read_text()
BLOCKS = re.findall(r"^```bash\n(.*?)^```", PAGE, re.M | re.S)
START_S = 90


def test_the_page_runs_from_top_to_bottom(tmp_path: Path) -> None:
    at = BLOCKS.index("celeriac up\n")
    gateway_port = free_port()
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {
        "HOME": str(tmp_path), "CELERIAC_STACK_REDIS_PORT": str(free_port()),
        "CELERIAC_STACK_FLOWER_PORT": str(free_port()), "CELERIAC_STACK_METRICS_PORT": "0",
        "CELERIAC_GATEWAY_PORT": str(gateway_port),
        "CELERIAC_GATEWAY_ADMIN_PORT": str(free_port()), "COLUMNS": "120",
    }
    env["CELERIAC_BROKER_URL"] = f"redis://127.0.0.1:{env['CELERIAC_STACK_REDIS_PORT']}/0"
    venv = Path(sys.executable).parent
    mine = tmp_path / "my-application"

    def run(blocks: list[str], folder: Path) -> str:
        script = "\n".join(blocks).replace("$PWD/.venv/bin", str(venv))
        script = script.replace("127.0.0.1:8000", f"127.0.0.1:{gateway_port}")
        script = f"set -e\nexport PATH='{venv}':$PATH\n{script}"
        done = subprocess.run(
            ["bash", "-c", script], cwd=folder, env=env, capture_output=True, text=True,
            timeout=100, check=False,
        )
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        return done.stdout

    said = run(BLOCKS[:at], ROOT)
    assert "passed" in said
    assert re.search(r"wine@1: accuracy 0\.9\d on 72 wines", said)
    log = tmp_path / "up.log"
    own = {name: value for name, value in env.items() if name != "CELERIAC_BROKER_URL"}
    with log.open("wb") as file:
        up = subprocess.Popen(
            [venv / "celeriac", "up"], cwd=mine, env=own, stdin=subprocess.DEVNULL,
            stdout=file, stderr=subprocess.STDOUT,
        )
    try:
        deadline = time.monotonic() + START_S
        while "Ready." not in log.read_text():
            assert up.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        said = run(BLOCKS[at + 1 :], mine)
        assert up.wait(30) == 0
    finally:
        if up.poll() is None:
            up.send_signal(signal.SIGINT)
            up.wait(60)
    decided, counted = re.findall(r'^{"a.*}$', said, re.M)
    assert decided in PAGE
    assert counted in PAGE
    assert sum(map(int, re.findall(r"\d+", counted))) == 72
    assert (mine / "out" / "report.html").is_file()
