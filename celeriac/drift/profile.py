"""``profile.json``: what is kept of the data that a version was made for."""

from __future__ import annotations

import base64
import math
import zlib
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from celeriac import errors
from celeriac.registry.files import unreadable
from celeriac.registry.manifest import MANIFEST_NAME, ModelVersion

PROFILE_NAME = "profile.json"


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Calibration(_Record):
    """How far chance alone moves a window of the reference: see ``calibration``."""

    window_rows: Annotated[int, Field(ge=1)]
    horizon_rows: Annotated[int, Field(ge=1)]
    """Over which a window slid, in each simulated stream."""
    location: float
    scale: Annotated[float, Field(gt=0)]
    """Of the Gumbel distribution of ``window_rows * statistic ** 2``, largest of a horizon."""


class FeatureProfile(_Record):
    """One feature of the reference as counts of bins.

    A number falls into one of ``len(edges) + 1`` bins: bin ``i`` holds what is larger than
    ``edges[i - 1]`` and at most ``edges[i]``, so the first and the last one hold what the
    reference never reached. A category has a bin for each of ``categories``, then one for the
    other values of the reference, and one for values that it does not have. The last bin of both
    kinds counts nulls.
    """

    name: str
    role: Literal["input", "answer"] = "input"
    kind: Literal["number", "category"]
    unit: str = ""
    """What is measured, as ``characters``; empty: the value itself."""
    edges: tuple[float, ...] = ()
    categories: tuple[str, ...] = ()
    known: str = ""
    """Digests of all categories, as :class:`Known` keeps them; empty: ``categories`` are all."""
    counts: tuple[Annotated[int, Field(ge=0)], ...]
    """Rows by bin."""
    mean: float | None = None
    std: float | None = None
    autocorrelation_rows: Annotated[float, Field(ge=1)] = 1.0
    """So many rows, one after the other, tell as much as one that stands alone ..."""
    null_autocorrelation_rows: Annotated[float, Field(ge=1)] = 1.0
    """... of whether a value is null: nulls may come in runs though values do not."""
    calibration: Calibration | None = None
    """None: there are too few rows to know."""

    @model_validator(mode="after")
    def _counts_fit(self) -> Self:
        bins = len(self.edges) + 2 if self.kind == "number" else len(self.categories) + 3
        if len(self.counts) != bins:
            raise ValueError(f"feature {self.name!r} has {len(self.counts)} counts, not {bins}")
        if any(a >= b for a, b in zip(self.edges, self.edges[1:], strict=False)):
            raise ValueError(f"feature {self.name!r}: its edges do not rise")
        return self

    @property
    def rows(self) -> int:
        return sum(self.counts)

    @property
    def nulls(self) -> int:
        return self.counts[-1]

    @property
    def ends(self) -> tuple[float, float]:
        """Smallest and largest finite number of the reference. Raises IndexError if it has none."""
        return self.edges[min(1, len(self.edges) - 1)], self.edges[-1]

    @property
    def bins(self) -> int:
        """How many there are, that of nulls included."""
        return len(self.counts)

    @property
    def independent_rows(self) -> float:
        """As many rows that know nothing of each other tell as much as these."""
        return self.rows / self.autocorrelation_rows

    @property
    def sure(self) -> int:
        """So many of ``categories``, which come by how common they are, are surely the commonest.
        The next one might have beaten the others, which were chosen with luck."""
        counts = self.counts[: len(self.categories)]
        if not counts or not any(self.counts[-3:-1]):  # all have a bin
            return len(counts)
        least = min(counts)
        chance = 3 * math.sqrt(least * self.autocorrelation_rows)
        return sum(count > least + chance for count in counts)

    @property
    def luck(self) -> float:
        """How much more common than they are the others may seem, by two standard errors of each:
        as chi-square of shares (the squares of the differences over the shares, added up)."""
        return 4 * (len(self.categories) - self.sure) / max(self.independent_rows, 1.0)

    @property
    def luck_of_variation(self) -> float:
        """The same as total variation: what these standard errors add up to, which is less where
        the others are rare."""
        share = sum(self.counts[self.sure : len(self.categories)]) / max(self.rows, 1)
        return math.sqrt(self.luck * min(share, 0.25))

    @cached_property
    def known_values(self) -> Known | None:
        return Known.read(self.known) if self.known else None


class TextProfile(_Record):
    """A column of free text: its length and new words are features, not the text itself."""

    column: str
    words: str
    """Digests of the words of the reference, as :class:`Known` keeps them."""

    @cached_property
    def known_words(self) -> Known:
        return Known.read(self.words)


