"""The producer half as others get it: a small wheel, used in a clean environment and in a project
that has modules of the same names as ours."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from email.parser import Parser
from pathlib import Path
from typing import Any

import msgspec
import pytest
import redis

from celeriac.keys import CATALOGUE_KEY, reply_key
from celeriac.messages import Reply
from celeriac.registry import catalogue
from celeriac.registry.catalogue import ModelInfo, VersionInfo
from celeriac.registry.manifest import InputSchema, OutputSchema
from celeriac.settings import Settings
from workers.valkey import EmbeddedServer, free_port

pytestmark = pytest.mark.uncounted

ROOT = Path(__file__).parents[2]
MODEL_LIBRARIES = ("torch", "scikit-learn", "onnx", "skops", "safetensors", "pandas", "scipy")


def run(*command: str | Path, cwd: Path, **env: str) -> str:
    """The output of a command that must succeed."""
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    ran = subprocess.run(
        [str(word) for word in command], cwd=cwd, env=clean | env, capture_output=True, text=True,
        timeout=100, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout[-2000:] + ran.stderr[-4000:]
    return ran.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    run(
        sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT,
        cwd=folder,
    )  # fmt: skip
    (found,) = folder.glob("celeriac-*.whl")
    return found


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ``bin`` folder of an environment that has the wheel, its dependencies, nothing else."""
    folder = tmp_path_factory.mktemp("clean") / "venv"
    run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder.parent)
    run(
        sys.executable, "-m", "pip", "--python", folder / "bin" / "python", "install", "--quiet",
        "--no-compile", "--disable-pip-version-check", wheel, cwd=folder.parent,
    )  # fmt: skip
    return folder / "bin"


@pytest.fixture
def published(redis_client: redis.Redis) -> redis.Redis:
    """A catalogue with the model ``reviews``."""
    version = VersionInfo(
        version=1, format="echo", device="cpu", input=InputSchema(kind="text"),
        output=OutputSchema(kind="any"), created_at="2026-11-22T00:00:00+00:00",
    )  # fmt: skip
    info = ModelInfo(name="reviews", aliases={"champion": 1}, versions={1: version})
    catalogue.publish(redis_client, {"reviews": info})
    return redis_client


@pytest.fixture
def answering(published: redis.Redis) -> Iterator[None]:
    """A worker that answers every item of ``reviews`` with itself."""
    import json
    import threading

    stopping = threading.Event()

    def work() -> None:
        while not stopping.is_set():
            popped: Any = published.brpop(["realtime.cpu.reviews"], timeout=0.5)
            if popped:
                envelope = json.loads(json.loads(popped[1])["body"])[1]
                answers = [
                    {"model": "reviews", "version": 1, "value": item} for item in envelope["items"]
                ]
                reply = Reply(v=1, id=envelope["id"], answers=answers)
                published.rpush(reply_key(envelope["reply_to"]), msgspec.json.encode(reply))

    thread = threading.Thread(target=work)
    thread.start()
    yield
    stopping.set()
    thread.join(10)


