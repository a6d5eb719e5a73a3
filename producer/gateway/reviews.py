"""Reviews over HTTP: sentiments at once, and summaries of datasets as jobs."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Request
from fastapi.responses import Response
from msgspec import Meta

from celeriac import errors
from celeriac.applications.reviews import dataset
from celeriac.applications.reviews.page import render
from celeriac.applications.reviews.sentiment import (
    check_review,
    checked,
    positive_label,
    sentiment_of,
)
from celeriac.applications.reviews.summary import ReviewSummary
from celeriac.datasets.records import Period
from celeriac.jobs.folder import JobFolder
from celeriac.messages import ModelRef, Prediction
from producer.applications.reviews import DEFAULT_MODEL
from producer.gateway import body, jobs, predict, results
from producer.gateway.cold import contexts, json_response
from producer.gateway.context import Gateway, RequestContext
from producer.gateway.failures import described, fault
from producer.jobs import JobStatus


class SentimentRequest(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """``{"review": TEXT}`` or ``{"reviews": [TEXT, ...]}``."""

    review: str | None = None
    reviews: list[str] | None = None
    model: jobs.Text = DEFAULT_MODEL
    positive: jobs.Text | None = None
    """The label that counts as good, where it is none of the usual words."""


class SummaryRequest(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A dataset of reviews, and which of its columns is what."""

    source: jobs.Text
    """As for ``/v1/jobs``, as ``output``."""
    output: jobs.Text
    product: jobs.Text
    """Column."""
    date: jobs.Text | None = None
    """Column; with it there are trends."""
    period: Period = "month"
    text_column: jobs.Text | None = None
    model: jobs.Text = DEFAULT_MODEL
    positive: jobs.Text | None = None
    expires_s: Annotated[float, Meta(gt=0, le=315_360_000)] | None = None


_sentiment = msgspec.json.Decoder(SentimentRequest)
_summary = msgspec.json.Decoder(SummaryRequest)
router = APIRouter(prefix="/v1/reviews", tags=["reviews"])


def _asks(name: str, shape: type, example: dict[str, Any]) -> dict[str, Any]:
    schema = msgspec.json.schema(shape)["$defs"][name]
    return {"requestBody": {"required": True, "content": {
        "application/json": {"schema": schema, "example": example},
    }}}


_SENTIMENT = {"type": "object", "required": ["sentiment", "label", "probability"], "properties": {
    "sentiment": {"type": "number", "minimum": -1, "maximum": 1}, "label": {},
    "probability": {"type": "number"}, "model": {"type": "string"}, "version": {"type": "integer"},
}}
_ANSWER = {"application/json": {"schema": {"oneOf": [
    _SENTIMENT, {
        "type": "object", "required": ["sentiments"], "properties": {"sentiments": {
            "type": "array",
            "items": {"anyOf": [_SENTIMENT, {"$ref": "#/components/schemas/ItemError"}]},
        }},
    },
]}}}
_SHOWN = {"application/json": {"schema": {
    "type": "object", "required": ["job_id", "overall", "products"], "properties": {
        "job_id": {"type": "string"}, "overall": {"type": ["object", "null"]},
        "products": {"type": "array", "items": {"type": "object"}},
    },
}}}
_LATER: dict[int | str, dict[str, Any]] = {
    404: {"description": "Your tenant has no such job (any more)"},
    409: {"description": "The job has not finished (yet)"},
}


@router.post("/sentiment", summary="How a review sounds, or many", responses={
    200: {"description": "From -1 (bad) to 1 (good)", "content": _ANSWER},
}, openapi_extra=_asks(
    "SentimentRequest", SentimentRequest, {"review": "Best coffee I ever bought"}
))  # fmt: skip
async def sentiment(request: Request) -> Response:
    """A list is answered as a list, with errors in the places of the reviews that have one."""
    gateway, context = contexts(request)
    wanted = body.decode(gateway, await body.read(gateway, context), _sentiment)
    if (wanted.review is None) == (wanted.reviews is None):
        raise fault("give 'review' or 'reviews', one of the two", "review")
    version = await gateway.client.version(ModelRef.parse(wanted.model), context.left_s())
    positive = _positive(version.output, wanted.positive, wanted.model)
    outcomes: list[Prediction | errors.CeleriacError]
    if wanted.review is not None:
        model, review = wanted.model, check_review(wanted.review)
        outcomes = [await predict.predict_one(gateway, context, model, review)]
    else:
        outcomes = await _outcomes(gateway, context, wanted.model, wanted.reviews or [])
    positives = {version.version: positive}
    for other in {one.version for one in outcomes if isinstance(one, Prediction)} - {*positives}:
        ref = ModelRef(ModelRef.parse(wanted.model).name, version=other)  # a canary's, say
        version = await gateway.client.version(ref, context.left_s())
        positives[other] = _positive(version.output, wanted.positive, wanted.model)
    found = [
        sentiment_of(one, positives[one.version]) if isinstance(one, Prediction)
        else {"error": described(one)} for one in outcomes
    ]
    return json_response(found[0] if wanted.review is not None else {"sentiments": found})


