"""The adviser, over HTTP and on the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from celeriac.settings import BrokerSettings, Settings
from tests.conftest import environment
from tests.integration.gateway.conftest import Http, RunningGateway

QUERY = "/v1/recommendation?latency_ms={}&volume={}&update_frequency={}"


@pytest.mark.parametrize(("wanted", "said"), [
    ((50, 10_000, "continuous"), "real time"),
    ((3_600_000, 5_000_000, "daily"), "batch"),
    ((500, 100_000, "hourly"), "real time or mini-batch"),
    ((5_000, 100_000, "hourly"), "needs further analysis"),
])
def test_without_a_model(http_client: Http, wanted: tuple[Any, ...], said: str) -> None:
    answer = http_client.get(QUERY.format(*wanted))
    assert (answer.status, answer.json["recommendation"]) == (200, said)
    assert answer.json["ways"] == {}
    assert bool(answer.json["missing"]) == (len(answer.json["choices"]) != 1
                                            or said == "needs further analysis")


def test_a_measured_model_has_figures(http_client: Http) -> None:
    query = QUERY.format(500, 100_000, "hourly") + "&model=idle&cores=4&core_hour_cost=0.05"
    found = http_client.get(query).json
    assert (found["recommendation"], found["can_be_met"]) == ("real time", True)
    assert found["measured_on"] == "a test"
    assert set(found["ways"]) == {"real_time", "mini_batch", "batch"}
    assert found["ways"]["real_time"]["p50_ms"] == pytest.approx(4.1, abs=1)
    assert found["ways"]["batch"]["processes"] == 4
    assert found["ways"]["batch"]["cost_per_million"] > 0


@pytest.mark.parametrize(("query", "status", "code"), [
    (QUERY.format(0, 1, "daily"), 400, "request_invalid"),
    (QUERY.format(50, 1, "weekly"), 400, "request_invalid"),
    (QUERY.format("inf", 1, "daily"), 400, "request_invalid"),
    ("/v1/recommendation", 400, "request_invalid"),
    (QUERY.format(50, 1, "daily") + "&model=nobody", 404, "model_not_found"),
    (QUERY.format(50, 1, "daily") + "&model=echo", 400, "request_invalid"),
])
def test_what_cannot_be_answered(http_client: Http, query: str, status: int, code: str) -> None:
    answer = http_client.get(query)
    assert (answer.status, answer.json["error"]["code"]) == (status, code)


def test_a_misspelt_parameter_is_told(http_client: Http) -> None:
    error = http_client.get(QUERY.format(50, 1, "daily") + "&modle=echo").json["error"]
    assert error["field"] == "modle"
    assert error["message"] == (
        "modle: no such parameter; did you mean 'model'? Known: latency_ms, volume, "
        "update_frequency, model, peak_per_s, cores, core_hour_cost"
    )


def test_the_command(
    gateway: RunningGateway, gateway_settings: Settings, celeriac: Callable[..., Any]
) -> None:
    asked = ["--latency-ms", "500", "--volume", "100000", "--update-frequency", "hourly"]
    env = environment(gateway_settings)
    plain = celeriac("advise", *asked, env=env)
    assert plain.stdout.startswith("real time or mini-batch\n- ")
    assert "What would decide:" in plain.stdout
    measured = celeriac("advise", *asked, "--model", "idle", "--core-hour-cost", "0.05", env=env)
    assert measured.stdout.startswith("real time\n")
    assert "Measured on a test." in measured.stdout
    assert max(map(len, measured.stdout.splitlines())) <= 80
    data = json.loads(celeriac("advise", *asked, "--json", env=env).stdout)
    assert data["choices"] == ["real time", "mini-batch"]


def test_a_model_that_was_not_measured_says_how(
    gateway: RunningGateway, gateway_settings: Settings, celeriac: Callable[..., Any]
) -> None:
    done = celeriac(
        "advise", "--latency-ms", "50", "--volume", "10", "--update-frequency", "daily",
        "--model", "echo", env=environment(gateway_settings),
    )
    assert done.returncode == 1
    assert "echo@1 was never measured: run `celeriac optimize echo --profile`" in done.stderr


def test_without_redis_only_a_model_is_missing(
    gateway_settings: Settings, celeriac: Callable[..., Any]
) -> None:
    gone = BrokerSettings(url="redis://127.0.0.1:1/0", connect_timeout_s=0.5)
    env = environment(gateway_settings.model_copy(update={"broker": gone}))
    asked = ["--latency-ms", "50", "--volume", "10", "--update-frequency", "daily"]
    assert celeriac("advise", *asked, env=env).stdout.startswith("real time\n")
    done = celeriac("advise", *asked, "--model", "idle", env=env)
    assert done.returncode == 1
    assert "celeriac: no answer from Redis" in done.stderr
    assert "Traceback" not in done.stderr
