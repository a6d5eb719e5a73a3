"""Questions to models, and their answers in the order of the posts."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from celeriac import errors
from celeriac.applications.moderation.decision import Asked, Post, Verdict, decide
from celeriac.applications.moderation.policy import Policy
from celeriac.messages import Prediction

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
        post = Post(text=one) if isinstance(one, str) else one
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


def verdicts_of(
    asked: Sequence[Asked], outcomes: Sequence[Outcome], policy: Policy
) -> list[Verdict]:
    """The verdict on each post."""
    return [
        decide(one, its, policy) for one, its in zip(asked, split(asked, outcomes), strict=True)
    ]


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
