"""What deciding needs besides the models: policy, records, and the review queue."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from celeriac import errors
from celeriac.applications.moderation import audit
from celeriac.applications.moderation.audit import AuditLog, Entry, Human, Record
from celeriac.applications.moderation.decision import (
    Asked,
    check_labels,
    digests_of,
)
from celeriac.applications.moderation.policy import Policy
from celeriac.applications.moderation.reviews import Label, Review, ReviewQueue
from celeriac.logs import get_logger
from celeriac.messages import ModelRef, Prediction
from celeriac.registry.catalogue import Catalogue, ModelInfo
from producer.applications.moderation import truth
from producer.applications.moderation.asking import Case, Outcome
from producer.applications.moderation.decisions import Explanation
from producer.applications.moderation.policy_file import PolicyFile
from producer.broker import Broker
from producer.feedback import Feedbacks
from producer.jobs import redis_errors
from producer.routes import Routes

_DAY_S = 86_400
log = get_logger(__name__)


class Desk:
    """What deciding needs besides the models: policy, records, review queue. Safe with threads."""

    def __init__(
        self, broker: Broker, routes: Routes, policy: Policy | Path | None, tenant: str
    ) -> None:
        settings = broker.settings.moderation
        self._broker = broker
        self._routes = routes
        self._feedbacks = Feedbacks(broker, routes)
        self._settings = settings
        self._tenant = tenant
        named = Path(settings.policy) if settings.policy else None
        path = policy if isinstance(policy, Path) else named
        self._log = AuditLog(settings.folder)
        self._policy = (
            policy if isinstance(policy, Policy) else PolicyFile(path, self._log.keep)
        )
        self._key = settings.digest_key.encode()
        self._checked: set[tuple[str, str, int]] = set()

    @property
    def folder(self) -> Path:
        """Where the records are."""
        return self._settings.folder

    def policy(self) -> Policy:
        """The policy that holds now."""
        policy = self._policy
        return policy if isinstance(policy, Policy) else policy.current()

    def must_check(
        self, asked: Sequence[Asked], outcomes: Iterable[Outcome], policy: Policy
    ) -> bool:
        """True if a version answered whose labels were not looked at yet."""
        models = (question.model for one in asked for question in one.questions)
        return any(
            (policy.digest, model, outcome.version) not in self._checked
            for model, outcome in zip(models, outcomes, strict=True)
            if isinstance(outcome, Prediction)
        )

    def check(
        self, models: Mapping[str, ModelInfo], policy: Policy, asked: Sequence[Asked],
        outcomes: Iterable[Outcome],
    ) -> None:
        """Raises ConfigError if the policy names labels that a model does not have, now or in a
        version that has answered (a canary)."""
        check_labels(policy, labels_of(models, policy))
        names = (question.model for one in asked for question in one.questions)
        answered = {
            (policy.digest, model, outcome.version): (model, outcome.model)
            for model, outcome in zip(names, outcomes, strict=True)
            if isinstance(outcome, Prediction)
        }
        for (_, _, version), (model, name) in answered.items():
            info = models[name].versions.get(version) if name in models else None
            if info is not None:
                check_labels(policy, {model: info.output.labels})
        self._checked |= answered.keys()

    def entries(self, cases: Iterable[Case], policy: Policy, tenant: str = "") -> list[Entry]:
        """What is to be recorded. Raises Conflict and StorageError."""
        self._log.keep(policy)
        return [
            Entry(case.verdict, digests_of(case.post, self._key), case.post.id,
                  tenant or self._tenant)
            for case in cases
        ]

    def record(self, entries: list[Entry]) -> list[Record]:
        """Note why posts were decided so, with one write. Raises StorageError."""
        return self._log.write(entries, audit.now_utc())

    def queue(self, record: Record, case: Case, policy: Policy) -> bool:
        """Have somebody look at a post; False if the queue is full."""
        predictions = truth.behind(case.asked, case.outcomes, policy)
        ids = truth.ids_of(predictions, self._feedbacks, record.tenant)
        with self.redis():
            return self.reviews(record.tenant).enter(record, case.post, ids)

    def reviews(self, tenant: str = "") -> ReviewQueue:
        """What waits for somebody to look at it; by default of this desk's tenant."""
        settings = self._settings
        return ReviewQueue(
            self._broker.redis, tenant=tenant or self._tenant, most_open=settings.max_reviews,
            review_s=settings.review_days * _DAY_S, label_s=settings.label_days * _DAY_S,
        )

    def labels(self, tenant: str = "") -> Iterator[list[Label]]:
        """What people decided, the oldest first, some at a time. Raises BrokerError."""
        with self.redis():
            yield from self.reviews(tenant).labels_by_block()

    def redis(self) -> AbstractContextManager[None]:
        """Turns an error of Redis into BrokerError."""
        return redis_errors(self._broker)

    def explain(self, decision_id: str, tenant: str = "") -> Explanation:
        """Why a post was decided so. Raises RequestError, PredictionNotFound."""
        record, reviews = audit.find(self.folder, decision_id, tenant or self._tenant)
        return Explanation(record, reviews, audit.kept_policy(self.folder, record.policy))

    def settle(  # noqa: PLR0913 - what somebody says
        self, decision_id: str, decision: str, *, by: str, categories: Sequence[str] = (),
        note: str = "", tenant: str = "",
    ) -> Label:
        """What somebody decides about a post that was to be reviewed.

        Raises RequestError, Conflict if it was decided already, PredictionNotFound.
        """
        if decision not in ("allow", "block"):
            raise errors.RequestError(f"a review ends as 'allow' or 'block', not {decision!r}")
        if len(note) > 2_000 or len(by) > 200:
            raise errors.RequestError("a note has at most 2,000 characters, a name 200")
        with self.redis():
            queue = self.reviews(tenant)
            review = queue.review(decision_id)
            self._check_categories(review, categories)
            label = Label(
                id=decision_id, at_ms=int(time.time() * 1_000), by=by, review=review, note=note,
                decision="allow" if decision == "allow" else "block",
                categories=tuple(dict.fromkeys(categories)),
            )
            queue.decide(label)
        audit.add_review(self.folder, Human(
            id=decision_id, at=audit.now_utc().isoformat(timespec="milliseconds"), by=by,
            reviewed=label.decision, categories=label.categories, note=note,
            tenant=review.record.tenant,
        ))
        self._tell_truth(label)
        return label

    def close(self) -> None:
        """Write what is left of the records."""
        self._log.close()

    def _tell_truth(self, label: Label) -> None:
        """What was decided stays so, whether or not it can be counted for the models."""
        if not label.review.predictions:
            return
        timeout_s = self._broker.settings.realtime.timeout_s
        try:
            policy = audit.kept_policy(self.folder, label.review.record.policy)
            models = self._routes.catalogue(timeout_s).models
        except errors.CeleriacError as error:
            log.warning("a label was not counted", decision=label.id, problem=error.message)
            return
        if policy is not None:
            truth.give(label, policy, models, self._feedbacks, timeout_s)

    def _check_categories(self, review: Review, categories: Sequence[str]) -> None:
        known = {score.category for score in review.record.scores} | set(self.policy().categories)
        for name in categories:
            if name not in known:
                raise errors.RequestError(
                    f"no category {name[:80]!r}; there is {', '.join(sorted(known))}"
                )


def labels_of(models: Mapping[str, ModelInfo], policy: Policy) -> dict[str, tuple[Any, ...]]:
    """The labels of each model that a policy names, as far as there is such a version."""
    catalogue = Catalogue(models=dict(models))
    found: dict[str, tuple[Any, ...]] = {}
    for category in policy.categories.values():
        try:
            version = catalogue.resolve(ModelRef.parse(category.model))
        except (errors.ModelNotFound, errors.VersionNotFound):
            continue
        found[category.model] = version.output.labels
    return found
