"""``model.json``: what a version of a model is, as data."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

MANIFEST_NAME = "model.json"
MANIFEST_CONTRACT = 1


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class FileRecord(_Record):
    """One file of the version."""

    path: str
    """Relative to the version's folder; no ``..``, never absolute."""
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    size: Annotated[int, Field(ge=0)]

    @field_validator("path")
    @classmethod
    def _inside(cls, path: str) -> str:
        parts = PurePosixPath(path).parts
        if not parts or path.startswith("/") or ".." in parts or str(PurePosixPath(path)) != path:
            raise ValueError(f"{path!r} does not lie in the version's folder")
        return path


class Column(_Record):
    """One input column of a table."""

    name: str
    dtype: Literal["float", "int", "bool", "text"] = "float"
    """What values of the column must be; ``float`` also takes whole numbers and null (as NaN)."""


class InputSchema(_Record):
    """What one item must look like, and which columns of a dataset the model reads."""

    kind: Literal["text", "table", "array", "any"]
    """``text``: a string. ``table``: a dict of columns, or a list in their order.
    ``array``: numbers of ``shape``, as nested lists or a numpy array. ``any``: not checked (echo).
    """
    columns: tuple[Column, ...] = ()
    """``table``: the columns, in the model's order. ``text``: one column, whose name is the
    default for datasets. ``array``: optional names of the flattened values, for datasets."""
    shape: tuple[int, ...] = ()
    """``array``: shape of one item."""
    dtype: Literal["float32", "float64"] = "float64"
    """``array`` and ``table`` without frame: what the model is given."""
    frame: bool = False
    """``table``: the model wants a pandas frame (column names), not an array."""


class OutputSchema(_Record):
    """What one answer looks like."""

    kind: Literal["classifier", "regressor", "any"]
    labels: tuple[Any, ...] = ()
    """Classifier: its labels (texts or whole numbers), in the order of the model's outputs.
    Of several outputs: one tuple of labels for each."""
    outputs: Annotated[int, Field(ge=1)] = 1
    """Number of outputs; more than one makes each answer a list."""
    probabilities: bool = False
    """Classifier: the model gives probabilities."""


class GoldenExample(_Record):
    """An item with the answer that the version must reproduce before it is promoted."""

    item: Any
    """Encoded as on the wire."""
    answer: dict[str, Any]
    """``label`` and ``probability``, or ``value``."""


class Architecture(_Record):
    """The code that the weights of a torch model belong to."""

    path: Annotated[str, Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")]
    """``package.module:Class``."""
    arguments: dict[str, Any] = {}


class Serving(_Record):
    """How single items of a version are served."""

    cache: bool = False
    """Answers are kept and given again to equal items: only for a model that always answers an
    item alike."""
    max_batch_size: Annotated[int, Field(ge=1, le=4_096)] | None = None
    """Items of one forward pass, at most. None: ``[realtime] max_batch_items``."""
    max_wait_ms: Annotated[float, Field(ge=0, le=1_000)] = 0.0
    """How long a batch that is not full may wait for more items."""


class ModelDraft(_Record):
    """What is known of a version before the registry gives it a number."""

    format: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,31}$")]
    """Which runtime loads it: ``sklearn``, ``torch``, ``echo`` ..."""
    input: InputSchema
    output: OutputSchema
    device: Literal["cpu", "gpu"] = "cpu"
    serving: Serving = Serving()
    architecture: Architecture | None = None
    frameworks: dict[str, str] = {}
    """Versions of the libraries that wrote it, as ``{"scikit-learn": "1.9.1"}``."""
    metrics: dict[str, float] = {}
    golden: tuple[GoldenExample, ...] = ()
    description: str = ""


class ModelVersion(ModelDraft):
    """``model.json`` of one version."""

    contract: Literal[1] = 1
    name: str
    version: Annotated[int, Field(ge=1)]
    files: tuple[FileRecord, ...]
    created_at: str
    """ISO 8601, UTC."""
    created_by: str = ""

    @property
    def ref(self) -> str:
        return f"{self.name}@{self.version}"
