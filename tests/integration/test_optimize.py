"""``celeriac optimize`` with real models, each form in a process of its own."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
import redis
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from celeriac import errors, release
from celeriac.messages import ModelRef
from celeriac.optimize import choosing
from celeriac.optimize.measuring import Task, measure
from celeriac.optimize.optimising import Optimiser, Wanted
from celeriac.optimize.parity import Allowed
from celeriac.registry.catalogue import fetch, publish
from celeriac.registry.profiles import this_machine
from celeriac.registry.store import Registry
from celeriac.runtimes import LoadOptions
from celeriac.runtimes.torch_recipe import compiler
from celeriac.scoring import Scorer
from celeriac.settings import ModelsSettings, Settings, StackSettings, get_settings
from workers import devices
from workers.child_settings import environment
from workers.lane.limits import AllLimits
from workers.valkey import EmbeddedServer

pytestmark = pytest.mark.uncounted

ROOT = Path(__file__).parents[2]
MODULES = Path(__file__).parent
TEXTS = [f"{word} {thing}" for word in ("good", "stale", "best", "bad", "fine")
         for thing in ("coffee", "tea", "bread", "soup")]
FAST = ("--seconds", "0.02", "--batch-sizes", "1,4")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models of several kinds, and files of samples."""
    home = tmp_path_factory.mktemp("optimize")
    registry = Registry(home / "models")
    labels = ["yes" if text.split()[0] in ("good", "best", "fine") else "no" for text in TEXTS]
    model = make_pipeline(TfidfVectorizer(), LogisticRegression(C=10)).fit(TEXTS, labels)
    for name in ("texts", "asked"):
        release.register(name, model, registry=registry, examples=TEXTS)
    release.register("plain", model, registry=registry, examples=TEXTS, recipe={"direct": False})
    pd.DataFrame({"said": TEXTS, "right": labels}).to_csv(home / "texts.csv", index=False)
    x, y = load_digits(return_X_y=True)
    forest = RandomForestClassifier(60, random_state=0).fit(x[:300], y[:300])
    release.register("forest", forest, registry=registry, examples=x[:8])
    columns = [f"x{number}" for number in range(64)]
    pd.DataFrame(x[300:340], columns=columns).to_csv(home / "forest.csv", index=False)
    from celeriac.runtimes.architectures import DigitCNN

    release.register("cnn", DigitCNN(scale=16.0), registry=registry, labels=list(range(10)),
                     examples=x[:20].reshape(-1, 8, 8))
    np.save(home / "cnn.npy", x[300:340].reshape(-1, 8, 8).astype(np.float32))
    release.register("parrot", "echo", registry=registry, examples=["hello"])
    release.register("gpu-parrot", "echo", registry=registry, examples=["hello"], device="gpu")
    return home


