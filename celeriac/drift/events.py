"""What drift detection tells the rest: an episode of a model has opened or closed."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from typing import Any, Literal, get_args

from celeriac import errors
from celeriac.alerts import Alert, AlertKind

Kind = Literal["data_quality", "data_drift", "concept_drift"]
"""``data_quality``: the data are broken (never a reason to retrain); ``data_drift``: they are
distributed otherwise; ``concept_drift``: the answers do not fit the truth any more."""
State = Literal["opened", "closed"]
Source = Literal["stream", "dataset", "feedback"]

LATEST_S = 253_402_300_800.0
"""The year 10,000."""
NEXT = {
    "data_quality": "mend the data: look at the columns that are named; do not retrain on them",
    "data_drift": "look what has changed, and whether answers have become worse",
    "concept_drift": "a new version is needed, or the version before: is the cause a promotion?",
}


@dataclass(frozen=True, kw_only=True)
class DriftEvent:
    """An episode that opened or closed. The same event told twice is one event."""

    kind: Kind
    state: State
    model: str
    version: int
    source: Source
    features: tuple[str, ...]
    """Names of what is concerned, the worst first; empty if that is not known."""
    detail: str
    """One sentence for people."""
    at_s: float
    """Unix time of the look that opened or closed it."""
    entry: str = ""
    """Name of the entry of the schedule that looked; empty: none did. Each has its own episodes."""

    @property
    def place(self) -> str:
        """Where it is so: what opens there closes there."""
        return f"{self.source}:{self.entry}" if self.entry else self.source

    @property
    def ref(self) -> str:
        return f"{self.model}@{self.version}"

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values: what the task ``celeriac.drift.notice`` is given."""
        return asdict(self) | {"features": list(self.features)}

    @classmethod
    def from_dict(cls, found: dict[str, Any]) -> DriftEvent:
        """The reverse. Fields that a later release has added are left out. Raises RequestError."""
        names = [one.name for one in fields(cls) if one.name != "entry"]
        try:
            known = {name: found[name] for name in names}
            event = cls(**known | {
                "features": tuple(map(str, known["features"])), "version": int(known["version"]),
                "at_s": float(known["at_s"]), "entry": str(found.get("entry", "")),
            })
        except (KeyError, TypeError, ValueError) as error:
            raise errors.RequestError(
                f"this is no event of drift; one has the fields {', '.join(names)}: "
                f"{type(error).__name__}: {error}"
            ) from error
        for name, allowed in (("kind", Kind), ("state", State), ("source", Source)):
            if known[name] not in get_args(allowed):
                raise errors.RequestError(
                    f"{name} of an event of drift is {' or '.join(get_args(allowed))}, "
                    f"not {known[name]!r}"
                )
        if not math.isfinite(event.at_s) or not 0 <= event.at_s < LATEST_S:
            raise errors.RequestError(f"at_s of an event of drift is Unix time, not {event.at_s}")
        return event

    def alert(self) -> Alert:
        """What a webhook or a command is told of it."""
        return Alert(
            kind=AlertKind(self.kind), entry=self.place, model=self.model, version=self.version,
            state=self.state, features=self.features, reason=self.detail,
            next=NEXT[self.kind] if self.state == "opened" else "nothing: it is over",
            at=datetime.fromtimestamp(self.at_s, UTC).isoformat(timespec="milliseconds"),
        )
