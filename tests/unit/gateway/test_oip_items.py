"""Tensors to the items that models take, and predictions to tensors."""

from __future__ import annotations

import base64
import io
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from celeriac import errors
from celeriac.inputs import collate
from celeriac.messages import Prediction, encode_item
from celeriac.registry.catalogue import Catalogue, ModelInfo, VersionInfo
from celeriac.registry.manifest import Column, InputSchema, OutputSchema, Pixels
from producer.gateway.oip.codec import InferRequest, decode_request
from producer.gateway.oip.items import items_of, tensors_of, wanted_outputs
from producer.gateway.oip.metadata import model_metadata, repository_index, server_metadata
from producer.gateway.oip.raw import raw_request
from producer.gateway.oip.tensors import DTYPES, Tensor

TEXT = InputSchema(kind="text", columns=(Column(name="text", dtype="text"),))
MIXED = InputSchema(kind="table", frame=True, columns=(
    Column(name="price"), Column(name="count", dtype="int"), Column(name="new", dtype="bool"),
    Column(name="colour", dtype="text"),
))
FRAME = InputSchema(kind="table", frame=True, columns=(
    Column(name="price"), Column(name="count", dtype="int"),
))
NUMBERS = InputSchema(kind="table", columns=(Column(name="x0"), Column(name="x1")))
COUNTS = InputSchema(kind="table", frame=True, columns=(
    Column(name="price"), Column(name="count", dtype="int"),
))
SIGNAL = InputSchema(kind="array", shape=(2, 3), dtype="float32")
IMAGE = InputSchema(kind="image", shape=(8, 8), dtype="float32", pixels=Pixels(mode="L"))
ANY = InputSchema(kind="any")


def tensor(name: str, datatype: str, values: Any) -> Tensor:
    """A tensor as it comes out of the codec."""
    if datatype == "BYTES":
        array = np.array(values, dtype=object)
        return Tensor(name, datatype, array.shape, array.ravel().tolist())
    array = np.array(values, DTYPES[datatype])
    return Tensor(name, datatype, array.shape, array)


def items(schema: InputSchema, *tensors: Tensor) -> list[Any]:
    return items_of(InferRequest(inputs=list(tensors)), schema)


def refused(schema: InputSchema, *tensors: Tensor) -> str:
    with pytest.raises(errors.RequestError) as caught:
        items(schema, *tensors)
    return caught.value.message


def fits(schema: InputSchema, found: list[Any]) -> Any:
    """What a worker makes of the items: none of them is refused."""
    collated = collate([json.loads(json.dumps(encode_item(item))) for item in found], schema)
    assert collated.errors == {}
    return collated.inputs


def png() -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(file, "PNG")
    return file.getvalue()


# --- inputs --------------------------------------------------------------------------------------


@pytest.mark.parametrize("values", [["a", "ä"], [["a"], ["ä"]], [b"a", "ä".encode()]])
def test_texts(values: list[Any]) -> None:
    assert fits(TEXT, items(TEXT, tensor("text", "BYTES", values))) == ["a", "ä"]


def test_a_text_model_without_a_column_takes_text() -> None:
    assert items(InputSchema(kind="text"), tensor("text", "BYTES", ["a"])) == ["a"]


def test_a_table_by_columns_of_any_number_type() -> None:
    columns = [
        tensor("count", "FP32", [[3], [4]]), tensor("price", "UINT8", [1, 2]),
        tensor("new", "BOOL", [True, False]), tensor("colour", "BYTES", [b"red", b"blue"]),
    ]
    found = items(MIXED, *columns)
    assert found == [[1, 3.0, True, "red"], [2, 4.0, False, "blue"]]
    assert fits(MIXED, found)["count"].tolist() == [3, 4]


