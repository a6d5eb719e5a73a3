"""``celeriac gateway`` in a process of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

from celeriac.settings import Settings
from tests.conftest import COUNTED, ROOT
from tests.integration.gateway.conftest import Http
from workers.child_settings import environment, tables_toml

CELERIAC = str(Path(sys.executable).with_name("celeriac"))


class GatewayProcess:
    """``celeriac gateway`` as a user starts it."""

    def __init__(self, settings: Settings, folder: Path, name: str) -> None:
        self.log = folder / f"{name}.log"
        config = folder / f"{name}.toml"
        config.write_text(tables_toml(settings), encoding="utf-8")
        variables = environment(settings) | {"CELERIAC_CONFIG": str(config)}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [CELERIAC, "gateway"], cwd=ROOT,
                env=os.environ | variables | COUNTED, stdout=log, stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
            )  # fmt: skip

    def wait_ready(self) -> GatewayProcess:
        self.http = Http(int(self._said(r"url=http://127\.0\.0\.1:(\d+)")))
        self.admin = Http(int(self._said(r"admin=http://127\.0\.0\.1:(\d+)")))
        deadline = time.monotonic() + 20
        while self.http.get("/health/ready").status != 200:
            assert time.monotonic() < deadline, self.text
            time.sleep(0.02)
        return self

    @property
    def text(self) -> str:
        return self.log.read_text()

    def stop(self) -> int:
        if self.process.poll() is None:
            self.process.terminate()
        try:
            return self.process.wait(30)
        finally:
            self.process.kill()

    def _said(self, pattern: str) -> str:
        deadline = time.monotonic() + 30
        while not (found := re.search(pattern, self.text)):
            assert self.process.poll() is None, self.text
            assert time.monotonic() < deadline, self.text
            time.sleep(0.02)
        return found[1]
