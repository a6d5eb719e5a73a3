"""Where versions run while there are GPU workers, and while there are none."""

from __future__ import annotations

import pytest

from celeriac.registry.catalogue import Catalogue, ModelInfo, VersionInfo
from celeriac.registry.manifest import InputSchema, OutputSchema
from celeriac.registry.placement import fallen_back, place


def version(number: int, device: str) -> VersionInfo:
    return VersionInfo(
        version=number, format="echo", device=device, input=InputSchema(kind="any"),
        output=OutputSchema(kind="any"), created_at="2026-01-01T00:00:00Z",
    )


MODELS = {"m": ModelInfo(name="m", versions={1: version(1, "cpu"), 2: version(2, "gpu")})}
BOTH = {"realtime.gpu", "batch.gpu", "realtime.cpu"}


@pytest.mark.parametrize(
    ("policy", "seen", "fallen"),
    [
        ("never", set(), ()),
        ("never", BOTH, ()),
        ("when_absent", BOTH, ()),
        ("when_absent", {"realtime.cpu", "batch.cpu"}, ("realtime", "batch")),
        ("when_absent", {"batch.gpu"}, ("realtime",)),
        ("when_absent", {"realtime.gpu"}, ("batch",)),
    ],
)
def test_the_cpu_stands_in_only_by_policy_and_only_for_what_is_absent(
    policy: str, seen: set[str], fallen: tuple[str, ...]
) -> None:
    assert fallen_back(policy, seen) == fallen


@pytest.mark.parametrize(
    ("fallen", "single", "chunks"),
    [
        ((), "gpu", "gpu"), (("realtime", "batch"), "cpu", "cpu"), (("realtime",), "cpu", "gpu"),
        (("batch",), "gpu", "cpu"),
    ],
)
def test_single_items_and_chunks_are_placed_by_themselves(
    fallen: tuple[str, ...], single: str, chunks: str
) -> None:
    placed = place(MODELS, fallen)["m"].versions
    assert (placed[2].device, placed[2].batch_device) == (single, chunks)
    assert placed[2].asks_for == ("gpu" if fallen else None)
    assert (placed[1].device, placed[1].batch_device) == ("cpu", "cpu")
    published = Catalogue(models=place(MODELS, fallen), fallen_back=fallen)
    assert Catalogue.model_validate_json(published.model_dump_json()) == published