def test_a_table_as_a_matrix() -> None:
    matrix = tensor("input", "FP32", [[1.5, 2], [np.nan, 4]])
    assert items(NUMBERS, matrix) == [[1.5, 2], [None, 4]]
    rows = fits(NUMBERS, items(NUMBERS, matrix))
    assert np.array_equal(rows, [[1.5, 2], [np.nan, 4]], equal_nan=True)
    assert fits(COUNTS, items(COUNTS, matrix._replace(values=matrix.values[:1])))["count"][0] == 2
    by_column = items(NUMBERS, tensor("x1", "FP64", [2, 4]), tensor("x0", "FP64", [1.5, np.nan]))
    assert by_column == [[1.5, 2], [None, 4]]


def test_a_matrix_of_texts() -> None:
    schema = InputSchema(kind="table", frame=True, columns=(
        Column(name="a", dtype="text"), Column(name="b", dtype="text"),
    ))
    found = items(schema, tensor("input", "BYTES", [["1", "2"], ["3", "4"]]))
    assert found == [["1", "2"], ["3", "4"]]


def test_a_column_that_is_called_input_is_a_column() -> None:
    schema = InputSchema(kind="table", columns=(Column(name="input"), Column(name="b")))
    assert "lacks the inputs: b" in refused(schema, tensor("input", "FP64", [[1, 2]]))
    assert items(schema, tensor("b", "FP64", [2]), tensor("input", "FP64", [1])) == [[1, 2]]
    one = InputSchema(kind="table", columns=(Column(name="input"),))
    assert items(one, tensor("input", "FP64", [[1], [2]])) == [[1], [2]]


def test_arrays() -> None:
    values = np.arange(12).reshape(2, 2, 3)
    for datatype in ("FP16", "FP32", "FP64", "INT8", "UINT64"):
        found = fits(SIGNAL, items(SIGNAL, tensor("input", datatype, values)))
        assert found.dtype == np.float32
        assert np.array_equal(found, values)


def test_images_as_files_and_as_arrays() -> None:
    in_json = base64.b64encode(png()).decode()
    by_file = items(IMAGE, tensor("image", "BYTES", [png()]))
    assert by_file == items(IMAGE, tensor("image", "BYTES", [in_json])) == [png()]
    array = np.arange(64, dtype="<f4").reshape(1, 8, 8) / 255
    by_array = items(IMAGE, tensor("image", "FP32", array))
    assert np.allclose(fits(IMAGE, by_file), fits(IMAGE, by_array))


def test_anything() -> None:
    assert items(ANY, tensor("input", "BYTES", [b"a", b"\xff"])) == ["a", b"\xff"]
    assert items(ANY, tensor("input", "INT8", [1, 2])) == [1, 2]
    rows = items(ANY, tensor("input", "BOOL", [[True], [False]]))
    assert [row.tolist() for row in rows] == [[True], [False]]


