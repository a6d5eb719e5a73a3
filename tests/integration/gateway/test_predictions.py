"""Predictions that are fetched later, and their webhooks, over HTTP through the whole stack."""

from __future__ import annotations

import http.server
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis

from celeriac.keys import WEBHOOKS_SENDER_KEY, submission_key
from celeriac.messages import SUBMISSIONS_RECONCILE
from celeriac.settings import (
    GatewaySettings,
    KeySettings,
    Settings,
    SubmissionSettings,
    get_settings,
)
from celeriac.submissions.deliveries import Deliveries
from producer.gateway.keys import digest_of
from producer.handles import submit
from tasks import webhooks as sender
from tests.conftest import ROOT, Worker
from tests.frozen import freeze
from tests.integration.gateway.conftest import Answer, Http, RunningGateway
from tests.waiting import wait_until

SECRET = "a secret of thirty-two characters"
FINAL = ("done", "failed", "cancelled", "expired")


class Receiver(http.server.ThreadingHTTPServer):
    """Takes webhooks; by path it fails twice first, hangs, redirects, or never takes them."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.received: list[tuple[str, dict[str, str], bytes]] = []
        self.release = threading.Event()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.server_address[1]}"

    def url(self, path: str) -> str:
        return f"http://{self.host}{path}"

    def at(self, path: str) -> list[tuple[str, dict[str, str], bytes]]:
        return [one for one in self.received if one[0] == path]


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        named = {name.lower(): value for name, value in self.headers.items()}
        self.server.received.append((self.path, named, body))
        if self.path == "/hangs":
            self.server.release.wait(20)
            return
        status = 204
        if self.path == "/fails-twice" and len(self.server.at(self.path)) <= 2:
            status = 500
        if self.path == "/redirects":
            status = 302
        self.send_response(status)
        self.send_header("Location", self.server.url("/elsewhere"))
        self.end_headers()

    def log_message(self, *args: Any) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.release.set()
    receiver.shutdown()
    receiver.server_close()


@pytest.fixture(scope="module")
def silent() -> Iterator[list[Receiver]]:
    """Three others; only ``/hangs`` is for them."""
    receivers = [Receiver() for _ in range(3)]
    yield receivers
    for one in receivers:
        one.release.set()
        one.shutdown()
        one.server_close()


@pytest.fixture(scope="module")
def hooked(
    gateway_settings: Settings, receiver: Receiver, silent: list[Receiver]
) -> Settings:
    """Settings that allow webhooks to the receivers."""
    gateway = gateway_settings.gateway.model_dump() | {
        "webhook_hosts": (receiver.host, *(one.host for one in silent)), "webhook_secret": SECRET,
    }
    return gateway_settings.model_copy(
        update={"gateway": GatewaySettings.model_validate(gateway)}
    )


@pytest.fixture(scope="module")
def maintenance(
    hooked: Settings, gateway_worker: Worker, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Worker]:
    worker = Worker(hooked, "maintenance", tmp_path_factory.mktemp("maintenance") / "log")
    yield worker.wait_ready()
    worker.stop()


@pytest.fixture(scope="module")
def web(hooked: Settings, gateway_worker: Worker, maintenance: Worker) -> Iterator[Http]:
    running = RunningGateway(hooked).start()
    yield running.http
    running.stop()


@pytest.fixture(scope="module")
def direct(gateway_settings: Settings) -> Iterator[redis.Redis]:
    client = redis.Redis.from_url(gateway_settings.broker_url)
    yield client
    client.close()


def put(web: Http, id: str, item: Any = "good", model: str = "reviews", **options: Any) -> Answer:
    return web("PUT", f"/v1/predictions/{id}", {"model": model, "item": item, **options})


def ended(web: Http, id: str, timeout_s: float = 20) -> dict[str, Any]:
    deadline = time.monotonic() + timeout_s
    while (found := web.get(f"/v1/predictions/{id}", Prefer="wait=5").json)["state"] not in FINAL:
        assert time.monotonic() < deadline, found
    return dict(found)


def reconcile(direct: redis.Redis, settings: Settings) -> None:
    from producer import wire

    direct.lpush("maintenance", wire.task_message(
        SUBMISSIONS_RECONCILE, wire.new_id(), "maintenance", {}, shown={}, ignore_result=True
    ))


def told(web: Http, id: str, status: str, timeout_s: float = 20) -> dict[str, Any]:
    """What is shown of a webhook once it has ``status``."""
    deadline = time.monotonic() + timeout_s
    while (hook := web.get(f"/v1/predictions/{id}").json["webhook"])["status"] != status:
        assert time.monotonic() < deadline, hook
        time.sleep(0.05)
    return dict(hook)


# --- predictions ----------------------------------------------------------------------------------


def test_accepted_polled_and_done(web: Http) -> None:
    accepted = web.post(
        "/v1/models/reviews/predict", {"item": "good"}, Prefer="respond-async", X_Request_Id="r-1"
    )
    assert accepted.status == 202
    assert accepted.headers["x-request-id"] == "r-1"
    location = accepted.headers["location"]
    assert location == f"/v1/predictions/{accepted.json['id']}"
    assert (accepted.json["state"], accepted.json["model"]) == ("queued", "reviews")

    found = web.get(location, Prefer="wait=10")
    assert found.status == 200
    assert found.json["state"] == "done"
    assert found.json["version"] == 1
    assert found.json["prediction"]["label"] == "positive"
    assert found.json["submitted_at"][:15] == accepted.json["submitted_at"][:15]
    times = [found.json[name] for name in ("submitted_at", "started_at", "finished_at",
                                           "expires_at")]  # fmt: skip
    assert times == sorted(times)


def test_images_arrays_and_bad_items(web: Http) -> None:
    item = {"$array": "AAAAAAAA8D8AAAAAAAAIQA==", "dtype": "<f8", "shape": [2]}
    assert put(web, "bad-array", {**item, "shape": [3]}, "table").status == 422
    assert put(web, "array", item, "table").status == 202
    assert ended(web, "array")["prediction"]["label"] == 0
    assert put(web, "wrong", 17, "reviews").status == 202
    failed = ended(web, "wrong")
    assert (failed["state"], failed["error"]["code"]) == ("failed", "item_invalid")
    assert put(web, "none", 1, "nothing").status == 404
    image = web.post(
        "/v1/models/echo/predict", b"\x89PNG", Prefer="respond-async", Content_Type="image/png"
    )
    assert ended(web, image.json["id"])["state"] == "done"


def test_put_twice_is_one_prediction(web: Http) -> None:
    first = put(web, "put-twice", {"a": 1, "b": 2}, "echo")
    again = web("PUT", "/v1/predictions/put-twice",
                b'{"item": {"b": 2, "a": 1}, "model": "echo"}')  # fmt: skip
    assert first.status == 202
    assert again.status in (200, 202)
    assert first.json["expires_at"] == again.json["expires_at"]
    assert again.headers["location"] == "/v1/predictions/put-twice"
    assert ended(web, "put-twice")["attempts"] == 1
    assert put(web, "put-twice", {"a": 1, "b": 2}, "echo").status == 200

    other = put(web, "put-twice", {"a": 2}, "echo")
    assert other.status == 409
    assert other.json["error"]["code"] == "conflict"


def test_many_puts_at_once(web: Http) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: put(web, "at-once", "x", "echo"), range(24)))
    assert {answer.status for answer in answers} <= {200, 202}
    assert len({answer.json["expires_at"] for answer in answers}) == 1
    assert ended(web, "at-once")["attempts"] == 1


def test_idempotency_key(web: Http) -> None:
    def post(item: Any, key: str) -> Answer:
        return web.post("/v1/models/echo/predict", {"item": item}, Prefer="respond-async",
                        Idempotency_Key=key)  # fmt: skip

    first, again, other = post(1, "k 1"), post(1, "k 1"), post(1, "k 2")
    assert first.json["id"] == again.json["id"] != other.json["id"]
    assert post(2, "k 1").status == 409
    assert post(1, "x" * 256).status == 400
    assert post(1, "").status == 400


def test_cancel(web: Http, gateway_worker: Worker, direct: redis.Redis) -> None:
    freeze(gateway_worker.process.pid)
    try:
        assert put(web, "cancelled", "x", "echo").json["state"] == "queued"
        waiting = web.get("/v1/predictions/cancelled", Prefer="wait=0")
        assert waiting.headers["retry-after"] == "1"
        started = time.monotonic()
        waited = web.get("/v1/predictions/cancelled", Prefer="wait=1")
        assert (waited.status, waited.json["state"]) == (200, "queued")
        assert 1 <= time.monotonic() - started < 3
        started = time.monotonic()
        shorter = web.get(
            "/v1/predictions/cancelled", Prefer="wait=10", X_Request_Timeout_Ms="300"
        )
        assert (shorter.status, shorter.json["state"]) == (200, "queued")
        assert 0.3 <= time.monotonic() - started < 5
        cancelled = web.post("/v1/predictions/cancelled/cancel")
        assert (cancelled.status, cancelled.json["state"]) == (200, "cancelled")
    finally:
        os.kill(gateway_worker.process.pid, signal.SIGCONT)
    assert ended(web, "cancelled")["state"] == "cancelled"
    put(web, "too-late", "x", "echo")
    ended(web, "too-late")
    assert web.post("/v1/predictions/too-late/cancel").json["state"] == "done"


def test_expired(web: Http, gateway_worker: Worker) -> None:
    freeze(gateway_worker.process.pid)
    try:
        assert put(web, "expired", "x", "echo", expires_s=1).status == 202
        started = time.monotonic()
        assert ended(web, "expired")["state"] == "expired"
        assert 0.5 < time.monotonic() - started < 5
    finally:
        os.kill(gateway_worker.process.pid, signal.SIGCONT)


def test_another_tenants_prediction_does_not_exist(
    web: Http, gateway_settings: Settings, direct: redis.Redis
) -> None:
    from producer.client import Client

    with Client(settings=gateway_settings) as client:
        route = client.realtime.routes.find("echo", 5)
        submit(client.broker, route, b"1", prediction_id="theirs", tenant="other", expires_s=60,
               timeout_s=5)  # fmt: skip
    assert direct.exists(submission_key("other", "theirs"))
    for answer in (
        web.get("/v1/predictions/theirs"), web.post("/v1/predictions/theirs/cancel"),
        web.get("/v1/predictions/never"),
    ):
        assert answer.status == 404
        assert answer.json["error"]["code"] == "prediction_not_found"
    assert put(web, "theirs", 2, "echo").status == 202  # ids are each tenant's own


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400), (b"{", 400), (b'{"model": "echo"}', 400), (b'{"item": 1}', 400),
        (b'{"model": 1, "item": 1}', 400), (b'{"model": "echo", "item": 1, "more": 1}', 400),
        (b'{"model": "echo", "item": NaN}', 400), (b'{"model": "../echo", "item": 1}', 400),
        (b'{"model": "echo", "item": 1, "expires_s": 0}', 400),
        (b'{"model": "echo", "item": 1, "expires_s": 1e9}', 400),
        (b'{"model": "echo", "item": "' + b"x" * 1_000_001 + b'"}', 413),
        (b"[" * 10_000, 400),
    ],
)  # fmt: skip
def test_bad_requests(web: Http, body: bytes, status: int) -> None:
    answer = web("PUT", "/v1/predictions/bad", body)
    assert answer.status == status
    assert answer.json["error"]["message"]
    assert web.get("/v1/predictions/bad").status == 404


@pytest.mark.parametrize("id", ["a%2Fb", "x" * 65, "a%20b", "%0a", "..%2f"])
def test_bad_ids(web: Http, id: str) -> None:
    assert put(web, id, 1, "echo").status in (400, 404)
    assert web.get(f"/v1/predictions/{id}").status == 404


def test_the_documented_session(web: Http) -> None:
    ran = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", examples("bash")[0]], capture_output=True, text=True,
        env=os.environ | {"CELERIAC_URL": f"http://127.0.0.1:{web.port}"}, timeout=60, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert '"label":"' in ran.stdout
    assert "location: /v1/predictions/key-" in ran.stdout.lower()
    assert ran.stdout.rstrip().endswith("}")
    assert '"state":"done"' in ran.stdout.rpartition("{\"id\"")[2]


def examples(language: str) -> list[str]:
    """The fenced blocks of the page in one language."""
    text = (ROOT / "docs" / "asynchronous.md").read_text()
    return [block.partition("\n")[2] for block in text.split("```")[1::2]
            if block.startswith(language)]  # fmt: skip


def test_the_openapi_page_knows_them(web: Http) -> None:
    paths = web.get("/openapi.json").json["paths"]
    assert set(paths["/v1/predictions/{id}"]) == {"put", "get"}
    assert set(paths["/v1/predictions/{id}/cancel"]) == {"post"}


# --- webhooks -------------------------------------------------------------------------------------


def test_a_webhook_comes_once_and_is_signed(web: Http, receiver: Receiver) -> None:
    put(web, "hooked", "good", webhook=receiver.url("/done?x=1"))
    hook = told(web, "hooked", "delivered")
    assert (hook["attempts"], hook["url"]) == (1, receiver.url("/done?x=1"))

    ((_, headers, body),) = receiver.at("/done?x=1")
    documented: dict[str, Any] = {}
    exec(compile(examples("python")[0], "asynchronous.md", "exec"), documented)
    assert documented["is_ours"](SECRET, headers["x-celeriac-signature"], body)
    assert not documented["is_ours"](SECRET, headers["x-celeriac-signature"], body + b" ")
    assert not documented["is_ours"]("another", headers["x-celeriac-signature"], body)
    assert len(headers["x-celeriac-delivery"]) == 36
    assert headers["host"] == receiver.host
    said = json.loads(body)
    shown = web.get("/v1/predictions/hooked").json
    assert said == {
        "id": "hooked", "model": "reviews", "version": 1, "state": "done",
        "prediction": shown["prediction"], "finished_at": shown["finished_at"],
    }  # fmt: skip


def test_every_end_is_told(
    web: Http, receiver: Receiver, gateway_worker: Worker, direct: redis.Redis, hooked: Settings
) -> None:
    put(web, "hooked-failed", 17, webhook=receiver.url("/failed"))
    told(web, "hooked-failed", "delivered")
    freeze(gateway_worker.process.pid)
    try:
        put(web, "hooked-cancelled", 1, webhook=receiver.url("/cancelled"))
        put(web, "hooked-expired", 1, webhook=receiver.url("/expired"), expires_s=1)
        web.post("/v1/predictions/hooked-cancelled/cancel")
        time.sleep(1.1)
        reconcile(direct, hooked)
        told(web, "hooked-cancelled", "delivered")
        told(web, "hooked-expired", "delivered")
    finally:
        os.kill(gateway_worker.process.pid, signal.SIGCONT)
    for state in ("failed", "cancelled", "expired"):
        ((_, _, body),) = receiver.at(f"/{state}")
        assert json.loads(body)["state"] == state
    assert json.loads(receiver.at("/failed")[0][2])["error"]["code"] == "item_invalid"


def test_a_receiver_that_fails_twice_gets_it_again(
    web: Http, receiver: Receiver, direct: redis.Redis, hooked: Settings
) -> None:
    put(web, "twice", 1, "echo", webhook=receiver.url("/fails-twice"))
    for attempt in (1, 2):
        deadline = time.monotonic() + 20
        while len(receiver.at("/fails-twice")) < attempt:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        hook = retried(web, "twice", attempt)
        assert hook["reason"] == "it answered 500"
        bring_forward(direct, receiver)
        reconcile(direct, hooked)
    hook = told(web, "twice", "delivered")
    assert hook["attempts"] == 3
    bodies = {body for _, _, body in receiver.at("/fails-twice")}
    ids = {headers["x-celeriac-delivery"] for _, headers, _ in receiver.at("/fails-twice")}
    assert len(bodies) == len(ids) == 1


def test_receivers_that_hang_hold_up_neither_another_nor_the_maintenance_role(
    web: Http, receiver: Receiver, silent: list[Receiver], direct: redis.Redis, hooked: Settings
) -> None:
    for number, one in enumerate(silent):
        for copy in range(4):
            put(web, f"hangs-{number}-{copy}", 1, "echo", webhook=one.url("/hangs"))
    wait_until(lambda: all(one.at("/hangs") for one in silent), timeout_s=20)
    put(web, "after", 1, "echo", webhook=receiver.url("/after"))
    wait_until(lambda: receiver.at("/after"), timeout_s=20)
    reconcile(direct, hooked)
    wait_until(lambda: not direct.llen("maintenance"), timeout_s=20)  # the other process is free

    assert retried(web, "hangs-0-0", 1)["reason"].startswith("no answer from 127.0.0.1:")
    assert direct.exists(f"celeriac:webhooks:silent:{silent[0].host}")


def test_redirects_are_not_followed(web: Http, receiver: Receiver) -> None:
    put(web, "redirects", 1, "echo", webhook=receiver.url("/redirects"))
    assert retried(web, "redirects", 1)["reason"] == "it answered 302"
    assert not receiver.at("/elsewhere")


@pytest.mark.parametrize("url", [
    "https://example.org/x", "http://127.0.0.1:1/x", "http://169.254.169.254/latest",
    "file:///etc/passwd", "https://", "http://a@{host}/x", "http://{host}.example.org/x",
    "gopher://{host}/x", "http://{host}/a b", "http://{host}/a\r\nX: y", "http://{host}#x", "x",
])  # fmt: skip
def test_other_hosts_are_refused(web: Http, receiver: Receiver, url: str) -> None:
    answer = put(web, "refused", 1, "echo", webhook=url.replace("{host}", receiver.host))
    assert answer.status == 400
    assert "webhook" in answer.json["error"]["message"]
    assert web.get("/v1/predictions/refused").status == 404


def test_given_up_after_the_last_attempt_and_when_the_host_is_not_listed_any_more(
    web: Http, receiver: Receiver, direct: redis.Redis, hooked: Settings, monkeypatch: Any,
    gateway_settings: Settings,
) -> None:
    put(web, "given-up", 1, "echo", webhook=receiver.url("/redirects"))
    retried(web, "given-up", 1)
    monkeypatch.setattr(sender, "get_settings", lambda: gateway_settings)  # it lists no host
    deliveries = Deliveries(direct)
    for _ in range(9):
        bring_forward(direct, receiver)
        sender.send_due(deliveries)
    hook = told(web, "given-up", "given_up")
    assert hook["attempts"] == 10
    assert hook["reason"] == "there is no secret any more that signs it"


def retried(web: Http, id: str, attempt: int) -> dict[str, Any]:
    """What is shown once an attempt has failed."""
    deadline = time.monotonic() + 20
    while True:
        hook = dict(web.get(f"/v1/predictions/{id}").json["webhook"])
        if hook["attempts"] == attempt and hook["reason"] is not None:
            assert hook["status"] == "pending"
            return hook
        assert time.monotonic() < deadline, hook
        time.sleep(0.05)


def bring_forward(direct: redis.Redis, receiver: Receiver) -> None:
    """Have all that waits for its next attempt be due now, once nobody sends any more."""
    deadline = time.monotonic() + 20
    while direct.exists(WEBHOOKS_SENDER_KEY):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    key = f"celeriac:webhooks:due:{receiver.host}"
    found: Any = direct.zrange(key, 0, -1)
    for delivery in found:
        direct.zadd(key, {delivery: 0})


@pytest.fixture(autouse=True)
def _fresh_settings() -> Iterator[None]:
    get_settings.cache_clear()
    yield
    get_settings.cache_clear()


def test_keys_of_two_tenants(
    hooked: Settings, gateway_worker: Worker, maintenance: Worker
) -> None:
    names = ("acme", "globex")
    keys = {name: KeySettings(sha256=digest_of(f"key-of-{name}"), tenant=name) for name in names}
    gateway = hooked.gateway.model_copy(update={"keys": keys})
    running = RunningGateway(hooked.model_copy(update={"gateway": gateway})).start()
    try:
        def call(who: str, method: str, path: str, body: Any = None) -> Answer:
            return running.http(method, path, body, {"Authorization": f"Bearer key-of-{who}"})

        path, body = "/v1/predictions/same", {"model": "echo", "item": 1}
        assert running.http("PUT", path, body).status == 401
        assert call("acme", "PUT", path, body).status == 202
        for method, place in (("GET", path), ("POST", f"{path}/cancel")):
            assert call("globex", method, place).status == 404
        assert call("globex", "PUT", path, {"model": "echo", "item": 2}).status == 202
        assert call("acme", "GET", path).json["id"] == "same"
        for who, item in (("acme", 1), ("globex", 2)):
            deadline = time.monotonic() + 20
            while (found := call(who, "GET", path).json)["state"] != "done":
                assert time.monotonic() < deadline
            assert found["prediction"]["value"] == item
    finally:
        running.stop()


def test_a_tenant_that_has_its_share_is_refused_and_another_is_not(
    hooked: Settings, gateway_worker: Worker
) -> None:
    keys = {
        name: KeySettings(sha256=digest_of(f"key-of-{name}"), tenant=name)
        for name in ("initech", "umbrella")
    }
    settings = hooked.model_copy(update={
        "gateway": hooked.gateway.model_copy(update={"keys": keys}),
        "submissions": SubmissionSettings(max_open=1_000, max_tenant_share=0.002),
    })
    running = RunningGateway(settings).start()
    try:
        def put_as(who: str, id: str) -> Answer:
            headers = {"Authorization": f"Bearer key-of-{who}"}
            body = {"model": "idle", "item": 1}  # nobody takes it
            return running.http("PUT", f"/v1/predictions/{id}", body, headers)

        assert [put_as("initech", name).status for name in "ab"] == [202, 202]
        answer = put_as("initech", "c")
        assert (answer.status, answer.json["error"]["code"]) == (429, "overloaded")
        assert answer.headers["retry-after"] == "60"
        assert "max_tenant_share" in answer.json["error"]["message"]
        assert put_as("initech", "a").status == 202
        assert put_as("umbrella", "c").status == 202
        for who, name in (("initech", "a"), ("initech", "b"), ("umbrella", "c")):
            path, key = f"/v1/predictions/{name}/cancel", f"key-of-{who}"
            assert running.http("POST", path, None, {"X-API-Key": key}).status == 200
    finally:
        running.stop()