def test_what_the_wheel_holds_and_needs(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (metadata_name,) = [name for name in names if name.endswith(".dist-info/METADATA")]
        metadata = Parser().parsestr(archive.read(metadata_name).decode())
    top = {name.partition("/")[0] for name in names}
    needs = metadata.get_all("Requires-Dist") or []

    assert {name for name in top if not name.endswith(".dist-info")} == {"celeriac", "producer"}
    assert {"celeriac/py.typed", "producer/py.typed", "producer/client.py"} <= set(names)
    assert needs
    for need in needs:
        assert not need.startswith(MODEL_LIBRARIES), need
    assert wheel.stat().st_size < 900_000


def test_in_a_clean_environment(
    installed: Path, tmp_path: Path, settings: Settings, answering: None
) -> None:
    url = settings.broker_url
    (packages,) = (installed.parent / "lib").glob("python*/site-packages")
    names = {path.name.lower().replace("_", "-") for path in packages.glob("*.dist-info")}
    assert any(name.startswith("celery-") for name in names)
    assert not [name for name in names if name.startswith(MODEL_LIBRARIES)]

    script = f"""
from producer import Client, errors
with Client({url!r}) as client:
    print(client.predict("reviews", "good").value)
    try:
        client.submit_dataset("in.csv", "reviews", "out")
    except errors.DatasetError as error:
        print(error.message)
    print(client.submit_dataset("in.csv", "reviews", "out", planned_by="worker").status().source)
"""
    said = run(installed / "python", "-W", "error", "-c", script, cwd=tmp_path).splitlines()
    assert said[0] == "good"
    assert "celeriac[datasets]" in said[1]
    assert said[2] == str(tmp_path / "in.csv")
    assert run(
        installed / "celeriac", "predict", "reviews", "good", "--output", "json", cwd=tmp_path,
        CELERIAC_BROKER_URL=url,
    ) == '{"model": "reviews", "version": 1, "value": "good"}\n'  # fmt: skip
    commands = run(installed / "celeriac", "--help", cwd=tmp_path)
    assert "predict" in commands
    assert "worker" not in commands
    for words, why in (
        (["up"], "checkout of the repository"),
        (["worker", "batch.cpu"], "checkout of the repository"),
        (["models", "register", "iris", "iris.onnx"], "checkout of the repository"),
        (["sensors", "list"], 'this needs numpy, which is not installed here: pip install "celer'),
    ):
        refused = subprocess.run(
            [installed / "celeriac", *words], cwd=tmp_path, capture_output=True, text=True,
            timeout=100, check=False,
        )  # fmt: skip
        assert refused.returncode == 1
        assert refused.stderr.startswith("celeriac: ")
        assert why in refused.stderr


HOST = {
    "celeryconfig.py": """
import os
broker_url = result_backend = os.environ["HOST_URL"]
task_default_queue = "theirs"
broker_pool_limit = 3
""",
    "tasks.py": """
from celery import shared_task

@shared_task(name="celeriac.predict")
def predict(**kwargs):
    return "theirs"
""",
    "workers/__init__.py": "raise RuntimeError('the host has its own workers')\n",
    "service.py": """
import os, sys
from celery import Celery, current_app, signals
from kombu import pools

app = Celery("host")
app.config_from_object("celeryconfig")
app.set_default()
import tasks
seen = []
signals.before_task_publish.connect(lambda **kw: seen.append(kw["sender"]), weak=False)
before = dict(app.conf), pools.get_limit(), sorted(app.tasks)

from producer import Client
with Client(os.environ["OUR_URL"]) as client:
    assert client.predict("reviews", "good").value == "good"
    handle = client.submit("reviews", "later")
    assert handle.cancel()

assert current_app.main == "host" and current_app.conf.broker_url == os.environ["HOST_URL"]
assert (dict(app.conf), pools.get_limit(), sorted(app.tasks)) == before
assert app.tasks["celeriac.predict"].run() == "theirs"
assert seen == [], seen
assert not any(name == "workers" or name.startswith("workers.") for name in sys.modules)
app.send_task("theirs.work", args=[1])
assert seen == ["theirs.work"]
print("neither noticed the other")
""",
}


def test_in_a_project_with_modules_of_the_same_names(
    installed: Path, tmp_path: Path, settings: Settings, answering: None,
    published: redis.Redis,
) -> None:
    for name, text in HOST.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    theirs = EmbeddedServer(tmp_path / "theirs", free_port())
    theirs.start()
    try:
        said = run(
            installed / "python", "-W", "error", "service.py", cwd=tmp_path,
            HOST_URL=theirs.url, OUR_URL=settings.broker_url,
        )  # fmt: skip
        with redis.Redis.from_url(theirs.url) as connection:
            assert connection.llen("theirs") == 1
            assert not connection.keys("*celeriac*")
            assert not connection.exists("predict.cpu")
    finally:
        theirs.stop()

    assert said == "neither noticed the other\n"
    assert published.llen("predict.cpu") == 1
    assert not published.exists("theirs")
    assert published.exists(CATALOGUE_KEY)
