"""Labels over HTTP: from the id of an answer to how good a version was, through the whole stack."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import redis

from celeriac.keys import FEEDBACK_KEY_KEY
from celeriac.messages import Prediction
from celeriac.settings import FeedbackSettings, KeySettings, Settings
from producer.gateway.keys import digest_of
from tests.integration.gateway.conftest import Http, RunningGateway

IDS = {"Prefer": "prediction-id"}
TEXT = "good fine great coffee"


@pytest.fixture(autouse=True)
def no_labels(gateway_settings: Settings) -> None:
    client = redis.Redis.from_url(gateway_settings.broker_url)
    for key in client.scan_iter("celeriac:feedback:[^k]*"):
        client.delete(key)
    client.close()


def predicted(http: Http, model: str = "reviews", item: Any = TEXT) -> dict[str, Any]:
    answer = http.post(f"/v1/models/{model}/predict", {"item": item}, **IDS)
    assert answer.status == 200, answer
    found: dict[str, Any] = answer.json
    return found


def labelled(http: Http, prediction_id: Any, label: Any) -> Any:
    return http.post("/v1/feedback", {"prediction_id": prediction_id, "label": label})


def test_from_an_answer_to_the_accuracy_of_its_version(http_client: Http) -> None:
    first, second = predicted(http_client), predicted(http_client)  # the second from the cache
    assert first["id"] != second["id"]
    right = labelled(http_client, first["id"], first["label"])
    assert right.json == {
        "prediction_id": first["id"], "model": "reviews", "version": 1, "counted": True,
        "right": True,
    }
    wrong = next(one for one in ("positive", "negative") if one != first["label"])
    assert labelled(http_client, second["id"], wrong).json["right"] is False
    again = labelled(http_client, first["id"], wrong)
    assert (again.status, again.json["counted"]) == (200, False)
    found = http_client.get("/v1/models/reviews/accuracy").json
    (version,) = found["versions"]
    assert (version["version"], version["rows"], version["value"]) == (1, 2, 0.5)
    assert version["measure"] == "accuracy"
    assert version["low"] < 0.5 < version["high"]
    assert [step["rows"] for step in version["over_time"]] == [2]
    by_hour = http_client.get("/v1/models/reviews/accuracy?by=hour&days=1").json
    assert by_hour["versions"][0]["over_time"][0]["begin"].endswith(":00:00Z")


def test_only_who_asks_for_ids_gets_them(http_client: Http) -> None:
    answer = http_client.post("/v1/models/reviews/predict", {"item": TEXT})
    assert "id" not in answer.json
    other = http_client.post("/v1/models/reviews/predict", {"item": TEXT}, Prefer="return=minimal")
    assert "id" not in other.json
    category = http_client.post("/classify", {"text": TEXT}, **IDS).json
    assert labelled(http_client, category["id"], category["category"]).json["right"] is True
    assert "id" not in http_client.post("/classify", {"text": TEXT}).json


def test_many_items_and_many_labels(http_client: Http) -> None:
    items = [[0.0, 0.0], [5.0, 5.0], ["no number", 1.0]]
    answer = http_client.post("/v1/models/table/predict", {"items": items}, **IDS).json
    *good, bad = answer["predictions"]
    assert set(bad) == {"error"}
    labels = [{"prediction_id": one["id"], "label": 0} for one in good]
    labels += [{"prediction_id": "nobody's", "label": 0},
               {"prediction_id": good[0]["id"], "label": "zero"}]  # fmt: skip
    found = http_client.post("/v1/feedback", {"labels": labels})
    assert found.status == 200
    first, second, unknown, no_class = found.json["feedback"]
    assert [first["right"], second["right"]] == [True, False]
    assert unknown["error"]["code"] == "prediction_not_found"
    assert no_class["error"]["code"] == "request_invalid"
    assert "it knows 0, 1" in no_class["error"]["message"]


def test_numbers(http_client: Http) -> None:
    flat = {"rooms": 2, "area": 55.5, "district": "south", "balcony": True}
    rent = predicted(http_client, "rent", flat)
    found = labelled(http_client, rent["id"], rent["value"] + 25.0).json
    assert found["absolute_error"] == pytest.approx(25.0)
    (version,) = http_client.get("/v1/models/rent/accuracy").json["versions"]
    assert version["measure"] == "mean absolute error"
    assert version["value"] == pytest.approx(25.0)


def test_an_image_has_an_id_too(http_client: Http) -> None:
    import io

    from PIL import Image

    data = io.BytesIO()
    Image.fromarray(np.zeros((8, 8), dtype=np.uint8)).save(data, "PNG")
    answer = http_client.post(
        "/v1/models/pixels/predict", data.getvalue(), content_type="image/png", **IDS
    ).json
    assert labelled(http_client, answer["id"], 3).status == 200


def test_an_answer_that_no_label_fits_has_no_id(http_client: Http) -> None:
    found = predicted(http_client, "echo", [1.0, 2.0])
    assert found == {"model": "echo", "version": 1, "value": [1.0, 2.0]}


def test_asynchronous_predictions_are_labelled_by_their_id(http_client: Http) -> None:
    http_client("PUT", "/v1/predictions/label-me", {"model": "reviews", "item": TEXT})
    done = http_client.get("/v1/predictions/label-me", Prefer="wait=10").json
    found = labelled(http_client, "label-me", done["prediction"]["label"]).json
    assert (found["model"], found["counted"], found["right"]) == ("reviews", True, True)
    assert labelled(http_client, "label-me", "negative").json["counted"] is False


def test_one_that_has_no_answer_cannot_be_labelled(http_client: Http) -> None:
    http_client("PUT", "/v1/predictions/no-answer", {"model": "table", "item": ["no", "number"]})
    http_client.get("/v1/predictions/no-answer", Prefer="wait=10")
    found = labelled(http_client, "no-answer", 1)
    assert (found.status, found.json["error"]["code"]) == (400, "request_invalid")
    assert "'no-answer' is failed" in found.json["error"]["message"]


@pytest.mark.parametrize(("sent", "status", "said"), [
    ({"prediction_id": "p1~AAAA", "label": "positive"}, 404, "no id that was given here"),
    ({"prediction_id": "", "label": "positive"}, 404, "no prediction has the id"),
    ({"prediction_id": 7, "label": "positive"}, 400, "prediction_id"),
    ({"prediction_id": "x"}, 400, "the label is missing"),
    ({"label": 1}, 400, "neither 'prediction_id' nor 'labels'"),
    ({"labels": [], "label": 1}, 400, "not both"),
    ({"labels": [{"prediction_id": "x"}]}, 400, "labels[0].label"),
    ({"labels": [{"prediction_id": "x", "label": 1}] * 1_001}, 413, "at most 1,000"),
    ({"prediction_id": "x", "label": 1, "model": "reviews"}, 400, "model"),
    ([], 400, "Expected `object`"),
])  # fmt: skip
def test_what_makes_no_sense(http_client: Http, sent: Any, status: int, said: str) -> None:
    found = http_client.post("/v1/feedback", sent)
    assert found.status == status, found
    assert said in found.json["error"]["message"]


def test_labels_that_cannot_be(http_client: Http) -> None:
    known = predicted(http_client)["id"]
    for label, said in (("great", "no class of this version"), (1, "no class"), (None, "None"),
                        ({"label": "positive"}, "a label is a text")):  # fmt: skip
        found = labelled(http_client, known, label)
        assert (found.status, found.json["error"]["field"]) == (400, "label")
        assert said in found.json["error"]["message"]
    assert http_client.get("/v1/models/reviews/accuracy").json["versions"] == []


def test_accuracy_of_what_is_not_there(http_client: Http) -> None:
    assert http_client.get("/v1/models/nothing/accuracy").status == 404
    assert http_client.get("/v1/models/reviews/accuracy?days=0").status == 400
    assert http_client.get("/v1/models/reviews/accuracy?by=year").status == 400
    assert http_client.get("/v1/models/echo/accuracy").json == {"model": "echo", "versions": []}


def test_a_tenant_labels_its_own_predictions(
    start_gateway: Callable[..., RunningGateway],
) -> None:
    keys = {
        name: KeySettings(sha256=digest_of(name), tenant=name, scopes=scopes).model_dump()
        for name, scopes in (("shop", ("infer",)), ("rival", ("infer",)), ("night", ("batch",)))
    }
    running = start_gateway(keys=keys)
    shop, rival, night = (Http(running.port, name) for name in ("shop", "rival", "night"))
    found = predicted(shop)
    assert labelled(rival, found["id"], "positive").status == 404
    assert labelled(night, found["id"], "positive").status == 403
    assert labelled(Http(running.port), found["id"], "positive").status == 401
    assert labelled(shop, found["id"], "positive").json["counted"] is True


def test_a_label_that_comes_too_late(
    http_client: Http, gateway: RunningGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = predicted(http_client)["id"]
    late = FeedbackSettings().accepted_s + 60
    import producer.feedback as module

    real = module.time.time
    monkeypatch.setattr(module.time, "time", lambda: real() + late)
    found = labelled(http_client, known, "positive")
    assert found.status == 404
    assert "more than 30 days ago" in found.json["error"]["message"]


def test_a_key_that_redis_has_lost_is_put_back(
    http_client: Http, gateway: RunningGateway, gateway_settings: Settings
) -> None:
    known = predicted(http_client)["id"]
    client = redis.Redis.from_url(gateway_settings.broker_url)
    before = client.get(FEEDBACK_KEY_KEY)
    client.delete(FEEDBACK_KEY_KEY)
    gateway.client._client.feedbacks._key_seen_s = -1e9  # a minute later
    assert predicted(http_client)["id"]
    assert client.get(FEEDBACK_KEY_KEY) == before
    assert labelled(http_client, known, "positive").status == 200
    client.close()


def test_the_examples_of_the_page_run(http_client: Http) -> None:
    document = json.loads(http_client.get("/openapi.json").body)
    content = document["paths"]["/v1/feedback"]["post"]["requestBody"]["content"]
    http_client("PUT", "/v1/predictions/order-7", {"model": "reviews", "item": TEXT})
    http_client.get("/v1/predictions/order-7", Prefer="wait=10")
    for example in content["application/json"]["examples"].values():
        assert http_client.post("/v1/feedback", example["value"]).status == 200


def test_ids_cost_next_to_nothing(gateway: RunningGateway) -> None:
    """A thousand in less time than twenty answers take."""
    import time

    feedbacks = gateway.client._client.feedbacks
    feedbacks.prepare()
    answer = Prediction(model="reviews", version=1, label="positive", probability=0.5)
    best = min(_seconds(lambda: [feedbacks.id_of(answer) for _ in range(1_000)], time.perf_counter)
               for _ in range(5))  # fmt: skip
    assert best < 0.05


def _seconds(work: Callable[[], Any], clock: Callable[[], float]) -> float:
    began = clock()
    work()
    return clock() - began