@pytest.mark.parametrize(("schema", "tensors", "said"), [
    (TEXT, [tensor("t", "BYTES", ["a"])], "no input 't'; it has: text"),
    (TEXT, [tensor("text", "FP32", [1])], "takes BYTES; found FP32"),
    (TEXT, [tensor("text", "BYTES", [["a", "b"]])], "takes the shape [-1]"),
    (TEXT, [tensor("text", "BYTES", [[["a"]]])], "takes the shape [-1]"),
    (TEXT, [tensor("text", "BYTES", [b"\xff"])], "not UTF-8"),
    (TEXT, [tensor("text", "BYTES", [])], "no items"),
    (TEXT, [tensor("text", "BYTES", ["a"]), tensor("more", "INT8", [1])], "no input 'more'"),
    (NUMBERS, [tensor("x0", "FP64", [1])], "lacks the inputs: x1"),
    (NUMBERS, [tensor("x", "FP64", [[1, 2]])], "it has: input; or one for each column: x0, x1"),
    (FRAME, [tensor("x", "FP64", [[1, 2]])], "it has: price, count; or input with all of them"),
    (MIXED, [tensor("x", "FP64", [[1, 2]])], "it has: price, count, new, colour"),
    (NUMBERS, [tensor("x0", "FP64", [1]), tensor("x1", "FP64", [1, 2])], "1 to 2"),
    (NUMBERS, [tensor("x0", "FP64", [1]), tensor("x1", "BOOL", [True])], "found BOOL"),
    (NUMBERS, [tensor("input", "FP64", [[1, 2, 3]])], "the shape [-1, 2]"),
    (NUMBERS, [tensor("input", "FP64", [1, 2])], "the shape [-1, 2]"),
    (NUMBERS, [tensor("input", "FP64", np.empty((0, 2)))], "no items"),
    (MIXED, [tensor("input", "FP64", [[1, 2, 3, 4]])], "price, count, new, colour"),
    (SIGNAL, [tensor("input", "FP32", [[1, 2, 3]])], "the shape [-1, 2, 3]"),
    (SIGNAL, [tensor("input", "BOOL", np.zeros((1, 2, 3)))], "found BOOL"),
    (IMAGE, [tensor("image", "BYTES", ["no base64!"])], "item 0: in JSON, an image is the base64"),
    (IMAGE, [tensor("image", "FP32", np.zeros((1, 8, 7)))], "the shape [-1, 8, 8]"),
    (ANY, [tensor("other", "FP32", [1])], "it has: input"),
])
def test_what_does_not_fit_is_said(schema: InputSchema, tensors: list[Tensor], said: str) -> None:
    assert said in refused(schema, *tensors)


@given(st.lists(st.tuples(st.floats(width=32, allow_infinity=False), st.integers(0, 255)),
                min_size=1, max_size=8))
def test_binary_and_json_make_the_same_items(rows: list[tuple[float, int]]) -> None:
    prices, counts = (np.array(values) for values in zip(*rows, strict=True))
    columns = [("price", "FP32", prices.astype("<f4")), ("count", "UINT8", counts.astype("|u1"))]
    in_json = {"inputs": [
        {"name": name, "datatype": datatype, "shape": [len(rows)],
         "data": [None if np.isnan(value) else value for value in values.tolist()]}
        for name, datatype, values in columns
    ]}
    head = json.dumps({"inputs": [
        {"name": name, "datatype": datatype, "shape": [len(rows), 1],
         "parameters": {"binary_data_size": values.nbytes}}
        for name, datatype, values in columns
    ]}).encode()
    tail = b"".join(values.tobytes() for _, _, values in columns)
    by_json = items_of(decode_request(json.dumps(in_json).encode()), COUNTS)
    assert by_json == items_of(decode_request(head + tail, str(len(head))), COUNTS)
    fits(COUNTS, by_json)


def test_a_raw_body_is_the_data_of_the_one_input() -> None:
    rows = np.arange(12, dtype="<f4")
    assert len(fits(SIGNAL, items_of(raw_request(rows.tobytes(), SIGNAL), SIGNAL))) == 2
    matrix = raw_request(np.arange(4.0).tobytes(), NUMBERS)
    assert matrix.binary_output
    assert items_of(matrix, NUMBERS) == [[0, 1], [2, 3]]
    assert items_of(raw_request(b"\xc3\xa4", TEXT), TEXT) == ["ä"]
    assert items_of(raw_request(png(), IMAGE), IMAGE) == [png()]


@pytest.mark.parametrize(("schema", "body", "said"), [
    (MIXED, b"1234", "has 4 inputs"),
    (NUMBERS, b"", "16 bytes for each item; found 0"),
    (NUMBERS, bytes(17), "16 bytes for each item; found 17"),
])
def test_a_raw_body_must_fit(schema: InputSchema, body: bytes, said: str) -> None:
    with pytest.raises(errors.RequestError, match=said):
        raw_request(body, schema)


