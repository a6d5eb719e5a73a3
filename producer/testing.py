"""A client for the unit tests of services: same interface and errors, no Redis, no waiting.

    client = FakeClient({"reviews": {"label": "positive", "probability": 0.9}})
    assert client.predict("reviews", "Best coffee").label == "positive"
    assert client.calls == [FakeCall("predict", "reviews", ("Best coffee",))]
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from celeriac import errors
from celeriac.drift import prediction_ids
from celeriac.drift.labels import judge
from celeriac.messages import DEFAULT_TENANT, ModelRef, Prediction, check_model_name
from celeriac.registry.catalogue import Catalogue, ModelInfo, VersionInfo
from celeriac.registry.manifest import InputSchema, OutputSchema
from celeriac.settings import RealtimeSettings
from celeriac.submissions.ledger import SubmissionState
from celeriac.submissions.requests import check_id, digest_of
from producer import wire
from producer.bulk import blocks
from producer.client import check_expiry
from producer.closing import Closing
from producer.feedback import Feedback, plain
from producer.handles import PredictionStatus
from producer.realtime import encode
from producer.results import check_timeout
from producer.statistics import ClientStatistics, Counts

if TYPE_CHECKING:
    from celeriac.datasets.records import Aggregation, Format
    from celeriac.jobs.ledger import DeadChunk
    from producer.jobs import JobStatus, PlannedChunk, Purged
    from producer.orders import PlannedBy
    from producer.planning import Progress

_DEFAULTS = RealtimeSettings()
_CREATED = datetime(2026, 1, 1, tzinfo=UTC)
_KEY = b"of made-up ids"

Answers = Callable[[list[Any]], Sequence[Any]] | Any
"""What a fake model answers: a function from the items to a list with an answer for each, or one
answer for every item. An answer is a Prediction, a dict with ``label`` (and ``probability``) or
``value``, an error to raise, or else the value itself."""


@dataclass(frozen=True)
class FakeCall:
    """One call that a test can look at: the method, the model as written, the items."""

    method: str
    model: str
    items: tuple[Any, ...]


class FakeClient(Closing):
    """:class:`producer.client.Client` over made-up answers.

    ``models`` maps bare names to :data:`Answers`; each model has version 1, its champion. Items
    and times are checked as the real client checks them by default, so a test finds what could
    not be sent. Whatever else the service asks for raises ModelNotFound and its kind, with the
    same messages.
    """

    def __init__(self, models: Mapping[str, Answers]) -> None:
        self._answers = {check_model_name(name): answers for name, answers in models.items()}
        self._catalogue = Catalogue(models={name: _info(name) for name in self._answers})
        self._handles: dict[str, FakePredictionHandle] = {}
        self._jobs: dict[str, FakeJob] = {}
        self._labelled: set[str] = set()
        self._counts = Counts()
        self.calls: list[FakeCall] = []

    def close(self) -> None:
        """Nothing to close."""

    def predict(self, model: str, item: Any, *, timeout_s: float | None = None) -> Prediction:
        """As :meth:`Client.predict`, answered at once."""
        self.calls.append(FakeCall("predict", model, (item,)))
        check_timeout(timeout_s, _DEFAULTS.timeout_s)
        return _or_raise(self._counted(self._predict(model, [item]))[0])

    def predict_many(
        self, model: str, items: Iterable[Any], *, timeout_s: float | None = None,
        return_errors: bool = False,
    ) -> list[Any]:
        """As :meth:`Client.predict_many`, answered at once."""
        listed = [item for block in blocks(items) for item in block]
        self.calls.append(FakeCall("predict_many", model, tuple(listed)))
        check_timeout(timeout_s, _DEFAULTS.timeout_s)
        answers = self._counted(self._predict(model, listed))
        return list(answers) if return_errors else [_or_raise(answer) for answer in answers]

    def statistics(self) -> ClientStatistics:
        """Each item of ``predict`` and ``predict_many`` counts as sent, in a message of its own."""
        return self._counts.read(0)

    def submit(
        self, model: str, item: Any, *, expires_s: float | None = None, id: str | None = None,
        webhook: str | None = None,
    ) -> FakePredictionHandle:
        """Answered at once; nothing is sent to ``webhook``."""
        self.calls.append(FakeCall("submit", model, (item,)))
        kept_s = check_expiry(expires_s, _DEFAULTS.submission_ttl_s)
        answer = self._predict(model, [item])[0]
        digest = digest_of(model, encode(item, _DEFAULTS.max_item_bytes), webhook, kept_s)
        known = self._handles.get(check_id(id)) if id is not None else None
        if known is not None:
            if known.digest != digest:
                raise errors.Conflict(f"the prediction {id!r} was submitted as another one")
            return known
        handle = FakePredictionHandle(
            id or wire.new_id(), model, datetime.now(UTC) + timedelta(seconds=kept_s), answer,
            digest, webhook,
        )
        self._handles[handle.id] = handle
        return handle

    def prediction(self, prediction_id: str) -> FakePredictionHandle:
        """As :meth:`Client.prediction`, of what this client was given."""
        if prediction_id not in self._handles:
            raise errors.PredictionNotFound(f"no prediction has the id {prediction_id!r}")
        return self._handles[prediction_id]

    def prediction_id(self, prediction: Prediction) -> str:
        """As :meth:`Client.prediction_id`; the real client knows nothing of it."""
        return prediction_ids.make(
            prediction, key=_KEY, tenant=DEFAULT_TENANT, now_s=datetime.now(UTC).timestamp()
        )

    def feedback(self, prediction_id: str, label: Any) -> Feedback:
        """Of a fake model any label will do that is a class or a number as its answer is."""
        if prediction_id in self._handles:
            answered = self._handles[prediction_id].result()
            name, version = answered.model, answered.version
            predicted = prediction_ids.predicted_of(answered)
        else:
            said = prediction_ids.read(prediction_id, key=_KEY, tenant=DEFAULT_TENANT)
            name, version, predicted = said.model, said.version, said.predicted
        self.calls.append(FakeCall("feedback", f"{name}@{version}", (prediction_id, label)))
        judged = judge(predicted, plain(label), OutputSchema(kind="any"))
        counted = prediction_id not in self._labelled
        self._labelled.add(prediction_id)
        return Feedback(
            prediction_id=prediction_id, model=name, version=version, counted=counted,
            right=judged.right, absolute_error=judged.absolute_error,
        )

    def models(self) -> dict[str, ModelInfo]:
        """As :meth:`Client.models`."""
        return dict(self._catalogue.models)

    def promote(
        self, ref: str, why: str = "", *, timeout_s: float | None = None, who: str = "",
        force: bool = False,
    ) -> dict[str, Any]:
        """Changes nothing: version 1 is the champion. Raises as :meth:`Client.promote`."""
        self.calls.append(FakeCall("promote", ref, ()))
        version = self._catalogue.resolve(ModelRef.parse(ref)).version
        name = ModelRef.parse(ref).name
        return {
            "model": name, "version": version, "changed": False, "previous": None,
            "latency": None, "champion_latency": None,
        }

    def rollback(
        self, name: str, why: str = "", *, timeout_s: float | None = None, who: str = ""
    ) -> dict[str, Any]:
        """Raises PromotionRefused: there is no version before; and as :meth:`Client.rollback`."""
        self.calls.append(FakeCall("rollback", name, ()))
        self._catalogue.resolve(ModelRef.parse(check_model_name(name)))
        raise errors.PromotionRefused(
            f"{name} has no previous champion to go back to; promote a version by its number"
        )

    def submit_dataset(  # noqa: PLR0913 - as the client's
        self,
        source: Any,
        model: str,
        output: str | Path,
        *,
        chunk_rows: int | None = None,
        text_column: str | None = None,
        keep_columns: Sequence[str] | None = None,
        id_column: str | None = None,
        output_format: Format = "parquet",
        merge: bool = False,
        aggregate: Aggregation | Mapping[str, Any] | None = None,
        model_column: bool = False,
        error_column: bool = False,
        dedupe: bool = False,
        max_error_share: float | None = None,
        job_id: str | None = None,
        expires_s: float | None = None,
        on_progress: Progress | None = None,
        planned_by: PlannedBy = "auto",
    ) -> FakeJob:
        """A job that is complete at once. It reads no source and writes no file."""
        from producer import orders

        if orders.is_for_worker(planned_by):
            orders.check_elsewhere(source, on_progress)
        self.calls.append(FakeCall("submit_dataset", model, (str(source), str(output))))
        name = ModelRef.parse(model).name
        version = self._catalogue.resolve(ModelRef.parse(model)).version
        job = FakeJob(job_id or wire.new_id(), name, version, str(source), Path(output))
        self._jobs[job.id] = job
        return job

    def job(self, job_id: str) -> FakeJob:
        """As :meth:`Client.job`, of what this client was given."""
        if job_id not in self._jobs:
            raise errors.JobNotFound(f"no job {job_id!r}")
        return self._jobs[job_id]

    def jobs(self) -> list[JobStatus]:
        """As :meth:`Client.jobs`."""
        return [job.status() for job in reversed(self._jobs.values())]

    def _predict(self, model: str, items: list[Any]) -> list[Prediction | errors.CeleriacError]:
        ref = ModelRef.parse(model)
        version = self._catalogue.resolve(ref).version
        checked = [_check(item) for item in items]
        good = [item for item, error in zip(items, checked, strict=True) if error is None]
        answers = iter(self._answer(ref.name, version, good))
        return [next(answers) if error is None else error for error in checked]

    def _counted(
        self, answers: list[Prediction | errors.CeleriacError]
    ) -> list[Prediction | errors.CeleriacError]:
        self._counts.add("items_sent", len(answers))
        self._counts.add("envelopes_sent", len(answers))
        for answer in answers:
            if isinstance(answer, Prediction):
                self._counts.add("answered")
            elif isinstance(answer, errors.DeadlineExceeded):
                self._counts.add("expired")
            else:
                self._counts.failed(answer.code)
        return answers

    def _answer(
        self, name: str, version: int, items: list[Any]
    ) -> list[Prediction | errors.CeleriacError]:
        made = self._answers[name]
        answers = list(made(items)) if _is_function(made) else [made] * len(items)
        if len(answers) != len(items):
            raise errors.WorkerError(
                f"the fake model {name!r} gave {len(answers)} answers to {len(items)} items"
            )
        return [_prediction(name, version, answer) for answer in answers]


class FakePredictionHandle:
    """A submitted prediction that is finished already."""

    def __init__(  # noqa: PLR0913, PLR0917 - a prediction, and how it was asked for
        self, prediction_id: str, model: str, expires_at: datetime,
        answer: Prediction | errors.CeleriacError, digest: str = "", webhook: str | None = None,
    ) -> None:
        self.id = prediction_id
        self.model = model
        self.expires_at = expires_at
        self.digest = digest
        self._answer = answer
        self._webhook = webhook

    def done(self) -> bool:
        """True: it is finished."""
        return True

    def status(self) -> PredictionStatus:
        """``done`` or ``failed``, with made-up times."""
        is_done = isinstance(self._answer, Prediction)
        return PredictionStatus(
            id=self.id, model=self.model,
            state=SubmissionState.DONE if is_done else SubmissionState.FAILED,
            submitted_at=_CREATED, started_at=_CREATED, ended_at=_CREATED,
            expires_at=self.expires_at, attempts=1, webhook=self._webhook,
            prediction=self._answer if isinstance(self._answer, Prediction) else None,
            error=None if isinstance(self._answer, Prediction) else self._answer,
        )

    def result(self, timeout_s: float | None = None) -> Prediction:
        """The answer, or its error; without waiting."""
        return _or_raise(self._answer)

    def cancel(self) -> bool:
        """False: it is finished."""
        return False


@dataclass(frozen=True)
class FakeJob:
    """A job that is complete, with no rows and no files."""

    id: str
    model: str
    version: int
    source: str
    output: Path
    resumed: bool = False

    def status(self) -> JobStatus:
        """``completed``, with no rows."""
        from celeriac.jobs.ledger import JobState
        from producer.jobs import JobStatus

        return JobStatus(
            id=self.id, state=JobState.COMPLETED, model=self.model, version=self.version,
            source=self.source, output=str(self.output), chunks_total=0, chunks_done=0,
            rows_total=0, rows_done=0, rows_failed=0,
        )

    def wait(
        self, timeout_s: float, on_progress: Callable[[JobStatus], None] | None = None
    ) -> JobStatus:
        """Its status, at once; ``on_progress`` gets it, too."""
        status = self.status()
        if on_progress is not None:
            on_progress(status)
        return status

    def cancel(self) -> JobStatus:
        """Its status: a job that has ended stays as it is."""
        return self.status()

    def resume(self, max_error_share: float | None = None) -> JobStatus:
        """Its status: nothing is left to do."""
        return self.status()

    def dead(self) -> list[DeadChunk]:
        """No chunk was given up."""
        return []

    def unread(self) -> list[int]:
        """Every file was read."""
        return []

    def planned(self, chunk: int) -> PlannedChunk:
        """Raises RequestError: there are no chunks."""
        raise errors.RequestError("a fake job has no chunks")

    def requeue(self, chunks: Sequence[int] = ()) -> int:
        """0: no chunk was given up."""
        return 0

    def drop(self, chunks: Sequence[int]) -> list[int]:
        """No chunk was given up."""
        return []

    def report(self, *, again: bool = False) -> Path:
        """Raises JobFailed: no files are written."""
        raise errors.JobFailed("a fake job has no report: FakeClient writes no files")

    def purge(self, *, finished: bool = False) -> Purged:
        """Nothing: no files are written."""
        from producer.jobs import Purged

        return Purged(0, 0)

    def check_purge(self, *, finished: bool = False) -> None:
        """Nothing stands against it: the job has ended, and there are no files."""

    def parts(self) -> list[Path]:
        """No files."""
        return []

    def results(self) -> Any:
        """Raises JobFailed: no files are written."""
        raise errors.JobFailed("a fake job has no results: FakeClient writes no files")


def _info(name: str) -> ModelInfo:
    version = VersionInfo(
        version=1, format="fake", device="cpu", input=InputSchema(kind="any"),
        output=OutputSchema(kind="any"), created_at=_CREATED.isoformat(),
    )
    return ModelInfo(name=name, aliases={"champion": 1}, versions={1: version})


def _is_function(made: Any) -> bool:
    return callable(made) and not isinstance(made, type)


def _check(item: Any) -> errors.CeleriacError | None:
    try:
        encode(item, _DEFAULTS.max_item_bytes)
    except errors.CeleriacError as error:
        return error
    return None


def _prediction(name: str, version: int, answer: Any) -> Prediction | errors.CeleriacError:
    if isinstance(answer, (Prediction, errors.CeleriacError)):
        return answer
    if isinstance(answer, type) and issubclass(answer, errors.CeleriacError):
        return answer()
    if isinstance(answer, dict) and answer.keys() <= {"label", "probability", "value"}:
        return Prediction(model=name, version=version, **answer)
    return Prediction(model=name, version=version, value=answer)


def _or_raise(answer: Prediction | errors.CeleriacError) -> Prediction:
    if isinstance(answer, errors.CeleriacError):
        raise answer
    return answer
