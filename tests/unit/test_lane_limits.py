"""How many items of a model make one batch, by what they cost and who else waits."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from celeriac.batching.cost import CostLine
from celeriac.registry.catalogue import Catalogue, ModelInfo, VersionInfo
from celeriac.registry.manifest import InputSchema, OutputSchema, Profile
from workers.lane.limits import SHORT_S, AllLimits, Limits
from workers.lane.queues import Queues


def limits(fixed_s: float, item_s: float, cap: int = 256) -> Limits:
    cost = CostLine()
    for items in (1, 2, 4, 8, 16, 32, 64) * 10:
        cost.observe(items, fixed_s + item_s * items)
    return Limits(cap, 0.0, cost)


@pytest.mark.parametrize(
    ("fixed_s", "item_s", "alone", "backlog", "shared"),
    [
        (0.0, 0.004, 32, 32, 5),  # each item alone takes long: a large batch gains nothing
        (0.0, 0.1, 32, 32, 1),
        (0.000_3, 0.000_01, 90, 256, 256),  # all short enough
        (0.03, 0.001, 90, 256, 90),  # its fixed cost asks for more
    ],
)
def test_a_batch_is_short_while_others_are_in_use(
    fixed_s: float, item_s: float, alone: int, backlog: int, shared: int
) -> None:
    found = limits(fixed_s, item_s)
    assert found.useful_items(0, is_shared=False) == pytest.approx(alone, abs=2)
    assert found.useful_items(10_000, is_shared=False) == pytest.approx(backlog, abs=2)
    assert found.useful_items(10_000, is_shared=True) == pytest.approx(shared, abs=2)
    assert found.useful_items(0, is_shared=True) <= max(alone, shared) + 2


def test_what_is_unknown_bounds_nothing() -> None:
    assert Limits(64, 0.0, CostLine()).useful_items(0, is_shared=True) == 64


def test_the_cap_holds() -> None:
    assert limits(0.3, 0.000_1, cap=16).useful_items(10_000, is_shared=True) == 16


def test_a_short_batch_keeps_its_time() -> None:
    found = limits(0.001, 0.002)
    items = found.useful_items(1_000, is_shared=True)
    assert found.cost.predicted(items) <= SHORT_S


def test_a_queue_is_shared_while_another_one_is_in_use() -> None:
    queues = Queues()
    queues.follow({"busy": "realtime.cpu.busy", "calm": "realtime.cpu.calm"})
    busy, calm = queues.get("busy"), queues.get("calm")
    assert busy is not None
    assert calm is not None
    busy.used_s = 100.0
    assert not queues.is_shared(busy, 100.0)
    assert queues.is_shared(calm, 100.0)
    calm.used_s = 50.0
    assert queues.is_shared(busy, 100.0)
    assert not queues.is_shared(busy, 111.0)


def test_what_was_measured_of_a_version_is_the_first_guess() -> None:
    def version(number: int, *profile: Profile) -> VersionInfo:
        return VersionInfo(
            version=number, format="echo", device="cpu", input=InputSchema(kind="any"),
            output=OutputSchema(kind="any"), created_at="2026-01-01T00:00:00Z", profile=profile,
        )

    measured = version(1, Profile(device="cpu", threads=1, machine="m", fixed_s=0.1, item_s=0.01))
    model = ModelInfo(name="m", versions={1: measured, 2: version(2)})
    host: Any = SimpleNamespace(
        catalogue=Catalogue(models={"m": model}), device="cpu", threads=1
    )
    found = AllLimits(host, 256)
    assert found.of(("m", 1)).cost.predicted(10) == pytest.approx(0.2, rel=0.2)
    assert not found.of(("m", 2)).cost.known
