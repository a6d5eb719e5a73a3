"""What a post is asked, and what the answers decide: pure, so it can be replayed.

A post is decided as one: the worst of its parts counts, and everything else is told, too.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterator, Mapping, Sequence
from types import NoneType
from typing import Any, Literal, NamedTuple

import msgspec

from celeriac import errors
from celeriac.applications.moderation.policy import Action, Category, Policy
from celeriac.applications.moderation.reading import pieces, read
from celeriac.messages import Prediction

MOST_CHARS = 1_000_000
"""Of one text ..."""
MOST_READ_CHARS = 2 * MOST_CHARS
"""... and of what it says: one sign of Unicode may stand for 18 others."""
MOST_IMAGES = 16
"""Of one post."""

Kind = Literal["score", "block_list", "unreadable", "unjudged", "empty"]
_ORDER: dict[Action, int] = {"allow": 0, "review": 1, "block": 2}


class Post(msgspec.Struct, frozen=True, kw_only=True):
    """What a user wants to publish."""

    text: str | None = None
    images: tuple[bytes, ...] = ()
    """Files: PNG, JPEG, WEBP or GIF."""
    id: str = ""
    """The caller's own name of it, for records and reviews: no content."""


class Question(NamedTuple):
    """One item for one model."""

    model: str
    item: Any
    part: str
    """``text`` or ``images[N]``."""


