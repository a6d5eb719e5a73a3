"""Moderate a whole archive with the batch workers, and say what has changed since.

The models score all questions as datasets; where a run of before asked the same version the same,
its scores are taken, so that another threshold costs no model at all.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from celeriac import errors
from celeriac.applications.moderation.archive import (
    DECISIONS,
    ROWS_AT_ONCE,
    SUMMARY,
    Columns,
    DecisionFile,
    QuestionDigest,
    QuestionFile,
    Summary,
    compare,
    differences,
    read_rows,
    read_summary,
)
from celeriac.applications.moderation.decision import check_labels, decide
from celeriac.applications.moderation.policy import Policy
from celeriac.messages import ModelRef, Prediction
from celeriac.registry.catalogue import Catalogue, ModelInfo
from producer.applications.moderation.asking import Outcome
from producer.applications.moderation.desk import labels_of
from producer.client import Client
from producer.jobs import JobHandle, JobStatus

TIMEOUT_S = 24 * 3_600.0
_STOPS_WITHIN_S = 30.0
"""Chunks that are under way stop within seconds of a cancellation."""
_SCORES, _WORK = "scores", "work"
Progress = Callable[[JobStatus], None]


def moderate_archive(  # noqa: PLR0913 - an archive, and its options
    client: Client, source: Path, output: Path, policy: Policy, *,
    columns: Columns | None = None, before: Path | None = None, timeout_s: float = TIMEOUT_S,
    on_progress: Progress | None = None,
) -> Summary:
    """Decide on every post of an archive; waits for the jobs, so never call it in a task.

    ``output`` is a new folder; ``before`` the output of another run, to be compared with. The
    versions of the models are those of now. Raises DatasetError, OutputConflict, ModelNotFound,
    JobFailed, and DeadlineExceeded; then there is no ``summary.json``, and the same call again
    needs a new folder.
    """
    columns = columns or Columns()
    earlier = read_summary(before) if before is not None else None
    models = client.models()
    check_labels(policy, labels_of(models, policy))
    versions = _versions(models, policy)
    registered = _registered(models, versions)
    asked = _ask(source, output, policy, columns)
    reused = _reusable(versions, registered, asked, earlier)
    wanted = [
        (versions[model], file) for model, (file, _) in asked.items()
        if model not in reused and file.count
    ]
    _score(client, wanted, output, timeout_s, on_progress)
    for model in reused:
        assert before is not None  # noqa: S101 - there is nothing to reuse without it
        shutil.copyfile(_scores(before, versions[model]), _scores(output, versions[model]))
    answered = {model: (versions[model], digest) for model, (_, digest) in asked.items()}
    decisions = _decide(source, output, policy, columns, answered)
    found: dict[str, Any] = {
        "source": source.name, "rows": sum(decisions.counts.values()) + decisions.failed,
        "failed": decisions.failed, "policy": policy.ref, "policy_digest": policy.digest,
        "models": versions, "registered": registered,
        "asked": {model: digest for model, (_, digest) in asked.items()},
        "reused": tuple(sorted(reused)), "decisions": dict(sorted(decisions.counts.items())),
    }
    if before is not None and earlier is not None:
        changes, added, removed = compare(output, before)
        found |= {
            "compared_with": before.name, "because": differences(found, earlier),
            "changes": changes, "added": added, "removed": removed,
        }
    summary = Summary(**found)
    (output / SUMMARY).write_bytes(msgspec.json.format(msgspec.json.encode(summary)) + b"\n")
    return summary


def _versions(models: Mapping[str, ModelInfo], policy: Policy) -> dict[str, str]:
    """``NAME@VERSION`` of each model of the policy, as of now. Raises ModelNotFound."""
    catalogue = Catalogue(models=dict(models))
    found = {}
    for model in dict.fromkeys([*policy.text_models, *policy.image_models]):
        ref = ModelRef.parse(model)
        found[model] = f"{ref.name}@{catalogue.resolve(ref).version}"
    return found


def _registered(
    models: Mapping[str, ModelInfo], versions: Mapping[str, str]
) -> dict[str, str]:
    """When each of :func:`_versions` was registered."""
    catalogue = Catalogue(models=dict(models))
    return {
        model: catalogue.resolve(ModelRef.parse(version)).created_at
        for model, version in versions.items()
    }


def _ask(
    source: Path, output: Path, policy: Policy, columns: Columns
) -> dict[str, tuple[QuestionFile, str]]:
    """The new folder, with all questions. If they cannot be written, there is none."""
    try:
        output.mkdir(parents=True)
    except FileExistsError as error:
        raise errors.OutputConflict(f"{output} is there already; name a new folder") from error
    try:
        return _write_questions(source, output, policy, columns)
    except BaseException:
        shutil.rmtree(output)
        raise


def _write_questions(
    source: Path, output: Path, policy: Policy, columns: Columns
) -> dict[str, tuple[QuestionFile, str]]:
    """All questions as files, by model, each with their digest."""
    files = {
        model: QuestionFile(output / _WORK / f"{number}.parquet", kind)
        for number, (model, kind) in enumerate([
            *((model, "text") for model in policy.text_models),
            *((model, "image") for model in policy.image_models),
        ])
    }
    try:
        for row in read_rows(source, columns, policy):
            for question in row.asked.questions if row.asked else ():
                files[question.model].add(question)
    finally:
        digests = {model: file.close() for model, file in files.items()}
    return {model: (file, digests[model]) for model, file in files.items()}


def _reusable(
    versions: Mapping[str, str], registered: Mapping[str, str],
    asked: Mapping[str, tuple[QuestionFile, str]], earlier: Summary | None,
) -> set[str]:
    """Models of which an earlier run asked the same version the same."""
    if earlier is None:
        return set()
    return {
        model for model, (file, digest) in asked.items()
        if file.count and earlier.asked.get(model) == digest
        and earlier.models.get(model) == versions[model]
        and earlier.registered.get(model) == registered[model]
    }


def _score(
    client: Client, wanted: Iterable[tuple[str, QuestionFile]], output: Path, timeout_s: float,
    on_progress: Progress | None,
) -> None:
    """Have versions answer their questions, which are gone then, whatever happens."""
    end_s = time.monotonic() + timeout_s
    (output / _SCORES).mkdir()
    jobs: list[tuple[str, JobHandle]] = []
    try:
        for version, file in wanted:
            jobs.append((version, _submit(client, version, file)))
        for version, job in jobs:
            _wait(job, end_s, on_progress)
            _keep_scores(job, _scores(output, version))
    except BaseException:
        _give_up([job for _, job in jobs], output / _WORK)
        raise
    shutil.rmtree(output / _WORK)  # questions, samples, reports: they show content


def _submit(client: Client, version: str, questions: QuestionFile) -> JobHandle:
    path = questions.path.absolute()
    return client.submit_dataset(
        path, version, path.with_suffix(""), keep_columns=["part"], error_column=True,
        text_column="text" if questions.column == "text" else None,
    )


def _wait(job: JobHandle, end_s: float, on_progress: Progress | None) -> None:
    status = job.wait(max(end_s - time.monotonic(), 0.001), on_progress)
    if status.rows_dead or not status.state.is_whole:
        raise errors.JobFailed(
            f"job {job.id} ended as {status.state}, {status.rows_dead:,} rows without an answer: "
            f"{status.error or 'celeriac batch dead lists them'}"
        )


def _give_up(jobs: Sequence[JobHandle], work: Path) -> None:
    """Nobody waits for these answers any more; content does not stay, either."""
    end_s = time.monotonic() + _STOPS_WITHIN_S
    for job in jobs:
        with suppress(errors.CeleriacError):  # one that cannot be cancelled finds no questions
            job.cancel()
    for job in jobs:
        with suppress(errors.CeleriacError):  # else a worker writes where there is nothing left
            job.wait(max(end_s - time.monotonic(), 0.001))
    shutil.rmtree(work, ignore_errors=True)  # one that hangs may be writing there


def _keep_scores(job: JobHandle, path: Path) -> None:
    """What a job has answered, as one file."""
    import pyarrow.parquet as pq

    writer = None
    for part in job.parts():
        with pq.ParquetFile(str(part)) as file:
            writer = writer or pq.ParquetWriter(path, file.schema_arrow)
            for batch in file.iter_batches(ROWS_AT_ONCE):
                writer.write_batch(batch)
    if writer is not None:
        writer.close()


def _scores(output: Path, version: str) -> Path:
    return output / _SCORES / f"{version}.parquet"


def _decide(
    source: Path, output: Path, policy: Policy, columns: Columns,
    asked: Mapping[str, tuple[str, str]],
) -> DecisionFile:
    """Verdicts on all rows, of the scores in their order. ``asked``: by model, the version that
    answered and the digest of its questions. Raises DatasetError if they are others now."""
    answers = {model: _answers(_scores(output, version), version)
               for model, (version, _) in asked.items()}
    digests = {model: QuestionDigest() for model in asked}
    decisions = DecisionFile(output / DECISIONS)
    try:
        for row in read_rows(source, columns, policy):
            if row.asked is None:
                decisions.add(row, None)
                continue
            for question in row.asked.questions:
                digests[question.model].add(question.item)
            outcomes = [_next(answers[question.model]) for question in row.asked.questions]
            try:
                verdict = decide(row.asked, outcomes, policy)
            except errors.ConfigError:
                raise
            except errors.CeleriacError as error:
                decisions.add(msgspec.structs.replace(row, error=error.message), None)
            else:
                decisions.add(row, verdict)
        is_over = all(next(rest, None) is None for rest in answers.values())
        is_same = all(digests[model].hex() == digest for model, (_, digest) in asked.items())
        if not (is_over and is_same):
            raise _changed()
    finally:
        decisions.close()
    return decisions


def _next(answers: Iterator[Outcome]) -> Outcome:
    found = next(answers, None)
    if found is None:
        raise _changed()
    return found


def _changed() -> errors.DatasetError:
    return errors.DatasetError("the archive has changed while it was scored; start again")


def _answers(path: Path, version: str) -> Iterator[Outcome]:
    """What a model answered, in the order of its questions."""
    import pyarrow.parquet as pq

    if not path.exists():
        return
    ref = ModelRef.parse(version)
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(ROWS_AT_ONCE):
            yield from _outcomes(batch.to_pylist(), ref)


def _outcomes(rows: list[dict[str, Any]], ref: ModelRef) -> Iterator[Outcome]:
    for row in rows:
        if row.get("error") is not None:
            code, _, message = str(row["error"]).partition(": ")
            yield errors.from_wire({"code": code, "message": message})
        elif "probability" in row:
            yield Prediction(
                model=ref.name, version=ref.version or 0, label=row["prediction"],
                probability=row["probability"],
            )
        else:
            yield Prediction(model=ref.name, version=ref.version or 0, value=row["prediction"])
