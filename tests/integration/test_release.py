"""Registering, checking, promoting and rolling back, with real files and a real process."""

from __future__ import annotations

import importlib
import json
import pickle
import resource
import signal
import sys
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import skl2onnx
import skops.io
import structlog
import torch
from scipy.sparse import csr_matrix
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.compose import make_column_transformer
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder
from torch import nn

from celeriac import errors, release, runtimes
from celeriac.registry.manifest import Architecture, Column, InputSchema
from celeriac.registry.store import Registry
from celeriac.runtimes import LoadOptions
from celeriac.runtimes.architectures import MLP, DigitCNN
from celeriac.runtimes.torch import TorchModel
from celeriac.settings import ModelsSettings, Settings

X = np.random.default_rng(1).normal(size=(30, 3))
Y = (X[:, 0] > 0).astype(int)


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "models")


@pytest.fixture
def plain(tmp_path: Path) -> Settings:
    return Settings(models=ModelsSettings(root=tmp_path / "models"))


def register(registry: Registry, name: str = "m") -> None:
    release.register(name, LogisticRegression().fit(X, Y), examples=X, registry=registry)


def test_promote_and_roll_back(registry: Registry, plain: Settings) -> None:
    for _ in range(2):
        release.register("m", "echo", examples=["a"], registry=registry)
    first = release.promote(registry, "m@1", settings=plain, who="ann")
    latency = first.pop("latency")
    assert set(latency) == {"one_ms", "batch_ms", "batch_items"}
    assert first == {
        "model": "m", "version": 1, "changed": True, "previous": None, "champion_latency": None,
    }
    second = release.promote(registry, "m@2", settings=plain, who="ann", why="newer")
    assert second["previous"] == 1
    assert second["champion_latency"]["batch_items"] == 1 + 31
    assert registry.aliases("m").history()[0].metrics == latency
    back = release.rollback(registry, "m", who="eve", why="slow")
    assert back == {"model": "m", "version": 1, "from": 2}
    with pytest.raises(errors.PromotionRefused, match="no previous champion"):
        release.rollback(registry, "m", who="eve")


def test_a_name_alone_does_not_say_what_to_promote(registry: Registry, plain: Settings) -> None:
    register(registry)
    with pytest.raises(errors.RequestError, match="the newest is m@1"):
        release.promote(registry, "m", settings=plain, who="ann")


def _tamper(registry: Registry, change: str, into: str) -> None:
    path = registry.folder("m", 1) / "model.json"
    text = path.read_text()
    assert change in text
    path.chmod(0o644)
    path.write_text(text.replace(change, into, 1))


def test_other_golden_answers_are_refused(registry: Registry, plain: Settings) -> None:
    register(registry)
    golden = registry.get("m", 1).golden[0].answer["label"]
    _tamper(registry, f'"label": {golden}', f'"label": {1 - golden}')
    here = registry.get("m", 1).frameworks["scikit-learn"]
    _tamper(registry, f'"scikit-learn": "{here}"', '"scikit-learn": "0.1"')
    with pytest.raises(errors.PromotionRefused, match="golden example 1 of 8 should") as raised:
        release.promote(registry, "m@1", settings=plain, who="ann")
    assert "if that is why: pip install scikit-learn==0.1, or" in raised.value.message
    assert registry.aliases("m").read() == {}


def test_a_changed_byte_is_refused(registry: Registry, plain: Settings) -> None:
    register(registry)
    path = registry.folder("m", 1) / "model.skops"
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(errors.ModelCorrupt, match=r"m@1: model.skops was changed"):
        release.promote(registry, "m@1", settings=plain, who="ann")
    assert registry.aliases("m").read() == {}


def _own_code(
    registry: Registry, monkeypatch: pytest.MonkeyPatch, code: str, **settings: Any
) -> tuple[Any, Settings]:
    """A module of networks that the settings beside it allow, here and in processes that check."""
    folder = registry.root.parent / "code"
    folder.mkdir()
    (folder / "celeriac_test_nets.py").write_text(code)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("PYTHONPATH", str(folder))
    allowed = Settings(models=ModelsSettings(
        root=registry.root, architectures=("celeriac_test_nets",), **settings
    ))
    monkeypatch.setattr("celeriac.release.registering.get_settings", lambda: allowed)
    monkeypatch.delitem(sys.modules, "celeriac_test_nets", raising=False)
    return importlib.import_module("celeriac_test_nets"), allowed


