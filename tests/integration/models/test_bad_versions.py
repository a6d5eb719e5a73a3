"""Whatever is wrong with a version: refused within 30 s with the reason, nothing of it is executed,
and the old version answers every request meanwhile."""

from __future__ import annotations

import json
import os
import pickle
import re
import time
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import skops.io
from celery import Celery
from celery.result import AsyncResult
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.linear_model import LinearRegression

from celeriac import errors, release
from celeriac.jobs.ledger import JobState
from celeriac.messages import PREDICT
from celeriac.registry.manifest import Architecture, ModelDraft
from celeriac.registry.store import Registry
from celeriac.runtimes.architectures import MLP
from producer.broker import Broker
from producer.datasets import submit_dataset
from producer.jobs import JobHandle
from tests.integration.models.conftest import ITEM, ROWS, Callers, Life

pytestmark = [pytest.mark.uncounted, pytest.mark.timeout(300)]

REFUSED_S = 120.0
"""A trial gives way, and what it waits for others is no part of its time."""


class Canary:
    """Whoever unpickles it leaves a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.path}",)


class Homemade(RegressorMixin, BaseEstimator):
    """A type that nobody trusts."""

    def fit(self, x: Any, y: Any) -> Homemade:
        self.is_fitted_ = True
        return self

    def predict(self, x: Any) -> Any:
        return np.zeros(len(x))


class World(NamedTuple):
    """What makes a bad version."""

    life: Life
    networks: Any
    canary: Path

    @property
    def registry(self) -> Registry:
        return self.life.registry

    def good(self, model: Any = None) -> int:
        model = model or LinearRegression().fit(ROWS, ROWS[:, 0])
        return release.register("m", model, examples=ROWS, registry=self.registry).version

    def crafted(self, files: dict[str, bytes], **changes: Any) -> int:
        """A version whose digests are right, and whose files are whatever they are."""
        template = self.registry.get("m", 1)
        draft = ModelDraft(**{
            **{name: getattr(template, name) for name in ModelDraft.model_fields}, **changes,
        })

        def write(folder: Path) -> ModelDraft:
            for name, data in files.items():
                (folder / name).write_bytes(data)
            return draft

        return self.registry.add("m", write).version

    def path(self, version: int, name: str) -> Path:
        path = self.registry.folder("m", version) / name
        path.parent.chmod(0o755)
        if path.exists():
            path.chmod(0o644)
        return path

    def pickled(self) -> bytes:
        return pickle.dumps(Canary(self.canary))


def cut(world: World) -> int:
    path = world.path(version := world.good(), "model.skops")
    path.write_bytes(path.read_bytes()[:-100])
    return version


def one_byte(world: World) -> int:
    path = world.path(version := world.good(), "model.skops")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
    return version


def one_file_more(world: World) -> int:
    world.path(version := world.good(), "helper.py").write_text(f"open({str(world.canary)!r}, 'w')")
    return version


def another_format(world: World) -> int:
    return world.crafted({"model.skops": b"\x89PNG\r\n\x1a\n" + bytes(100)})


def pickle_as(name: str, **changes: Any) -> Callable[[World], int]:
    return lambda world: world.crafted({name: world.pickled()}, **changes)


def zip_of_a_pickle(world: World) -> int:
    path = world.life.settings.models.root.parent / "crafted.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("schema.json", json.dumps({
            "__class__": "system", "__module__": "os", "__loader__": "FunctionNode",
            "content": {"module_path": "os", "function": "system"}, "protocol": 2,
        }))
        archive.writestr("data.pkl", world.pickled())
    return world.crafted({"model.skops": path.read_bytes()})


def untrusted_type(world: World) -> int:
    data = skops.io.dumps(Homemade().fit(ROWS, ROWS[:, 0]))
    return world.crafted({"model.skops": data})


NET = Architecture(
    path="celeriac.runtimes.architectures:MLP", arguments={"inputs": 2, "outputs": 1}
)


def other_weights(world: World) -> int:
    version = world.good(MLP(2, 1))
    weights = (world.registry.folder("m", version) / "model.safetensors").read_bytes()
    arguments = {"inputs": 2, "outputs": 1, "hidden": [32]}
    return world.crafted(
        {"model.safetensors": weights}, format="torch",
        architecture=NET.model_copy(update={"arguments": arguments}),
    )


def foreign_code(world: World) -> int:
    return world.crafted(
        {"model.safetensors": b""}, format="torch",
        architecture=Architecture(path="os:system", arguments={"command": f"touch {world.canary}"}),
    )


def other_golden(world: World) -> int:
    version = world.good()
    data = (world.registry.folder("m", version) / "model.skops").read_bytes()
    golden = world.registry.get("m", 1).golden  # of another model
    return world.crafted({"model.skops": data}, golden=golden)


def damaged_manifest(world: World) -> int:
    path = world.path(version := world.good(), "model.json")
    path.write_text(path.read_text()[:50])
    return version


CASES: dict[str, tuple[Callable[[World], int], str, str]] = {
    "a file that is cut": (cut, "model_corrupt", r"model.skops has \d+ bytes where \d+ were"),
    "one bit": (one_byte, "model_corrupt", "its SHA-256 is not the recorded one"),
    "a file more": (one_file_more, "model_corrupt", "helper.py does not belong to the version"),
    "a manifest that is cut": (damaged_manifest, "model_corrupt", "model.json is damaged"),
    "a picture": (another_format, "model_untrusted", "model.skops is not a skops file"),
    "a pickle as skops": (
        pickle_as("model.skops"), "model_untrusted", "pickle and joblib files are never loaded",
    ),
    "a pickle as safetensors": (
        pickle_as("model.safetensors", format="torch", architecture=NET),
        "registry_invalid", "does not hold the weights",
    ),
    "a pickle as onnx": (
        pickle_as("model.onnx", format="onnx"), "", "model.onnx",
    ),
    "a zip with a function": (zip_of_a_pickle, "", "model.skops|not trusted"),
    "a type that is not trusted": (untrusted_type, "model_untrusted", r"Homemade; .*trusted_types"),
    "other weights": (other_weights, "registry_invalid", "does not hold the weights of"),
    "code of others": (foreign_code, "model_untrusted", r"\[models\] architectures"),
    "no such format": (
        pickle_as("model.bin", format="mystery"), "runtime_missing", "no runtime for the format",
    ),
    "a load that dies": (
        lambda world: world.good(world.networks.Dies()), "promotion_refused", "ended by SIGSEGV",
    ),
    "other answers": (other_golden, "promotion_refused", "golden example 1 of 8 should answer"),
}


@pytest.fixture(scope="module")
def callers(life: Life) -> Iterator[Callers]:
    """They ask for the champion all the time."""
    with Callers(life.settings, "m", 2) as callers:
        yield callers


@pytest.mark.parametrize("case", CASES)
def test_it_is_refused_with_its_reason_and_the_old_version_serves(
    life: Life, trusted_code: Any, callers: Callers, tmp_path: Path, case: str
) -> None:
    make, code, says = CASES[case]
    canary = tmp_path / "canary"
    version = make(World(life, trusted_code, canary))
    aliases = life.registry.aliases("m").read()
    _is_not_promoted(life, version, code, says)
    assert life.registry.aliases("m").read() == aliases == {"champion": 1}
    assert not canary.exists()
    answer = life.client.predict("m", ITEM, timeout_s=20)
    assert (answer.version, round(answer.value, 6)) == (1, 1.0)
    assert callers.wrong == []
    assert set(callers.versions) <= {1}


def _is_not_promoted(life: Life, version: int, code: str, says: str) -> None:
    began_s = time.monotonic()
    with pytest.raises(errors.RegistryError, match=says) as refused:
        life.client.promote(f"m@{version}", timeout_s=REFUSED_S)
    assert time.monotonic() - began_s < REFUSED_S
    assert refused.value.code == (code or refused.value.code)
    assert f"m@{version}" in refused.value.message
    assert "/" not in refused.value.message.replace("[models]", "")


@pytest.mark.parametrize("case", ["one bit", "a pickle as skops", "a type that is not trusted"])
def test_whoever_asks_for_it_by_number_is_told_and_nobody_else_waits(
    life: Life, trusted_code: Any, callers: Callers, tmp_path: Path, case: str
) -> None:
    make, code, says = CASES[case]
    canary = tmp_path / "canary"
    version = make(World(life, trusted_code, canary))
    life.publish()
    with pytest.raises(errors.RegistryError, match=says) as refused:
        life.client.predict(f"m@{version}", ITEM, timeout_s=REFUSED_S)
    assert refused.value.code == code
    assert not canary.exists()
    assert callers.wrong == []


_HANGS = (
    r"took longer than 30 s \(\[models\] check_timeout_s\)"
    "|another process has been trying it for 40 s; try again"  # which gives way to all that is here
)
PINNED = {
    "Hangs": _HANGS,
    "Dies": "was ended by SIGSEGV",
    "Exits": "ended with exit code 0",
    "Eats": "MemoryError",
}


def test_a_version_that_hangs_or_dies_is_refused_to_whoever_asks_for_its_number(
    life: Life, trusted_code: Any, callers: Callers, tmp_path: Path
) -> None:
    """A promotion of one that hangs is refused meanwhile: both have the same time to pass."""
    world = World(life, trusted_code, tmp_path)
    unpromoted = world.good(trusted_code.Hangs())
    numbers = {name: world.good(getattr(trusted_code, name)()) for name in PINNED}
    healthy = world.good()
    life.publish()
    workers = {worker.hostname: worker.describe()["pid"] for worker in life.workers}
    job = _job(life, tmp_path, f"m@{numbers['Dies']}")
    with ThreadPoolExecutor(len(PINNED) + 2) as threads:
        promotion = threads.submit(
            _is_not_promoted, life, unpromoted, "promotion_refused", "took longer than"
        )
        asked = {
            name: threads.submit(_refused, life, f"m@{number}", REFUSED_S)
            for name, number in numbers.items()
        }
        answer = threads.submit(life.client.predict, f"m@{healthy}", ITEM, timeout_s=REFUSED_S)
        seen = len(callers.versions)
        _tasks_go_on(life, f"m@{numbers['Hangs']}")
        assert answer.result().version == healthy  # it waits for none of the others
        for name, says in PINNED.items():
            reason, _ = asked[name].result()
            assert re.search(f"^m@{numbers[name]}: .*{says}", reason), reason
        promotion.result()
        assert life.registry.aliases("m").read() == {"champion": 1}
        assert len(callers.versions) > seen + 20
        assert set(callers.versions) <= {1}
    for number in numbers.values():  # of one whose trial is not over yet, once it is
        assert any(_refused(life, f"m@{number}", REFUSED_S)[1] < 2 for _ in range(3))
    status = job.wait(timeout_s=REFUSED_S)
    assert status.state is JobState.FAILED
    assert "was ended by SIGSEGV" in status.error
    assert callers.wrong == []
    assert workers == {worker.hostname: worker.describe()["pid"] for worker in life.workers}
    assert all(worker.process.poll() is None for worker in life.workers)


def _tasks_go_on(life: Life, hanging: str) -> None:
    """While a task of each worker waits for a version that hangs, others are answered.

    Were a main loop to wait too, they would not be: the version hangs for longer.
    """
    url = life.settings.broker_url
    app = Celery(broker=url, backend=url, set_as_current=False)

    def send(model: str) -> AsyncResult:
        kwargs = {"model": model, "items": [ITEM]}
        return app.send_task(PREDICT, kwargs=kwargs, queue="predict.cpu")

    waiting = [send(hanging) for _ in range(2)]
    for _ in range(4):
        (answer,) = send("m").get(timeout=20)
        assert answer["version"] == 1
    for result in waiting:
        with pytest.raises(Exception, match=_HANGS):
            result.get(timeout=REFUSED_S)
    app.close()


def _refused(life: Life, ref: str, timeout_s: float) -> tuple[str, float]:
    """Why, and after how many seconds."""
    began_s = time.monotonic()
    with pytest.raises(errors.RegistryError) as refused:
        life.client.predict(ref, ITEM, timeout_s=timeout_s)
    return refused.value.message, time.monotonic() - began_s


def _job(life: Life, folder: Path, model: str) -> JobHandle:
    pq.write_table(pa.table({"x0": [0.5], "x1": [0.5]}), folder / "rows.parquet")
    return submit_dataset(Broker(life.settings), folder / "rows.parquet", model, folder / "out")
