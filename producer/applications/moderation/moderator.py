"""Decides on posts, waiting in threads or on an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, overload

from celeriac import errors
from celeriac.applications.moderation.decision import Asked, Post
from celeriac.applications.moderation.labels import write_labels
from celeriac.applications.moderation.policy import Policy
from celeriac.applications.moderation.reviews import Label, Review
from celeriac.messages import DEFAULT_TENANT
from producer.aio import AsyncClient
from producer.applications.moderation.asking import (
    Outcome,
    ask_each,
    blocks,
    by_model,
    decide_each,
    in_order,
    raised,
    together,
)
from producer.applications.moderation.decisions import Decision, Explanation, decision_of
from producer.applications.moderation.desk import Desk
from producer.applications.moderation.gathering import Gathered
from producer.client import Client, who
from producer.closing import Closing

LONG_CHARS = 20_000
"""To look through longer texts takes an event loop 10 ms and more, so a thread does it: a million
characters with look-alikes take half a second."""


class Moderator(Closing):
    """Decides on posts with the models of a client.

    ``policy`` is a Policy, the path of its file, or by default what ``[moderation] policy`` names;
    a file is read again when it has changed. Decisions are recorded in ``[moderation] folder``
    before they are given. Safe with threads. Methods raise what the client's ``predict`` raises,
    ConfigError for a policy that does not fit its models, and StorageError if a decision cannot be
    recorded: then nothing was decided.
    """

    def __init__(
        self, client: Client, policy: Policy | Path | None = None, *, tenant: str = DEFAULT_TENANT
    ) -> None:
        self._client = client
        self.desk = Desk(client.broker, client.realtime.routes, policy, tenant)

    def close(self) -> None:
        """Close the file of records. The client stays open."""
        self.desk.close()

    def moderate(
        self, text: str | None = None, images: Sequence[bytes] = (), *, id: str = "",
        timeout_s: float | None = None,
    ) -> Decision:
        """Decide on one post: a text, images (bytes of files), or both, as one.

        ``id`` is your own name of the post, for records and reviewers. Raises RequestError for a
        post with nothing in it, PayloadTooLarge beyond a million characters or 16 images, or for an
        image beyond the limit of an item.
        """
        post = Post(text=text, images=tuple(images), id=id)
        return raised(self._decided([post], timeout_s))[0]

    @overload
    def moderate_many(
        self, posts: Iterable[Post | str], *, timeout_s: float | None = None,
        return_errors: Literal[False] = False,
    ) -> list[Decision]: ...

    @overload
    def moderate_many(
        self, posts: Iterable[Post | str], *, timeout_s: float | None = None, return_errors: bool,
    ) -> list[Decision | errors.CeleriacError]: ...

    def moderate_many(
        self, posts: Iterable[Post | str], *, timeout_s: float | None = None,
        return_errors: bool = False,
    ) -> list[Any]:
        """Decide on any number of posts, in their order; a text alone is a post.

        ``timeout_s`` is for some thousands at a time. The first error is raised; with
        ``return_errors``, errors stand in the places of their posts.
        """
        found = [one for block in blocks(posts) for one in self._decided(block, timeout_s)]
        return found if return_errors else raised(found)

    # --- reviews ----------------------------------------------------------------------------------

    def explain(self, decision_id: str) -> Explanation:
        """Why a post was decided so. Raises RequestError, PredictionNotFound."""
        return self.desk.explain(decision_id)

    def reviews(self, most: int = 100) -> list[Review]:
        """What waits to be looked at, the oldest first."""
        with self.desk.redis():
            return self.desk.reviews().open(most)

    def count_reviews(self) -> int:
        """How many wait."""
        with self.desk.redis():
            return self.desk.reviews().count()

    def decide(
        self, decision_id: str, decision: str, *, by: str = "", categories: Sequence[str] = (),
        note: str = "",
    ) -> Label:
        """Settle a review as ``allow`` or ``block``; the first who does so wins.

        Raises Conflict if somebody has, PredictionNotFound if it is not (any more) a review.
        """
        return self.desk.settle(
            decision_id, decision, by=by or who(), categories=categories, note=note
        )

    def labels(self) -> list[Label]:
        """What people decided, the oldest first."""
        return [label for block in self.desk.labels() for label in block]

    def export_labels(self, path: Path) -> int:
        """Write the labels as a dataset (.csv, .jsonl or .parquet); how many there are."""
        return write_labels(path, self.desk.labels())

    # --- within -----------------------------------------------------------------------------------

    def _decided(
        self, posts: list[Post], timeout_s: float | None
    ) -> list[Decision | errors.CeleriacError]:
        policy = self.desk.policy()
        found: list[Any] = ask_each(posts, policy)
        asked = [one for one in found if isinstance(one, Asked)]
        outcomes = self._outcomes(asked, timeout_s)
        if self.desk.must_check(asked, outcomes, policy):
            self.desk.check(self._client.models(), policy, asked, outcomes)
        cases = decide_each(posts, found, outcomes, policy)
        records = self.desk.record(self.desk.entries(cases, policy))
        for case, record in zip(cases, records, strict=True):
            is_open = record.decision == "review"
            queued = self.desk.queue(record, case, policy) if is_open else None
            found[case.number] = decision_of(record, queued)
        return found

    def _outcomes(self, asked: Sequence[Asked], timeout_s: float | None) -> list[Outcome]:
        """The outcome of each question: models are asked at the same time."""
        if len(asked) == 1 and len(asked[0].questions) == 1:
            question = asked[0].questions[0]
            try:
                return [self._client.predict(question.model, question.item, timeout_s=timeout_s)]
            except errors.ItemError as error:
                return [error]
        items = by_model(asked)

        def work(model: str) -> list[Outcome]:
            return self._client.predict_many(
                model, items[model], timeout_s=timeout_s, return_errors=True
            )

        found = together(work, items)
        return in_order(asked, found)


class AsyncModerator:
    """:class:`Moderator` for asyncio, over an AsyncClient."""

    def __init__(
        self, client: AsyncClient, policy: Policy | Path | None = None, *,
        tenant: str = DEFAULT_TENANT,
    ) -> None:
        self._client = client
        self.desk = Desk(client.broker, client.routes, policy, tenant)
        self._records = Gathered(self.desk.record)

    def close(self) -> None:
        """Close the file of records. The client stays open."""
        self.desk.close()

    async def moderate(
        self, text: str | None = None, images: Sequence[bytes] = (), *, id: str = "",
        timeout_s: float | None = None, tenant: str = "",
    ) -> Decision:
        """As :meth:`Moderator.moderate`; ``tenant``: whose post it is, if not the moderator's."""
        post = Post(text=text, images=tuple(images), id=id)
        return raised(await self._decided([post], timeout_s, tenant))[0]

    @overload
    async def moderate_many(
        self, posts: Iterable[Post | str], *, timeout_s: float | None = None, tenant: str = "",
        return_errors: Literal[False] = False,
    ) -> list[Decision]: ...

    @overload
    async def moderate_many(
        self, posts: Iterable[Post | str], *, timeout_s: float | None = None, tenant: str = "",
        return_errors: bool,
    ) -> list[Decision | errors.CeleriacError]: ...

    async def moderate_many(
        self, posts: Iterable[Post | str], *, timeout_s: float | None = None, tenant: str = "",
        return_errors: bool = False,
    ) -> list[Any]:
        """As :meth:`Moderator.moderate_many`."""
        found = [
            one for block in blocks(posts)
            for one in await self._decided(block, timeout_s, tenant)
        ]
        return found if return_errors else raised(found)

    async def _decided(
        self, posts: list[Post], timeout_s: float | None, tenant: str
    ) -> list[Decision | errors.CeleriacError]:
        policy = self.desk.policy()
        is_long = sum(len(one.text) for one in posts if isinstance(one.text, str)) > LONG_CHARS
        found: list[Any] = (
            await asyncio.to_thread(ask_each, posts, policy) if is_long
            else ask_each(posts, policy)
        )
        asked = [one for one in found if isinstance(one, Asked)]
        outcomes = await self._outcomes(asked, timeout_s)
        if self.desk.must_check(asked, outcomes, policy):
            self.desk.check(await self._client.models(), policy, asked, outcomes)
        cases = decide_each(posts, found, outcomes, policy)
        records = await self._records.add(self.desk.entries(cases, policy, tenant))
        for case, record in zip(cases, records, strict=True):
            queued = None
            if record.decision == "review":
                queued = await asyncio.to_thread(self.desk.queue, record, case, policy)
            found[case.number] = decision_of(record, queued)
        return found

    async def _outcomes(self, asked: Sequence[Asked], timeout_s: float | None) -> list[Outcome]:
        if len(asked) == 1 and len(asked[0].questions) == 1:
            question = asked[0].questions[0]
            try:
                return [
                    await self._client.predict(question.model, question.item, timeout_s=timeout_s)
                ]
            except errors.ItemError as error:
                return [error]
        items = by_model(asked)
        waits: list[Awaitable[Any]] = [
            self._client.predict_many(model, one, timeout_s=timeout_s, return_errors=True)
            for model, one in items.items()
        ]
        found = await asyncio.gather(*waits)
        return in_order(asked, dict(zip(items, found, strict=True)))
