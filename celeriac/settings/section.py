"""What all tables of ``celeriac.toml`` have in common."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """One table: frozen, and an unknown name in it is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)