@pytest.fixture
def env(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    monkeypatch.setenv(devices.VISIBLE, "-1")  # the command sets it; it is put back afterwards
    return environment(Settings(
        models=ModelsSettings(root=home / "models"), stack=StackSettings(state_dir=tmp_path)
    ))


def test_the_winner_is_a_version_that_answers_alike(
    celeriac: Callable[..., Any], env: dict[str, str], home: Path, tmp_path: Path
) -> None:
    ran = celeriac(
        "optimize", "forest@1", "--samples", str(home / "forest.csv"), *FAST,
        "--json", str(tmp_path / "table.json"), "--plot", str(tmp_path / "p.svg"), env=env,
    )
    assert ran.returncode == 0, ran.stderr
    assert "forest@2 is registered" in ran.stdout
    assert "celeriac models promote forest@2" in ran.stdout
    assert max(map(len, ran.stdout.splitlines())) <= 130
    registry = Registry(home / "models")
    version = registry.verify("forest", 2)
    assert version.parent == "forest@1"
    assert registry.aliases("forest").read() == {}  # nothing is promoted
    table = json.loads((registry.folder("forest", 2) / "optimize.json").read_text())
    lines = {line["name"]: line for line in table["lines"]}
    assert lines[table["winner"]]["verdict"] == "winner"
    assert lines[table["winner"]]["mean_speedup"] > 2
    assert lines["direct"]["parity"]["error"] == 0
    assert (table["default"], lines["direct"]["verdict"]) == ("direct", "default")
    assert json.loads((tmp_path / "table.json").read_text())["winner"] == table["winner"]
    for plot in (tmp_path / "p.svg", registry.folder("forest", 2) / "optimize.svg"):
        assert "winner" in ElementTree.tostring(ElementTree.parse(plot).getroot()).decode()
    usual = version.profile[0]
    assert (usual.threads, usual.device, usual.batch_sizes) == (1, "cpu", (1, 4))
    assert usual.fixed_s + usual.item_s > 0
    served = {(one.items, one.pause_s): one.seconds for one in usual.passes}
    assert {(1, 0.0), (1, 0.003)} <= set(served)
    assert all(min(times) > 0 and list(times) == sorted(times) for times in served.values())
    release.check(registry, ModelRef(name="forest", version=2), Settings())
    rows = pd.read_csv(home / "forest.csv").to_numpy().tolist()
    one, two = (Scorer.load(registry, "forest", n, LoadOptions()).score(rows) for n in (1, 2))
    assert [answer["label"] for answer in one] == [answer["label"] for answer in two]


def test_texts_with_labels(
    celeriac: Callable[..., Any], env: dict[str, str], home: Path
) -> None:
    ran = celeriac(
        "optimize", "texts@1", "--samples", str(home / "texts.csv"), "--text-column", "said",
        "--label-column", "right", "--only", "direct", "--batch-sizes", "1", "--seconds", "0.05",
        env=env,
    )
    assert ran.returncode == 0, ran.stderr
    header, *forms = [line.split() for line in ran.stdout.splitlines()[3:6]]
    assert header[-2:] == ["accuracy", "verdict"]
    assert [(form[0], form[-1]) for form in forms] == [
        ("original", "1.0000"), ("direct", "default")
    ]
    assert forms[1][-2] == "1.0000"
    assert float(forms[0][1]) > 3 * float(forms[1][1])  # ms of 1, of plain scikit-learn
    assert "texts@1 is run as direct now" in ran.stdout
    assert "nothing is registered" in ran.stdout
    assert Registry(home / "models").versions("texts") == [1]


def test_what_was_registered_as_plain_scikit_learn_gains_by_the_shorter_way(
    celeriac: Callable[..., Any], env: dict[str, str], home: Path
) -> None:
    ran = celeriac("optimize", "plain@1", "--only", "direct", "--batch-sizes", "1",
                   "--seconds", "0.05", env=env)
    assert ran.returncode == 0, ran.stderr
    assert "plain@2 is registered: plain@1 as direct" in ran.stdout
    registry = Registry(home / "models")
    assert [registry.get("plain", n).recipe for n in (1, 2)] == [{"direct": False},
                                                                  {"direct": True}]


def test_the_adviser_and_the_workers_reckon_with_what_was_measured(
    celeriac: Callable[..., Any], env: dict[str, str], home: Path, server: EmbeddedServer,
    redis_client: redis.Redis,
) -> None:
    env = env | {"CELERIAC_BROKER_URL": server.url}
    ran = celeriac("optimize", "asked@1", "--only", "direct", "--profile", *FAST, env=env)
    assert ran.returncode == 0, ran.stderr
    registry = Registry(home / "models")
    publish(redis_client, registry.infos())
    asked = ("advise", "--latency-ms", "200", "--volume", "100000", "--update-frequency",
             "continuous", "--json", "--model")
    advice = json.loads(celeriac(*asked, "asked@2", env=env).stdout)
    assert advice["recommendation"] == "real time"
    assert advice["measured_on"] == this_machine()
    usual = registry.get("asked", 2).profile[0]
    assert advice["ways"]["real_time"]["p50_ms"] >= 1e3 * (usual.fixed_s + usual.item_s) > 0
    assert "asked@1 was never measured" in celeriac(*asked, "asked@1", env=env).stderr
    host: Any = SimpleNamespace(catalogue=fetch(redis_client), device="cpu", threads=1)
    batches = AllLimits(host, 256)  # a real-time worker's, which has run nothing yet
    assert batches.of(("asked", 2)).cost.predicted(4) == pytest.approx(
        usual.fixed_s + 4 * usual.item_s, rel=0.2
    )
    assert not batches.of(("asked", 1)).cost.known


def test_a_network_becomes_a_graph(
    celeriac: Callable[..., Any], env: dict[str, str], home: Path
) -> None:
    before = Registry(home / "models").versions("cnn")
    ran = celeriac("optimize", "cnn@1", "--samples", str(home / "cnn.npy"), *FAST,
                   "--only", "onnx,channels last", "--dry-run", env=env)
    assert ran.returncode == 0, ran.stderr
    assert "The winner is onnx; nothing is registered." in ran.stdout
    assert Registry(home / "models").versions("cnn") == before


def test_nothing_is_registered_where_nothing_is_faster(
    celeriac: Callable[..., Any], env: dict[str, str], home: Path
) -> None:
    ran = celeriac("optimize", "parrot@1", *FAST, env=env)
    assert ran.returncode == 0, ran.stderr
    assert "nothing is registered" in ran.stdout
    assert "golden example" in ran.stdout
    registry = Registry(home / "models")
    assert registry.versions("parrot") == [1]
    ran = celeriac("optimize", "parrot@1", *FAST, "--profile", env=env)
    assert "parrot@2 is registered, the same as parrot@1 with its measured cost" in (
        " ".join(ran.stdout.split())
    )
    profile, *_ = registry.get("parrot", 2).profile
    assert profile.machine == this_machine()
    assert profile.item_s + profile.fixed_s > 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("forest@1", "--only", "warp"), "no form is named warp; there are original, direct"),
        (("forest@1", "--batch-sizes", "1,x"), "want numbers from 1 on"),
        (("forest@1", "--label-column", "y"), "--label-column is for --samples FILE.csv"),
        (("forest@1", "--samples", "none.csv"), "none.csv"),
        (("forest@1", "--samples", "torn.csv"), "torn.csv: cannot be read: 'utf-8'"),
        (("forest@1", "--samples", "bare.csv"), "bare.csv: holds no whole row of "),
        (("nobody",), "nobody"),
        (("forest@1", "--device", "gpu"), "forest@1 runs on the cpu"),
        (("gpu-parrot@1", "--device", "cpu"), "gpu-parrot@1 runs on the gpu"),
    ],
)
def test_what_is_asked_wrongly(
    words: tuple[str, ...], said: str, celeriac: Callable[..., Any], env: dict[str, str],
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What needs no process to be seen is told before one has tried the version."""
    tried: list[object] = []
    monkeypatch.setattr(release, "check", lambda *_, **__: tried.append(words))
    (tmp_path / "torn.csv").write_bytes(b"\x90\xff\n")
    header = (home / "forest.csv").read_text().partition("\n")[0]
    (tmp_path / "bare.csv").write_text(f"{header}\n")
    words = tuple(
        str(tmp_path / word) if word in ("torn.csv", "bare.csv") else word for word in words
    )
    ran = celeriac("optimize", *words, env=env)
    assert ran.returncode == 1
    assert said in ran.stderr
    assert bool(tried) == ("--only" in words)


def test_a_version_for_the_gpu_is_measured_on_one(env: dict[str, str], tmp_path: Path) -> None:
    """In a process of its own: this one has imported torch, and cannot be given a GPU any more."""
    table = tmp_path / "table.json"
    path = f"{ROOT / 'tests/standins/nvml'}{os.pathsep}{ROOT}"
    a100 = {"uuid": "GPU-aaaa-1", "name": "NVIDIA A100"}
    own = {name: value for name, value in os.environ.items() if name != devices.VISIBLE}

    def optimize(gpus: list[dict[str, str]]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", "from producer.cli.main import main; main()", "optimize",
             "gpu-parrot@1", *FAST, "--json", str(table)],
            env=own | env | {"PYTHONPATH": path, "STAND_IN_GPUS": json.dumps(gpus)},
            cwd=ROOT, capture_output=True, text=True, check=False, timeout=300,
        )

    without = optimize([])
    assert without.returncode == 69
    assert "no GPU that can be used" in without.stderr
    assert not table.exists()
    ran = optimize([a100])
    assert ran.returncode == 0, ran.stderr
    assert json.loads(table.read_text())["device"] == "gpu"
    several = optimize([a100, a100 | {"uuid": "GPU-bbbb-2"}])
    assert "a process uses one GPU, and there are 2" in several.stderr


def test_a_form_that_differs_is_refused(home: Path) -> None:
    registry = Registry(home / "models")
    x, _ = load_digits(return_X_y=True)
    wanted = Wanted(batch_sizes=(1,), size_s=0.02, only=("int8",), allowed=Allowed(error=1e-9))
    found = Optimiser(registry, "cnn", 1, options=LoadOptions(), wanted=wanted,
                      items=x[:30].reshape(-1, 8, 8).tolist()).run()
    line = next(line for line in found.lines if line.name == "int8")
    assert line.verdict == "differs"
    assert line.why.startswith(("off by", "other labels"))
    assert found.version is None


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # of torch.compile's own
@pytest.mark.parametrize(
    ("form", "format", "recipe", "error"),
    [
        ("compiled", "torch", {"compile": True}, 1e-5),
        ("int8", "torch", {"int8": True}, 0.1),
        ("onnx int8", "onnx", {"scores": "logits"}, 0.1),
    ],
)
def test_the_forms_that_seldom_win_are_versions_that_answer_alike(
    form: str, format: str, recipe: dict[str, Any], error: float, home: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if form == "compiled" and compiler() is None:
        pytest.skip("no C++ compiler here")
    monkeypatch.setattr(choosing, "winner", lambda gains: form if form in gains else None)
    items = np.load(home / "cnn.npy").tolist()
    registry = Registry(tmp_path / "models")
    shutil.copytree(home / "models" / "cnn" / "1", registry.root / "cnn" / "1")
    found = Optimiser(
        registry, "cnn", 1, options=LoadOptions(), items=items,
        wanted=Wanted(batch_sizes=(1, 4), size_s=0.02, only=(form,),
                      allowed=Allowed(error=error, agreement=0.9)),
    ).run()
    line = next(line for line in found.lines if line.name == form)
    assert line.verdict == "winner", line.why
    assert line.parity is not None
    assert line.parity.error is not None
    assert line.parity.error <= error
    assert found.version is not None
    assert (found.version.format, found.version.recipe) == (format, recipe)
    release.check(registry, ModelRef(name="cnn", version=2), Settings(
        models=ModelsSettings(root=registry.root, check_timeout_s=120)
    ))
    one, two = (Scorer.load(registry, "cnn", n, LoadOptions()).score(items) for n in (1, 2))
    off = [abs(a["probability"] - b["probability"]) for a, b in zip(one, two, strict=True)]
    assert max(off) <= error
    assert (max(off) > 1e-4) == (form != "compiled")  # 8 bits are another arithmetic


@pytest.fixture
def networks(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.setenv("CELERIAC_MODELS_ARCHITECTURES", "optimize_models")
    monkeypatch.setenv("PYTHONPATH", f"{MODULES}{os.pathsep}{ROOT}")
    monkeypatch.syspath_prepend(str(MODULES))
    get_settings.cache_clear()
    yield importlib.import_module("optimize_models")
    del sys.modules["optimize_models"]
    get_settings.cache_clear()


@pytest.mark.parametrize(
    ("exits", "why"),
    [(False, "ValueError: rows of zeros"), (True, "the process that built it ended with exit code")]
)
def test_a_form_that_cannot_be_built_costs_its_own_process(
    exits: bool, why: str, networks: ModuleType, tmp_path: Path
) -> None:
    registry = Registry(tmp_path / "models")
    release.register("m", networks.Unconvertible(exits), registry=registry, labels=[0, 1],
                     examples=np.ones((2, 1), dtype=np.float32))
    found = Optimiser(
        registry, "m", 1, options=LoadOptions(architectures=["optimize_models"]),
        wanted=Wanted(batch_sizes=(1,), size_s=0.02, only=("onnx",)), items=[[1.0]],
    ).run()
    original, onnx = found.lines
    assert (original.verdict, onnx.verdict) == ("original", "failed")
    assert onnx.why.startswith(why)


@pytest.fixture
def misbehaving(networks: ModuleType, tmp_path: Path) -> Callable[..., Task]:
    network = networks.Misbehaving()
    registry = Registry(tmp_path / "models")
    version = release.register("m", network, registry=registry, labels=[0, 1],
                               examples=np.zeros((2, 1), dtype=np.float32))

    def task(value: int) -> Task:
        (tmp_path / "samples.json").write_text(json.dumps([[float(value)]]))
        return Task(
            folder=str(registry.folder("m", 1)), manifest=version.model_dump_json(),
            samples=str(tmp_path / "samples.json"), answers=str(tmp_path / "a.npz"),
            batch_sizes=(1,), size_s=0.02, options={"architectures": ["optimize_models"]},
        )

    return task


def test_a_form_that_hangs_or_dies_costs_its_own_process(misbehaving: Callable[..., Task]) -> None:
    assert measure(misbehaving(0), 1, 60).predict_s[1] > 0
    started = time.monotonic()
    with pytest.raises(errors.ModelFailed, match="took longer than 8 s"):
        measure(misbehaving(1), 1, 8)
    assert time.monotonic() - started < 20
    with pytest.raises(errors.ModelFailed, match="its process ended with exit code 3"):
        measure(misbehaving(2), 1, 60)
