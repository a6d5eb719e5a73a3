"""Reviews over real workers: from Python, over HTTP, and by the command."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from celeriac import errors
from celeriac.applications.reviews.dataset import read_summary
from celeriac.jobs.folder import JobFolder
from celeriac.messages import ModelRef, Prediction
from celeriac.registry.catalogue import VersionInfo
from celeriac.settings import Settings
from producer import Client
from producer.applications.reviews import Reviews
from producer.gateway import predict
from tests.conftest import Ran, Worker
from tests.integration.gateway.jobs_stack import JobsStack, jobs_stack
from workers.child_settings import environment

pytestmark = pytest.mark.uncounted

GOOD, BAD = "good fine great coffee", "bad awful stale coffee"
BEST = "caf\u00e9 \U0001f600 great \u05d8\u05d5\u05d1 \u0442\u043e\u0440\u0442"
MIXED = pd.DataFrame({
    "asin": ["a"] * 12 + ["b"] * 6 + [None, "c", "c"],
    "text": [GOOD] * 6 + [BAD] * 6 + [BEST] * 6 + [GOOD, None, GOOD * 40_000],
    "written": [f"2025-{month:02d}-{day}" for month in range(1, 13) for day in ("11",)]
    + ["2025-01-01", "1.2.2025", "NaN", "", "soon", "2025-03-31T10:00:00+02:00"]
    + ["2025-01-01"] * 3,
})


@pytest.fixture(scope="module")
def stack(
    gateway_settings: Settings, gateway_worker: Worker, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[JobsStack]:
    folder = tmp_path_factory.mktemp("reviews")
    with jobs_stack(gateway_settings, folder) as stack:
        source = folder / "in" / "shop" / "mixed.csv"
        source.parent.mkdir(parents=True)
        MIXED.to_csv(source, index=False)
        yield stack


@pytest.fixture
def client(gateway_settings: Settings) -> Iterator[Client]:
    with Client(settings=gateway_settings, timeout_s=20) as client:
        yield client


# --- real time ------------------------------------------------------------------------------------


def test_reviews_one_by_one(stack: JobsStack, client: Client) -> None:
    reviews = Reviews(client)
    assert reviews.score(GOOD).sentiment > 0 > reviews.score(BAD).sentiment
    found = reviews.score_many([GOOD, "", BEST, "x" * 1_000_000, BAD], return_errors=True)
    kinds = [type(one).__name__ for one in found]
    assert kinds == ["Sentiment", "InvalidItem", "Sentiment", "PayloadTooLarge", "Sentiment"]
    with pytest.raises(errors.InvalidItem, match="empty"):
        reviews.score_many([GOOD, " "])
    with pytest.raises(errors.RequestError, match="no probabilities"):
        Reviews(client, "echo").score(GOOD)
    with pytest.raises(errors.ModelNotFound):
        Reviews(client, "nothing").score(GOOD)
    against = Reviews(client, positive="negative")
    assert against.score(GOOD).sentiment == -reviews.score(GOOD).sentiment


def test_reviews_over_http(stack: JobsStack) -> None:
    one = stack.ask("POST", "/v1/reviews/sentiment", {"review": GOOD})
    assert one.status == 200, one.body
    assert one.json["label"] == "positive"
    assert one.json["sentiment"] == pytest.approx(2 * one.json["probability"] - 1)
    many = stack.ask("POST", "/v1/reviews/sentiment", {"reviews": [BEST, "", BAD]}).json
    found = many["sentiments"]
    assert found[0]["sentiment"] > 0 > found[2]["sentiment"]
    assert found[1]["error"]["code"] == "item_invalid"


def test_each_version_has_its_own_good_label(
    stack: JobsStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A canary calls it otherwise: its answers are not turned upside down."""
    client, version = stack.gateway.client, stack.gateway.client.version

    async def asked(ref: ModelRef, timeout_s: float) -> VersionInfo:
        found = await version(ModelRef.parse(ref.name), timeout_s)
        output = found.output.model_copy(update={"labels": ("bad", "good")})
        return found.model_copy(update={"output": output}) if ref.version == 9 else found

    async def answered(*_: Any) -> list[Prediction]:
        return [
            Prediction(model="reviews", version=number, label=label, probability=0.9)
            for number, label in ((1, "positive"), (9, "good"), (9, "bad"))
        ]

    monkeypatch.setattr(client, "version", asked)
    monkeypatch.setattr(predict, "predict_many", answered)
    many = stack.ask("POST", "/v1/reviews/sentiment", {"reviews": [GOOD, GOOD, BAD]})
    assert many.status == 200, many.body
    assert [round(one["sentiment"], 6) for one in many.json["sentiments"]] == [0.8, 0.8, -0.8]