_LAG = """
import time
from torch import nn
class Lag(nn.Module):
    def __init__(self, seconds):
        super().__init__()
        self.arguments = {"seconds": seconds}
        self.layer = nn.Linear(3, 1)
    def forward(self, rows):
        time.sleep(self.arguments["seconds"])
        return self.layer(rows)
"""


@pytest.mark.slow
def test_a_version_that_is_much_slower_is_refused_unless_it_is_forced(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    nets, settings = _own_code(registry, monkeypatch, _LAG, max_slowdown=2.0)
    for seconds in (0.02, 0.022, 0.1):
        release.register("m", nets.Lag(seconds), examples=X, registry=registry)
    release.promote(registry, "m@1", settings=settings, who="ann")
    release.promote(registry, "m@2", settings=settings, who="ann")  # a little slower will do
    with pytest.raises(errors.PromotionRefused, match=(
        r"m@3 is slower than the champion by more than 2 times: one item takes 1\d\d ms, and "
        r"2\d(\.\d)? ms with the champion; a batch of 32 .*--force"
    )):
        release.promote(registry, "m@3", settings=settings, who="ann")
    assert registry.aliases("m").read() == {"champion": 2, "previous": 1}
    done = release.promote(registry, "m@3", settings=settings, who="ann", force=True)
    assert done["latency"]["one_ms"] > 4 * done["champion_latency"]["one_ms"]
    quick = release.promote(registry, "m@1", settings=settings, who="ann")
    assert quick["changed"]


def test_a_champion_that_cannot_be_loaded_keeps_no_other_from_coming(
    registry: Registry, plain: Settings
) -> None:
    for _ in range(2):
        register(registry)
    release.promote(registry, "m@1", settings=plain, who="ann")
    path = registry.folder("m", 1) / "model.skops"
    path.chmod(0o644)
    path.write_bytes(b"")
    done = release.promote(registry, "m@2", settings=plain, who="ann")
    assert done["changed"]
    assert done["champion_latency"] is None
    assert done["uncompared"].startswith("m@1 cannot be tried: ")


_CODE = """
import os, time
from pathlib import Path
from torch import nn
class Net(nn.Linear):
    def __init__(self):
        super().__init__(3, 1)
        if "celeriac.release" in Path("/proc/self/cmdline").read_text():
            {action}
        self.arguments = {{}}
"""


@pytest.mark.parametrize(
    ("action", "timeout_s", "says"),
    [
        ("os.kill(os.getpid(), 11)", 60, "was ended by SIGSEGV"),
        ("print('noise'); os._exit(3)", 60, "ended with exit code 3"),
        ("time.sleep(600)", 4, "took longer than 4 s"),
    ],
)
def test_a_version_that_ends_or_hangs_its_process_is_refused(
    registry: Registry, monkeypatch: pytest.MonkeyPatch,
    action: str, timeout_s: float, says: str,
) -> None:
    nets, settings = _own_code(
        registry, monkeypatch, _CODE.format(action=action), check_timeout_s=timeout_s
    )
    release.register("m", nets.Net(), examples=X, registry=registry)
    with pytest.raises(errors.PromotionRefused, match=says):
        release.promote(registry, "m@1", settings=settings, who="ann")
    assert registry.aliases("m").read() == {}


@pytest.mark.parametrize(
    ("action", "timeout_s"), [("os.kill(os.getpid(), 11)", 60), ("time.sleep(600)", 15)]
)
@pytest.mark.slow
def test_a_champion_that_ends_or_hangs_the_process_keeps_no_other_from_coming(
    registry: Registry, monkeypatch: pytest.MonkeyPatch,
    action: str, timeout_s: float,
) -> None:
    nets, settings = _own_code(
        registry, monkeypatch, _CODE.format(action=action), check_timeout_s=timeout_s
    )
    release.register("m", nets.Net(), examples=X, registry=registry)
    registry.aliases("m").promote(1, expected=None, who="ann", why="it was well then")
    register(registry)
    done = release.promote(registry, "m@2", settings=settings, who="ann")
    assert done["changed"]
    assert done["latency"]["one_ms"] > 0
    assert done["champion_latency"] is None
    assert done["uncompared"] == "m@1 crashed or hung when it was loaded beside it"


# --- what may be loaded ------------------------------------------------------------------------


class Homemade(ClassifierMixin, BaseEstimator):
    """A classifier whose type nobody trusts."""

    def fit(self, x: np.ndarray, y: np.ndarray) -> Homemade:
        self.classes_ = np.unique(y)
        return self

    def predict(self, x: np.ndarray) -> np.ndarray:
        return np.repeat(self.classes_[:1], len(x))


def test_a_type_that_is_not_trusted_is_named_with_the_setting(registry: Registry) -> None:
    with pytest.raises(errors.UntrustedModel, match=r"Homemade.*\[models\] trusted_types"):
        release.register("m", Homemade().fit(X, Y), examples=X, registry=registry)
    assert registry.names() == []


def test_the_servers_settings_can_trust_a_type(tmp_path: Path) -> None:
    path = tmp_path / "model.skops"
    skops.io.dump(Homemade().fit(X, Y), path)
    (name,) = skops.io.get_untrusted_types(file=path)
    estimator = runtimes.runtime("sklearn").read(path, LoadOptions(trusted_types=[name]))
    assert estimator.predict(X[:2]).tolist() == [0, 0]


def test_boosted_trees_may_have_categories(registry: Registry) -> None:
    frame = pd.DataFrame({"city": ["Oslo", "Bonn", "Rome"] * 10, "age": X[:, 0]})
    model = HistGradientBoostingClassifier(categorical_features=["city"], max_iter=3)
    version = release.register(
        "m", model.fit(frame, frame["city"] == "Rome"), examples=frame, registry=registry
    )
    assert [one.dtype for one in version.input.columns] == ["text", "float"]


def test_what_a_partial_calls_has_to_be_trusted(registry: Registry) -> None:
    step = FunctionTransformer(partial(np.take, axis=1, indices=[0]))
    model = make_pipeline(step, LogisticRegression()).fit(X, Y)
    with pytest.raises(errors.UntrustedModel, match=r"not trusted here: numpy.take; if"):
        release.register("m", model, examples=X, registry=registry)


def test_pickle_is_never_loaded(tmp_path: Path) -> None:
    path = tmp_path / "model.skops"
    path.write_bytes(pickle.dumps(LogisticRegression()))
    with pytest.raises(errors.UntrustedModel, match="is not a skops file"):
        runtimes.runtime("sklearn").read(path, LoadOptions())
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("schema.json", json.dumps({"__class__": "x"}))
    with pytest.raises(errors.RegistryError, match=r"model.skops cannot be read"):
        runtimes.runtime("sklearn").read(path, LoadOptions())


@pytest.mark.parametrize("module", ["os", "celeriac.runtimes.architectures_evil", "celeriac"])
def test_architectures_come_from_allowed_modules_only(module: str, tmp_path: Path) -> None:
    before = set(sys.modules)
    with pytest.raises(errors.UntrustedModel, match=r"\[models\] architectures"):
        runtimes.runtime("torch").read(
            tmp_path / "x.safetensors", Architecture(path=f"{module}:system"), LoadOptions()
        )
    assert set(sys.modules) == before


def test_an_allowed_module_gives_networks_only(tmp_path: Path) -> None:
    from safetensors.torch import save_model

    save_model(MLP(3, 1), str(tmp_path / "x.safetensors"))
    architecture = Architecture(path="celeriac.runtimes.architectures:Sequence")
    with pytest.raises(errors.UntrustedModel, match="is not a torch Module"):
        runtimes.runtime("torch").read(tmp_path / "x.safetensors", architecture, LoadOptions())


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_model

    save_model(MLP(3, 1), str(tmp_path / "x.safetensors"))
    architecture = Architecture(
        path="celeriac.runtimes.architectures:MLP", arguments={"inputs": 4, "outputs": 1}
    )
    with pytest.raises(errors.RegistryError, match="does not hold the weights of"):
        runtimes.runtime("torch").read(tmp_path / "x.safetensors", architecture, LoadOptions())


def test_code_that_raises_when_imported_is_an_error_of_that_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, registry: Registry
) -> None:
    (tmp_path / "celeriac_test_broken.py").write_text("open('/etc/celeriac/none/x.bin')")
    monkeypatch.syspath_prepend(str(tmp_path))
    release.register("m", MLP(3, 1), examples=X, registry=registry)
    _tamper(registry, "celeriac.runtimes.architectures:MLP", "celeriac_test_broken:MLP")
    options = LoadOptions(architectures=["celeriac_test_broken"])
    with pytest.raises(errors.RegistryError) as raised:
        runtimes.load(registry.folder("m", 1), registry.get("m", 1), options)
    assert raised.value.message.startswith("m@1: loading it raised FileNotFoundError: ")
    assert "/etc" not in raised.value.message


