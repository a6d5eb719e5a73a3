"""Where a worker's metrics listen, and what happens when they cannot."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from celeriac.settings import Settings, StackSettings
from workers import exporter
from workers.roles import role_for


def start(monkeypatch: pytest.MonkeyPatch, host: str, port: int) -> int | None:
    worker = SimpleNamespace(celeriac_role=role_for(["realtime.cpu"]))
    stack = StackSettings(metrics_host=host, metrics_port=port)
    monkeypatch.setattr(exporter, "get_settings", lambda: Settings(stack=stack))
    step = exporter.ExporterStep(worker)
    step.start(worker)
    step.stop(worker)
    found: int | None = getattr(worker, "celeriac_metrics_port", None)
    return found


def test_an_address_that_is_not_ours_costs_the_metrics_not_the_worker(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert start(monkeypatch, "192.0.2.1", 0) is None


def test_a_port_in_use_is_replaced_by_a_free_one(monkeypatch: pytest.MonkeyPatch) -> None:
    with exporter.ThreadingHTTPServer(("127.0.0.1", 0), exporter._Handler) as other:
        taken = other.server_address[1]
        assert start(monkeypatch, "127.0.0.1", taken) not in (None, taken)
