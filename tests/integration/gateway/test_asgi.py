"""Whatever an ASGI server may hand over, there is one answer, in form, and no 500."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

from hypothesis import HealthCheck, given, settings, strategies as st

from producer.gateway.access import GONE
from tests.integration.gateway.conftest import RunningGateway

PATHS = [
    "/classify", "/v1/models/echo/predict", "/v1/models/reviews@1/predict", "/v1/predictions/a",
    "/v1/predictions/a/cancel", "/v1/jobs", "/v1/jobs/a/events", "/v1/jobs/a/results/b",
    "/v1/models", "/v2", "/v2/models/reviews/infer", "/v2/models/digits/versions/1/infer",
    "/v2/models/stats", "/v2/repository/index", "/health/ready", "/docs", "/openapi.json",
]  # fmt: skip
NAMES = [
    b"content-length", b"content-type", b"content-encoding", b"x-request-id", b"prefer",
    b"x-request-timeout-ms", b"idempotency-key", b"authorization", b"x-api-key", b"host",
    b"inference-header-content-length", b"last-event-id", b"range", b"transfer-encoding",
    b"accept", b"cookie", b"forwarded",
]  # fmt: skip
VALUES = [
    b"application/json", b"image/png", b"gzip", b"respond-async", b"wait=1", b"12", b"0",
    b"bytes=0-5", b"bytes=5-", b"chunked", b"Bearer x", b"Bearer", b"*/*",
]  # fmt: skip
BODIES = [
    b"", b"{}", b'{"text":"a"}', b'{"item":1}', b'{"items":[1,null]}', b'{"item":{"$array":1}}',
    b'{"model":"echo","item":1}', b'{"inputs":[]}', b'{"source":"x","model":"echo","output":"y"}',
    b'{"inputs":[{"name":"text","shape":[1],"datatype":"BYTES","data":["a"]}]}',
    b'{"inputs":[{"name":"a","shape":[1],"datatype":"FP64","parameters":{"binary_data_size":8}}]}x',
]  # fmt: skip

paths = st.one_of(
    st.sampled_from(PATHS), st.text(max_size=20).map(lambda text: "/" + text),
    st.tuples(st.sampled_from(PATHS), st.text(max_size=5)).map("".join),
    st.text(max_size=8).map(lambda name: f"/v1/models/{name}/predict"),
    st.text(max_size=8).map(lambda name: f"/v2/models/{name}/ready"),
)
headers = st.lists(st.tuples(
    st.one_of(st.sampled_from(NAMES), st.binary(min_size=1, max_size=10).map(bytes.lower)),
    st.one_of(st.sampled_from(VALUES), st.binary(max_size=30)),
), max_size=6)  # fmt: skip
bodies = st.lists(st.one_of(st.sampled_from(BODIES), st.binary(max_size=40)), max_size=3)
methods = st.one_of(
    st.sampled_from(["POST", "GET", "PUT", "HEAD", "DELETE", "OPTIONS"]),
    st.text("ABC-x", min_size=1, max_size=4),
)


@settings(max_examples=500, suppress_health_check=list(HealthCheck))
@given(methods, paths, headers, bodies, st.booleans(), st.booleans())
def test_one_answer_in_form(
    gateway: RunningGateway, method: str, path: str, headers: list[tuple[bytes, bytes]],
    bodies: list[bytes], goes_away: bool, is_admin: bool,
) -> None:
    scope = {
        "type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1",
        "method": method, "path": path, "raw_path": path.encode("utf-8", "replace"),
        "query_string": bodies[0][:20] if len(bodies) == 3 else b"",
        "root_path": "", "scheme": "http",
        "headers": headers, "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 2), "state": {},
    }  # fmt: skip
    app = gateway.apps.admin if is_admin else gateway.apps.public
    sent = gateway.call(answered(app, scope, bodies, goes_away)).result(30)
    check(path, sent, goes_away)


async def answered(
    app: Any, scope: dict[str, Any], bodies: list[bytes], goes_away: bool
) -> list[dict[str, Any]]:
    sent: list[dict[str, Any]] = []
    messages = received(bodies, goes_away)
    gone = asyncio.Event()

    async def receive() -> dict[str, Any]:
        found = next(messages, None)
        if found is None:
            await gone.wait()
            return {"type": "http.disconnect"}
        return found

    async def send(message: Any) -> None:
        sent.append(dict(message))

    async with asyncio.timeout(20):
        await app(scope, receive, send)
    gone.set()
    return sent


def received(bodies: list[bytes], goes_away: bool) -> Iterator[dict[str, Any]]:
    for part in bodies:
        yield {"type": "http.request", "body": part, "more_body": True}
    if goes_away:
        yield {"type": "http.disconnect"}
    yield {"type": "http.request", "body": b"", "more_body": False}


def check(path: str, sent: list[dict[str, Any]], goes_away: bool) -> None:
    starts = [message for message in sent if message["type"] == "http.response.start"]
    if not sent:
        assert goes_away
        return
    (start,) = starts
    assert sent[0] is start
    assert start["status"] != GONE or goes_away
    assert start["status"] < 500 or start["status"] in (503, 504), sent
    for name, value in start["headers"]:
        assert not set(name + value) & set(b"\r\n\0"), start
    names = [name for name, _ in start["headers"]]
    assert names.count(b"x-request-id") == 1
    if start["status"] >= 400 and start["status"] != GONE:
        body = b"".join(message.get("body", b"") for message in sent[1:])
        if not path.startswith("/health") and dict(start["headers"]).get(b"content-length") != b"0":
            error = json.loads(body)["error"]
            assert isinstance(error, str if path.startswith("/v2") else dict)
