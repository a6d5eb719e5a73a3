"""``celeriac drift`` as a user calls it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from typer.testing import CliRunner

from celeriac import errors, release
from celeriac.drift.records import DriftReport, schema
from celeriac.registry.store import Registry
from celeriac.settings import DriftSettings, ModelsSettings, Settings
from celeriac.settings.adapt import AdaptSettings
from producer.cli.main import build
from workers.cli import adaptation, drift


def rows(count: int, mean: float = 0.0, seed: int = 1) -> pd.DataFrame:
    """The same each time: of rows that are drawn anew, one set in a hundred may seem to drift."""
    chance = np.random.default_rng(seed)
    return pd.DataFrame({"a": chance.normal(mean, 1, count), "b": chance.normal(size=count)})


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    found = Registry(tmp_path_factory.mktemp("models"))
    known = rows(1_000, seed=0)
    model = LogisticRegression().fit(known, known["a"] > 0)
    release.register(
        "m", model, registry=found, examples=known.head(9), reference=known,
        reference_labels=(known["a"] > 0).tolist(),
    )
    same = known.set_axis(["prediction", "b"], axis=1)
    release.register(
        "same", LogisticRegression().fit(same, known["a"] > 0), registry=found,
        examples=same.head(9), reference=same,
    )
    release.register("bare", model, registry=found, examples=known.head(9))
    for name in ("m", "same", "bare"):
        found.aliases(name).promote(1, expected=None, who="test", why="")
    return found


@pytest.fixture
def run(registry: Registry, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):  # type: ignore[no-untyped-def]
    settings = Settings(models=ModelsSettings(root=registry.root))
    monkeypatch.setattr(drift, "get_settings", lambda: settings)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(tmp_path)

    def call(*words: str):  # type: ignore[no-untyped-def]
        found = CliRunner().invoke(build(), ["drift", *words])
        if found.exception and not isinstance(found.exception, SystemExit):
            raise found.exception
        lines = [line for line in found.stdout.splitlines() if str(tmp_path) not in line]
        assert words == ("schema",) or max(map(len, lines)) <= 80  # paths stay whole
        return found

    return call


def test_a_dataset_that_has_drifted(run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    now = rows(2_000, mean=1)
    now.assign(truth=now["a"] > 0, note="x").to_csv(tmp_path / "now.csv", index=False)
    found = run("check", "m", "now.csv", "--label", "truth")
    assert found.exit_code == 3
    assert "the answers have not become worse" in found.stdout
    assert "a: has become larger" in found.stdout
    report = DriftReport.load((tmp_path / "drift" / "drift.json").read_bytes())
    assert report.drifted[0] == "a"
    assert (report.rows, report.quality is not None) == (2_000, True)
    assert b"AUC" in (tmp_path / "drift" / "drift.html").read_bytes()
    assert run("show", "drift/drift.json").stdout.startswith("m@1  drift")


@pytest.mark.parametrize("name", ["now.parquet", "now.jsonl", "now.csv.gz"])
def test_a_dataset_that_has_not(run, tmp_path: Path, name: str) -> None:  # type: ignore[no-untyped-def]
    now = rows(3_000)
    if name.endswith("parquet"):
        now.to_parquet(tmp_path / name)
    elif name.endswith("jsonl"):
        now.to_json(tmp_path / name, orient="records", lines=True)
    else:
        now.to_csv(tmp_path / name, index=False)
    found = run("check", "m@1", name, "--rows", "1000", "--output", "out")
    assert found.exit_code == 0
    assert "1,000 of 3,000 rows" in found.stdout
    assert json.loads((tmp_path / "out" / "drift.json").read_bytes())["state"] == "stable"


def test_broken_columns_are_findings(run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    rows(500)[["b"]].assign(b="n/a").to_csv(tmp_path / "now.csv", index=False)
    found = run("check", "m", "now.csv")
    assert found.exit_code == 3
    assert "a: is missing" in found.stdout
    assert "b: has changed its type" in found.stdout
    assert "cannot be answered" in found.stdout


@pytest.mark.parametrize("answers", ["--answers", "--no-answers"])
def test_an_input_with_the_name_of_an_answer(run, tmp_path: Path, answers: str) -> None:  # type: ignore[no-untyped-def]
    rows(1_000).set_axis(["prediction", "b"], axis=1).to_csv(tmp_path / "now.csv", index=False)
    found = run("check", "same", "now.csv", answers)
    assert (found.exit_code, "input.prediction" in found.stdout) == (0, True)


def test_a_version_without_a_profile(run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    rows(500).to_csv(tmp_path / "now.csv", index=False)
    found = run("check", "bare", "now.csv")
    assert found.exit_code == 0
    assert "registered without a reference" in found.stdout
    assert "registered without a reference" in run("show", "bare").stdout


def test_what_a_version_is_compared_with(run) -> None:  # type: ignore[no-untyped-def]
    found = run("show", "m").stdout
    assert "1,000 rows of its reference" in found
    assert "AUC 1.000 on 1,000 labelled rows" in found
    assert "probability" in found


def test_clear_errors(run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    pd.DataFrame({"other": [1]}).to_csv(tmp_path / "other.csv", index=False)
    for words, said in (
        (("check", "m", "missing.csv"), "missing.csv"),
        (("check", "m", "other.csv"), "none of the columns"),
        (("check", "m", "other.csv", "--label", "truth"), "lacks 'truth'"),
        (("check", "nobody", "other.csv"), "no model named"),
        (("show", "missing.json"), "cannot be read"),
    ):
        with pytest.raises(errors.CeleriacError, match=said):
            run(*words)


def test_a_policy_of_a_model_that_is_not_there_hides_no_other(  # type: ignore[no-untyped-def]
    run, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    rule = AdaptSettings(retrain="shop.retrain", queue="training", labelled="rows", label="y")
    settings = Settings(
        models=ModelsSettings(root=registry.root), drift=DriftSettings(adapt={"m": rule, "n": rule})
    )
    monkeypatch.setattr(adaptation, "get_settings", lambda: settings)
    found = run("adaptation")
    assert found.exit_code == 0
    assert [line.split()[:4] for line in found.stdout.splitlines()[1:]] == [
        ["m", "idle", "-", "-"], ["n", "no", "such", "model"],
    ]


def test_the_schema_describes_a_report(run) -> None:  # type: ignore[no-untyped-def]
    found = json.loads(run("schema").stdout)
    assert found == json.loads(json.dumps(schema()))
    assert "DriftReport" in found["$defs"]