@pytest.mark.parametrize(("body", "status", "field"), [
    ({}, 400, "review"), ({"review": GOOD, "reviews": []}, 400, "review"),
    ({"review": " "}, 422, None), ({"review": 5}, 400, "review"),
    ({"review": "x" * 1_000_000}, 413, None),
    ({"review": GOOD, "model": "digits"}, 400, "model"),
    ({"review": GOOD, "positive": "fine"}, 400, "positive"),
    ({"review": GOOD, "model": "nothing"}, 404, None),
])
def test_what_is_no_review_over_http(
    stack: JobsStack, body: Any, status: int, field: str | None
) -> None:
    answer = stack.ask("POST", "/v1/reviews/sentiment", body)
    assert answer.status == status, answer.body
    assert field in (None, answer.json["error"].get("field"))


# --- datasets -------------------------------------------------------------------------------------


def check_mixed(found: dict[str, Any]) -> None:
    """What ``MIXED`` says: an empty field is an empty text; of b's dates two can be read."""
    assert found["rows_failed"] == 0
    products = {one["product"] or None: one for one in found["products"]}
    assert set(products) == {"a", "b", "c", None}
    assert [products[name]["reviews"] for name in ("a", "b", "c")] == [12, 6, 2]
    a, b = products["a"], products["b"]
    assert (a["positive_share"], b["positive_share"]) == (0.5, 1.0)
    assert b["undated"] == 4
    assert a["trend"]["per_year"] < 0
    assert a["trend"]["significant"]
    assert b["trend"] is None
    assert a["low"] < a["mean"] < a["high"]
    assert products[None]["spread"] is None


def test_a_summary_from_python(stack: JobsStack, client: Client, tmp_path: Path) -> None:
    reviews = Reviews(client)
    source = stack.folder / "in" / "shop" / "mixed.csv"
    output = tmp_path / "out"
    reviews.summarise(source, output, product="asin", date="written", timeout_s=60)
    check_mixed(json.loads((output / "reviews.json").read_text()))
    page = (output / "reviews.html").read_text()
    assert "hardly chance" in page
    again = reviews.summarise(source, output, product="asin", date="written", timeout_s=60)
    assert again.overall is not None
    assert again.overall.reviews == len(MIXED)
    for columns, says in (
        ({"product": "brand"}, "no column brand"), ({"product": "asin", "date": "day"}, "day"),
    ):
        with pytest.raises(errors.CeleriacError, match=says):
            reviews.submit(source, tmp_path / "none", **columns)
    assert not (tmp_path / "none").exists()
    plain = client.submit_dataset(source, "reviews", tmp_path / "plain")
    plain.wait(60)
    with pytest.raises(errors.RequestError, match="not submitted for a summary"):
        read_summary(JobFolder(tmp_path / "plain"))


def test_dates_and_products_that_are_numbers(
    stack: JobsStack, client: Client, tmp_path: Path
) -> None:
    """And a review that is null: it has no answer."""
    frame = pd.DataFrame({
        "asin": [7, 7, 7, 8, 8], "text": [GOOD, BAD, GOOD, BAD, None],
        "at": [1_735_689_600.0, float("nan"), 1_743_379_200.0, 1_735_689_600.0, 0.0],
    })
    frame.to_parquet(tmp_path / "in.parquet")
    found = Reviews(client).summarise(
        tmp_path / "in.parquet", tmp_path / "out", product="asin", date="at", period="quarter",
        timeout_s=60,
    )
    products = {one.product: one for one in found.products}
    assert set(products) == {"7", "8"}
    assert (found.rows_failed, products["8"].reviews) == (1, 1)
    assert products["7"].undated == 1
    assert [str(one.first_day) for one in products["7"].periods] == ["2025-01-01"]
    assert products["7"].periods[0].reviews == 2