@st.composite
def any_tensor(draw: st.DrawFn) -> Tensor:
    name = draw(st.sampled_from(["input", "text", "image", "x0", "x1", "price", "count"]))
    shape = draw(st.sampled_from([(1,), (2,), (2, 1), (2, 2), (2, 2, 3), (1, 8, 8), (0, 2)]))
    datatype = draw(st.sampled_from([*DTYPES, "BYTES"]))
    if datatype == "BYTES":
        element = st.one_of(st.binary(max_size=6), st.just(png()))
        count = int(np.prod(shape))
        return Tensor(name, "BYTES", shape, draw(
            st.lists(element, min_size=count, max_size=count)
        ))
    return Tensor(name, datatype, shape, draw(arrays.arrays(DTYPES[datatype], shape)))


@settings(max_examples=300)
@given(
    st.sampled_from([TEXT, MIXED, NUMBERS, COUNTS, SIGNAL, IMAGE, ANY]),
    st.lists(any_tensor(), min_size=1, max_size=2, unique_by=lambda one: one.name),
)
def test_any_tensors_are_refused_or_become_items(
    schema: InputSchema, tensors: list[Tensor]
) -> None:
    try:
        found = items(schema, *tensors)
    except errors.RequestError:
        return
    assert len(found) == tensors[0].shape[0]
    for item in found:
        try:
            wire = json.loads(json.dumps(encode_item(item)))
        except errors.InvalidItem:  # infinity, which the client refuses by itself
            continue
        collate([wire], schema)


# --- outputs -------------------------------------------------------------------------------------


def answered(output: OutputSchema, *answers: dict[str, Any], wanted: tuple[str, ...] = ()) -> Any:
    request = InferRequest(inputs=[], outputs=wanted)
    predictions = [Prediction(model="m", version=1, **answer) for answer in answers]
    return tensors_of(predictions, wanted_outputs(request, output))


@pytest.mark.parametrize(("labels", "datatype", "given_labels", "found"), [
    (("no", "yes"), "BYTES", ["yes", "no"], ["yes", "no"]),
    ((0, 1), "INT64", [1, 0], [1, 0]),
    ((False, True), "BOOL", [True, False], [True, False]),
    ((0.5, 1.5), "FP64", [1.5, 0.5], [1.5, 0.5]),
    ((1, "one"), "BYTES", ["one", 1], ["one", "1"]),
    ((1, 2**63), "BYTES", [2**63, 1], ["9223372036854775808", "1"]),
])
def test_labels_have_the_datatype_of_the_model(
    labels: tuple[Any, ...], datatype: str, given_labels: list[Any], found: list[Any]
) -> None:
    schema = OutputSchema(kind="classifier", labels=labels, probabilities=True)
    label, probability = answered(schema, *(
        {"label": one, "probability": 0.75} for one in given_labels
    ))
    assert label == ("label", datatype, (2,), found)
    assert probability == ("probability", "FP64", (2,), [0.75, 0.75])


def test_a_classifier_without_probabilities_has_none() -> None:
    schema = OutputSchema(kind="classifier", labels=("a",))
    assert [one.name for one in answered(schema, {"label": "a"})] == ["label"]


def test_outputs_are_given_in_the_order_that_is_asked_for() -> None:
    schema = OutputSchema(kind="classifier", labels=("a",), probabilities=True)
    answer = {"label": "a", "probability": 1.0}
    for wanted in (("probability",), ("probability", "label"), ("label", "probability")):
        assert tuple(one.name for one in answered(schema, answer, wanted=wanted)) == wanted
    with pytest.raises(errors.RequestError, match="no output 'score'; it has: label, probability"):
        answered(schema, answer, wanted=("score",))


def test_several_outputs_are_columns() -> None:
    regressor = OutputSchema(kind="regressor", outputs=2)
    (value,) = answered(regressor, {"value": [1.0, 2.0]}, {"value": [3.0, 4.0]})
    assert value == ("value", "FP64", (2, 2), [1.0, 2.0, 3.0, 4.0])
    classifier = OutputSchema(
        kind="classifier", labels=((0, 1), (0, 1, 2)), outputs=2, probabilities=True
    )
    label, probability = answered(classifier, {"label": [1, 2], "probability": [0.5, 0.25]})
    assert label == ("label", "INT64", (1, 2), [1, 2])
    assert probability == ("probability", "FP64", (1, 2), [0.5, 0.25])


