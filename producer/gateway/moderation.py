"""Content moderation over HTTP: decisions, why they were made, and the review queue."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from functools import lru_cache
from typing import Annotated, Any, Literal

import msgspec
from fastapi import APIRouter, Query, Request
from fastapi.responses import Response, StreamingResponse
from msgspec import Meta

from celeriac import errors
from celeriac.applications.moderation.reviews import Label
from celeriac.messages import decode_base64
from producer.applications.moderation import AsyncModerator, Decision, Post
from producer.gateway import body, results
from producer.gateway.cold import contexts, json_response
from producer.gateway.context import Gateway, RequestContext
from producer.gateway.failures import described, fault

MOST_POSTS = 1_000
"""Posts of one request, at most."""
MOST_SHOWN = 500



class PostRequest(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """``{"text"?, "images"?, "id"?}``"""

    text: str | None = None
    images: Annotated[list[str], Meta(max_length=16)] = []
    """Files (PNG, JPEG, WEBP, GIF) in base64."""
    id: Annotated[str, Meta(max_length=200)] = ""
    """Your own name of the post."""


class PostsRequest(msgspec.Struct, forbid_unknown_fields=True):
    """``{"posts": [...]}``"""

    posts: Annotated[list[PostRequest], Meta(max_length=MOST_POSTS)]


class Settled(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """``{"decision", "categories"?, "note"?, "by"?}``"""

    decision: Literal["allow", "block"]
    categories: Annotated[list[str], Meta(max_length=100)] = []
    note: Annotated[str, Meta(max_length=2_000)] = ""
    by: Annotated[str, Meta(max_length=200)] = ""
    """Who looked; default: the key's name."""


_post = msgspec.json.Decoder(PostRequest)
_posts = msgspec.json.Decoder(PostsRequest)
_settled = msgspec.json.Decoder(Settled)

_DECISION: dict[str, Any] = {
    "id": "20261125-0123456789ab-7", "decision": "block",
    "reasons": [{
        "kind": "score", "action": "block", "part": "text", "category": "toxicity", "score": 0.98,
        "threshold": 0.95, "model": "profanity@1",
    }],
    "scores": [
        {"part": "text", "category": "toxicity", "score": 0.98, "model": "profanity@1"},
    ],
    "policy": "house@3", "queued": None,
}  # fmt: skip
_SHAPE = {"application/json": {"schema": {
    "type": "object", "required": ["id", "decision", "reasons", "scores", "policy"],
    "properties": {
        "id": {"type": "string"}, "decision": {"enum": ["allow", "review", "block"]},
        "reasons": {"type": "array", "items": {"type": "object"}},
        "scores": {"type": "array", "items": {"type": "object"}},
        "policy": {"type": "string"},
        "queued": {"type": ["boolean", "null"], "description": "Of a review: it is in the queue"},
    },
}, "example": _DECISION}}
_OBJECT = {"application/json": {"schema": {"type": "object"}}}


def _body(kind: type[msgspec.Struct], example: dict[str, Any]) -> dict[str, Any]:
    (schema,), components = msgspec.json.schema_components([kind], ref_template="#/{name}")
    whole = dict(components[schema["$ref"].removeprefix("#/")])
    if kind is PostsRequest:
        whole["properties"] = {"posts": {
            "type": "array", "maxItems": MOST_POSTS, "items": components["PostRequest"],
        }}
    return {"requestBody": {"required": True, "content": {
        "application/json": {"schema": whole, "example": example}
    }}}


router = APIRouter(prefix="/v1/moderation", tags=["moderation"])


@router.post(
    "", summary="Decide on one post", responses={200: {"description": "", "content": _SHAPE}},
    openapi_extra=_body(PostRequest, {"id": "post-7", "text": "Have a nice day"}),
)
async def moderate(request: Request) -> Response:
    """Text and images are decided as one; the gravest reason counts."""
    gateway, context = contexts(request)
    wanted = body.decode(gateway, await body.read(gateway, context), _post)
    (found,) = await _decided(gateway, context, [wanted])
    if isinstance(found, errors.CeleriacError):
        raise found
    return json_response(found)


@router.post(
    "/batch", summary="Decide on many posts",
    responses={200: {"description": "In their order", "content": _OBJECT}},
    openapi_extra=_body(PostsRequest, {"posts": [{"text": "Have a nice day"}, {"text": "moron"}]}),
)
async def moderate_many(request: Request) -> Response:
    """Each by itself; one that cannot be decided has `{"error": {"code", "message"}}`.

    For archives: `celeriac moderation archive`.
    """
    gateway, context = contexts(request)
    wanted = body.decode(gateway, await body.read(gateway, context), _posts)
    found = await _decided(gateway, context, wanted.posts)
    return json_response({"decisions": [
        {"error": described(one)} if isinstance(one, errors.CeleriacError) else one
        for one in found
    ]})


