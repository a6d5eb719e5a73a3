"""What a comparison found, as data: ``drift.json``, and part of the manifest of a job."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

CONTRACT = 1
LEAST_DISTANCE = 0.1
"""A smaller distance is no drift, however certain it is."""

LEAST_LABELLED = 100
"""With fewer labelled rows nothing is said of whether answers have become worse."""

State = Literal["broken", "drift", "worse", "stable", "not_enough_data", "no_profile"]
"""``broken``: columns or their types are wrong, or values are missing: mend the data first.
``worse``: the data look as before, but the answers have become worse (only labels show that).
``not_enough_data`` is not ``stable``: nothing can be said. ``no_profile``: the version was
registered without a reference."""


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """A sentence, and how bad it is."""

    level: Literal["bad", "look", "good"]
    what: str
    text: str


class Picture(msgspec.Struct, frozen=True, kw_only=True):
    """The reference and the current rows side by side: shares of the values, without nulls."""

    labels: tuple[str, ...] = ()
    """Of categories."""
    edges: tuple[float, ...] = ()
    """Of numbers: one more than there are shares."""
    reference: tuple[float, ...]
    current: tuple[float, ...]


class Stretch(msgspec.Struct, frozen=True, kw_only=True):
    """A stretch of the current rows."""

    at: str
    """Its first and last row."""
    statistic: float
    threshold: float


class FeatureDrift(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One feature."""

    name: str
    role: Literal["input", "answer"]
    kind: Literal["number", "category"]
    unit: str = ""
    state: State
    rows: int
    """Current ones."""
    null_share: float = 0.0
    reference_null_share: float = 0.0
    statistic: float = 0.0
    """Numbers: Kolmogorov and Smirnov's distance; categories: total variation. 0 to 1."""
    threshold: float = 0.0
    """The statistic, or ``jensen_shannon`` its own one, must reach it ..."""
    jensen_shannon: float = 0.0
    jensen_shannon_threshold: float = 0.0
    p_value: float = 1.0
    """... and chance must hardly explain it: adjusted for the number of features."""
    stability_index: float = 0.0
    wasserstein: float | None = None
    """Mean way from reference to current, in standard deviations of the reference."""
    mean: float | None = None
    reference_mean: float | None = None
    shift: float | None = None
    """Way of the mean, in standard deviations of the reference."""
    picture: Picture | None = None
    stretches: tuple[Stretch, ...] = ()


class Multivariate(msgspec.Struct, frozen=True, kw_only=True):
    """Can a classifier tell the current rows from the reference?"""

    state: State
    auc: float = 0.5
    threshold: float
    p_value: float = 1.0
    features: tuple[tuple[str, float], ...] = ()
    """Those that give them away, with the AUC that is lost without each."""


class Quality(msgspec.Struct, frozen=True, kw_only=True):
    """How good the answers are, where the truth is known."""

    measure: str
    reference: float | None
    current: float
    error: float
    """Standard error of the current value."""
    rows: int
    fell: bool
    """By more than chance explains."""

    @property
    def is_compared(self) -> bool:
        """False: too few rows are labelled, now or in the reference."""
        return self.reference is not None and self.rows >= LEAST_LABELLED


class DriftReport(msgspec.Struct, frozen=True, kw_only=True):
    """``drift.json``."""

    contract: int = CONTRACT
    model: str
    version: int
    source: str
    """What was looked at."""
    made_at: str
    """ISO 8601, UTC."""
    state: State
    rows: int
    """That were looked at."""
    rows_total: int
    reference_rows: int = 0
    findings: tuple[Finding, ...] = ()
    """The worst first."""
    features: tuple[FeatureDrift, ...] = ()
    multivariate: Multivariate | None = None
    quality: Quality | None = None
    warnings: tuple[str, ...] = ()

    @property
    def drifted(self) -> list[str]:
        """Names of the features that drifted."""
        return [one.name for one in self.features if one.state == "drift"]

    def dump(self) -> bytes:
        return msgspec.json.format(msgspec.json.encode(self))

    @classmethod
    def load(cls, data: bytes) -> DriftReport:
        """Raises msgspec.MsgspecError."""
        return msgspec.json.decode(data, type=cls)


def schema() -> dict[str, Any]:
    """The JSON schema of ``drift.json``."""
    return msgspec.json.schema(DriftReport)
