"""``celeriac models import``: pickled files become safe ones, once, and nothing runs untrusted."""

from __future__ import annotations

import hashlib
import os
import pickle
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.ensemble import RandomForestClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline

from celeriac.registry.store import Registry
from celeriac.release.suspects import look
from celeriac.runtimes.architectures import MLP
from celeriac.settings import Settings
from tests.conftest import Ran
from workers.child_settings import environment

X = np.random.default_rng(1).normal(size=(60, 3))
FRAME = pd.DataFrame(X, columns=["a", "b", "c"])
Y = np.where(X[:, 0] > 0, "yes", "no")
TEXTS = ["good film", "bad film", "great fun", "awful waste"] * 5

Import = Callable[..., Ran]


class Canary:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.path}",)


@pytest.fixture
def imports(celeriac: Callable[..., Ran], settings: Settings, tmp_path: Path) -> Import:
    FRAME.to_csv(tmp_path / "rows.csv", index=False)
    np.save(tmp_path / "rows.npy", X.astype(np.float32))
    pd.DataFrame({"text": TEXTS}).to_csv(tmp_path / "texts.csv", index=False)

    def run(*words: str, code: int = 0, **env: str) -> Ran:
        ran = celeriac(
            "models", "import", *words, cwd=tmp_path,
            env=environment(settings) | {"COLUMNS": "160", **env},
        )
        assert ran.returncode == code, ran.stdout + ran.stderr
        return ran

    return run


def registry(settings: Settings) -> Registry:
    return Registry(settings.models.root)


def test_without_trust_nothing_is_loaded_and_the_danger_is_told(
    imports: Import, settings: Settings, tmp_path: Path
) -> None:
    canary = tmp_path / "canary"
    path = tmp_path / "model.pkl"
    path.write_bytes(pickle.dumps([LinearRegression().fit(X, X[:, 0]), Canary(canary)]))
    said = imports("model.pkl", "--examples", "rows.csv", code=1).stdout
    assert hashlib.sha256(path.read_bytes()).hexdigest() in said
    named = [line.strip() for line in said.splitlines()]
    assert named.index("posix.system") < named.index("sklearn.linear_model._base.LinearRegression")
    assert "--trust" in said
    assert not canary.exists()
    assert registry(settings).names() == []


def test_a_joblib_file_of_a_pipeline_becomes_skops(
    imports: Import, settings: Settings, tmp_path: Path
) -> None:
    model = make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(TEXTS, list("abab") * 5)
    joblib.dump(model, tmp_path / "Reviews v2.joblib", compress=3)
    said = imports("Reviews v2.joblib", "--trust", "--examples", "texts.csv",
                   "--metric", "accuracy=0.9").stdout
    assert "20 of 20 examples are answered as before" in said
    assert "reviews-v2@1 is registered" in said
    version = registry(settings).verify("reviews-v2", 1)
    assert (version.format, version.input.kind, len(version.golden)) == ("sklearn", "text", 8)
    assert version.metrics == {"accuracy": 0.9}
    assert [record.path for record in version.files] == ["model.skops"]


def test_a_pickle_of_a_forest_on_a_frame(
    imports: Import, settings: Settings, tmp_path: Path
) -> None:
    model = RandomForestClassifier(5).fit(FRAME, Y)
    (tmp_path / "forest.pickle").write_bytes(pickle.dumps(model))
    said = imports("forest.pickle", "--name", "trees", "--trust", "--examples", "rows.csv").stdout
    assert "60 of 60 examples are answered as before" in said
    assert "differ by 0 at most" in said
    version = registry(settings).get("trees", 1)
    assert [column.name for column in version.input.columns] == ["a", "b", "c"]


@pytest.mark.parametrize("wrapped", ["plain", "checkpoint", "parallel", "module"])
def test_torch_files_become_safetensors(
    imports: Import, settings: Settings, tmp_path: Path, wrapped: str
) -> None:
    network = MLP(3, 2)
    state: Any = network.state_dict()
    if wrapped == "checkpoint":
        state = {"epoch": 3, "model_state_dict": state, "optimizer": {"lr": 0.1}}
    elif wrapped == "parallel":
        state = {f"module.{name}": value for name, value in state.items()}
    elif wrapped == "module":
        state = network
    torch.save(state, tmp_path / "net.pt")
    said = imports(
        "net.pt", "--trust", "--examples", "rows.npy", "--labels", "no,yes", *(
            [] if wrapped == "module" else
            ["--architecture", "celeriac.runtimes.architectures:MLP",
             "--arguments", '{"inputs": 3, "outputs": 2}']
        ),
    ).stdout
    assert "60 of 60 examples are answered as before" in said
    version = registry(settings).verify("net", 1)
    assert [record.path for record in version.files] == ["model.safetensors"]
    assert version.output.labels == ("no", "yes")


