"""Content moderation on real workers with the two real models: at once, reviewed, over an archive.

The stack and its models are made once for this file.
"""

from __future__ import annotations

import asyncio
import csv
import io
import json
import os
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pyarrow.parquet as pq
import pytest
import redis
from PIL import Image
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from celeriac import errors, release
from celeriac.applications.moderation.archive import DECISIONS, Columns
from celeriac.applications.moderation.policy import EXAMPLE, Policy, read_policy
from celeriac.registry.catalogue import publish
from celeriac.registry.store import Registry
from celeriac.settings import (
    BrokerSettings,
    GatewaySettings,
    ModelsSettings,
    ModerationSettings,
    Settings,
    StackSettings,
)
from demo.data import verified
from producer import AsyncClient, Client
from producer.applications.moderation import AsyncModerator, Moderator, Post
from producer.applications.moderation.archive import moderate_archive
from tests.conftest import ROOT, Ran, Worker, environment
from tests.e2e.test_demo import commands
from tests.integration.gateway.conftest import RunningGateway
from workers.valkey import EmbeddedServer, free_port

pytestmark = [pytest.mark.uncounted, pytest.mark.timeout(300)]


class System:
    """What runs for the tests of this file."""

    def __init__(self, settings: Settings, said: str) -> None:
        self.settings = settings
        self.said = said
        """What the registration of the models has printed."""
        self.env = environment(settings)


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    folder = tmp_path_factory.mktemp("moderation")
    server = EmbeddedServer(folder / "valkey", free_port())
    server.start()
    settings = Settings(
        broker=BrokerSettings(url=server.url),
        stack=StackSettings(state_dir=folder / "state", metrics_port=0),
        models=ModelsSettings(root=folder / "models"),
        gateway=GatewaySettings(port=0, admin_port=0, drain_notice_s=0.0, access_log=False),
        moderation=ModerationSettings(folder=folder / "records"),
    )
    said = subprocess.run(
        [sys.executable, "-m", "demo.moderation", "--local"], cwd=ROOT, check=True, timeout=110,
        env=os.environ | environment(settings), capture_output=True, text=True,
    ).stdout
    with redis.Redis.from_url(server.url) as client:
        publish(client, Registry(settings.models.root).infos())
    workers = [Worker(settings, role, folder / f"{role}.log") for role in
               ("realtime.cpu", "batch.cpu", "maintenance")]
    for worker in workers:
        worker.wait_ready(90)
    yield System(settings, said)
    for worker in workers:
        worker.ask_to_stop()
    for worker in workers:
        worker.stop()
    server.stop()


@pytest.fixture(scope="module")
def client(system: System) -> Iterator[Client]:
    with Client(settings=system.settings, timeout_s=30) as one:
        yield one


@pytest.fixture
def moderator(client: Client) -> Iterator[Moderator]:
    with Moderator(client) as one:
        yield one


def picture(size: tuple[int, int] = (90, 60), format: str = "PNG") -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(3).integers(0, 255, (*size[::-1], 3)).astype(np.uint8)
    Image.fromarray(pixels).save(file, format)
    return file.getvalue()


def bomb() -> bytes:
    """A PNG of few bytes that says it has 60,000 x 60,000 pixels."""
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(
            ">I", zlib.crc32(kind + data)
        )

    head = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 99))


def test_the_models_answer_as_their_packages_do(system: System) -> None:
    assert "examples are answered as before; probabilities and values differ by 0 at most" in (
        system.said
    )
    assert "2 pictures are answered as by the package; scores differ by" in system.said
    formats = {
        name: Registry(system.settings.models.root).get(name, 1).format
        for name in ("profanity", "image-safety")
    }
    assert formats == {"profanity": "sklearn", "image-safety": "onnx"}
    again = subprocess.run(
        [sys.executable, "-m", "demo.moderation"], cwd=ROOT, check=True, timeout=60,
        env=os.environ | system.env, capture_output=True, text=True,
    ).stdout
    assert again.count("is there already") == 2


