"""What a policy means to the versions that answer."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from celeriac import errors
from celeriac.applications.moderation.audit import Human, Record
from celeriac.applications.moderation.decision import Post, ask, digests_of, verdict_of
from celeriac.applications.moderation.policy import Policy
from celeriac.applications.moderation.reviews import Review
from celeriac.messages import Prediction
from celeriac.registry.catalogue import ModelInfo, VersionInfo
from celeriac.registry.manifest import InputSchema, OutputSchema
from celeriac.settings import ModerationSettings, Settings
from producer.applications.moderation import moderator
from producer.applications.moderation.asking import Case
from producer.applications.moderation.decisions import Explanation
from producer.applications.moderation.desk import Desk
from producer.cli import moderation as command

POLICY = Policy.model_validate({"name": "house", "version": 1, "texts": {
    "toxicity": {"model": "words", "label": "bad", "review": 0.5, "block": 0.9},
}})


def version(number: int, *labels: str) -> VersionInfo:
    return VersionInfo(
        version=number, format="sklearn", device="cpu", input=InputSchema(kind="text"),
        output=OutputSchema(kind="classifier", labels=labels, probabilities=True),
        created_at="2026-11-25T09:00:00+00:00",
    )


def test_a_canary_of_other_labels_lets_nothing_pass(tmp_path: Path) -> None:
    """Its ``toxic`` would else be the rest of ``bad``: next to nothing."""
    broker: Any = SimpleNamespace(
        settings=Settings(moderation=ModerationSettings(folder=tmp_path))
    )
    routes: Any = None
    desk = Desk(broker, routes, POLICY, "default")
    models = {"words": ModelInfo(name="words", aliases={"champion": 1}, versions={
        1: version(1, "good", "bad"), 2: version(2, "fine", "toxic"),
    })}
    asked = [ask(Post(text="hello"), POLICY)]
    champion = [Prediction(model="words", version=1, label="bad", probability=0.9)]
    canary = [Prediction(model="words", version=2, label="toxic", probability=0.99)]
    assert desk.must_check(asked, champion, POLICY)
    desk.check(models, POLICY, asked, champion)
    assert not desk.must_check(asked, champion, POLICY)
    for _ in range(2):
        assert desk.must_check(asked, canary, POLICY)
        with pytest.raises(errors.ConfigError, match="words has no label 'bad'"):
            desk.check(models, POLICY, asked, canary)


@pytest.mark.parametrize(("text", "aside"), [("hello", False), ("hello " * 5_000, True)])
def test_long_texts_do_not_hold_up_an_event_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, aside: bool
) -> None:
    looked: list[int] = []

    def look(posts: Any, _: Policy) -> list[Any]:
        looked.append(threading.get_ident())
        return [errors.RequestError("no") for _ in posts]

    monkeypatch.setattr(moderator, "ask_each", look)
    settings = Settings(moderation=ModerationSettings(folder=tmp_path))
    client: Any = SimpleNamespace(broker=SimpleNamespace(settings=settings), routes=None)
    asked = moderator.AsyncModerator(client, POLICY)
    (found,) = asyncio.run(asked.moderate_many([text], return_errors=True))
    assert isinstance(found, errors.RequestError)
    assert (looked != [threading.get_ident()]) == aside
    asked.close()


def test_what_a_caller_has_named_steers_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not that of who reviews: names and notes come from outside."""
    evil = "x\x1b]0;y\x07\nallow"
    record = Record(
        id="20261125-0123456789ab-7", at="2026-11-25", decision="review", reasons=(), scores=(),
        policy="house@1", policy_digest="x", digests={}, post=evil,
    )
    human = Human(id=record.id, at="2026-11-26", reviewed="allow", by=evil, note=evil)

    @contextmanager
    def fake(_: Any) -> Iterator[Any]:
        yield SimpleNamespace(
            explain=lambda _: Explanation(record, [human], None), count_reviews=lambda: 1,
            reviews=lambda _: [Review(id=record.id, at_ms=0, record=record)],
        )

    monkeypatch.setattr(command, "_moderator", fake)
    for words in (["explain", record.id], ["reviews"]):
        found = CliRunner().invoke(command.app, words)
        assert found.exit_code == 0
        assert "\x1b" not in found.stdout
        assert "\nallow" not in found.stdout


def test_with_a_key_records_hold_no_plain_digest(tmp_path: Path) -> None:
    def recorded(key: str) -> dict[str, str]:
        settings = Settings(moderation=ModerationSettings(folder=tmp_path, digest_key=key))
        broker: Any = SimpleNamespace(settings=settings)
        routes: Any = None
        desk = Desk(broker, routes, POLICY, "default")
        post = Post(text="hello")
        asked = ask(post, POLICY)
        case = Case(0, post, asked, [], verdict_of([], (), POLICY))
        (record,) = desk.record(desk.entries([case], POLICY))
        desk.close()
        return record.digests

    assert recorded("") == digests_of(Post(text="hello"))
    assert recorded("secret") == digests_of(Post(text="hello"), b"secret")
