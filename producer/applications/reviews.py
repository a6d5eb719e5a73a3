"""Sentiments of reviews, one by one in real time and product by product over a dataset.

    with Client() as client:
        reviews = Reviews(client)
        reviews.score("Best coffee I ever bought").sentiment
        reviews.summarise("reviews.csv", "out/coffee", product="product_id", timeout_s=600)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from celeriac import errors
from celeriac.applications.reviews import dataset
from celeriac.applications.reviews.sentiment import (
    Sentiment,
    check_review,
    checked,
    positive_label,
    sentiment_of,
)
from celeriac.applications.reviews.summary import ReviewSummary
from celeriac.datasets.records import Period
from celeriac.jobs.folder import JobFolder
from celeriac.messages import ModelRef, Prediction
from celeriac.registry.catalogue import VersionInfo
from producer.client import Client

if TYPE_CHECKING:
    from producer.jobs import JobHandle, JobStatus

DEFAULT_MODEL = "reviews"


class Reviews:
    """Sentiments by one model: a text classifier of two labels that gives probabilities.

    ``positive`` is its label that counts as good; without it, one of the usual words (positive,
    good, great, fresh ...) must be among the labels. Every method raises what the client's methods
    raise, and RequestError if the model cannot tell sentiments.
    """

    def __init__(
        self, client: Client, model: str = DEFAULT_MODEL, *,
        positive: str | None = None,
    ) -> None:
        self.model = model
        self._client = client
        self._wanted = positive
        self._ref = ModelRef.parse(model)
        self._positive: dict[int, Any] = {}
        """By version."""

    # --- real time ------------------------------------------------------------------------------

    def score(self, review: str, *, timeout_s: float | None = None) -> Sentiment:
        """How one review sounds. Raises InvalidItem for one that is empty or no text."""
        answer = self._client.predict(self.model, check_review(review), timeout_s=timeout_s)
        return sentiment_of(answer, self._positive_of(answer))

    @overload
    def score_many(
        self, reviews: Iterable[str], *, timeout_s: float | None = None,
        return_errors: Literal[False] = False,
    ) -> list[Sentiment]: ...

    @overload
    def score_many(
        self, reviews: Iterable[str], *, timeout_s: float | None = None, return_errors: bool,
    ) -> list[Sentiment | errors.CeleriacError]: ...

    def score_many(
        self, reviews: Iterable[str], *, timeout_s: float | None = None,
        return_errors: bool = False,
    ) -> list[Any]:
        """How reviews sound, in their order.

        The first review's error is raised; with ``return_errors``, errors stand in their places.
        """
        texts = [checked(review) for review in reviews]
        good = [one for one in texts if isinstance(one, str)]
        answers = iter(self._client.predict_many(
            self.model, good, timeout_s=timeout_s, return_errors=True
        ))
        outcomes = [next(answers) if isinstance(one, str) else one for one in texts]
        found: list[Any] = []
        for outcome in outcomes:
            if isinstance(outcome, Prediction):
                found.append(sentiment_of(outcome, self._positive_of(outcome)))
            elif return_errors:
                found.append(outcome)
            else:
                raise outcome
        return found

    def _positive_of(self, answer: Prediction) -> Any:
        if answer.version not in self._positive:
            version = self._version(ModelRef(self._ref.name, version=answer.version))
            self._positive[answer.version] = self._label(version)
        return self._positive[answer.version]

    def _version(self, ref: ModelRef) -> VersionInfo:
        return self._client.realtime.routes.catalogue(self._client.timeout_s).resolve(ref)

    def _label(self, version: VersionInfo) -> Any:
        return positive_label(version.output, self._wanted, self._ref.name)

    # --- whole datasets -------------------------------------------------------------------------

    def submit(  # noqa: PLR0913 - a dataset and its columns
        self, source: Any, output: str | Path, *, product: str, date: str | None = None,
        period: Period = "month", text_column: str | None = None, **options: Any,
    ) -> JobHandle:
        """Have all reviews of a dataset scored and aggregated, by all batch workers; at once. The
        job leaves ``reviews.json`` and ``reviews.html`` in ``output``.

        ``product`` and ``date`` are columns, ``text_column`` the one that the model reads (default:
        the model's own). Dates are dates, texts of ISO 8601 or Unix times. ``options`` are those of
        ``client.submit_dataset``. Raises DatasetError for a column that is not there.
        """
        version = self._version(self._ref)
        wanted = dataset.aggregation(product, date, period, self._label(version))
        keep = [name for name in (product, date) if name]
        return self._client.submit_dataset(
            source, f"{self._ref.name}@{version.version}", output, text_column=text_column,
            keep_columns=[*keep, *options.pop("keep_columns", [])], aggregate=wanted, **options,
        )

    def summarise(  # noqa: PLR0913 - as submit, and how long
        self, source: Any, output: str | Path, *, product: str, timeout_s: float,
        date: str | None = None, period: Period = "month", text_column: str | None = None,
        on_progress: Callable[[JobStatus], None] | None = None, **options: Any,
    ) -> ReviewSummary:
        """As :meth:`submit`, then wait. Raises JobFailed, and DeadlineExceeded after ``timeout_s``;
        the job goes on."""
        handle = self.submit(
            source, output, product=product, date=date, period=period, text_column=text_column,
            **options,
        )
        return summary_of(handle, timeout_s, on_progress)


def summary_of(
    handle: JobHandle, timeout_s: float,
    on_progress: Callable[[JobStatus], None] | None = None,
) -> ReviewSummary:
    """The summary of a job that :meth:`Reviews.submit` began, once it has ended.

    Raises JobFailed, and DeadlineExceeded.
    """
    status = handle.wait(timeout_s, on_progress)
    if not status.state.is_whole:
        raise errors.JobFailed(f"job {status.id} is {status.state}: {status.error or 'no summary'}")
    return dataset.read_summary(JobFolder(handle.output))