@pytest.mark.parametrize(
    ("text", "decision"),
    [
        ("Have a nice day, everybody", "allow"),
        ("You are a fucking idiot", "block"),
        ("You are a fuck\u0456ng id1ot", "block"),
        ("You are a f u c k i n g idiot", "block"),
        ("You are a fuck\u200bing id\u00adiot", "block"),
        ("Damn, that was good", "review"),
        ("B.U.Y. f0llowers", "block"),
        ("", "allow"),
        ("\U0001f600\U0001f468\u200d\U0001f469\u200d\U0001f467", "allow"),
        ("\u041f\u0440\u0438\u0432\u0435\u0442 \u4f60\u597d \u0645\u0631\u062d", "allow"),
        ("Nothing to see here, just words. " * 300 + "Go to hell, you bastard", "review"),
    ],
)
def test_texts_in_real_time(moderator: Moderator, text: str, decision: str) -> None:
    found = moderator.moderate(text)
    assert found.decision == decision
    assert found.queued is (True if decision == "review" else None)


def test_a_megabyte_of_text_is_decided(moderator: Moderator) -> None:
    text = "a fine and friendly word, " * 38_000
    assert moderator.moderate(text, timeout_s=60).decision == "allow"
    assert moderator.moderate(text + "you fucking idiot", timeout_s=60).decision == "block"
    with pytest.raises(errors.PayloadTooLarge, match="at most 1,000,000"):
        moderator.moderate(text + text)


def test_a_text_and_several_images_are_one_post(moderator: Moderator) -> None:
    found = moderator.moderate("Look", [picture(), picture(format="JPEG")], id="post-7")
    assert found.decision == "allow"
    assert [(score.part, score.category, score.model) for score in found.scores] == [
        ("text", "toxicity", "profanity@1"), ("images[0]", "nudity", "image-safety@1"),
        ("images[1]", "nudity", "image-safety@1"),
    ]
    assert moderator.moderate("You idiot", [picture()]).decision == "block"


@pytest.mark.parametrize(
    "data", [b"", b"no image", picture()[:300], b"GIF89a" + bytes(40), b"\xff\xd8\xff" * 99]
)
def test_a_broken_image_is_reviewed(moderator: Moderator, data: bytes) -> None:
    found = moderator.moderate("Look", [picture(), data])
    assert (found.decision, found.reasons[0].kind) == ("review", "unreadable")
    assert found.reasons[0].part == "images[1]"


def test_hostile_images_are_refused(moderator: Moderator) -> None:
    with pytest.raises(errors.PayloadTooLarge, match="pixels"):
        moderator.moderate(None, [bomb()])
    with pytest.raises(errors.PayloadTooLarge, match="bytes on the wire"):
        moderator.moderate(None, [picture((900, 900))])


def test_asyncio_and_many(system: System, moderator: Moderator) -> None:
    posts = [Post(text=f"Hello, number {number}") for number in range(300)]
    posts[7] = Post(text="You fucking idiot", images=(picture(),))

    async def run() -> list[str]:
        async with AsyncClient(settings=system.settings, timeout_s=30) as client:
            one = AsyncModerator(client)
            many = await one.moderate_many(posts)
            singly = await asyncio.gather(*(one.moderate(post.text) for post in posts))
            one.close()
            assert len({found.id for found in [*many, *singly]}) == 600
            for found in singly[:3]:
                assert moderator.explain(found.id).record.decision == found.decision
            return [found.decision for found in many]

    decisions = asyncio.run(run())
    assert decisions == [found.decision for found in moderator.moderate_many(posts)]
    assert decisions[7] == "block"
    assert decisions.count("allow") == 299


def test_a_policy_must_fit_its_models(client: Client) -> None:
    for change, kind in (
        ({"label": "rude"}, errors.ConfigError), ({"label": None}, errors.ConfigError),
        ({"model": "nobody"}, errors.ModelNotFound),
    ):
        category = {"model": "profanity", "label": 1, "review": 0.5, "block": 0.9, **change}
        policy = Policy.model_validate({
            "name": "wrong", "version": 1, "texts": {"toxicity": category}
        })
        with Moderator(client, policy) as moderator, pytest.raises(kind):
            moderator.moderate("Hello")