def test_a_format_without_a_runtime_is_named() -> None:
    with pytest.raises(errors.RuntimeMissing, match=r"no runtime for the format 'mystery'"):
        runtimes.runtime("mystery")


def test_a_version_that_another_release_wrote_says_so_in_the_log(registry: Registry) -> None:
    register(registry)
    here = registry.get("m", 1).frameworks["scikit-learn"]
    _tamper(registry, f'"scikit-learn": "{here}"', '"scikit-learn": "0.1"')
    with structlog.testing.capture_logs() as lines:
        runtimes.load(registry.folder("m", 1), registry.get("m", 1), LoadOptions())
    (line,) = [line for line in lines if line["log_level"] == "warning"]
    assert line["event"] == "written by another release of a library"
    assert (line["library"], line["wrote"], line["here"]) == ("scikit-learn", "0.1", here)


def _an_estimator_that_moved(registry: Registry) -> None:
    register(registry)
    path = registry.folder("m", 1) / "model.skops"
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    parts["schema.json"] = parts["schema.json"].replace(b"._logistic", b"._renamed_since")
    path.unlink()
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in parts.items():
            archive.writestr(name, data)


def _a_network_with_another_argument(registry: Registry) -> None:
    release.register("m", MLP(3, 1), examples=X, registry=registry)
    _tamper(registry, '"hidden"', '"hidden_then"')