class CodedRows(_Record):
    """Some rows of the reference, each value as the number of its bin."""

    features: tuple[str, ...]
    rows: Annotated[int, Field(ge=0)]
    codes: str

    @classmethod
    def of(cls, features: tuple[str, ...], codes: np.ndarray[Any, Any]) -> CodedRows:
        """``codes``: ``(rows, features)``."""
        packed = zlib.compress(codes.astype("<u1").tobytes(), 9)
        return cls(features=features, rows=len(codes), codes=base64.b64encode(packed).decode())

    def matrix(self) -> np.ndarray[Any, Any]:
        """``(rows, features)``. Raises RegistryError if they are damaged."""
        try:
            flat = np.frombuffer(zlib.decompress(base64.b64decode(self.codes)), dtype="<u1")
            return flat.reshape(self.rows, len(self.features)).astype(np.int64)
        except (ValueError, zlib.error) as error:
            raise errors.RegistryError(f"{PROFILE_NAME}: its coded rows are damaged") from error


class Performance(_Record):
    """How good answers were, where somebody knew the truth."""

    measure: Literal["AUC", "accuracy", "mean absolute error"]
    value: float
    error: Annotated[float, Field(ge=0)]
    """Standard error of the value, from chance alone."""
    rows: int
    accuracy: float | None = None
    """Share of right answers, where ``measure`` is another one."""
    far: float | None = None
    """Of numbers: the absolute error that one of five answers exceeds."""

    @property
    def more_is_better(self) -> bool:
        return self.measure != "mean absolute error"


class ReferenceProfile(_Record):
    """All that drift detection knows of the reference."""

    contract: Literal[1] = 1
    source: Literal["reference", "examples"] = "reference"
    """What was given at registration."""
    rows: Annotated[int, Field(ge=0)]
    """Those that the profile is made of."""
    rows_given: Annotated[int, Field(ge=0)]
    features: tuple[FeatureProfile, ...]
    texts: tuple[TextProfile, ...] = ()
    coded: CodedRows | None = None
    performance: Performance | None = None
    warnings: tuple[str, ...] = ()
    """What limits the conclusions that can be drawn from it."""

    @cached_property
    def by_name(self) -> dict[str, FeatureProfile]:
        return {feature.name: feature for feature in self.features}

    @property
    def answers(self) -> list[str]:
        """Names of the features that are answers."""
        return [feature.name for feature in self.features if feature.role == "answer"]

    def dump(self) -> bytes:
        """For the file."""
        return self.model_dump_json(indent=1, exclude_defaults=True).encode()

    @classmethod
    def load(cls, data: bytes) -> ReferenceProfile:
        """The inverse of :meth:`dump`. Raises RegistryError."""
        try:
            return cls.model_validate_json(data)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise errors.RegistryError(
                f"{PROFILE_NAME}: is damaged or of another release ({where}: {first['msg']}); "
                "register the model again"
            ) from error


def read_profile(folder: Path) -> ReferenceProfile | None:
    """The profile in a version's folder; None if it was registered without.

    Raises RegistryError if it is damaged or cannot be read, or no version is there.

    Its digest is checked with the version's other files (``Registry.verify``).
    """
    try:
        return ReferenceProfile.load((folder / PROFILE_NAME).read_bytes())
    except OSError as error:
        if isinstance(error, FileNotFoundError) and (folder / MANIFEST_NAME).exists():
            return None  # the version is there, and has none
        raise unreadable(f"{folder / PROFILE_NAME}", error) from error


def profile_digest(manifest: ModelVersion) -> str:
    """By which two profiles are told apart; empty if the version has none."""
    digests = [file.sha256 for file in manifest.files if file.path == PROFILE_NAME]
    return digests[0][:16] if digests else ""


class Known:
    """A set of words or categories by their digests: small, and it shows nobody's words."""

    def __init__(self, digests: np.ndarray[Any, Any]) -> None:
        self._digests = np.unique(digests.astype("<u4"))
        self._set = set(self._digests.tolist())

    @classmethod
    def of(cls, texts: Any) -> Known:
        return cls(np.fromiter((digest(text) for text in texts), dtype="<u4"))

    @classmethod
    def read(cls, text: str) -> Known:
        """Raises RegistryError if ``text`` is damaged."""
        try:
            return cls(np.frombuffer(zlib.decompress(base64.b64decode(text)), dtype="<u4"))
        except (ValueError, zlib.error) as error:
            raise errors.RegistryError(f"{PROFILE_NAME}: its digests are damaged") from error

    def text(self) -> str:
        return base64.b64encode(zlib.compress(self._digests.tobytes(), 9)).decode()

    def __contains__(self, text: str) -> bool:
        return digest(text) in self._set

    def __len__(self) -> int:
        return len(self._digests)


def digest(text: str) -> int:
    """Of a word or a category, 32 bits."""
    return zlib.crc32(text.encode("utf-8", "surrogatepass"))
