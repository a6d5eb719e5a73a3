"""ONNX files: what is registered, and what is refused before any library sees it."""

from __future__ import annotations

import pickle
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pandas as pd
import pyarrow as pa
import pytest
import skl2onnx
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_digits
from sklearn.ensemble import BaggingClassifier
from sklearn.linear_model import LogisticRegression, SGDClassifier
from sklearn.svm import SVC, LinearSVC
from sklearn.tree import DecisionTreeClassifier

from celeriac import errors, release
from celeriac.optimize import convert
from celeriac.registry.manifest import InputSchema
from celeriac.registry.store import Registry
from celeriac.runtimes import LoadOptions, onnx as onnx_runtime, onnx_graph
from celeriac.runtimes.onnx import OnnxFile
from celeriac.runtimes.sklearn import describe
from celeriac.scoring import Scorer

WEIGHTS = np.array([[1.0, -1.0], [0.5, 2.0], [0.0, 1.0]], dtype=np.float32)
ROWS = np.array([[1, 2, 3], [3, 1, 0], [0, 0, 1], [5, 1, 1]], dtype=np.float32)


def model(
    *, last: str = "", domain: str = "", batch: Any = "n", external: str = "", opset: int = 17
) -> onnx.ModelProto:
    """``x @ WEIGHTS``, and perhaps one operator more."""
    weights = numpy_helper.from_array(WEIGHTS, "weights")
    if external:
        onnx.external_data_helper.set_external_data(weights, external, offset=0, length=24)
        weights.ClearField("raw_data")
        weights.data_location = TensorProto.EXTERNAL
    nodes = [helper.make_node("MatMul", ["x", "weights"], ["product" if last else "y"])]
    if last:
        nodes.append(helper.make_node(last, ["product"], ["y"], domain=domain))
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, 2])], [weights],
    )
    imports = [helper.make_opsetid("", opset)]
    imports += [helper.make_opsetid(domain, 1)] if domain else []
    return helper.make_model(graph, opset_imports=imports, ir_version=8)


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "models")


def register(registry: Registry, given: Any, **more: Any) -> Scorer:
    version = release.register("m", given, examples=ROWS, registry=registry, **more)
    return Scorer.load(registry, "m", version.version, LoadOptions())


def test_a_path_or_bytes_of_logits(registry: Registry, tmp_path: Path) -> None:
    data = model().SerializeToString()
    (tmp_path / "any.onnx").write_bytes(data)
    for given in (tmp_path / "any.onnx", data):
        scorer = register(registry, given, labels=["no", "yes"])
        assert scorer.manifest.recipe == {"scores": "logits"}
        answer = scorer.score([[1.0, 2.0, 3.0]])[0]
        assert answer["label"] == "yes"
        assert answer["probability"] == pytest.approx(1 / (1 + np.exp(2 - 6)), abs=1e-6)


def test_probabilities_are_known_by_the_last_operator(registry: Registry) -> None:
    scorer = register(registry, model(last="Softmax").SerializeToString(), labels=[0, 1])
    assert scorer.manifest.recipe == {"scores": "probabilities"}
    answer = scorer.score([[1.0, 2.0, 3.0]])[0]
    assert answer["probability"] == pytest.approx(1 / (1 + np.exp(2 - 6)), abs=1e-6)


def test_scores_that_are_no_probabilities_are_noticed(registry: Registry) -> None:
    file = OnnxFile(data=model().SerializeToString(), scores="probabilities")
    with pytest.raises(errors.RegistryError, match="scores are no probabilities"):
        register(registry, file, labels=[0, 1])


def test_without_labels_it_answers_with_numbers(registry: Registry) -> None:
    assert register(registry, model().SerializeToString()).score([[1.0, 2.0, 3.0]])[0]["value"] == [
        2.0, 6.0
    ]


def test_its_own_labels_are_found_in_the_file(registry: Registry) -> None:
    x, y = load_digits(return_X_y=True)
    names = np.array(["even", "odd"])[y[:200] % 2]
    fitted = LogisticRegression(max_iter=30).fit(x[:200] / 16, names)
    schema = InputSchema(kind="array", shape=(64,), dtype="float32")
    data = convert.from_sklearn(fitted, schema, describe(fitted)).data
    version = release.register("d", data, examples=x[:5] / 16, registry=registry)
    assert version.output.labels == ("even", "odd")
    assert version.output.probabilities


