"""Images of a dataset: a column of files, decoded a few at a time."""

from __future__ import annotations

import io

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from celeriac import errors, scoring
from celeriac.inputs import Limits, collate_table, columns_needed
from celeriac.outputs import Output
from celeriac.registry.manifest import (
    InputSchema,
    ModelVersion,
    OutputSchema,
    Pixels,
)

GREY = InputSchema(kind="image", shape=(2, 2), pixels=Pixels(mode="L", scale=1.0))


def png(level: int) -> bytes:
    file = io.BytesIO()
    Image.new("L", (2, 2), level).save(file, "PNG")
    return file.getvalue()


class Brightness:
    """Answers the mean of an image."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def predict(self, inputs: np.ndarray) -> Output:
        self.sizes.append(len(inputs))
        return Output(values=inputs.mean(axis=(1, 2)))


def test_a_model_of_images_reads_the_column_of_files_or_one_of_each_value() -> None:
    assert columns_needed(GREY, ["path", "image"]) == ["image"]
    assert columns_needed(GREY, ["x0", "x1", "x2", "x3"]) == ["x0", "x1", "x2", "x3"]
    with pytest.raises(errors.DatasetError, match="lacks 'image'"):
        columns_needed(GREY, ["path"])


def test_bad_files_are_errors_of_their_rows() -> None:
    table = pa.table({"image": pa.array([png(7), b"none", None, png(9)], pa.binary())})
    found = collate_table(table, GREY, limits=Limits(image_pixels=4))
    assert found.inputs.tolist() == [[[7.0] * 2] * 2, [[9.0] * 2] * 2]
    assert list(found.index) == [0, 3]
    assert sorted(found.errors) == [1, 2]
    small = collate_table(table, GREY, limits=Limits(image_pixels=3))
    assert small.inputs.shape == (0, 2, 2)
    assert isinstance(small.errors[0], errors.PayloadTooLarge)
    with pytest.raises(errors.DatasetError, match="the bytes of image files"):
        collate_table(pa.table({"image": ["a.png"]}), GREY)


def test_images_are_decoded_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "IMAGES_BYTES", 3 * 8 * 4)
    model = Brightness()
    version = ModelVersion(
        name="m", version=1, format="echo", files=(), created_at="", golden=(), input=GREY,
        output=OutputSchema(kind="regressor"),
    )
    files = [png(level) for level in range(8)]
    files[4] = b"none"
    answers = scoring.Scorer(version, model).score_table(pa.table({"image": files}))
    assert answers.columns["prediction"].to_pylist() == [0, 1, 2, 3, None, 5, 6, 7]
    assert list(answers.errors) == [4]
    assert model.sizes == [3, 2, 2]
