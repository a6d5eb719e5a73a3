"""The fake client behaves as the real one, and has its interface."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest

from celeriac import errors
from producer.aio import AsyncClient
from producer.client import Client
from producer.handles import AsyncPredictionHandle, PredictionHandle
from producer.jobs import JobHandle
from producer.statistics import ClientStatistics
from producer.testing import FakeCall, FakeClient, FakeJob, FakePredictionHandle


def interface(kind: type) -> dict[str, list[tuple[str, Any, Any]]]:
    """Parameters of every public method: name, kind, default."""
    methods = inspect.getmembers(kind, inspect.isfunction)
    return {
        name: [(p.name, p.kind, p.default) for p in inspect.signature(method).parameters.values()]
        for name, method in methods
        if not name.startswith("_")
    }


@pytest.mark.parametrize(
    ("fake", "real"), [(FakeClient, Client), (AsyncClient, Client),
                       (FakePredictionHandle, PredictionHandle),
                       (AsyncPredictionHandle, PredictionHandle), (FakeJob, JobHandle)],
)  # fmt: skip
def test_the_same_interface(fake: type, real: type) -> None:
    assert interface(fake) == interface(real)
    assert interface(fake)


@pytest.fixture
def client() -> FakeClient:
    return FakeClient({
        "reviews": lambda items: [{"label": "good", "probability": len(i) / 10} for i in items],
        "price": 12.5,
        "picky": lambda items: [errors.ModelFailed("no") if i == "bad" else i for i in items],
        "short": lambda items: [],
    })


def test_answers(client: FakeClient) -> None:
    found = client.predict("reviews", "four")
    assert (found.model, found.version, found.label, found.probability) == (
        "reviews", 1, "good", 0.4,
    )  # fmt: skip
    assert client.predict("price@1", {"rooms": 3}).value == 12.5
    assert [p.value for p in client.predict_many("price", iter([1, 2]))] == [12.5, 12.5]
    assert client.calls[-1] == FakeCall("predict_many", "price", (1, 2))


def test_errors_are_those_of_the_real_client(client: FakeClient) -> None:
    with pytest.raises(errors.ModelNotFound, match="no model named 'nothing'; registered models"):
        client.predict("nothing", 1)
    with pytest.raises(errors.VersionNotFound):
        client.predict("price@2", 1)
    with pytest.raises(errors.RequestError):
        client.predict("../price", 1)
    with pytest.raises(errors.RequestError, match="a list of items"):
        client.predict_many("price", "text")
    with pytest.raises(errors.InvalidItem):
        client.predict("price", object())
    for act in (client.predict, client.submit):
        with pytest.raises(errors.PayloadTooLarge):
            act("price", "x" * 1_000_001)
    for wait in (lambda: client.predict("price", 1, timeout_s=0),
                 lambda: client.predict_many("price", [1], timeout_s=-1),
                 lambda: client.submit("price", 1, expires_s=0)):
        with pytest.raises(errors.RequestError):
            wait()
    with pytest.raises(errors.ModelNotFound):
        client.submit("nothing", object())
    with pytest.raises(errors.WorkerError):
        client.predict("short", 1)
    with pytest.raises(errors.PredictionNotFound):
        client.prediction("no-such-id")
    with pytest.raises(errors.JobNotFound):
        client.job("no-such-id")


def test_errors_in_the_places_of_their_items(client: FakeClient) -> None:
    answers = client.predict_many("picky", ["a", "bad", float("nan"), "b"], return_errors=True)

    assert [type(a).__name__ for a in answers] == [
        "Prediction", "ModelFailed", "InvalidItem", "Prediction",
    ]  # fmt: skip
    assert answers[3].value == "b"
    with pytest.raises(errors.ModelFailed):
        client.predict_many("picky", ["a", "bad", float("nan")])


def test_items_are_counted(client: FakeClient) -> None:
    client.predict_many("picky", ["a", "bad", "b"], return_errors=True)

    assert client.statistics() == ClientStatistics(
        items_sent=3, envelopes_sent=3, answered=2, failed={"model_failed": 1}
    )


def test_a_fake_model_can_be_overloaded() -> None:
    with pytest.raises(errors.Overloaded) as caught:
        FakeClient({"busy": errors.Overloaded("full", 2.0)}).predict("busy", 1)
    assert caught.value.retry_after_s == 2.0


def test_submitted_items_and_jobs(client: FakeClient) -> None:
    handle = client.submit("reviews", "four")
    assert client.prediction(handle.id).result().label == "good"
    assert handle.done()
    assert not handle.cancel()
    job = client.submit_dataset("in.csv", "reviews", "out")
    assert client.job(job.id).wait(1).state == "completed"
    assert [status.id for status in client.jobs()] == [job.id]
    assert client.submit_dataset("in.csv", "reviews", "out", planned_by="worker", job_id="j").id
    with pytest.raises(errors.RequestError, match="a worker cannot see a list"):
        client.submit_dataset(["in.csv"], "reviews", "out", planned_by="worker")


def test_models_and_promotion(client: FakeClient) -> None:
    assert client.models()["price"].aliases == {"champion": 1}
    assert client.promote("price@1")["version"] == 1
    with pytest.raises(errors.VersionNotFound):
        client.promote("price@7")


def test_labels(client: FakeClient) -> None:
    known = client.prediction_id(client.predict("reviews", "four"))
    assert client.feedback(known, "good").right is True
    assert client.feedback(known, "bad").counted is False
    assert client.calls[-1] == FakeCall("feedback", "reviews@1", (known, "bad"))
    price = client.submit("price", "anything", id="offer")
    assert client.feedback(price.id, 10).absolute_error == 2.5
    with pytest.raises(errors.PredictionNotFound):
        client.feedback("p1~AAAA", "good")
    with pytest.raises(errors.RequestError, match="answers with numbers"):
        client.feedback(price.id, "cheap")
    assert client.feedback(price.id, np.float32(10)).absolute_error == 2.5


def test_an_answer_that_no_label_fits() -> None:
    client = FakeClient({"several": lambda items: [[1.0, 2.0] for _ in items]})
    handle = client.submit("several", "anything")
    with pytest.raises(errors.RequestError, match="no single label or number"):
        client.feedback(handle.id, 1.0)
