"""``celeriac models`` as a user types it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis
import skops.io
from PIL import Image
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from celeriac import release
from celeriac.registry.catalogue import publish
from celeriac.registry.store import Registry
from celeriac.settings import Settings
from producer.broker import Broker
from tests.conftest import Ran
from workers.child_settings import environment

Run = Callable[..., Ran]


@pytest.fixture
def run(celeriac: Run, settings: Settings, tmp_path: Path) -> Run:
    env = environment(settings) | {"COLUMNS": "160"}

    def run(*words: str, code: int = 0) -> Ran:
        result = celeriac("models", *words, env=env, cwd=tmp_path)
        assert result.returncode == code, result.stdout + result.stderr
        return result

    return run


def test_register_promote_list_show_and_roll_back(
    run: Run, settings: Settings, tmp_path: Path, redis_client: redis.Redis,
    start_worker: Callable[..., Any],
) -> None:
    texts = ["good", "bad", "great", "awful"]
    model = make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(texts, list("abab"))
    skops.io.dump(model, tmp_path / "reviews.skops")
    (tmp_path / "reviews.csv").write_text("id,text\n" + "".join(f"1,{text}\n" for text in texts))
    done = run("register", "reviews", "reviews.skops", "--examples", "reviews.csv",
               "--metric", "accuracy=0.875",
               "--cache", "--max-batch-size", "64", "--max-wait-ms", "1.5")
    assert "reviews@1 is registered" in done.stdout
    release.register("reviews", "echo", examples=texts, metrics={"accuracy": 0.875},
                     registry=Registry(settings.models.root))
    refused = run("promote", "reviews@1", code=1)
    assert "no maintenance worker runs" in refused.stderr
    assert "--local" in refused.stderr

    start_worker("maintenance")
    first = run("promote", "reviews@1").stdout
    assert "reviews@1 is promoted" in first
    assert "no worker that could serve it is up" in first
    worker = start_worker("realtime.cpu")
    second = run("promote", "reviews@2").stdout
    assert "reviews@2 is promoted; before it: 1" in second
    assert "served by 1 of 1 workers after" in second
    assert "with the champion before" in second
    serves = run("status", "reviews").stdout.splitlines()
    assert serves[0] == "The champion is reviews@2."
    assert serves[2].split() == [worker.hostname, "realtime.cpu", "2"]
    measured = Registry(settings.models.root).aliases("reviews").history()[-2].metrics
    assert measured["batch_items"] == 32
    listed = run("list").stdout.splitlines()[1].split()
    assert listed[:5] == ["reviews", "2", "1,", "2", "anything"]
    assert listed[-2:] == ["accuracy", "0.875"]
    shown = run("show", "reviews@1").stdout
    assert "previous" in shown
    assert "sklearn, for cpu" in shown
    assert "answers are cached; batches of at most 64; a batch waits up to 1.5 ms" in shown
    assert "answers are not cached; batches as large as the settings allow" in (
        run("show", "reviews@2").stdout
    )
    back = run("rollback", "reviews").stdout
    assert "reviews@1 serves again, instead of 2" in back
    assert "served by 1 of 1 workers after" in back
    assert "has no version 9; it has: 1, 2" in run("promote", "reviews@9", code=1).stderr


def test_formats_and_local_promotion(run: Run, settings: Settings, tmp_path: Path) -> None:
    from safetensors.torch import save_model

    from celeriac.runtimes.architectures import DigitCNN

    save_model(DigitCNN(classes=3), str(tmp_path / "net.safetensors"))
    np.save(tmp_path / "images.npy", np.random.default_rng(1).random((4, 8, 8)))
    run("register", "digits", "net.safetensors", "--examples", "images.npy", "--labels", "0,1,2",
        "--architecture", "celeriac.runtimes.architectures:DigitCNN",
        "--arguments", json.dumps({"classes": 3}))
    assert "1 file verified, 4 golden examples" in run("check", "digits@1").stdout
    registry = Registry(settings.models.root)
    assert registry.get("digits", 1).output.labels == (0, 1, 2)
    (tmp_path / "pictures").mkdir()
    for number in range(3):
        picture = Image.fromarray(np.full((20, 20), 80 * number, np.uint8))
        picture.save(tmp_path / "pictures" / f"{number}.png")
    (tmp_path / "input.json").write_text(
        '{"kind": "image", "shape": [8, 8], "dtype": "float32", "pixels": {"mode": "L"}}'
    )
    run("register", "pictures", "net.safetensors", "--examples", "pictures", "--labels", "0,1,2",
        "--input", "input.json", "--architecture", "celeriac.runtimes.architectures:DigitCNN",
        "--arguments", json.dumps({"classes": 3}))
    assert "1 file verified, 3 golden examples" in run("check", "pictures@1").stdout
    run("register", "first", "--format", "echo")
    assert "first@1 is promoted" in run("promote", "first@1", "--local").stdout
    assert "serves already" in run("promote", "first@1", "--local").stdout
    assert registry.aliases("first").history()[0].who


def test_bad_input_gets_one_clear_line(run: Run, tmp_path: Path) -> None:
    (tmp_path / "model.pkl").write_bytes(b"\x80\x04.")
    (tmp_path / "net.safetensors").write_bytes(b"")
    (tmp_path / "empty").mkdir()
    (tmp_path / "evil.npy").write_bytes(b"\x80\x04N.")
    (tmp_path / "torn.csv").write_bytes(b"\x90\xff\n")
    (tmp_path / "schema.json").write_text('{"kind": "image", "shape": [8]}')
    for words, says in (
        (["register", "m", "model.pkl"], "are for `celeriac models import`"),
        (["register", "m", "nothing.skops"], "no such file"),
        (["register", "m", "empty"], "holds 0 model files"),
        (["register", "m", "net.safetensors"], "--architecture"),
        (["register", "Bad Name", "--format", "echo"], "is not a model name"),
        (["register", "m", "--format", "echo", "--metric", "accuracy"], "NAME=NUMBER"),
        (["register", "m", "--format", "echo", "--metric", "accuracy=nan"], "a finite one"),
        (["register", "m", "--format", "echo", "--description", "x" * 10_001], "at most 10,000"),
        (["register", "m", "--format", "echo", "--examples", "empty"], "holds no image"),
        (["register", "m", "--format", "echo", "--examples", "evil.npy"], "of plain numbers"),
        (["register", "m", "--format", "echo", "--examples", "torn.csv"], "cannot be read: 'u"),
        (["register", "m", "--format", "echo", "--input", "schema.json"], "the shape of an image"),
        (["promote", "m@1", "--local"], "no model named 'm'"),
    ):
        result = run(*words, code=1)
        assert says in result.stderr
        assert "Traceback" not in result.stderr


def test_the_list_without_models_and_without_redis(
    run: Run, settings: Settings, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "No model is registered" in run("list").stdout
    with_one = Registry(settings.models.root)
    run("register", "echo", "--format", "echo")
    publish(Broker(settings).redis, with_one.infos())
    assert run("list").stdout.splitlines()[1].split()[:3] == ["echo", "-", "1"]
    assert "echo@1" in run("show", "echo").stdout
    assert "no model named 'tea'" in run("show", "tea", code=1).stderr