@router.post("/summaries", status_code=202, summary="Sum a dataset of reviews up, by product",
             responses={
    202: {"description": "It is accepted; `/v1/jobs/{id}` follows it", "content": jobs.JOB},
    200: {"description": "The job that came of the same request before", "content": jobs.JOB},
    403: {"description": "A path that this gateway does not open, or no folders are configured"},
}, openapi_extra={"parameters": [jobs.IDEMPOTENCY_KEY], **_asks("SummaryRequest", SummaryRequest, {
    "source": "reviews.csv", "output": "summary-1", "product": "product_id", "date": "written_at",
})})  # fmt: skip
async def summarise(request: Request) -> Response:
    """As `POST /v1/jobs`, `Idempotency-Key` included; `Location` has the summary's address."""
    gateway, context = contexts(request)
    wanted = body.decode(gateway, await body.read(gateway, context), _summary)
    ref = ModelRef.parse(wanted.model)
    version = await gateway.client.version(ref, context.left_s())
    positive = _positive(version.output, wanted.positive, wanted.model)
    aggregate = dataset.aggregation(wanted.product, wanted.date, wanted.period, positive)
    job = jobs.JobRequest(
        source=wanted.source, output=wanted.output, model=f"{ref.name}@{version.version}",
        text_column=wanted.text_column, expires_s=wanted.expires_s,
        keep_columns=[name for name in (wanted.product, wanted.date) if name],
        aggregate=msgspec.to_builtins(aggregate),
    )
    return await jobs.accept(gateway, context, job, "/v1/reviews/summaries", asked=wanted)


@router.get("/summaries/{id}", summary="What the reviews of a finished job say", responses={
    200: {"description": "The products, the best first", "content": _SHOWN}, **_LATER
})  # fmt: skip
async def show(id: str, request: Request) -> Response:
    """Means with their intervals, spreads, shares and trends."""
    return json_response(await _found(id, request))


@router.get("/summaries/{id}/page", summary="The same for a person", response_class=Response,
            responses={200: {"description": "One page", "content": {"text/html": {}}}, **_LATER})
async def page(id: str, request: Request) -> Response:
    found = await _found(id, request)
    made = await results.in_thread(render, found)
    return Response(made, media_type="text/html; charset=utf-8", headers=results.SAFE)


async def _found(id: str, request: Request) -> ReviewSummary:
    gateway, context = contexts(request)
    folder, status = await jobs.folder_of(gateway, context, id)
    return await results.in_thread(_read, folder, status)


def _read(folder: JobFolder, job: JobStatus) -> ReviewSummary:
    """The summary of that very job: its folder may hold another one's. Raises Conflict until it
    has finished, and RequestError if it was submitted for something else."""
    results.check_finished(folder, job)
    try:
        return dataset.read_summary(folder)
    except errors.RequestError as error:  # which names the folder
        raise errors.RequestError(
            f"job {job.id} was not submitted for a summary of reviews (POST /v1/reviews/summaries)"
        ) from error


async def _outcomes(
    gateway: Gateway, context: RequestContext, model: str, reviews: list[str]
) -> list[Prediction | errors.CeleriacError]:
    """One for each review; the empty ones are not sent."""
    texts = [checked(review) for review in reviews]
    good = [one for one in texts if isinstance(one, str)]
    answers = iter(await predict.predict_many(gateway, context, model, good))
    return [next(answers) if isinstance(one, str) else one for one in texts]


def _positive(output: Any, wanted: str | None, model: str) -> Any:
    try:
        return positive_label(output, wanted, model)
    except errors.RequestError as error:
        error.field = "model" if wanted is None else "positive"
        raise
