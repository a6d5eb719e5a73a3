"""What answers decide: a table of posts, answers and verdicts."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from celeriac import errors
from celeriac.applications.moderation.decision import (
    Post,
    Verdict,
    ask,
    check_labels,
    decide,
    digests_of,
)
from celeriac.applications.moderation.policy import Policy
from celeriac.messages import Prediction

CAT, KNOWN_BAD, KNOWN_GOOD = b"a cat", b"known as bad", b"known as good"
POLICY = Policy.model_validate({
    "name": "house", "version": 2, "piece_chars": 40,
    "texts": {
        "toxicity": {"model": "words", "label": "bad", "review": 0.5, "block": 0.9},
        "insult": {"model": "words", "label": "bad", "review": 0.8, "block": 1.5},
    },
    "images": {"nudity": {"model": "pictures", "label": "unsafe", "review": 0.3, "block": 0.8}},
    "lists": {
        "allow": ["Moby Dick"], "block": ["buy followers"],
        "allow_images": [hashlib.sha256(KNOWN_GOOD).hexdigest()],
        "block_images": [hashlib.sha256(KNOWN_BAD).hexdigest()],
    },
})


def changed(**values: Any) -> Policy:
    return Policy.model_validate({**POLICY.model_dump(), **values})


def answer(label: Any, probability: float) -> Prediction:
    model = "words" if label in ("bad", "good") else "pictures"
    return Prediction(model=model, version=4, label=label, probability=probability)


def decided(post: Post, *outcomes: Prediction | errors.CeleriacError) -> Verdict:
    return decide(ask(post, POLICY), outcomes, POLICY)


@pytest.mark.parametrize(
    ("bad", "decision"), [(0.1, "allow"), (0.5, "review"), (0.85, "review"), (0.95, "block")]
)
def test_a_text_by_its_score(bad: float, decision: str) -> None:
    for outcome in (answer("bad", bad), answer("good", 1 - bad)):
        verdict = decided(Post(text="hello"), outcome)
        assert verdict.decision == decision
        assert verdict.policy == "house@2"
        assert [score.score for score in verdict.scores] == pytest.approx([bad, bad])
        assert {score.model for score in verdict.scores} == {"words@4"}


def test_reasons_name_category_threshold_and_version() -> None:
    (first, second) = decided(Post(text="hello"), answer("bad", 0.95)).reasons
    assert (first.kind, first.action, first.category) == ("score", "block", "toxicity")
    assert (first.threshold, first.model, first.part) == (0.9, "words@4", "text")
    assert (second.action, second.category, second.threshold) == ("review", "insult", 0.8)


def test_two_categories_of_one_model_ask_once() -> None:
    assert [question.model for question in ask(Post(text="hello"), POLICY).questions] == ["words"]


def test_a_post_is_decided_as_one() -> None:
    post = Post(text="hello", images=(CAT, CAT))
    assert [question.part for question in ask(post, POLICY).questions] == [
        "text", "images[0]", "images[1]",
    ]
    verdict = decided(post, answer("good", 0.9), answer("safe", 0.95), answer("unsafe", 0.85))
    assert verdict.decision == "block"
    assert [(reason.part, reason.category) for reason in verdict.reasons] == [
        ("images[1]", "nudity")
    ]
    assert len(verdict.scores) == 4


def test_the_worst_piece_of_a_long_text_counts() -> None:
    text = "a very long text about nothing at all " * 3
    asked = ask(Post(text=text), POLICY)
    assert len(asked.questions) > 2
    outcomes = [answer("bad", 0.95 if number == 1 else 0.01) for number, _ in
                enumerate(asked.questions)]
    assert decide(asked, outcomes, POLICY).decision == "block"


def test_a_disguised_text_is_asked_twice() -> None:
    asked = ask(Post(text="you 1d10t"), POLICY)
    assert [question.item for question in asked.questions] == ["you 1d10t", "you idiot"]
    verdict = decide(asked, [answer("bad", 0.1), answer("bad", 0.97)], POLICY)
    assert verdict.decision == "block"


@pytest.mark.parametrize("text", ["BUY followers!", "b.u.y f0llowers", "b\u200buy f\u043ellowers"])
def test_a_phrase_blocks_however_it_is_written(text: str) -> None:
    asked = ask(Post(text=text), POLICY)
    verdict = decide(asked, [answer("good", 0.99)] * len(asked.questions), POLICY)
    assert verdict.decision == "block"
    assert verdict.reasons[0].kind == "block_list"
    assert verdict.reasons[0].told == "buy followers"


def test_allowed_phrases_are_not_judged() -> None:
    assert ask(Post(text="I read Moby Dick"), POLICY).questions[0].item == "I read "
    verdict = decided(Post(text="Moby Dick"))
    assert (verdict.decision, verdict.reasons[0].kind) == ("allow", "empty")


@pytest.mark.parametrize("text", ["", "  \n\t", "\u200b\u200d"])
def test_an_empty_text_is_allowed_unasked(text: str) -> None:
    verdict = decided(Post(text=text))
    assert (verdict.decision, verdict.reasons[0].kind) == ("allow", "empty")


def test_known_files_need_no_model() -> None:
    assert ask(Post(images=(KNOWN_GOOD,)), POLICY).questions == []
    verdict = decided(Post(images=(KNOWN_BAD,)), answer("safe", 0.99))
    assert (verdict.decision, verdict.reasons[0].kind) == ("block", "block_list")


def test_what_cannot_be_read_is_what_the_policy_says() -> None:
    broken = errors.InvalidItem("these 5 bytes are no image")
    verdict = decided(Post(images=(CAT,)), broken)
    assert (verdict.decision, verdict.reasons[0].kind) == ("review", "unreadable")
    assert verdict.reasons[0].told == "these 5 bytes are no image"
    strict = changed(unreadable="block")
    assert decide(ask(Post(images=(CAT,)), strict), [broken], strict).decision == "block"


@pytest.mark.parametrize("error", [errors.Overloaded(), errors.DeadlineExceeded()])
def test_no_answer_is_no_decision(error: errors.CeleriacError) -> None:
    with pytest.raises(type(error)):
        decided(Post(text="hello"), error)


@pytest.mark.parametrize("error", [errors.ModelFailed(), errors.ResourceExhausted()])
def test_what_a_model_fails_on_never_passes(error: errors.ItemError) -> None:
    mild = changed(unreadable="allow")
    for outcome, decision in ((error, "review"), (errors.InvalidItem("damaged"), "allow")):
        assert decide(ask(Post(images=(CAT,)), mild), [outcome], mild).decision == decision


def test_a_failure_tells_nothing_of_the_text() -> None:
    error = errors.ModelFailed("ValueError: could not convert string: 'my secret'")
    (reason,) = decided(Post(text="my secret"), error).reasons
    assert (reason.kind, reason.told) == ("unreadable", "model_failed")


def test_posts_that_cannot_be_decided() -> None:
    anything: Any = float("nan")
    for post, kind in (
        (Post(text=anything), errors.RequestError),
        (Post(images=("cat.png",)), errors.RequestError),  # type: ignore[arg-type]
        (Post(text="lone \ud800"), errors.RequestError),
        (Post(text="a", id="\ud800"), errors.RequestError),
        (Post(text="\ufdfa" * 200_000), errors.PayloadTooLarge),  # 18 characters each
        (Post(), errors.RequestError),
        (Post(text="a" * 1_000_001), errors.PayloadTooLarge),
        (Post(images=(CAT,) * 17), errors.PayloadTooLarge),
        (Post(text="a", id="x" * 201), errors.RequestError),
    ):
        with pytest.raises(kind):
            ask(post, POLICY)


def test_labels_are_checked() -> None:
    check_labels(POLICY, {"words": ("good", "bad"), "pictures": ("safe", "unsafe")})
    with pytest.raises(errors.ConfigError, match=r"'nudity': pictures has no label 'unsafe'"):
        check_labels(POLICY, {"pictures": ("safe", "nsfw")})
    nudity = {**POLICY.images["nudity"].model_dump(), "label": None}
    plain = changed(texts={}, images={"nudity": nudity})
    with pytest.raises(errors.ConfigError, match="say which one is meant"):
        check_labels(plain, {"pictures": ("safe", "unsafe")})
    check_labels(plain, {"pictures": ()})


def test_a_model_may_answer_with_the_score() -> None:
    policy = changed(texts={"toxicity": {**POLICY.texts["toxicity"].model_dump(), "label": None}})
    asked = ask(Post(text="hello"), policy)
    for value, decision in ((0.2, "allow"), (0.6, "review"), (7.0, "block")):
        outcome = Prediction(model="words", version=1, value=value)
        assert decide(asked, [outcome], policy).decision == decision
    with pytest.raises(errors.ConfigError):
        decide(asked, [answer("bad", 0.9)], policy)


def test_digests_say_nothing_of_the_content() -> None:
    post = Post(text="hello", images=(CAT,))
    plain, keyed = digests_of(post), digests_of(post, b"secret")
    assert plain["text"] == hashlib.sha256(b"hello").hexdigest()
    assert keyed.keys() == plain.keys() == {"text", "images[0]"}
    assert keyed["text"] != plain["text"]
    assert keyed == digests_of(post, b"secret") != digests_of(post, b"other")


def test_what_no_category_is_about_is_not_allowed_unasked() -> None:
    texts, images = changed(images={}), changed(texts={})
    post = Post(text="hello", images=(CAT, KNOWN_GOOD))
    verdict = decide(ask(post, texts), [answer("good", 0.99)], texts)
    assert verdict.decision == "review"
    assert [(one.kind, one.part) for one in verdict.reasons] == [("unjudged", "images[0]")]
    verdict = decide(ask(post, images), [answer("safe", 0.99)], images)
    assert [(one.kind, one.part) for one in verdict.reasons] == [("unjudged", "text")]
    empty = Post(text=" ", images=(KNOWN_GOOD,))
    assert decide(ask(empty, images), [], images).decision == "allow"
    told = changed(images={}, unjudged="allow")
    assert decide(ask(post, told), [answer("good", 0.99)], told).decision == "allow"