@router.get("/policy", summary="The policy that holds now", responses={200: {
    "description": "", "content": _OBJECT,
}})
async def show_policy(request: Request) -> Response:
    """Word lists are told to nobody but an admin key: who knows them writes around them."""
    gateway, context = contexts(request)
    policy = moderator_of(gateway).desk.policy()
    found = {"ref": policy.ref, "digest": policy.digest, **policy.model_dump(mode="json")}
    if "admin" not in context.caller.scopes:
        found["lists"] = {name: len(entries) for name, entries in found["lists"].items()}
    return json_response(found)


@router.get("/reviews", summary="What waits for somebody to look at it", responses={200: {
    "description": "The oldest first", "content": _OBJECT,
}})
async def reviews(
    request: Request, limit: Annotated[int, Query(ge=1, le=MOST_SHOWN)] = 50
) -> Response:
    """Of your tenant. The key needs the scope `batch`: these are people's posts."""
    gateway, context = contexts(request)
    desk, tenant = moderator_of(gateway).desk, context.caller.tenant
    with desk.redis():
        queue = desk.reviews(tenant)
        found = await asyncio.to_thread(queue.open, limit)
        count = await asyncio.to_thread(queue.count)
    return json_response({"reviews": found, "open": count})


@router.post(
    "/reviews/{id}", summary="Settle a review", openapi_extra=_body(
        Settled, {"decision": "allow", "note": "quotes a film"}
    ),
    responses={
        200: {"description": "It is settled", "content": _OBJECT},
        404: {"description": "It was never a review, or has expired"},
        409: {"description": "Somebody else was faster"},
    },
)
async def settle(id: str, request: Request) -> Response:
    """The first who does so wins."""
    gateway, context = contexts(request)
    wanted = body.decode(gateway, await body.read(gateway, context), _settled)
    by = wanted.by or (context.caller.name if context.caller.name != "-" else "gateway")
    label = await asyncio.to_thread(
        lambda: moderator_of(gateway).desk.settle(
            id, wanted.decision, by=by, categories=wanted.categories, note=wanted.note,
            tenant=context.caller.tenant,
        )
    )
    return json_response({
        "id": label.id, "decision": label.decision, "by": label.by, "categories": label.categories,
        "note": label.note,
    })


@router.get("/labels", summary="What people decided", response_class=Response, responses={200: {
    "description": "One JSON object a line", "content": {"application/x-ndjson": {}},
}})
async def labels(request: Request) -> Response:
    """With the texts, for those who train models: the same rows as `celeriac moderation labels`."""
    gateway, context = contexts(request)
    desk, tenant = moderator_of(gateway).desk, context.caller.tenant
    blocks = desk.labels(tenant)
    first = await results.in_thread(next, blocks, None)  # what fails here still has its own status
    return StreamingResponse(_lines(first, blocks), media_type="application/x-ndjson")


async def _lines(
    block: Sequence[Label] | None, blocks: Iterator[Sequence[Label]]
) -> AsyncIterator[bytes]:
    from celeriac.applications.moderation.labels import row_of

    encode = msgspec.json.Encoder().encode_lines
    while block is not None:
        yield encode([row_of(label) for label in block])
        block = await results.in_thread(next, blocks, None)


@router.get("/decisions/{id}", summary="Why a post was decided so", responses={
    200: {"description": "", "content": _OBJECT},
    404: {"description": "Your tenant has no such decision (any more)"},
})
async def explain(id: str, request: Request) -> Response:
    """Scores, thresholds and versions, as they were; and what people said since. No content."""
    gateway, context = contexts(request)
    found = await asyncio.to_thread(
        moderator_of(gateway).desk.explain, id, context.caller.tenant
    )
    policy = found.policy
    return json_response({
        "record": found.record, "reviews": found.reviews,
        "policy": policy and policy.model_dump(mode="json", exclude={"lists"}),
    })


async def _decided(
    gateway: Gateway, context: RequestContext, wanted: list[PostRequest]
) -> list[Decision | errors.CeleriacError]:
    """One for each; a post with an image that is not base64 is not asked about."""
    context.items = sum((one.text is not None) + len(one.images) for one in wanted)
    posts = [_decoded(one) for one in wanted]
    try:
        found = iter(await moderator_of(gateway).moderate_many(
            [one for one in posts if isinstance(one, Post)], timeout_s=context.left_s(),
            tenant=context.caller.tenant, return_errors=True,
        ))
    except errors.Conflict as error:  # the policy's version: no caller can mend it
        raise errors.ConfigError(error.message) from error
    return [next(found) if isinstance(one, Post) else one for one in posts]


def _decoded(wanted: PostRequest) -> Post | errors.RequestError:
    try:
        return Post(text=wanted.text, id=wanted.id, images=tuple(
            _image(data, f"images[{number}]") for number, data in enumerate(wanted.images)
        ))
    except errors.RequestError as error:
        return error


def _image(data: str, field: str) -> bytes:
    try:
        return decode_base64(data)
    except Exception as error:
        raise fault(f"{field} is not base64", field) from error


@lru_cache(maxsize=8)
def moderator_of(gateway: Gateway) -> AsyncModerator:
    """One for each gateway of this process, made at first use. Raises ConfigError."""
    return AsyncModerator(gateway.client)