def test_a_policy_follows_its_file(client: Client, tmp_path: Path) -> None:
    file = tmp_path / "house.toml"
    text = EXAMPLE.read_text().replace('"example"', '"house"')
    file.write_text(text)
    with Moderator(client, file) as moderator:
        assert moderator.moderate("Damn, that was good").decision == "review"
        file.write_text(text.replace("version = 1", "version = 2").replace("0.6", "0.94"))
        deadline = time.monotonic() + 10
        while (found := moderator.moderate("Damn, that was good")).policy == "house@1":
            assert time.monotonic() < deadline
            time.sleep(0.2)
        assert found.decision == "allow"
        file.write_text(text.replace("version", "verson"))
        time.sleep(1.2)
        assert moderator.moderate("Hello").policy == "house@2"
        file.write_text(text.replace("0.6", "0.7"))  # of version 1, which said something else
        time.sleep(1.2)
        assert moderator.moderate("Hello").policy == "house@2"
    with Moderator(client, file) as moderator, pytest.raises(errors.Conflict, match="house@1 has"):
        moderator.moderate("Hello")


def test_a_review_from_beginning_to_end(
    system: System, celeriac: Callable[..., Ran], tmp_path: Path, client: Client
) -> None:
    done = celeriac(
        "moderation", "check", "Damn, this is good", "--id", "p-1", "--json", env=system.env
    )
    assert done.returncode == 0
    decision = json.loads(done.stdout)
    assert (decision["decision"], decision["queued"]) == ("review", True)
    listed = celeriac("moderation", "reviews", "--most", "1000", env=system.env).stdout
    assert f"{decision['id']}" in listed
    assert "Damn, this is good" in listed
    words = ("moderation", "decide", decision["id"])
    assert celeriac(*words, "maybe", env=system.env).returncode == 1
    wrong = celeriac(*words, "block", "--category", "rudeness", env=system.env)
    assert "no category 'rudeness'; there is nudity, toxicity" in wrong.stderr
    done = celeriac(*words, "allow", "--by", "anna", "--note", "praise", env=system.env)
    assert done.stdout == f"{decision['id']}: allow, by anna\n"
    again = celeriac(*words, "block", env=system.env)
    assert "was decided already: allow, by anna" in again.stderr
    told = celeriac("moderation", "explain", decision["id"], env=system.env).stdout
    for part in ("review, ", "policy example@1, post p-1", "profanity@1", "by anna", "praise"):
        assert part in told
    assert "Damn" not in told
    target = tmp_path / "labels.csv"
    assert celeriac("moderation", "labels", str(target), env=system.env).returncode == 0
    with target.open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["id"] == decision["id"]]
    assert [(row["text"], row["label"], row["by"]) for row in rows] == [
        ("Damn, this is good", "allow", "anna")
    ]


def test_records_hold_no_content(system: System, moderator: Moderator) -> None:
    moderator.moderate("an unmistakable zebra crossed the fucking road")
    files = [path for path in system.settings.moderation.folder.rglob("*") if path.is_file()]
    assert files
    assert not any(b"zebra" in path.read_bytes() for path in files)


@pytest.fixture(scope="module")
def gateway(system: System) -> Iterator[RunningGateway]:
    running = RunningGateway(system.settings).start()
    yield running
    running.stop()