def test_anything_comes_back_as_json() -> None:
    (value,) = answered(
        OutputSchema(kind="any"), {"value": "a"}, {"value": {"b": [1]}}, {"value": 1.5}, {}
    )
    assert value == ("value", "BYTES", (4,), ["a", '{"b":[1]}', "1.5", "null"])


# --- metadata ------------------------------------------------------------------------------------


def version(input: InputSchema, output: OutputSchema, number: int = 1) -> VersionInfo:
    return VersionInfo(
        version=number, format="sklearn", device="cpu", input=input, output=output, created_at=""
    )


def model(input: InputSchema) -> tuple[ModelInfo, VersionInfo]:
    output = OutputSchema(kind="classifier", labels=("a", "b"), probabilities=True)
    versions = {number: version(input, output, number) for number in (10, 2)}
    return ModelInfo(name="m", versions=versions), versions[2]


@pytest.mark.parametrize(("schema", "inputs", "others"), [
    (TEXT, ["text BYTES [-1]"], None),
    (MIXED, ["price FP64 [-1]", "count INT64 [-1]", "new BOOL [-1]", "colour BYTES [-1]"], None),
    (COUNTS, ["price FP64 [-1]", "count INT64 [-1]"], "input FP64 [-1, 2]"),
    (NUMBERS, ["input FP64 [-1, 2]"], "x0 FP64 [-1], x1 FP64 [-1]"),
    (SIGNAL, ["input FP32 [-1, 2, 3]"], None),
    (IMAGE, ["image BYTES [-1]"], "image FP32 [-1, 8, 8]"),
    (ANY, ["input BYTES [-1]"], None),
])
def test_metadata_of_models(schema: InputSchema, inputs: list[str], others: str | None) -> None:
    found = model_metadata(*model(schema))
    assert [f"{one['name']} {one['datatype']} {one['shape']}" for one in found["inputs"]] == inputs
    assert found["properties"].get("other_inputs") == others
    assert found["versions"] == ["2", "10"]
    assert found["outputs"] == [
        {"name": "label", "datatype": "BYTES", "shape": [-1]},
        {"name": "probability", "datatype": "FP64", "shape": [-1]},
    ]


def test_what_the_metadata_shows_is_taken() -> None:
    for schema in (TEXT, MIXED, COUNTS, NUMBERS, SIGNAL, IMAGE, ANY):
        tensors = []
        for spec in model_metadata(*model(schema))["inputs"]:
            shape = [2, *spec["shape"][1:]]
            if spec["datatype"] == "BYTES":
                value = png() if schema.kind == "image" else b"text"
                array = np.array([value, value], dtype=object)
                tensors.append(Tensor(spec["name"], "BYTES", (2,), array.tolist()))
            else:
                zeros = np.zeros(shape, DTYPES[spec["datatype"]])
                tensors.append(Tensor(spec["name"], spec["datatype"], tuple(shape), zeros))
        found = items(schema, *tensors)
        assert len(found) == 2
        fits(schema, found)


def test_the_server_and_its_index() -> None:
    assert server_metadata()["name"] == "celeriac"
    info, _ = model(TEXT)
    catalogue = Catalogue(models={"m": info.model_copy(update={"aliases": {"champion": 2}})})
    cases: list[tuple[list[dict[str, Any]], tuple[str, str]]] = [
        ([], ("UNAVAILABLE", "UNAVAILABLE")), ([{"serving": {}}], ("UNAVAILABLE", "READY")),
        ([{"serving": {}}, {"serving": {"m": 2}}], ("READY", "READY")),
    ]
    for said, states in cases:
        found = repository_index(catalogue, {"cpu": said})
        assert [one["version"] for one in found] == ["2", "10"]
        assert tuple(one["state"] for one in found) == states
        assert [bool(one["reason"]) for one in found] == [one != "READY" for one in states]