def _operators_of_a_later_release(registry: Registry) -> None:
    graph = skl2onnx.to_onnx(LogisticRegression().fit(X, Y), X[:1], options={"zipmap": False})
    release.register(
        "m", graph.SerializeToString(), examples=X, labels=[0, 1], registry=registry
    )
    graph.opset_import[0].version = 10_000
    path = registry.folder("m", 1) / "model.onnx"
    path.unlink()
    path.write_bytes(graph.SerializeToString())


@pytest.mark.parametrize(("make", "library", "says"), [
    (_an_estimator_that_moved, "scikit-learn", "_renamed_since"),
    (_a_network_with_another_argument, "torch", "does not take its arguments"),
    (_operators_of_a_later_release, "onnxruntime", "ONNX Runtime cannot load model.onnx"),
])
def test_a_version_that_only_another_release_can_load_names_the_cure(
    make: Callable[[Registry], None], library: str, says: str, registry: Registry
) -> None:
    make(registry)
    here = registry.get("m", 1).frameworks[library]
    with pytest.raises(errors.RegistryError, match=f"m@1: .*{says}") as raised:
        runtimes.load(registry.folder("m", 1), registry.get("m", 1), LoadOptions())
    assert "pip install" not in raised.value.message  # it is the same release
    _tamper(registry, f'"{library}": "{here}"', f'"{library}": "0.1+cpu"')
    with pytest.raises(errors.RegistryError, match=f"m@1: .*{says}") as raised:
        runtimes.load(registry.folder("m", 1), registry.get("m", 1), LoadOptions())
    assert raised.value.message.endswith(
        f". It was written by {library} 0.1+cpu (here is {here}); if that is why: pip install "
        f"{library}==0.1, or register the model again here"
    )


def test_labels_are_plain(registry: Registry) -> None:
    labels = list(np.array(["a", "b"]))
    version = release.register("m", MLP(3, 2), examples=X, labels=labels, registry=registry)
    assert {type(label) for label in version.output.labels} == {str}