@pytest.mark.parametrize("kind", [SVC, SGDClassifier, LinearSVC])
def test_classifiers_without_probabilities_are_converted(registry: Registry, kind: Any) -> None:
    x, y = load_digits(return_X_y=True)
    names = np.array(["low", "middle", "high"])[y[:200] % 3]
    fitted = kind(random_state=0).fit(x[:200] / 16, names)
    schema = InputSchema(kind="array", shape=(64,))
    graph = convert.from_sklearn(fitted, schema, describe(fitted))
    release.register("d", graph, examples=x[:5] / 16, registry=registry)
    found = Scorer.load(registry, "d", 1, LoadOptions()).score((x[:200] / 16).tolist())
    assert [one["label"] for one in found] == fitted.predict(x[:200] / 16).tolist()


@pytest.mark.parametrize("names", [[1, 2, 3], ["a", "b", "ü"]])
def test_labels_are_those_of_the_whole_and_not_of_a_classifier_within(
    registry: Registry, names: list[Any]
) -> None:
    x, y = load_digits(n_class=3, return_X_y=True)
    bagged = BaggingClassifier(DecisionTreeClassifier(max_depth=2), 3, random_state=0)
    bagged.fit(x, np.array(names)[y])  # its trees know the classes as 0, 1 and 2
    data = skl2onnx.to_onnx(
        bagged, x[:1].astype(np.float32), options={"zipmap": False}
    ).SerializeToString()
    two = x[bagged.predict(x) != names[2]][:8]  # the third label is no example's
    version = release.register("d", data, examples=two, registry=registry)
    assert version.output.labels == tuple(names)
    scorer = Scorer.load(registry, "d", 1, LoadOptions())
    found = scorer.score(x.tolist())
    assert [one["label"] for one in found] == bagged.predict(x).tolist()
    highest = bagged.predict_proba(x).max(axis=1)
    assert np.abs([one["probability"] for one in found] - highest).max() < 1e-6


def test_labels_of_doubles_are_found(registry: Registry) -> None:
    x, y = load_digits(n_class=3, return_X_y=True)
    linear = LogisticRegression(max_iter=500).fit(x, y - 1)
    graph = skl2onnx.to_onnx(linear, x[:1], options={"zipmap": False})  # arithmetic
    version = release.register("d", graph.SerializeToString(), examples=x[:9], registry=registry)
    assert version.output.labels == (-1, 0, 1)