def test_over_http(gateway: RunningGateway) -> None:
    import base64

    http, path = gateway.http, "/v1/moderation"
    file = base64.b64encode(picture()).decode()
    found = http.post(path, {"text": "You idiot", "images": [file], "id": "p-2"})
    assert (found.status, found.json["decision"]) == (200, "block")
    assert {score["part"] for score in found.json["scores"]} == {"text", "images[0]"}
    posts = [
        {"text": "Hi"}, {"text": "Damn, really good"}, {}, {"text": "a" * 1_000_001},
        {"text": "Hi", "images": ["?"]},
    ]
    first, second, *wrong = http.post(f"{path}/batch", {"posts": posts}).json["decisions"]
    codes = [one["error"]["code"] for one in wrong]
    assert codes == ["request_invalid", "payload_too_large", "request_invalid"]
    assert wrong[2]["error"]["field"] == "images[0]"
    assert (first["decision"], second["decision"]) == ("allow", "review")
    listed = http.get(f"{path}/reviews?limit=500").json
    assert second["id"] in {review["id"] for review in listed["reviews"]}
    settle = f"{path}/reviews/{second['id']}"
    settled = http.post(settle, {"decision": "block", "categories": ["toxicity"]})
    assert (settled.status, settled.json["decision"]) == (200, "block")
    assert http.post(settle, {"decision": "allow"}).status == 409
    explained = http.get(f"{path}/decisions/{second['id']}").json
    assert explained["record"]["policy"] == "example@1"
    assert explained["reviews"][0]["reviewed"] == "block"
    assert explained["policy"]["texts"]["toxicity"]["review"] == 0.6
    lines = http.get(f"{path}/labels").body.splitlines()
    assert second["id"] in {json.loads(line)["id"] for line in lines}
    assert http.get(f"{path}/policy").json["ref"] == "example@1"
    for body, status in (
        ({}, 400), ({"txt": "a"}, 400), ({"images": ["?"]}, 400), ({"text": 7}, 400),
        ({"text": "a", "images": [file] * 17}, 400),
    ):
        assert http.post(path, body).status == status, body
    assert http.get(f"{path}/decisions/20261125-0123456789ab-1").status == 404
    assert http.get(f"{path}/decisions/x").status == 400


def test_what_reviewers_say_counts_for_the_model(
    client: Client, moderator: Moderator, gateway: RunningGateway
) -> None:
    before = _labels_of(gateway)
    found = moderator.moderate("Damn, that was good")
    assert found.decision == "review"
    moderator.decide(found.id, "allow")
    assert _labels_of(gateway) == before + 1


