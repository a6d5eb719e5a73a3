"""Sensors over HTTP, judged by the robust detector and by a model."""

from __future__ import annotations

import os
import time
from typing import Any

import pytest

from tests.integration.gateway.conftest import Http, RunningGateway

T0 = 1_700_000_000


def name() -> str:
    return f"s{os.urandom(4).hex()}"


def line(sensor: str, count: int, start: int = 0) -> list[dict[str, Any]]:
    return [
        {"sensor": sensor, "at": T0 + at, "value": float(at % 7)}
        for at in range(start, start + count)
    ]


def test_readings_are_answered_and_kept(http_client: Http) -> None:
    sensor = name()
    taken = http_client.post("/v1/sensors/readings", {"readings": line(sensor, 40)})
    assert taken.status == 200
    assert (taken.json["accepted"], taken.json["errors"]) == (40, 0)
    glitch = {"sensor": sensor, "at": "2023-11-14T22:14:20Z", "value": 1048.36}  # T0 + 60
    [answer] = http_client.post("/v1/sensors/readings", {"readings": [glitch]}).json["answers"]
    assert (answer["anomaly"], answer["alarm"], answer["at"]) == (True, "opened", T0 + 60)
    [again] = http_client.post("/v1/sensors/readings", {"readings": [glitch]}).json["answers"]
    assert (again["duplicate"], again["anomaly"], again["alarm"]) == (True, True, "open")
    shown = http_client.get(f"/v1/sensors/{sensor}").json
    assert (shown["readings"], shown["anomalies"], len(shown["recent"])) == (41, 1, 41)
    assert shown["alarm"]["peak"] == answer["score"]
    listed = http_client.get("/v1/sensors?limit=1").json
    assert listed["sensors"][0]["sensor"] == sensor
    assert listed["count"] >= 1
    opened = http_client.get("/v1/sensors/alarms").json["alarms"][0]
    assert (opened["sensor"], opened["event"]) == (sensor, "opened")
    assert http_client.get(f"/v1/sensors/{sensor}/analyses").json == {"analyses": []}


def test_bad_readings_have_their_errors_and_the_rest_goes_on(http_client: Http) -> None:
    sensor = name()
    readings = [
        *line(sensor, 2), {"sensor": sensor, "at": "noon", "value": 1},
        {"sensor": sensor, "value": None}, {"sensor": "", "value": 1}, 7,
        {"sensor": sensor, "at": time.time() + 9_999, "value": 1},
        {"sensor": sensor, "at": T0, "value": 5.5},
    ]  # fmt: skip
    found = http_client.post("/v1/sensors/readings", {"readings": readings})
    assert (found.status, found.json["accepted"], found.json["errors"]) == (200, 2, 6)
    codes = [one["error"]["code"] for one in found.json["answers"][2:]]
    assert codes == ["item_invalid"] * 5 + ["conflict"]


@pytest.mark.parametrize(("body", "status", "told"), [
    (b"", 400, "empty"),
    (b'{"readings": [{"sensor": "a", "at": 1, "value": NaN}]}', 400, "not valid JSON"),
    ({"reading": []}, 400, "reading"),
    ({"readings": {}}, 400, "readings"),
    ({"readings": [], "threshold": -1}, 400, "threshold"),
    ({"readings": [1] * 20_001}, 413, "max_readings"),
    ({"readings": line("a", 1_001), "model": "overflow", "threshold": 1}, 413, "max_items"),
    ({"readings": line("a", 1), "model": "nobody", "threshold": 1}, 404, "nobody"),
    ({"readings": line("a", 1), "model": "overflow"}, 400, "anomaly_threshold"),
    ({"readings": line("a", 1), "model": "table", "threshold": 1}, 200, None),
    ({"readings": line("a", 1), "model": "echo", "threshold": 1}, 400, "answers with labels"),
])  # fmt: skip
def test_what_is_refused_as_a_whole(
    http_client: Http, body: Any, status: int, told: str | None
) -> None:
    found = http_client.post("/v1/sensors/readings", body)
    assert found.status == status, found.body
    if told is None:
        assert found.json["errors"] == 1, "the model does not take one number: the reading's fault"
    else:
        assert told in found.json["error"]["message"]
    assert http_client.get("/v1/sensors/nobody").status == 404
    assert http_client.get("/v1/sensors/nobody/analyses").status == 404


def test_a_model_judges_by_its_scores(http_client: Http) -> None:
    sensor = name()
    readings = [
        {"sensor": sensor, "at": T0, "values": [0.1]},
        {"sensor": sensor, "at": T0 + 1, "values": [0.9]},
        {"sensor": sensor, "at": T0 + 2, "values": [1e10]},
    ]  # fmt: skip
    body = {"readings": readings, "model": "overflow", "threshold": 5e299}
    calm, strange, failed = http_client.post("/v1/sensors/readings", body).json["answers"]
    assert (calm["anomaly"], strange["anomaly"], strange["alarm"]) == (False, True, "opened")
    assert calm["score"] == pytest.approx(1e299)
    assert failed["error"]["code"] == "item_invalid"
    assert http_client.get(f"/v1/sensors/{sensor}").json["readings"] == 2


def test_ten_thousand_sensors_at_once(http_client: Http, gateway: RunningGateway) -> None:
    start = name()
    readings = [{"sensor": f"{start}-{at}", "at": T0, "value": 1.5} for at in range(10_000)]
    found = http_client.post("/v1/sensors/readings", {"readings": readings})
    assert (found.status, found.json["accepted"]) == (200, 10_000)
    redis = gateway.client.broker.redis
    state: Any = redis.get(f"celeriac:sensor:state:default:{start}-7")
    assert len(state) < 1_100
