"""Requests made from the OpenAPI documents: what they say is true, whatever is sent.

Schemathesis' checks are all on. One of them must be told that a request may fit the document and
yet be refused: what fits a model, and which aliases and hosts there are, no schema can say.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings as hypothesis_settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.config import SchemathesisConfig

from celeriac import errors
from celeriac.settings import Settings
from producer.gateway.failures import STATUS
from tests.integration.gateway.conftest import RunningGateway

pytestmark = pytest.mark.uncounted

FEW = hypothesis_settings(
    max_examples=10, derandomize=True, database=None,
    suppress_health_check=list(HealthCheck), phases=[Phase.explicit, Phase.generate],
)
MANY = hypothesis_settings(FEW, max_examples=100, derandomize=False)
REFUSED = ["400", "403", "404", "409", "413", "415", "422", "429"]
LATE = "504"  # the answer to an X-Request-Timeout-Ms of 1
UNLISTED = ("403", "404", "405", "429", "504")
"""A made-up ``Origin``, no such path, another method, too much, too late."""
CONFIG = SchemathesisConfig.from_dict({"checks": {
    "positive_data_acceptance": {"expected-statuses": ["2xx", *REFUSED, LATE]},
    "not_a_server_error": {"expected-statuses": ["2xx", "3xx", "4xx", LATE]},
}})


@pytest.fixture(scope="module")
def described(
    gateway_settings: Settings, gateway_worker: object, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningGateway]:
    """A gateway with folders for jobs, whose promotions are refused without asking a worker."""
    folder: Path = tmp_path_factory.mktemp("described")
    chosen = gateway_settings.gateway.model_copy(update={
        "dataset_roots": (str(folder / "in"),), "output_roots": (str(folder / "out"),),
    })
    running = RunningGateway(gateway_settings.model_copy(update={"gateway": chosen})).start()

    async def refused(*_args: object, **_options: object) -> dict[str, Any]:
        raise errors.PromotionRefused

    running.client.promote = running.client.rollback = refused  # type: ignore[method-assign]
    yield running
    running.stop()


@pytest.fixture
def public(described: RunningGateway) -> Any:
    return _document(described.http.port)


@pytest.fixture
def admin(described: RunningGateway) -> Any:
    return _document(described.admin.port)


def _document(port: int) -> Any:
    return schemathesis.openapi.from_url(
        f"http://127.0.0.1:{port}/openapi.json", config=CONFIG
    )


def check(case: Any) -> None:
    """All of schemathesis' checks; each status is listed, and an error has that of its code."""
    response = case.call_and_validate(timeout=20, headers={"X-Request-Id": "fuzz"})
    assert response.headers["x-request-id"] == ["fuzz"]
    listed = case.operation.definition.raw["responses"]
    status = str(response.status_code)
    assert status in listed or status in UNLISTED, "the document does not say so"
    if response.status_code >= 400 and not case.path.startswith(("/v2", "/health")):
        error = response.json()["error"]
        assert response.status_code == STATUS[error["code"]], error
        assert error["request_id"] == "fuzz"


def check_all(document: Any, subtests: pytest.Subtests, how: hypothesis_settings) -> None:
    operations = [found.ok() for found in document.get_all_operations()]
    assert len(operations) >= 5
    for operation in operations:
        for mode in GenerationMode:
            cases = operation.as_strategy(generation_mode=mode)
            # Where nothing can be wrong, there are no negative cases.
            none = [Unsatisfiable] if mode is GenerationMode.NEGATIVE else []
            with subtests.test(operation.label, mode=mode.value), contextlib.suppress(*none):
                how(given(cases)(check))()


@pytest.mark.timeout(300)
def test_the_public_port_is_as_described(public: Any, subtests: pytest.Subtests) -> None:
    check_all(public, subtests, FEW)


def test_the_admin_port_is_as_described(admin: Any, subtests: pytest.Subtests) -> None:
    check_all(admin, subtests, FEW)


@pytest.mark.slow
@pytest.mark.timeout(1_800)
def test_the_public_port_is_as_described_at_length(public: Any, subtests: pytest.Subtests) -> None:
    check_all(public, subtests, MANY)
