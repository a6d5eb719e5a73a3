"""moto's S3 server in a process of its own, and the variables that lead to it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from workers.valkey import free_port


@contextmanager
def s3_server(folder: Path) -> Iterator[str]:
    """Its address; processes that are started meanwhile find it by themselves."""
    port, log = free_port(), folder / "s3.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
            stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT,
        )
    url = f"http://127.0.0.1:{port}"
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            patch.delenv(name)
        for name, value in {
            "AWS_ENDPOINT_URL": url, "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true",
        }.items():
            patch.setenv(name, value)
        try:
            _wait(url, process, log)
            yield url
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait(10)


def empty(url: str) -> None:
    """Leave one bucket, ``data``, with nothing in it."""
    for path, method in (("/moto-api/reset", "POST"), ("/data", "PUT")):
        request = urllib.request.Request(f"{url}{path}", method=method)
        urllib.request.urlopen(request, timeout=10).close()


def _wait(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 40
    while True:
        try:
            urllib.request.urlopen(f"{url}/moto-api/data.json", timeout=2).close()
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"no S3 server:\n{log.read_text()[-2000:]}") from None
            time.sleep(0.1)
        else:
            return