class Reason(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Why a post is not simply allowed."""

    kind: Kind
    action: Action
    part: str = ""
    category: str = ""
    score: float | None = None
    threshold: float | None = None
    model: str = ""
    """``NAME@VERSION``."""
    told: str = ""
    """The phrase of a list, or what is wrong with an image."""


class PartScore(msgspec.Struct, frozen=True, kw_only=True):
    """What one category says of one part."""

    part: str
    category: str
    score: float
    model: str


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """The decision about one post, with all that led to it."""

    decision: Action
    reasons: tuple[Reason, ...]
    """The gravest first; empty if nothing speaks against it."""
    scores: tuple[PartScore, ...]
    policy: str
    """``NAME@VERSION``."""
    policy_digest: str


class Asked(NamedTuple):
    """A post as its judges see it."""

    questions: Sequence[Question]
    found: Sequence[Reason]
    """What is known without a model."""


def check_post(post: Post) -> None:
    """Raises RequestError or PayloadTooLarge for a post that cannot be decided."""
    if not isinstance(post.text, (str, NoneType)):
        raise errors.RequestError(f"a text is a str, not {type(post.text).__name__}")
    if not all(isinstance(image, bytes) for image in post.images):
        raise errors.RequestError("images are the bytes of their files")
    if post.text is None and not post.images:
        raise errors.RequestError("a post has a text, images, or both; this one has neither")
    if post.text is not None and len(post.text) > MOST_CHARS:
        raise errors.PayloadTooLarge(
            f"the text has {len(post.text):,} characters; at most {MOST_CHARS:,} are taken: "
            "have its parts decided by themselves"
        )
    if len(post.images) > MOST_IMAGES:
        raise errors.PayloadTooLarge(
            f"the post has {len(post.images)} images; at most {MOST_IMAGES} are taken"
        )
    if len(post.id) > 200:
        raise errors.RequestError("the id of a post has at most 200 characters")
    try:
        post.id.encode()
        (post.text or "").encode()
    except UnicodeEncodeError as error:
        raise errors.RequestError(
            "the text, or the id, has half of a character (a lone surrogate): decode it anew"
        ) from error


def ask(post: Post, policy: Policy) -> Asked:
    """What the models are to be asked about a post. Raises as :func:`check_post`."""
    check_post(post)
    questions: list[Question] = []
    found: list[Reason] = []
    if post.text is not None:
        _ask_text(post.text, policy, questions, found)
    for number, image in enumerate(post.images):
        _ask_image(image, f"images[{number}]", policy, questions, found)
    return Asked(questions, found)


def decide(
    asked: Asked, outcomes: Sequence[Prediction | errors.CeleriacError], policy: Policy
) -> Verdict:
    """The verdict, by the outcome of each question in their order.

    An image that its model cannot read is the policy's ``unreadable``; so is what a model fails on,
    but that is reviewed at least. Raises any other error of an outcome, and ConfigError if a model
    has no such label.
    """
    scores: dict[tuple[str, str], PartScore] = {}
    reasons = list(asked.found)
    for question, outcome in zip(asked.questions, outcomes, strict=True):
        if isinstance(outcome, Prediction):
            _score(question, outcome, policy, scores)
        elif isinstance(outcome, errors.ItemError):
            reasons.append(Reason(
                kind="unreadable", action=_unjudged(outcome, policy), part=question.part,
                model=question.model, told=_told(question, outcome),
            ))
        else:
            raise outcome
    for one in scores.values():
        category = policy.categories[one.category]
        action = category.action(one.score)
        if action != "allow":
            reasons.append(_crossed(one, category, action))
    return verdict_of(reasons, tuple(scores.values()), policy)


def _told(question: Question, error: errors.ItemError) -> str:
    """What is wrong, without content: what a model says of its failure may have the text in it."""
    of_a_file = isinstance(error, errors.InvalidItem) and question.part != "text"
    return error.message[:200] if of_a_file else error.code


def _unjudged(error: errors.ItemError, policy: Policy) -> Action:
    """A model that fails must not let anything pass, even where damaged files may."""
    its_own_fault = isinstance(error, errors.InvalidItem)
    return "review" if policy.unreadable == "allow" and not its_own_fault else policy.unreadable


def verdict_of(
    reasons: Sequence[Reason], scores: tuple[PartScore, ...], policy: Policy
) -> Verdict:
    """The gravest reason decides."""
    ordered = reasons if len(reasons) < 2 else sorted(
        reasons, key=lambda reason: (-_ORDER[reason.action], -(reason.score or 0.0))
    )
    return Verdict(
        decision=ordered[0].action if ordered else "allow", reasons=tuple(ordered), scores=scores,
        policy=policy.ref, policy_digest=policy.digest,
    )


def digests_of(post: Post, key: bytes = b"") -> dict[str, str]:
    """SHA-256 of each part of a post; with a ``key``, an HMAC that nobody else can look up."""
    parts = {} if post.text is None else {"text": post.text.encode("utf-8", "surrogatepass")}
    parts |= {f"images[{number}]": data for number, data in enumerate(post.images)}
    if key:
        return {part: hmac.digest(key, data, "sha256").hex() for part, data in parts.items()}
    return {part: hashlib.sha256(data).hexdigest() for part, data in parts.items()}


# --- questions -----------------------------------------------------------------------------------


def _ask_text(
    text: str, policy: Policy, questions: list[Question], found: list[Reason]
) -> None:
    reading = read(text)
    if len(reading.plain) > MOST_READ_CHARS:
        raise errors.PayloadTooLarge(
            f"the text stands for {len(reading.plain):,} characters; at most {MOST_READ_CHARS:,} "
            "are judged"
        )
    readings = [reading.plain] if reading.unmasked is None else [reading.plain, reading.unmasked]
    if policy.allowed:
        readings = list(dict.fromkeys(map(policy.allowed.without, readings)))
    if policy.blocked:
        phrase = next(filter(None, map(policy.blocked.found, readings)), None)
        if phrase:
            found.append(Reason(kind="block_list", action="block", part="text", told=phrase))
    asked = [one for one in readings if one and not one.isspace()]
    if not asked:
        found.append(Reason(kind="empty", action="allow", part="text"))
    elif not policy.text_models:
        found.append(Reason(kind="unjudged", action=policy.unjudged, part="text"))
    for category in policy.text_models:
        for one in asked:
            questions += [
                Question(category, piece, "text") for piece in pieces(one, policy.piece_chars)
            ]


def _ask_image(
    image: bytes, part: str, policy: Policy, questions: list[Question], found: list[Reason]
) -> None:
    if policy.lists.allow_images or policy.lists.block_images:
        digest = hashlib.sha256(image).hexdigest()
        if digest in policy.lists.allow_images:
            return
        if digest in policy.lists.block_images:
            found.append(Reason(kind="block_list", action="block", part=part, told=digest))
    if not policy.image_models:
        found.append(Reason(kind="unjudged", action=policy.unjudged, part=part))
    questions += [Question(model, image, part) for model in policy.image_models]


# --- answers -------------------------------------------------------------------------------------


def _score(
    question: Question, answer: Prediction, policy: Policy,
    scores: dict[tuple[str, str], PartScore],
) -> None:
    """Note what an answer says, if it is worse than what other pieces of its part said."""
    for name, score in scores_of(question, answer, policy):
        known = scores.get((question.part, name))
        if known is None or score > known.score:
            scores[question.part, name] = PartScore(
                part=question.part, category=name, score=score,
                model=f"{answer.model}@{answer.version}",
            )


def scores_of(
    question: Question, answer: Prediction, policy: Policy
) -> Iterator[tuple[str, float]]:
    """Each category that asked the question, and its score. Raises ConfigError if it has none."""
    table = policy.texts if question.part == "text" else policy.images
    for name, category in table.items():
        if category.model == question.model:
            yield name, _score_of(answer, category, name)


def _score_of(answer: Prediction, category: Category, name: str) -> float:
    """The score of a category, 0 to 1, of a model's answer. Raises ConfigError if it gives none.

    A model says how sure it is of the label that it chose. Of two labels the other has the rest;
    of several, another label than ours has at most the rest, which is what counts.
    """
    if category.label is None:
        value = answer.value
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return min(max(float(value), 0.0), 1.0)
        raise errors.ConfigError(
            f"the policy's category {name!r}: {category.model} answers with labels; say which one "
            "is meant, label = ..."
        )
    probability = answer.probability
    if not isinstance(probability, (int, float)):
        raise errors.ConfigError(
            f"the policy's category {name!r}: {category.model} gives no probability of a label"
        )
    return float(probability) if answer.label == category.label else 1.0 - float(probability)


def _crossed(one: PartScore, category: Category, action: Action) -> Reason:
    return Reason(
        kind="score", action=action, part=one.part, category=one.category, score=one.score,
        threshold=category.block if action == "block" else category.review, model=one.model,
    )


def check_labels(policy: Policy, labels: Mapping[str, Sequence[Any]]) -> None:
    """Raises ConfigError if a category names a label that its model does not have.

    ``labels``: by the model as the policy writes it; a model that is not there is not checked.
    """
    for name, category in policy.categories.items():
        known = labels.get(category.model)
        if known is None:
            continue
        if category.label is None and known:
            raise errors.ConfigError(
                f"the policy's category {name!r}: {category.model} answers with the labels "
                f"{list(known)}; say which one is meant, label = ..."
            )
        if category.label is not None and category.label not in known:
            raise errors.ConfigError(
                f"the policy's category {name!r}: {category.model} has no label "
                f"{category.label!r}; it has {list(known)}"
            )