def test_a_review_is_settled_even_if_no_model_can_be_told(
    moderator: Moderator, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = moderator.moderate("Damn, that was good")

    def fails(_timeout_s: float) -> None:
        raise errors.BrokerError("gone")

    with monkeypatch.context() as patch:
        patch.setattr(client.realtime.routes, "catalogue", fails)
        assert moderator.decide(found.id, "allow").decision == "allow"
    with pytest.raises(errors.Conflict):
        moderator.decide(found.id, "block")


def _labels_of(gateway: RunningGateway) -> int:
    found = gateway.http.get("/v1/models/profanity/accuracy").json
    return sum(version["rows"] for version in found["versions"])


def test_an_archive_again_under_another_threshold_and_another_model(
    system: System, client: Client, tmp_path: Path
) -> None:
    (tmp_path / "cat.png").write_bytes(picture())
    (tmp_path / "bomb.png").write_bytes(bomb())
    archive = tmp_path / "posts.csv"
    texts = ["Have a nice day", "You idiot", "Damn, that was good", "B U Y followers", "",
             "word " * 400 + "you fucking idiot " * 9] * 20
    with archive.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["post", "text", "pictures"])
        for number, text in enumerate(texts):
            pictures = {0: "cat.png", 1: "cat.png|gone.png", 12: "bomb.png"}.get(number, "")
            writer.writerow([f"p{number}", text, pictures])
    columns = Columns(images="pictures", id="post")
    registry = Registry(system.settings.models.root)  # a model of this test's own: it is replaced
    halves = [joblib.load(io.BytesIO(verified("profanity_check", f"data/{half}.joblib")))
              for half in ("vectorizer", "model")]
    release.register("tone", make_pipeline(*halves), registry=registry, examples=["nice day"])
    registry.aliases("tone").promote(1, expected=None, who="test", why="")
    publish(client.broker.redis, registry.infos())
    data = read_policy(None).model_dump()
    data["texts"]["toxicity"]["model"] = "tone"
    policy = Policy.model_validate({**data, "name": "archive"})

    def run(name: str, policy: Policy, before: str = "") -> Any:
        return moderate_archive(
            client, archive, tmp_path / name, policy, columns=columns, timeout_s=100,
            before=tmp_path / before if before else None,
        )

    first = run("first", policy)
    assert (first.rows, first.failed) == (120, 1)
    assert first.decisions == {"allow": 39, "block": 60, "review": 20}
    table = pq.read_table(tmp_path / "first" / DECISIONS).to_pylist()
    assert (table[12]["decision"], "pixels" in table[12]["error"]) == (None, True)
    with Moderator(client, policy) as moderator:  # the same as in real time
        singly = moderator.moderate_many([Post(text=text) for text in texts[2:8]])
    assert [row["decision"] for row in table[2:8]] == [found.decision for found in singly]
    assert "unreadable" in table[1]["reasons"]
    kept = b"".join(p.read_bytes() for p in (tmp_path / "first").rglob("*") if p.is_file())
    assert b"nice day" not in kept

    data = policy.model_dump()
    data["texts"]["toxicity"]["review"] = 0.94
    milder = Policy.model_validate({**data, "version": 2})
    second = run("second", milder, before="first")
    assert set(second.reused) == {"tone", "image-safety"}
    assert second.because == ("policy archive@1 -> archive@2",)
    assert second.changes == {"review -> allow": 20}

    other = make_pipeline(TfidfVectorizer(), LogisticRegression(C=100)).fit(
        ["nice day", "good", "hell idiot", "idiot"], [1, 1, 0, 0]
    )
    release.register("tone", other, registry=registry, examples=["nice day", "idiot"])
    registry.aliases("tone").promote(2, expected=1, who="test", why="")
    publish(client.broker.redis, registry.infos())
    third = run("third", milder, before="second")
    assert third.because == ("model tone@1 -> tone@2",)
    assert third.reused == ("image-safety",)
    assert third.changes
    with pytest.raises(errors.OutputConflict):
        run("third", milder)
    with pytest.raises(errors.DeadlineExceeded):  # the questions show content: they do not stay
        moderate_archive(
            client, archive, tmp_path / "late", policy, columns=columns, timeout_s=0.001
        )
    assert (tmp_path / "late" / "scores").is_dir()  # a worker may have made folders since
    assert not list((tmp_path / "late" / "work").glob("*.parquet"))


def test_the_page_runs_from_top_to_bottom(
    system: System, gateway: RunningGateway, tmp_path: Path
) -> None:
    (tmp_path / "photo.jpg").write_bytes(picture(format="JPEG"))
    (tmp_path / "posts.csv").write_text("post,text,pictures\n1,Damn good,photo.jpg\n2,Hello,\n")
    milder = EXAMPLE.read_text().replace("version = 1", "version = 2").replace("0.6", "0.94")
    (tmp_path / "stricter.toml").write_text(milder)
    said = {}
    for line, command in commands(ROOT / "docs" / "moderation.md"):
        here = [part.replace(":8000", f":{gateway.port}") for part in command]
        done = subprocess.run(
            here, cwd=tmp_path, timeout=110, check=False, capture_output=True, text=True,
            env=os.environ | system.env,
        )
        assert done.returncode == 0, f"moderation.md:{line}\n{done.stderr}"
        said[command[-1].partition(" ")[2]] = done.stdout
    (first,) = [out for words, out in said.items() if "check" in words]
    assert first.startswith("block\n")
    (again,) = [out for words, out in said.items() if "--before" in words]
    assert "compared with march: policy example@1 -> example@2\n  review -> allow: 1\n" in again


def test_the_example_runs(system: System) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "examples.moderation"], cwd=ROOT, timeout=110, check=False,
        env=os.environ | system.env, capture_output=True, text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "reviewed: review by example@1, allow by anna; models ['profanity@1']" in done.stdout
    assert "policy example@1 -> example@2: {'review -> allow': 1}" in done.stdout