def test_a_summary_over_http(stack: JobsStack) -> None:
    wanted = {"source": "mixed.csv", "output": "sum-1", "product": "asin", "date": "written"}
    answer = stack.ask("POST", "/v1/reviews/summaries", wanted)
    assert answer.status == 202, answer.body
    where = answer.headers["location"]
    assert where == f"/v1/reviews/summaries/{answer.json['id']}"
    assert stack.ask("GET", where).status in (200, 409)
    assert stack.finished(answer.json["id"])["status"] == "completed"
    check_mixed(stack.ask("GET", where).json)
    (figures,) = stack.folder.rglob("sum-1/reviews.json")
    check_mixed(json.loads(figures.read_text()))
    page = stack.ask("GET", f"{where}/page")
    assert (page.status, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert b"hardly chance" in page.body
    assert stack.ask("GET", where, key="bank").status == 404
    assert stack.ask("GET", where, key="reader").status == 403
    refused = stack.ask("POST", "/v1/reviews/summaries", {**wanted, "date": "asin"})
    assert refused.status == 400, refused.body
    late = stack.ask("POST", "/v1/reviews/summaries", {**wanted, "product": "x", "output": "s-2"})
    failed = stack.finished(late.json["id"])
    assert failed["status"] == "failed"
    assert "no column x" in failed["error"]["message"]
    assert stack.ask("GET", late.headers["location"]).status == 409
    other = stack.ask("POST", "/v1/reviews/summaries", wanted)  # into the folder of the first
    assert stack.finished(other.json["id"])["status"] == "failed"
    plain = stack.submit("plain", source="mixed.csv")
    stack.finished(plain["id"])
    for one, status, says in (
        (other.json["id"], 409, "has no results"), (plain["id"], 400, "not submitted for a summary")
    ):
        told = stack.ask("GET", f"/v1/reviews/summaries/{one}")
        assert (told.status, says in told.json["error"]["message"]) == (status, True), told.body
        assert str(stack.folder) not in told.json["error"]["message"]


def test_a_summary_is_asked_for_again_after_a_promotion(
    stack: JobsStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same key and body mean the same job, whatever version they mean by now."""
    client, version = stack.gateway.client, stack.gateway.client.version
    wanted = {"source": "mixed.csv", "output": "sum-again", "product": "asin"}

    async def promoted(ref: ModelRef, timeout_s: float) -> VersionInfo:
        found = await version(ModelRef.parse(ref.name), timeout_s)
        return found.model_copy(update={"version": 2})

    def ask() -> Any:
        return stack.ask("POST", "/v1/reviews/summaries", wanted, Idempotency_Key="again")

    first = ask()
    monkeypatch.setattr(client, "version", promoted)
    again = ask()
    assert (first.status, again.status) == (202, 200), again.body
    assert again.json["id"] == first.json["id"]
    assert again.json["version"] == 1
    wanted["product"] = "text"
    assert ask().status == 409
    stack.finished(first.json["id"])


def test_the_command(
    stack: JobsStack, gateway_settings: Settings, celeriac: Callable[..., Ran], tmp_path: Path
) -> None:
    env = environment(gateway_settings)
    said = celeriac("reviews", "score", GOOD, BAD, "", env=env)
    assert said.returncode == 1
    good, bad, empty = said.stdout.splitlines()
    assert (good[0], bad[0]) == ("+", "-")
    assert empty.startswith("error: the review is empty")
    source = str(stack.folder / "in" / "shop" / "mixed.csv")
    words = ["reviews", "summarise", source, "--product", "asin", "--date", "written"]
    said = celeriac(*words, env=env, cwd=tmp_path)
    assert said.returncode == 0, said.stderr
    assert "21 reviews of 4 products" in said.stdout
    assert "4 reviews have no date that can be read in 'written'" in said.stdout
    assert (tmp_path / "mixed-summary" / "reviews.html").is_file()
    said = celeriac(*words, "--json", env=env, cwd=tmp_path)
    check_mixed(json.loads(said.stdout))
    said = celeriac("reviews", "summarise", source, "--product", "brand", env=env, cwd=tmp_path)
    assert "no column brand" in said.stderr