def _pickled_with(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n.".encode()


_OTHER_RELEASE = (
    b"csklearn.tree._gone\nOldTree\n(d"
    b"X\x10\x00\x00\x00_sklearn_versionX\x06\x00\x00\x000.19.2sb."
)


@pytest.mark.parametrize(
    ("name", "data", "words", "says"),
    [
        ("m.pkl", _pickled_with("booster", "Model"), [], "needs the module booster"),
        ("m.pkl", _pickled_with("__main__", "MyModel"), [], "of the notebook or script"),
        ("m.pkl", _OTHER_RELEASE, [], "pip install scikit-learn==0.19.2"),
        ("m.pkl", b"\x80\x04broken", [], "m.pkl cannot be loaded"),
        ("m.pkl", pickle.dumps({"a": 1}), [], "a dict cannot be registered"),
        ("m.pkl", pickle.dumps(LinearRegression()), [], "not fitted"),
        ("m.joblib", _pickled_with("sklearn.tree", "plot_tree"), [], "a function cannot be"),
        ("m.skops", b"", [], "holds no code and needs no import"),
        ("m.pkl", b"cos\n_exit\n(I7\ntR.", [], "ended with exit code 7"),
        ("m.pkl", b"ctime\nsleep\n(I60\ntR.", ["--timeout-s", "4"], "took longer than 4 s"),
        ("m.pkl", b"c__builtin__\nbytearray\n(L3000000000L\ntR.", ["--memory-mb", "1500"],
         "needs more than 1500 MB"),
    ],
)
def test_what_cannot_be_imported_is_explained(
    imports: Import, settings: Settings, tmp_path: Path, name: str, data: bytes,
    words: list[str], says: str,
) -> None:
    (tmp_path / name).write_bytes(data)
    ran = imports(name, "--trust", "--examples", "rows.csv", *words, code=1)
    assert says in ran.stderr
    assert "Traceback" not in ran.stderr
    assert registry(settings).names() == []


def test_what_a_killed_import_has_left_goes_with_the_next(
    imports: Import, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "tmp"
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    old, young, foreign = (
        folder / name for name in ("celeriac-import-a", "celeriac-import-b", "c")
    )
    for one in (old, young, foreign):
        one.mkdir(parents=True)
        (one / "weights").touch()
    for one in (old, foreign):
        os.utime(one, times=(0, 0))
    (tmp_path / "m.pkl").write_bytes(b"ctime\nsleep\n(I60\ntR.")
    imports("m.pkl", "--trust", "--examples", "rows.csv", "--timeout-s", "1", code=1)
    assert set(folder.iterdir()) == {young, foreign}  # and what this one had is gone


def test_weights_need_their_architecture_and_must_fit_it(
    imports: Import, settings: Settings, tmp_path: Path
) -> None:
    torch.save(MLP(3, 2).state_dict(), tmp_path / "net.pth")
    common = ("net.pth", "--trust", "--examples", "rows.npy")
    assert "--architecture package.module:Class" in imports(*common, code=1).stderr
    wrong = imports(*common, "--architecture", "celeriac.runtimes.architectures:MLP",
                    "--arguments", '{"inputs": 4, "outputs": 2}', code=1).stderr
    assert "are class and arguments those of the training?" in wrong
    bad = imports(*common, "--architecture", "celeriac.runtimes.MLP", code=1).stderr
    assert "--architecture celeriac.runtimes.MLP --arguments {}: want package.module:Class" in bad
    foreign = imports(*common, "--architecture", "os:system", code=1).stderr
    assert "[models] architectures" in foreign
    assert registry(settings).names() == []


def test_a_look_names_what_a_file_calls_for(tmp_path: Path) -> None:
    path = tmp_path / "m.joblib"
    joblib.dump(RandomForestClassifier(2).fit(X, Y), path)
    found = look(path)
    assert found.kind == "pickle"
    assert "sklearn.ensemble._forest.RandomForestClassifier" in found.names
    import sklearn

    (tmp_path / "m.pkl").write_bytes(pickle.dumps(LogisticRegression().fit(X, Y)))
    assert look(tmp_path / "m.pkl").sklearn == sklearn.__version__
