"""The review queue in a real Redis: bounded, expiring, decided once."""

from __future__ import annotations

import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import redis

from celeriac import errors
from celeriac.applications.moderation import reviews as review_queue
from celeriac.applications.moderation.audit import Record
from celeriac.applications.moderation.decision import PartScore, Post, Reason
from celeriac.applications.moderation.labels import write_labels
from celeriac.applications.moderation.reviews import MOST_TEXT, Label, ReviewQueue
from producer.applications.moderation.truth import belongs

SCORES = (
    PartScore(part="text", category="toxicity", score=0.7, model="profanity@1"),
    PartScore(part="images[0]", category="nudity", score=0.4, model="image-safety@1"),
    PartScore(part="images[1]", category="nudity", score=0.1, model="image-safety@1"),
)


def record(number: int, tenant: str = "default") -> Record:
    return Record(
        id=f"20261125-0123456789ab-{number}", at="2026-11-25T09:00:00+00:00", decision="review",
        reasons=(Reason(kind="score", action="review"),), scores=SCORES, policy="house@1",
        policy_digest="0", digests={}, post=f"post-{number}", tenant=tenant,
    )


def queue(client: redis.Redis, **changes: Any) -> ReviewQueue:
    return ReviewQueue(client, **{"most_open": 3, "review_s": 60, "label_s": 60, **changes})


def label(reviews: ReviewQueue, number: int, by: str = "anna", **changes: Any) -> Label:
    one = reviews.review(record(number).id)
    return Label(**{
        "id": one.id, "at_ms": int(time.time() * 1000), "decision": "allow", "by": by,
        "review": one, **changes,
    })


def test_what_is_sent_again_since_its_answer_was_lost_is_done(redis_client: redis.Redis) -> None:
    """As the connection does by itself. It is nobody else's decision, and takes no second place."""
    reviews = queue(redis_client, most_open=1)
    for _ in range(2):
        assert reviews.enter(record(1), Post(text="text 1"))
    one = label(reviews, 1)
    for _ in range(2):
        reviews.decide(one)
    assert [found.by for found in reviews.labels()] == ["anna"]
    assert reviews.count() == 0
    with pytest.raises(errors.Conflict, match="by anna"):
        reviews.decide(Label(**{name: getattr(one, name) for name in one.__struct_fields__}
                             | {"by": "bob"}))


def test_what_is_entered_is_listed_and_decided(redis_client: redis.Redis) -> None:
    reviews = queue(redis_client)
    for number in (1, 2):
        assert reviews.enter(record(number), Post(text=f"text {number}"), {"text toxicity": "p"})
    assert [(one.text, one.cut) for one in reviews.open()] == [("text 1", False), ("text 2", False)]
    assert len(reviews.open(most=1)) == 1
    reviews.decide(label(reviews, 1, note="a quotation"))
    assert [one.text for one in reviews.open()] == ["text 2"]
    (found,) = reviews.labels()
    assert (found.decision, found.by, found.review.text) == ("allow", "anna", "text 1")
    assert reviews.count() == 1


def test_labels_are_written_some_at_a_time(
    redis_client: redis.Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reviews = queue(redis_client, most_open=10)
    for number in range(7):
        reviews.enter(record(number), Post(text=f"text {number}"))
        reviews.decide(label(reviews, number))
    monkeypatch.setattr(review_queue, "BLOCK", 3)
    assert [len(block) for block in reviews.labels_by_block()] == [3, 3, 1]
    for suffix in (".csv", ".jsonl", ".parquet"):
        path = tmp_path / f"labels{suffix}"
        assert write_labels(path, reviews.labels_by_block()) == 7
        frame = {
            ".csv": pd.read_csv, ".parquet": pd.read_parquet,
            ".jsonl": partial(pd.read_json, lines=True),
        }[suffix](path)
        assert frame["text"].tolist() == [f"text {number}" for number in range(7)]


def test_the_first_decision_stays(redis_client: redis.Redis) -> None:
    reviews = queue(redis_client)
    reviews.enter(record(1), Post(text="text"))
    labels = [label(reviews, 1, by=name) for name in ("anna", "berta", "carla", "dora")]
    outcomes: list[str] = []

    def decide(one: Label) -> None:
        try:
            queue(redis_client).decide(one)
            outcomes.append("done")
        except errors.Conflict as error:
            outcomes.append(error.message)

    threads = [threading.Thread(target=decide, args=(one,)) for one in labels]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert sorted(outcomes)[-1] == "done"
    assert outcomes.count("done") == 1
    winner = reviews.labels()[0].by
    assert all(f"by {winner}" in told for told in outcomes if told != "done")
    with pytest.raises(errors.Conflict):
        reviews.review(record(1).id)


def test_a_full_queue_says_so(redis_client: redis.Redis) -> None:
    reviews = queue(redis_client)
    assert [reviews.enter(record(number), Post(text="a")) for number in range(5)] == [
        True, True, True, False, False,
    ]
    other = queue(redis_client, tenant="other")
    assert other.enter(record(9, "other"), Post(text="a"))
    reviews.decide(label(reviews, 0))
    assert reviews.enter(record(5), Post(text="a"))
    with pytest.raises(errors.PredictionNotFound):
        other.review(record(1).id)


def test_nothing_stays_for_ever(redis_client: redis.Redis) -> None:
    reviews = queue(redis_client, review_s=1, label_s=1)
    reviews.enter(record(1), Post(text="a"))
    reviews.enter(record(2), Post(text="a"))
    reviews.decide(label(reviews, 1))
    names = redis_client.keys("celeriac:moderation:*")
    assert len(names) == 4
    assert all(redis_client.pttl(name) > 0 for name in names)
    deadline = time.monotonic() + 20
    while redis_client.keys("celeriac:moderation:*") and time.monotonic() < deadline:
        time.sleep(0.05)
    assert redis_client.keys("celeriac:moderation:*") == []
    assert (reviews.open(), reviews.labels()) == ([], [])
    with pytest.raises(errors.PredictionNotFound, match="has expired"):
        reviews.review(record(2).id)


def test_long_texts_are_cut_and_images_not_kept(redis_client: redis.Redis) -> None:
    reviews = queue(redis_client)
    reviews.enter(record(1), Post(text="x" * (MOST_TEXT + 1), images=(b"secret picture",)))
    (found,) = reviews.open()
    assert (len(found.text or ""), found.cut) == (MOST_TEXT, True)
    stored = b"".join(
        redis_client.get(name) or b"" for name in redis_client.keys("celeriac:moderation:review:*")
    )
    assert stored
    assert b"secret picture" not in stored


@pytest.mark.parametrize(
    ("decision", "categories", "sure"),
    [
        ("allow", (), {"text toxicity": False, "images[0] nudity": False,
                       "images[1] nudity": False}),
        ("block", (), {}),
        ("block", ("toxicity",), {"text toxicity": True, "images[0] nudity": False,
                                  "images[1] nudity": False}),
        ("block", ("nudity",), {"text toxicity": False}),  # of two pictures: which?
    ],
)
def test_what_is_sure_by_a_label(
    redis_client: redis.Redis, decision: str, categories: tuple[str, ...], sure: dict[str, bool]
) -> None:
    reviews = queue(redis_client)
    ids = {f"{score.part} {score.category}": "an id" for score in SCORES}
    reviews.enter(record(1), Post(text="a"), ids)
    assert belongs(label(reviews, 1, decision=decision, categories=categories)) == sure