def test_a_missing_library_is_named_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise ModuleNotFoundError(f"No module named {name!r}", name="skops")

    monkeypatch.setattr(runtimes.importlib, "import_module", absent)
    with pytest.raises(errors.RuntimeMissing, match=r"needs skops.*pip install skops"):
        runtimes.library("skops.io", pip="skops")


# --- registering from a notebook -----------------------------------------------------------------


def test_a_frame_tells_columns_and_types(registry: Registry) -> None:
    frame = pd.DataFrame({"a": X[:, 0], "n": range(30), "b": X[:, 1] > 0})
    frame.loc[3, "a"] = np.nan
    model = RandomForestClassifier(3, n_jobs=2).fit(frame, Y)
    version = release.register("m", model, examples=frame, registry=registry, golden=30)
    assert [(c.name, c.dtype) for c in version.input.columns] == [
        ("a", "float"), ("n", "int"), ("b", "bool"),
    ]
    assert version.input.frame
    assert version.golden[3].item["a"] is None
    assert set(version.frameworks) == {"scikit-learn", "skops", "numpy"}
    loaded = runtimes.load(registry.folder("m", 1), version, LoadOptions())
    assert loaded._estimator.n_jobs == 1  # type: ignore[attr-defined]
    assert model.n_jobs == 2


def test_the_callers_network_and_generator_stay_as_they_are(registry: Registry) -> None:
    model = DigitCNN().train()
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    release.register("m", model, examples=np.ones((3, 8, 8)), labels=range(10), registry=registry)
    assert model.training
    assert torch.equal(torch.rand(1), expected)


def test_a_schema_can_be_given(registry: Registry) -> None:
    schema = InputSchema(kind="text")
    version = release.register("m", "echo", examples=["a"], input=schema, registry=registry)
    assert version.input == schema


@pytest.mark.parametrize("form", ["frame", "lists", "records", "array", "tensor"])
@pytest.mark.parametrize("kind", ["torch", "onnx", "sklearn"])
def test_a_schema_of_a_table_can_be_given_with_examples_of_any_form(
    registry: Registry, kind: str, form: str
) -> None:
    frame = pd.DataFrame(X, columns=list("abc"))
    examples = {"frame": frame, "lists": X.tolist(), "records": frame.to_dict("records"),
                "array": X, "tensor": torch.tensor(X)}[form]
    fitted = LogisticRegression().fit(X, Y)
    graph = skl2onnx.to_onnx(fitted, X[:1].astype(np.float32), options={"zipmap": False})
    model = {"torch": MLP(3, 2), "onnx": graph.SerializeToString(), "sklearn": fitted}[kind]
    schema = InputSchema(kind="table", dtype="float32",
                         columns=tuple(Column(name=name) for name in "abc"))
    version = release.register(
        "m", model, examples=examples, input=schema, registry=registry,
        labels=[0, 1] if kind == "torch" else None,
    )
    assert len(version.golden) == 8


def test_a_text_that_may_be_missing_is_among_what_is_tried(registry: Registry) -> None:
    """Workers give NaN; for scikit-learn None is another category."""
    frame = pd.DataFrame({"a": X[:, 0], "city": pd.Series(["x", "y", "z"] * 10, dtype=object)})
    frame.loc[[5, 17], "city"] = None
    columns = make_column_transformer((OneHotEncoder(handle_unknown="ignore"), ["city"]))
    for missing, is_right in ((np.nan, True), (None, False)):
        frame["city"] = [city if isinstance(city, str) else missing for city in frame["city"]]
        frame["city"] = frame["city"].astype(object).where(frame["city"].notna(), missing)
        labels = frame["city"].isna()
        model = make_pipeline(columns, LogisticRegression(C=1e3)).fit(frame, labels)
        if is_right:
            version = release.register("m", model, examples=frame, registry=registry)
            assert [one.answer["label"] for one in version.golden] == [False] * 8 + [True]
            continue
        assert None in model[0].transformers_[0][1].categories_[0]
        schema = version.input
        for rows, known in ((frame, None), (frame[5:], schema)):
            with pytest.raises(errors.RegistryError, match="trained on None where a text is miss"):
                release.register("m", model, examples=rows, input=known, registry=registry)


