"""docs/oip.md, run from top to bottom against a gateway."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.conftest import ROOT
from tests.integration.gateway.conftest import RunningGateway

PAGE = (ROOT / "docs" / "oip.md").read_text()
BLOCKS = re.findall(r"^```(py|bash)\n(.*?)^```", PAGE, re.M | re.S)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the page's commands run: with an image of a digit."""
    pixels = np.arange(64, dtype=np.uint8).reshape(8, 8)
    Image.fromarray(pixels).save(tmp_path / "digit.png")
    return tmp_path


def run(kind: str, code: str, gateway: RunningGateway, folder: Path) -> bytes:
    """``digits`` of the demonstration takes images, as ``pixels`` does here; the column of
    ``reviews`` is ``review`` there, and ``text`` here."""
    here = code.replace("127.0.0.1:8000", f"127.0.0.1:{gateway.port}").replace("digits", "pixels")
    here = here.replace('"review"', '"text"')
    command = [sys.executable, "-W", "error", "-c", here] if kind == "py" else ["bash", "-c", here]
    done = subprocess.run(command, cwd=folder, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def test_the_page_has_what_is_to_be_run() -> None:
    kinds = [kind for kind, _ in BLOCKS]
    assert (kinds.count("py"), kinds.count("bash")) == (4, 2)


def test_the_calls_of_tritonclient(gateway: RunningGateway, folder: Path) -> None:
    said = [run(kind, code, gateway, folder).decode() for kind, code in BLOCKS if kind == "py"]
    text, columns, matrix, images = said
    assert re.fullmatch(r"(positive|negative) 0\.\d+\n(positive|negative) 0\.\d+\n", text)
    assert len(re.findall(r"\d+\.\d+", columns)) == 2
    assert matrix.startswith("[0 1] [0.")
    assert re.fullmatch(r"\[\d\]\n\[0\.\d+ 0\.\d+ 0\.\d+\]\n", images)


def test_the_commands_of_curl(gateway: RunningGateway, folder: Path) -> None:
    first, raw = [run(kind, code, gateway, folder) for kind, code in BLOCKS if kind == "bash"]
    shown = json.loads(re.findall(r"^```json\n(.*?)^```", PAGE, re.M | re.S)[0])
    found = json.loads(first)
    for answer in (shown, found):
        for output in answer["outputs"]:
            del output["data"]
    assert found == shown
    head = raw[: raw.index(b"]}") + 2]
    assert json.loads(head)["outputs"][0]["parameters"] == {"binary_data_size": 8}
    assert len(raw) == len(head) + 16
