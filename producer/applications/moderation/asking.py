"""Questions to models, and their answers in the order of the posts."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from celeriac import errors
from celeriac.applications.moderation.decision import Asked, Post, Verdict, ask, decide
from celeriac.applications.moderation.policy import Policy
from celeriac.messages import Prediction
from producer.applications.moderation.decisions import Decision

BLOCK_POSTS = 2_000
"""Posts of one ``moderate_many`` that are under way at the same time, at most ..."""
BLOCK_BYTES = 64_000_000
"""... and the bytes of their images."""

T = TypeVar("T")
Outcome = Prediction | errors.CeleriacError


def blocks(posts: Iterable[Post | str]) -> Iterator[list[Post]]:
    if isinstance(posts, (str, bytes)):
        raise errors.RequestError(
            "moderate_many takes a list of posts; moderate takes a single one"
        )
    block: list[Post] = []
    size = 0
    for one in posts:
        post = one if isinstance(one, Post) else Post(text=one)
        block.append(post)
        size += sum(map(len, post.images))
        if len(block) >= BLOCK_POSTS or size >= BLOCK_BYTES:
            yield block
            block, size = [], 0
    if block:
        yield block


def by_model(asked: Iterable[Asked]) -> dict[str, list[Any]]:
    """The items for each model, in the order of the questions."""
    items: dict[str, list[Any]] = {}
    for one in asked:
        for question in one.questions:
            items.setdefault(question.model, []).append(question.item)
    return items


def in_order(asked: Iterable[Asked], found: Mapping[str, Sequence[Outcome]]) -> list[Outcome]:
    """The outcomes of :func:`by_model` in the order of the questions."""
    answers = {model: iter(outcomes) for model, outcomes in found.items()}
    return [next(answers[question.model]) for one in asked for question in one.questions]


def split(asked: Iterable[Asked], outcomes: Sequence[Outcome]) -> Iterator[Sequence[Outcome]]:
    """The outcomes of all questions, one after the other, by post."""
    start = 0
    for one in asked:
        stop = start + len(one.questions)
        yield outcomes[start:stop]
        start = stop


class Case(NamedTuple):
    """A post that is decided, with all that led to it."""

    number: int
    """Its place among the posts."""
    post: Post
    asked: Asked
    outcomes: Sequence[Outcome]
    verdict: Verdict


def ask_each(posts: Iterable[Post], policy: Policy) -> list[Asked | errors.CeleriacError]:
    """What each post is asked, or why it cannot be decided."""
    found: list[Asked | errors.CeleriacError] = []
    for post in posts:
        try:
            found.append(ask(post, policy))
        except errors.RequestError as error:
            found.append(error)
    return found


def decide_each(
    posts: Sequence[Post], found: list[Any], outcomes: Sequence[Outcome], policy: Policy
) -> list[Case]:
    """The posts that could be decided; of others ``found``, as :func:`ask_each` gave it, has the
    error now. Raises ConfigError: that is nobody's post's fault."""
    asked = [(number, one) for number, one in enumerate(found) if isinstance(one, Asked)]
    cases = []
    answers = split([one for _, one in asked], outcomes)
    for (number, one), its in zip(asked, answers, strict=True):
        try:
            verdict = decide(one, its, policy)
        except errors.ConfigError:
            raise
        except errors.CeleriacError as error:
            found[number] = error
        else:
            cases.append(Case(number, posts[number], one, its, verdict))
    return cases


def raised(found: list[Decision | errors.CeleriacError]) -> list[Decision]:
    """The decisions; raises the first error among them."""
    decisions = []
    for one in found:
        if isinstance(one, errors.CeleriacError):
            raise one
        decisions.append(one)
    return decisions


def together(work: Callable[[str], T], names: Iterable[str]) -> dict[str, T]:
    """What ``work`` returns for each name, all at the same time.

    Raises the first error, once all have ended.
    """
    found: dict[str, T] = {}
    failed: list[BaseException] = []

    def run(name: str) -> None:
        try:
            found[name] = work(name)
        except BaseException as error:  # noqa: BLE001 - raised below, by who waits
            failed.append(error)

    listed = list(names)
    threads = [
        threading.Thread(target=run, args=(name,), name=f"celeriac-ask-{name}", daemon=True)
        for name in listed[1:]
    ]
    for thread in threads:
        thread.start()
    for name in listed[:1]:
        run(name)
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]
    return found
