"""``model.json``: what a version of a model is, as data."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)
from pydantic_core import CoreSchema

MANIFEST_NAME = "model.json"


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    # The catalogue could not be read with NaN in it, by anybody, of any model.


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
    nullable: bool = False
    """``text`` in a frame: the model takes null, too."""

    @field_validator("nullable")
    @classmethod
    def _only_text(cls, nullable: bool, info: ValidationInfo) -> bool:
        if nullable and info.data.get("dtype") != "text":
            raise ValueError("nullable is for text; of numbers, float takes null")
        return nullable

    @model_serializer(mode="wrap")
    def _as_before(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Releases that do not know ``nullable`` read all manifests that do without."""
        fields: dict[str, Any] = dump(self)
        if not self.nullable:
            del fields["nullable"]
        return fields

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        """That of the fields: the serializer leaves one out, which has a default."""
        plain: Any = {key: part for key, part in core_schema.items() if key != "serialization"}
        return handler(plain)


class Pixels(_Record):
    """How an image becomes an array: ``(pixel * scale - mean) / std``, pixels being 0 to 255."""

    mode: Literal["L", "RGB"] = "RGB"
    """``L``: grey, one channel. ``RGB``: three."""
    channels: Literal["last", "first"] = "last"
    """Where in the array's shape the channels are; grey needs none there."""
    fit: Literal["stretch", "crop", "exact"] = "stretch"
    """How an image of another size becomes one of the model's: stretched; cut to its middle, of
    the model's proportions, and made smaller or larger; or not at all."""
    margin: Annotated[int, Field(ge=0, le=1_024)] = 0
    """With ``stretch``: it is made so many pixels larger on each side, which are then cut off."""
    order: Literal["rgb", "bgr"] = "rgb"
    """Of three channels: networks that come from Caffe take blue first. ``mean`` and ``std`` are in
    this order."""
    scale: Annotated[float, Field(gt=0, le=1e6)] = 1 / 255
    mean: tuple[float, ...] = ()
    """One number for each channel, or none."""
    std: tuple[Annotated[float, Field(gt=0)], ...] = ()
    """One number for each channel, or none."""


class InputSchema(_Record):
    """What one item must look like, and which columns of a dataset the model reads."""

    kind: Literal["text", "table", "array", "image", "any"]
    """``text``: a string. ``table``: a dict of columns, or a list in their order.
    ``array``: numbers of ``shape``, as nested lists or a numpy array. ``image``: the bytes of a
    PNG, JPEG, WEBP or GIF file, or the array of ``shape`` that the model takes. ``any``: not
    checked (echo).
    """
    columns: tuple[Column, ...] = ()
    """``table``: the columns, in the model's order. ``text``: one column, whose name is the
    default for datasets. ``array``: optional names of the flattened values, for datasets."""
    shape: tuple[int, ...] = ()
    """``array``: shape of one item. ``image``: (height, width), with the channels if there are
    any."""
    pixels: Pixels | None = None
    """``image``: how a file becomes an array of ``shape``."""
    dtype: Literal["float32", "float64"] = "float64"
    """``array``, ``image``, and ``table`` without frame: what the model is given."""
    frame: bool = False
    """``table``: the model wants a pandas frame (column names), not an array."""

    @property
    def nullable(self) -> list[str]:
        """Names of the columns of text that take null."""
        return [column.name for column in self.columns if column.nullable]

    @property
    def size(self) -> tuple[int, int]:
        """``image``: height and width."""
        first = self.pixels is not None and self.pixels.channels == "first"
        sides = self.shape[1:] if first and len(self.shape) == 3 else self.shape
        return sides[0], sides[1]

    @model_validator(mode="after")
    def _an_image(self) -> Self:
        if self.kind != "image":
            if self.pixels is not None:
                raise ValueError("pixels are for the kind 'image'")
            return self
        pixels = self.pixels or Pixels()
        if pixels.margin and pixels.fit != "stretch":
            raise ValueError("a margin is for the fit 'stretch'")
        count = 3 if pixels.mode == "RGB" else 1
        shapes = [[count, "height", "width"]] if pixels.channels == "first" else [
            ["height", "width", count]
        ]
        shapes += [["height", "width"]] if count == 1 else []
        if min(self.shape, default=0) < 1 or not any(
            len(self.shape) == len(shape)
            and all(isinstance(side, str) or side == n
                    for side, n in zip(shape, self.shape, strict=True))
            for shape in shapes
        ):
            wanted = " or ".join(f"({', '.join(map(str, shape))})" for shape in shapes)
            raise ValueError(f"the shape of an image is {wanted}; found {self.shape}")
        if {len(pixels.mean), len(pixels.std)} - {0, count}:
            raise ValueError(f"mean and std have {count} numbers, one for each channel, or none")
        return self


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
    precision: Literal["float32", "auto", "bfloat16", "float16"] = "float32"
    """In which numbers a torch network computes (autocast), where its device has units for them;
    elsewhere in float32. ``auto``: the best that the GPU has."""


PASS_SHARES = (0.2, 0.2, 0.2, 0.2, 0.1, 0.05, 0.04, 0.01)
"""Groups of passes by the time that they took, the shortest first: the share of each."""


class Passes(_Record):
    """How long passes of ``items`` took that differ each time, as a worker that serves has them."""

    items: Annotated[int, Field(ge=1)]
    pause_s: Annotated[float, Field(ge=0)]
    """How long the process had rested before each."""
    seconds: tuple[Annotated[float, Field(ge=0)], ...]
    """The mean of each group of :data:`PASS_SHARES`."""

    @field_validator("seconds")
    @classmethod
    def _one_for_each_group(cls, seconds: tuple[float, ...]) -> tuple[float, ...]:
        if len(seconds) != len(PASS_SHARES):
            raise ValueError(f"{len(seconds)} times; there are {len(PASS_SHARES)} groups")
        return seconds


class Profile(_Record):
    """What a batch of ``n`` items costs: about ``fixed_s + item_s * n`` seconds, as measured."""

    device: Literal["cpu", "gpu"] = "cpu"
    threads: Annotated[int, Field(ge=1)] = 1
    """Of the model's library, in the process that was measured."""
    machine: str = ""
    """The processor, and how many of its cores could be used."""
    cores: Annotated[int, Field(ge=0)] = 0
    """How many; 0 if that was not recorded."""
    fixed_s: Annotated[float, Field(ge=0)]
    item_s: Annotated[float, Field(ge=0)]
    batch_sizes: tuple[int, ...] = ()
    """What was measured."""
    passes: tuple[Passes, ...] = ()
    """How small batches really vary, by size and pause; empty if that was not measured."""


class ModelDraft(_Record):
    """What is known of a version before the registry gives it a number."""

    format: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,31}$")]
    """Which runtime loads it: ``sklearn``, ``torch``, ``echo`` ..."""
    input: InputSchema
    output: OutputSchema
    device: Literal["cpu", "gpu"] = "cpu"
    serving: Serving = Serving()
    architecture: Architecture | None = None
    recipe: dict[str, Any] = {}
    """How its runtime runs it, where there is a choice: precision, layout, a faster path."""
    parent: str = ""
    """``NAME@VERSION`` that this one is a faster form of."""
    profile: tuple[Profile, ...] = ()
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
        """``NAME@VERSION``."""
        return f"{self.name}@{self.version}"