def test_weights_that_find_no_room_are_told(registry: Registry) -> None:
    """Its library has an error of its own for what the disk says."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4_096, limits[1]))
    try:
        with pytest.raises(errors.RegistryError, match=r"safetensors cannot be written: Safe"):
            release.register("m", MLP(100, 100), examples=np.ones((3, 100)), registry=registry)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    assert registry.names() == []


def test_two_heads_of_a_network() -> None:
    from celeriac.registry.manifest import OutputSchema

    class Heads(nn.Module):
        def forward(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return rows[:, :2], rows[:, 2]

    output = OutputSchema(kind="classifier", labels=(("a", "b"), ("no", "yes")), outputs=2,
                          probabilities=True)
    found = TorchModel(Heads(), output).predict(np.array([[1.0, 2.0, 0.0], [9.0, 0.0, 4.0]]))
    assert found.values.tolist() == [["b", "no"], ["a", "yes"]]
    assert isinstance(found.probabilities, list)
    np.testing.assert_allclose(found.probabilities[1][:, 1], [0.5, 1 / (1 + np.exp(-4))])


@pytest.mark.parametrize(
    ("model", "options", "says"),
    [
        (LinearRegression(), {}, "not fitted"),
        (LinearRegression().fit(X, Y), {"kind": "classifier"}, "is a regressor"),
        (LogisticRegression().fit(X, Y), {"labels": ["a", "b"]}, "has its own labels"),
        (MLP(3, 2), {"kind": "classifier"}, "name the labels"),
        (MLP(3, 2), {"labels": ["a"]}, "shape"),
        (MLP(3, 2), {"labels": ["a", "a"]}, "repeats some"),
        (LinearRegression().fit(X, Y), {"examples": None}, "found NoneType"),
        (LinearRegression().fit(X, Y), {"examples": X[:, :2]}, "does not answer its examples"),
        (MLP(1, 2), {"examples": pd.DataFrame({"a": ["x"]})}, "column 'a' holds text"),
        (
            make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(["aa", "bb"], [0, 1]),
            {"examples": pd.DataFrame({"text": ["aa", "bb"]})}, "1 answers to 2 examples",
        ),
        (nn.Linear(3, 1), {}, "how was this"),
        ("weights.onnx", {}, "a str cannot be registered; .* pathlib.Path"),
        (Path("model.joblib"), {}, "celeriac models import"),
        (LinearRegression().fit(X, Y), {"examples": []}, "at least one"),
        (MLP(3, 2), {"examples": {"ids": torch.ones(3, 2)}}, "examples are a list .* found dict"),
        (LinearRegression().fit(X, Y), {"examples": [{"a": object()}]}, "column 'a'"),
        (LinearRegression().fit(X, Y), {"examples": pd.DataFrame(X, columns=["a", "b", "a"])},
         "two columns of the examples are named 'a'"),
        (LinearRegression().fit(X, Y), {"metrics": {"r2": float("nan")}}, "metric 'r2' is nan"),
        (GridSearchCV(OneVsRestClassifier(LogisticRegression()), {"estimator__C": [1.0]}, cv=2)
         .fit(X, np.c_[Y, 1 - Y]), {}, "not those of a classifier with 1 output .*best_estimator_"),
        (OneVsRestClassifier(LogisticRegression()).fit(X, csr_matrix(np.c_[Y, 1 - Y])), {},
         "does not answer its examples"),
    ],
)
def test_what_cannot_be_registered_is_explained(
    registry: Registry, model: object, options: dict[str, object], says: str
) -> None:
    given = {"examples": X, **options}
    with pytest.raises(errors.RegistryError, match=says):
        release.register("m", model, registry=registry, **given)  # type: ignore[arg-type]
    assert registry.names() == []


def test_a_model_that_does_not_survive_its_file_is_refused(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = LinearRegression().fit(X, Y)
    sklearn = runtimes.runtime("sklearn")
    original = sklearn.read

    def forgetful(path: Path, options: LoadOptions) -> object:
        estimator = original(path, options)
        estimator.intercept_ += 1
        return estimator

    monkeypatch.setattr(sklearn, "read", forgetful)
    with pytest.raises(errors.RegistryError, match="read back from its files"):
        release.register("m", model, examples=X, registry=registry)