def test_labels_that_the_file_does_not_name_have_to_be_given(registry: Registry) -> None:
    value = helper.make_tensor_value_info
    data = helper.make_model(helper.make_graph(
        [helper.make_node("ArgMax", ["x"], ["label"], axis=1, keepdims=0),
         helper.make_node("Softmax", ["x"], ["chances"])], "g",
        [value("x", TensorProto.FLOAT, ["n", 3])],
        [value("label", TensorProto.INT64, ["n"]), value("chances", TensorProto.FLOAT, ["n", 3])],
    ), opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    with pytest.raises(errors.RegistryError, match="name the labels of the classifier"):
        release.register("d", data, examples=ROWS, registry=registry)
    version = release.register("d", data, examples=ROWS, registry=registry, labels=[0, 1, 2])
    assert [one.answer["label"] for one in version.golden] == ROWS.argmax(axis=1).tolist()
    as_numbers = release.register("d", data, examples=ROWS, registry=registry, kind="regressor")
    assert as_numbers.output.kind == "regressor"


def test_weights_of_8_bits_answer_nearly_alike(registry: Registry) -> None:
    plain = OnnxFile(data=model().SerializeToString(), scores="logits")
    small = convert.quantised(plain)
    stored = onnx.load_from_string(small.data).graph.initializer
    assert TensorProto.UINT8 in {weights.data_type for weights in stored}
    found = [register(registry, file, labels=[0, 1]).score(ROWS.tolist())
             for file in (plain, small)]
    for one, other in zip(*found, strict=True):
        assert one["label"] == other["label"]
        assert one["probability"] == pytest.approx(other["probability"], abs=0.05)


def test_a_graph_that_rounds_its_inputs_is_asked_for_each_item_alone(registry: Registry) -> None:
    """Else one scale is for all of a call, and beside a large item others are zeros."""
    small = convert.quantised(OnnxFile(data=model().SerializeToString(), scores="logits"))
    scorer = register(registry, small, labels=[0, 1])
    items = ROWS.tolist()
    expected = scorer.score(items)
    items[0] = [1e6] * len(items[0])
    items[1] = [float("nan")] * len(items[1])
    found = scorer.score(items)
    assert found[2:] == expected[2:]
    assert "error" in found[1]


# --- what is refused ------------------------------------------------------------------------------


def refused(data: bytes, kind: type[errors.CeleriacError], match: str, registry: Registry) -> None:
    with pytest.raises(kind, match=match):
        release.register("m", data, examples=ROWS, registry=registry)
    assert registry.names() == []


def test_foreign_operators(registry: Registry) -> None:
    data = model(last="Steal", domain="evil.ops").SerializeToString()
    refused(data, errors.UntrustedModel, r"evil\.ops\.Steal.*never loaded", registry)
    data = model(last="PyOp", domain="com.microsoft").SerializeToString()
    refused(data, errors.UntrustedModel, "PyOp", registry)


@pytest.mark.parametrize("place", ["../secret.bin", "/etc/passwd", "a/../../b", "", "model.onnx"])
def test_weights_outside_the_folder(registry: Registry, tmp_path: Path, place: str) -> None:
    path = tmp_path / "in" / "some.onnx"
    path.parent.mkdir()
    path.write_bytes(model(external=place or "x").SerializeToString().replace(
        b"\x12\x01x", b"\x12\x01/" if not place else b"\x12\x01x"))
    with pytest.raises(errors.RegistryError, match=r"outside its folder|not a file in its folder"):
        release.register("m", path, examples=ROWS, registry=registry)


@pytest.mark.parametrize(
    "name", ["model.json", "profile.json", "./profile.json", "optimize.json", "./model.onnx"]
)
def test_weights_with_the_name_of_a_file_of_each_version(
    registry: Registry, tmp_path: Path, name: str
) -> None:
    """The version's own file would take the place of the weights."""
    path = tmp_path / "some.onnx"
    path.write_bytes(model(external=name).SerializeToString())
    (tmp_path / name).write_bytes(WEIGHTS.tobytes())
    with pytest.raises(errors.RegistryError, match=r"under another name|outside its folder"):
        release.register("m", path, examples=ROWS, registry=registry)
    assert registry.names() == []


def test_a_link_to_weights_outside_the_folder(registry: Registry, tmp_path: Path) -> None:
    (tmp_path / "secret.bin").write_bytes(WEIGHTS.tobytes())
    path = tmp_path / "in" / "some.onnx"
    path.parent.mkdir()
    path.write_bytes(model(external="w.bin").SerializeToString())
    (path.parent / "w.bin").symlink_to(tmp_path / "secret.bin")
    with pytest.raises(errors.RegistryError, match="not a file in its folder"):
        release.register("m", path, examples=ROWS, registry=registry)


def test_weights_beside_it_go_with_it(registry: Registry, tmp_path: Path) -> None:
    path = tmp_path / "some.onnx"
    path.write_bytes(model(external="w.bin").SerializeToString())
    (tmp_path / "w.bin").write_bytes(WEIGHTS.tobytes())
    scorer = register(registry, path, labels=["no", "yes"])
    assert [file.path for file in scorer.manifest.files] == ["model.onnx", "w.bin"]
    assert scorer.score([[1.0, 2.0, 3.0]])[0]["label"] == "yes"


def test_a_tag_that_parsers_would_cut_hides_no_weights() -> None:
    """Bits above the 32nd are dropped by the library's parser: it sees ``external_data``."""
    proto = model(external="/etc/passwd")
    tensor = proto.graph.initializer[0].SerializeToString()
    del proto.graph.initializer[:]
    plain, long = b"\x6a", b"\xea\x80\x80\x80\x10"

    def with_weights(data: bytes) -> bytes:  # parsers merge a second graph with the first
        graph = b"\x2a" + _length(data) + data
        return proto.SerializeToString() + b"\x3a" + _length(graph) + graph

    assert plain in tensor
    assert onnx_graph.scan(with_weights(tensor)).external == {"/etc/passwd"}
    with pytest.raises(onnx_graph.BadFile, match="no protobuf message"):
        onnx_graph.scan(with_weights(tensor.replace(plain, long)))


def _length(data: bytes) -> bytes:
    return bytes([len(data) & 0x7F | 0x80, len(data) >> 7])


def test_what_is_no_onnx_file(registry: Registry) -> None:
    whole = model().SerializeToString()
    x = pickle.dumps({"a": [1, 2, 3]})
    for data in (b"", x, whole[:-3], whole[: len(whole) // 2], b"\x08\x08", b"PK\x03\x04" * 40):
        refused(data, errors.RegistryError, "damaged, or no ONNX file", registry)


def test_a_damaged_graph_is_refused_by_the_library(registry: Registry) -> None:
    proto = model()
    proto.graph.initializer[0].raw_data = b"short"
    refused(proto.SerializeToString(), errors.RegistryError, "ONNX Runtime cannot load", registry)


def test_a_fixed_batch(registry: Registry) -> None:
    refused(model(batch=1).SerializeToString(), errors.RegistryError,
            "batches of exactly 1; export", registry)


def test_too_large_for_the_format(monkeypatch: pytest.MonkeyPatch, registry: Registry) -> None:
    monkeypatch.setattr(onnx_runtime, "MOST_BYTES", 100)
    refused(model().SerializeToString(), errors.RegistryError, "at most 100", registry)


def test_texts_where_it_takes_numbers(registry: Registry) -> None:
    with pytest.raises(errors.RegistryError):
        release.register("m", model().SerializeToString(), examples=["a", "b"], registry=registry)


def _of_whole_numbers(kind: int, inputs: dict[str, Any]) -> bytes:
    """Its inputs, added, as doubles."""
    names = list(inputs)
    values = [helper.make_tensor_value_info(name, kind, ["n", width])
              for name, width in inputs.items()]
    nodes = [helper.make_node("Cast", [name], [f"{name} wide"], to=TensorProto.DOUBLE)
             for name in names]
    nodes.append(helper.make_node("Sum", [f"{name} wide" for name in names], ["y"]))
    result = helper.make_tensor_value_info("y", TensorProto.DOUBLE, ["n", None])
    graph = helper.make_graph(nodes, "g", values, [result])
    imports = [helper.make_opsetid("", 17)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8).SerializeToString()


@pytest.mark.parametrize(("kind", "good", "bad"), [
    (TensorProto.INT64, [2**40 + 1, 16_777_217], 2.7), (TensorProto.INT64, [1, 2], None),
    (TensorProto.INT32, [16_777_217, 3], 2**31), (TensorProto.BOOL, [1, 0], 2),
])
@pytest.mark.parametrize("inputs", [{"x": 2}, {"x0": 1, "x1": 1}])
def test_what_is_no_whole_number_is_not_made_one(
    registry: Registry, kind: int, good: list[float], bad: Any, inputs: dict[str, Any]
) -> None:
    frame = pd.DataFrame([[1.0, 0.0], [0.0, 1.0]], columns=["x0", "x1"])
    data = _of_whole_numbers(kind, inputs)
    version = release.register(
        "m", data, examples=frame if len(inputs) > 1 else frame.to_numpy(), registry=registry
    )
    scorer = Scorer.load(registry, "m", version.version, LoadOptions())
    items = [good, [bad, 1], good]
    found = scorer.score(items)
    expected = good if len(inputs) == 1 else sum(good)
    assert found[0]["value"] == found[2]["value"] == expected
    wanted = "takes true or false" if kind == TensorProto.BOOL else r"takes whole numbers \(int"
    assert re.search(f"input 'x0?' {wanted}", found[1]["error"]["message"])
    names = ["x0", "x1"]
    columns = zip(names, map(pa.array, zip(*items, strict=True), [pa.float64()] * 2), strict=True)
    table = scorer.score_table(pa.table(dict(columns)))
    assert list(table.errors) == [1]
    assert [column.to_pylist()[0] for column in table.columns.values()] == (
        expected if len(inputs) == 1 else [expected]
    )


def test_it_runs_on_the_cpu_of_workers_with_a_gpu(registry: Registry) -> None:
    version = release.register(
        "m", model().SerializeToString(), examples=ROWS, device="gpu", registry=registry
    )
    scorer = Scorer.load(registry, "m", version.version, LoadOptions(device="cuda"))
    assert scorer.score([[1.0, 2.0, 3.0]])[0]["value"] == [2.0, 6.0]


def test_millions_of_numbers_are_skipped_quickly() -> None:
    import time

    node = helper.make_node(
        "TreeEnsembleClassifier", ["x"], ["y"], domain="ai.onnx.ml",
        nodes_values=[0.5] * 500_000, nodes_featureids=list(range(500_000)),
        classlabels_int64s=[4, -7],
    )
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3])
    data = helper.make_model(helper.make_graph([node], "g", [value], [value])).SerializeToString()
    started = time.process_time()
    assert onnx_runtime.check(data).labels_of("y") == (4, -7)
    assert time.process_time() - started < 1.0


def test_the_producer_half_never_imports_it() -> None:
    code = (
        "import sys, producer, producer.cli.main, producer.gateway; "
        "names = {name.partition('.')[0] for name in sys.modules}; "
        "print(sorted(names & {'onnxruntime', 'onnx', 'skl2onnx'}))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
