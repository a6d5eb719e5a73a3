"""From drift to a better version, and back: real weather, real workers, a training task of a user.

The task is the example of ``docs/drift.md``, run by a worker of its own.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import redis
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import LinearRegression

from celeriac import release
from celeriac.drift import feedback
from celeriac.drift.adaptation import Adaptation, Phase
from celeriac.drift.adaptation_log import AdaptationLog
from celeriac.drift.events import DriftEvent
from celeriac.drift.labels import Judged
from celeriac.messages import CONTRACT, DRIFT_ADAPT, MAINTENANCE_QUEUE
from celeriac.registry.aliases import CHALLENGER
from celeriac.registry.store import Registry
from celeriac.runtimes import LoadOptions
from celeriac.scoring import Scorer
from celeriac.settings import Settings, get_settings, load_settings
from demo.data import _pickled
from producer.broker import Broker
from producer.client import who
from tasks.drift_notices import announce
from tests.conftest import ROOT, Ran, Worker
from workers.child_settings import environment
from workers.valkey import EmbeddedServer

pytestmark = pytest.mark.uncounted

COLUMNS = ["month", "hour", "dewp", "humid", "wind_speed", "pressure", "visib"]
LABEL = "temp"
MODELS = {
    # name: (task, further lines of its policy)
    "temperatures": ("shop.retrain", "watch_s = 3600\nwatch_labels = 50"),
    "glimpse": ("shop.retrain", "approval = 'none'\nwatch_s = 3600\nwatch_labels = 50"),
    "unlabelled": ("shop.retrain", "approval = 'none'\nwatch_s = 1"),
    "worse": ("shop.worse", ""),
    "broken": ("shop.raises", ""),
    "dies": ("shop.dies", ""),
    "raises": ("shop.raises", ""),
    "hangs": ("shop.hangs", "retrain_timeout_s = 2"),
    "forgets": ("shop.forgets", ""),
    "unserved": ("shop.retrain", "retrain_timeout_s = 1"),
}


class Shop:
    """A registry, its data, and the workers that serve them."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder = folder
        weather = _pickled("nycflights13/weather").dropna(subset=[*COLUMNS, LABEL])
        self.weather = weather[weather["origin"] == "EWR"].sort_values("time_hour")
        self.config = self._configured(url)
        self.settings: Settings = load_settings(self.config, {})
        self.registry = Registry(self.settings.models.root)
        self.broker = Broker(self.settings)
        self._fill()
        self.started: list[Any] = []

    def _configured(self, url: str) -> Path:
        lines = [f"[broker]\nurl = '{url}'\n[models]\nroot = '{self.folder}/models'"]
        for name, (task, further) in MODELS.items():
            data = name if name in ("glimpse", "unlabelled") else "rows"
            queue = "nobody" if name == "unserved" else "training"
            lines.append(
                f"[drift.adapt.{name}]\nretrain = '{task}'\nqueue = '{queue}'\nlabel = '{LABEL}'\n"
                f"labelled = '{self.folder}/{data}*.parquet'\nheld_out_rows = 200\n{further}"
            )
        path = self.folder / "celeriac.toml"
        path.write_text("\n".join(lines))
        return path

    def _fill(self) -> None:
        known = self.weather[self.weather["month"] < 8][[*COLUMNS, LABEL]]
        known.to_parquet(self.folder / "rows.parquet", index=False)
        july = known[known["month"] == 7]
        for name in ("glimpse", "unlabelled"):
            july.to_parquet(self.folder / f"{name}.parquet", index=False)
        january = known[known["month"] == 1]
        boosted = HistGradientBoostingRegressor(max_iter=30, random_state=0)
        boosted.fit(january[COLUMNS], january[LABEL])
        linear = LinearRegression().fit(january[COLUMNS], january[LABEL])
        for name in MODELS:
            champion = boosted if MODELS[name][0] == "shop.retrain" else linear
            release.register(name, champion, registry=self.registry, examples=july[COLUMNS].head(9))
            self.registry.aliases(name).promote(1, expected=None, who="test", why="")

    def start(self) -> None:
        env = os.environ | environment(self.settings) | {
            "CELERIAC_CONFIG": str(self.config),
            "PYTHONPATH": os.pathsep.join([str(self.folder), str(Path(__file__).parent)]),
        }
        page = (ROOT / "docs" / "drift.md").read_text(encoding="utf-8")
        (code,) = re.findall(r"```python\n(# shop\.py.+?)```", page, re.DOTALL)
        (self.folder / "shop.py").write_text(code)
        os.environ["CELERIAC_CONFIG"] = str(self.config)
        self.started.append(
            Worker(self.settings, "maintenance", self.folder / "maintenance.log")
        )
        with (self.folder / "training.log").open("wb") as log:
            self.training = subprocess.Popen(
                [sys.executable, "-m", "celery", "-A", "training_hooks", "worker",
                 "-Q", "training", "-c", "1", "--without-mingle", "--without-gossip"],
                env=env, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        self.started[0].wait_ready()

    def stop(self) -> None:
        self.training.terminate()
        for worker in self.started:
            worker.stop()
        self.training.wait(20)
        self.broker.close()

    def drift(self, model: str, **fields: Any) -> None:
        """A monitor has found something."""
        announce(self.broker, DriftEvent(**{
            "kind": "data_drift", "state": "opened", "model": model, "version": 1,
            "source": "stream", "features": ("dewp",), "detail": "dewp has become larger",
            "at_s": time.time(), **fields,
        }))

    def steps(self, model: str) -> list[str]:
        return [line.what for line in AdaptationLog(self.registry.root, model).lines()]

    def state(self, model: str) -> Adaptation:
        return AdaptationLog(self.registry.root, model).read()[0]

    def until(self, model: str, what: Callable[[], Any], within_s: float = 60) -> None:
        """Looks of beat, until something is so."""
        deadline = time.monotonic() + within_s
        while not what():
            assert time.monotonic() < deadline, (
                self.steps(model), (self.folder / "maintenance.log").read_text()[-3_000:],
                (self.folder / "training.log").read_text()[-2_000:],
            )
            self.look(model)
            time.sleep(0.3)

    def look(self, model: str) -> None:
        self.broker.celery.send_task(
            DRIFT_ADAPT, kwargs={"model": model, "v": CONTRACT}, queue=MAINTENANCE_QUEUE, expires=5
        )

    def until_step(self, model: str, what: str) -> str:
        """Why the step was taken."""
        self.until(model, lambda: self.steps(model)[-1:] == [what])
        return AdaptationLog(self.registry.root, model).lines()[-1].why

    def answered(self, model: str, version: int, rows: pd.DataFrame) -> None:
        """A version answered these rows, and their truth has come."""
        scorer = Scorer.load(self.registry, model, version, LoadOptions.of(self.settings))
        found = scorer.score(rows[COLUMNS].to_dict("records"))
        for answer, truth in zip(found, rows[LABEL], strict=True):
            labelled = feedback.Labelled(
                model=model, version=version, made_s=time.time(), nonce=os.urandom(8),
                judged=Judged(absolute_error=abs(answer["value"] - truth)),
            )
            feedback.record(
                self.broker.redis, labelled, self.settings.feedback, now_s=time.time()
            )


@pytest.fixture(scope="module")
def shop(server: EmbeddedServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    client = redis.Redis.from_url(server.url)
    client.flushall()
    client.close()
    get_settings.cache_clear()
    made = Shop(tmp_path_factory.mktemp("shop"), server.url)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CELERIAC_CONFIG", str(made.config))
        made.start()
        yield made
        made.stop()
    get_settings.cache_clear()


@pytest.fixture
def said(
    shop: Shop, celeriac: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Ran]:
    """What ``celeriac drift`` says, in a narrow window."""
    monkeypatch.setenv("COLUMNS", "80")

    def run(*words: str) -> Ran:
        found = celeriac("drift", *words, env={"CELERIAC_CONFIG": str(shop.config)})
        assert max(map(len, found.stdout.splitlines()), default=0) <= 80
        return found

    return run


@pytest.mark.timeout(180)
def test_the_whole_loop_with_a_person_who_approves(
    shop: Shop, said: Callable[..., Ran]
) -> None:
    shop.drift("temperatures")
    why = shop.until_step("temperatures", "waiting_for_approval")
    assert re.search(r"temperatures@2: mean absolute error [\d.]+, the champion's [\d.]+", why)
    compared = shop.state("temperatures").compared
    assert compared is not None
    assert compared.champion.value > 3 * compared.challenger.value  # January knows no July
    aliases = shop.registry.aliases("temperatures")
    assert aliases.read() == {"champion": 1, CHALLENGER: 2}

    ran = said("approve", "temperatures@7")
    assert ran.returncode == 1
    assert "waits is temperatures@2, not temperatures@7" in ran.stderr
    shown = said("adaptation", "temperatures").stdout
    assert "temperatures: waiting for approval, until 2" in shown
    assert "  celeriac drift approve temperatures@2\n" in shown
    assert said("approve", "temperatures", "--why", "looked at it").returncode == 0
    shop.until_step("temperatures", "promoted")
    shop.until("temperatures", lambda: aliases.read() == {"champion": 2, "previous": 1})
    assert ("champion", who(), 2) in [(one.alias, one.who, one.to) for one in aliases.history()]
    assert shop.steps("temperatures") == [
        "retraining", "asked", "judging", "waiting_for_approval", "approved", "promoted",
    ]
    shop.answered("temperatures", 2, shop.weather[shop.weather["month"] == 8].iloc[:60])
    shop.look("temperatures")
    shop.drift("temperatures", version=2, kind="concept_drift")  # and its end is waited for
    shop.until("temperatures", lambda: shop.steps("temperatures")[-1] == "not_retrained")
    assert aliases.read()["champion"] == 2  # August is as good
    shown = said("adaptation", "temperatures").stdout
    assert f"approved  by {who()}\n    looked at it\n" in shown
    assert "temperatures  watching" in said("adaptation").stdout
    ran = said("reject", "temperatures")
    assert (ran.returncode, "it is watching" in ran.stderr) == (1, True)
    assert "no model named" in said("adaptation", "absent").stderr


@pytest.mark.timeout(180)
def test_a_version_that_does_worse_comes_back_by_itself(shop: Shop) -> None:
    """Trained on three weeks of July, which is all that the labelled rows are; then November."""
    shop.drift("glimpse")
    shop.until_step("glimpse", "promoted")
    assert shop.registry.aliases("glimpse").read()["champion"] == 2
    november = shop.weather[shop.weather["month"] == 11].iloc[:100]
    shop.answered("glimpse", 2, november.iloc[:40])
    shop.look("glimpse")  # too few labels to say anything
    shop.answered("glimpse", 2, november.iloc[40:])
    why = shop.until_step("glimpse", "rolled_back")
    assert re.match(r"to version 1: mean absolute error [\d.]+ on 100 rows; before: mean", why)
    assert shop.registry.aliases("glimpse").read() == {"champion": 1}
    moves = shop.registry.aliases("glimpse").history()
    assert [one.who for one in moves if "does worse" in one.why][:1] == ["celeriac"]

    shop.drift("glimpse")
    shop.until("glimpse", lambda: shop.steps("glimpse")[-1] == "not_retrained")
    assert "cools down" in AdaptationLog(shop.registry.root, "glimpse").lines()[-1].why


@pytest.mark.timeout(120)
def test_without_feedback_the_newest_rows_tell_at_the_end_of_the_window(shop: Shop) -> None:
    shop.drift("unlabelled")
    shop.until("unlabelled", lambda: "promoted" in shop.steps("unlabelled"))
    november = shop.weather[shop.weather["month"] == 11][[*COLUMNS, LABEL]]
    july = pd.read_parquet(shop.folder / "unlabelled.parquet")
    pd.concat([july, november]).to_parquet(shop.folder / "new.parquet", index=False)
    (shop.folder / "new.parquet").replace(shop.folder / "unlabelled.parquet")
    why = shop.until_step("unlabelled", "rolled_back")
    assert "fewer than 300 labels by feedback; on the newest rows mean absolute error" in why
    assert shop.registry.aliases("unlabelled").read() == {"champion": 1}


@pytest.mark.timeout(120)
def test_a_challenger_that_is_worse_is_refused(shop: Shop) -> None:
    shop.drift("worse")
    assert "not better by 0.01" in shop.until_step("worse", "refused")
    shop.until("worse", lambda: shop.registry.aliases("worse").read() == {"champion": 1})
    assert shop.state("worse").phase is Phase.COOLING


@pytest.mark.timeout(120)
@pytest.mark.parametrize(("model", "why"), [
    ("dies", "WorkerLostError"), ("raises", "ValueError: no rows for data_drift"),
    ("hangs", "has registered no challenger within 2 s"), ("forgets", "it returned 'done'"),
    ("unserved", "within 1 s; 1 messages wait on queue nobody: is its worker running?"),
])  # fmt: skip
def test_a_task_that_makes_no_challenger_is_told(shop: Shop, model: str, why: str) -> None:
    shop.drift(model)
    found = shop.until_step(model, "failed")
    assert why in found or (model == "hangs" and "TimeLimitExceeded" in found)
    assert shop.registry.aliases(model).read() == {"champion": 1}
    keys = shop.broker.redis.keys(f"celeriac:alert:adaptation:*:{model}:stream:failed")
    assert len(keys) == 1


@pytest.mark.timeout(60)
def test_broken_data_train_nothing(shop: Shop) -> None:
    shop.drift("broken", kind="data_quality", detail="dewp is null")
    shop.until("broken", lambda: shop.steps("broken") == ["not_retrained"])
    shop.drift("broken", kind="concept_drift")
    shop.until("broken", lambda: shop.steps("broken") == ["not_retrained"] * 2)
    lines = AdaptationLog(shop.registry.root, "broken").lines()
    assert "the data are broken (stream)" in lines[-1].why
    assert shop.state("broken").phase is Phase.IDLE
