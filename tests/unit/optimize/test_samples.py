"""Which rows of a CSV file forms of a model are compared on."""

from __future__ import annotations

from pathlib import Path

from celeriac.registry.manifest import Column, InputSchema
from workers.cli.optimize import _from_csv


def test_a_row_may_lack_what_the_model_takes_null_for(tmp_path: Path) -> None:
    """A graph may answer such a row otherwise, as of a forest that was trained with them."""
    (tmp_path / "rows.csv").write_text(
        "area,rooms,plan,city,right\n"
        "1.5,2,pro,Oslo,yes\n"
        ",2,pro,Oslo,yes\n"
        "1.5,2,,Oslo,no\n"
        "1.5,,pro,Oslo,no\n"
        "1.5,2,pro,,no\n"
        "1.5,2,pro,Oslo,\n"
    )
    schema = InputSchema(kind="table", frame=True, columns=(
        Column(name="area"), Column(name="rooms", dtype="int"),
        Column(name="plan", dtype="text", nullable=True), Column(name="city", dtype="text"),
    ))
    items, labels = _from_csv(tmp_path / "rows.csv", schema, None, "right")
    whole = {"area": 1.5, "rooms": 2, "plan": "pro", "city": "Oslo"}
    assert items == [whole, {**whole, "area": None}, {**whole, "plan": None}]
    assert labels == ["yes", "yes", "no"]
