"""Champion and challenger on the same rows, whichever of them they can answer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pytest
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import LinearRegression

from celeriac import errors, release
from celeriac.drift.adaptation import Compared
from celeriac.registry.store import Registry
from celeriac.release import judging
from celeriac.runtimes import LoadOptions
from celeriac.settings.adapt import AdaptSettings

ROWS, NULLS = 200, 40


class Shop:
    """Version 1 answers rows without values, too; version 2 does not, and is better otherwise."""

    def __init__(self, root: Path) -> None:
        self.registry = Registry(root / "models")
        rows = pd.DataFrame({"a": np.random.default_rng(0).normal(size=ROWS)})
        truth = 3 * rows["a"]
        for model in (HistGradientBoostingRegressor(max_iter=3), LinearRegression()):
            release.register("m", model.fit(rows, truth), registry=self.registry,
                             examples=rows.head(9))
        rows.loc[rows.index[:NULLS], "a"] = np.nan
        self.data = root / "rows.parquet"
        rows.assign(y=truth).to_parquet(self.data)

    def compare(self, champion: int, challenger: int) -> Compared:
        rule = AdaptSettings(
            retrain="shop.retrain", queue="training", labelled=str(self.data), label="y",
            held_out_rows=ROWS,
        )
        wanted: dict[str, Any] = {
            "options": asdict(LoadOptions()), "champion": champion, "challenger": challenger,
            "rule": rule.model_dump(mode="json"),
        }
        found: Iterator[dict[str, Any]] = judging._compare(self.registry, "m", wanted)
        return msgspec.convert(next(found)["compared"], Compared)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    return Shop(tmp_path_factory.mktemp("shop"))


def test_both_are_judged_on_the_rows_that_both_answer(shop: Shop) -> None:
    compared = shop.compare(champion=2, challenger=1)
    assert compared.champion.rows == compared.challenger.rows == ROWS - NULLS
    assert compared.champion.value < compared.challenger.value


def test_a_challenger_that_leaves_rows_unanswered_is_refused(shop: Shop) -> None:
    said = rf"m@2 has no answer to {NULLS} of the newest {ROWS} rows that m@1 answers"
    with pytest.raises(errors.PromotionRefused, match=said):
        shop.compare(champion=1, challenger=2)
