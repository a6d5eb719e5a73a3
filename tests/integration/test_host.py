"""The host follows the registry, and never gives up a version that serves for one that does not."""

from __future__ import annotations

import shutil
import threading
import time
from typing import Any

import pytest

from celeriac import errors
from celeriac.host import FAILED_S, IDLE_S, MAX_UNALIASED, ModelHost
from celeriac.loaders import MAX_OF_MODEL, MAX_YOUNG, RETRY_AFTER_S, YOUNG_S
from celeriac.registry.manifest import InputSchema, ModelDraft, ModelVersion, OutputSchema
from celeriac.registry.store import Registry
from celeriac.runtimes import LoadOptions
from celeriac.scoring import Scorer
from celeriac.settings import Settings
from tests.waiting import WAIT_S, wait_until


class Broken:
    """A model that misses a library on this machine."""

    def predict(self, inputs: Any) -> Any:
        raise OSError("no libgomp.so")


def add(
    registry: Registry, name: str = "echo", *, device: str = "cpu", golden: int = 0
) -> int:
    draft = ModelDraft.model_validate(
        {
            "format": "echo", "device": device,
            "golden": [{"item": "a", "answer": {"value": "a"}}] * golden,
            "input": InputSchema(kind="any"), "output": OutputSchema(kind="any"),
        }
    )  # fmt: skip

    def write(folder):  # type: ignore[no-untyped-def]
        (folder / "weights").write_bytes(b"w" * 100)
        return draft

    return registry.add(name, write).version


def promote(registry: Registry, version: int, name: str = "echo") -> None:
    aliases = registry.aliases(name)
    aliases.promote(version, expected=aliases.read().get("champion"), who="test", why="")


@pytest.fixture
def registry(settings: Settings) -> Registry:
    registry = Registry(settings.models.root)
    promote(registry, add(registry))
    return registry


@pytest.fixture
def host(registry: Registry) -> ModelHost:
    host = ModelHost(registry, LoadOptions())
    host.refresh()
    return host


def test_the_champion_is_loaded_by_refresh(host: ModelHost) -> None:
    assert host.loaded() == {"echo": [1]}
    assert host.serving() == {"echo": 1}
    assert host.resolve("echo") == ("echo", 1)


def test_a_new_model_is_offered_when_it_is_loaded(
    host: ModelHost, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    offered = []
    load = Scorer.load

    def watched(*args: Any) -> Scorer:
        offered.append(host.models())
        return load(*args)

    monkeypatch.setattr(Scorer, "load", watched)
    promote(registry, add(registry, "new"), "new")
    host.refresh()
    assert offered == [["echo"]]
    assert host.models() == ["echo", "new"]


def test_a_promotion_is_followed_and_the_old_version_goes(
    host: ModelHost, registry: Registry
) -> None:
    for _ in range(MAX_UNALIASED + 3):
        promote(registry, add(registry))
        host.refresh()
    newest = MAX_UNALIASED + 4
    assert host.resolve("echo") == ("echo", newest)
    loaded = host.loaded()["echo"]
    assert loaded[-1] == newest
    assert len(loaded) <= MAX_UNALIASED + 1


def replace(registry: Registry, at: str, name: str = "echo") -> None:
    """Delete a model by hand, and register another one under its name, at that time."""
    shutil.rmtree(registry.root / name)
    promote(registry, add(registry, name), name)
    path = registry.folder(name, 1) / "model.json"
    path.chmod(0o644)
    path.write_text(registry.get(name, 1).model_copy(update={"created_at": at}).model_dump_json())


def test_a_version_that_took_the_number_of_a_deleted_one_is_loaded(
    host: ModelHost, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = host.scorer("echo", 1)
    host.refresh()
    assert host.scorer("echo", 1) is old
    replace(registry, "2030-01-01T00:00:00+00:00")
    load, meanwhile = Scorer.load, []

    def watched(*args: Any) -> Scorer:
        meanwhile.append(host.scorer(*host.resolve("echo")))  # a request asks
        return load(*args)

    monkeypatch.setattr(Scorer, "load", watched)
    host.refresh()
    assert meanwhile == [old]
    new = host.scorer("echo", 1)
    assert new.manifest.created_at == "2030-01-01T00:00:00+00:00"
    assert host.serving() == {"echo": 1}
    assert host.registered() == {"echo": "2030-01-01T00:00:00+00:00"}


def test_one_that_replaces_a_champion_and_cannot_be_loaded_is_kept_back(
    host: ModelHost, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace(registry, "2030-01-01T00:00:00+00:00")

    def fails(*_: Any) -> Scorer:
        raise MemoryError

    monkeypatch.setattr(Scorer, "load", fails)
    host.refresh()
    assert (host.loaded(), host.serving()) == ({}, {})
    assert host.kept_back() == {"echo": (1, "MemoryError")}


def test_a_job_has_the_version_that_it_was_planned_with_or_none(
    host: ModelHost, registry: Registry
) -> None:
    created_at = host.scorer("echo", 1).manifest.created_at
    replace(registry, "2030-01-01T00:00:00+00:00")
    with host.held("echo", 1, "2030-01-01T00:00:00+00:00") as scorer:  # without a refresh
        assert scorer.manifest.created_at == "2030-01-01T00:00:00+00:00"
    with (
        pytest.raises(errors.VersionNotFound, match=r"echo@1 was registered at 2030.*is gone"),
        host.held("echo", 1, created_at),
    ):
        pass
    with host.held("echo", 1) as scorer:  # a plan of an older release
        assert scorer.version == 1


def test_what_serves_goes_on_while_its_model_cannot_be_read(
    host: ModelHost, registry: Registry
) -> None:
    aliases = registry.root / "echo" / "aliases.json"
    whole = aliases.read_bytes()
    manifest = registry.folder("echo", 1) / "model.json"
    manifest.chmod(0o644)
    for path, broken in ((aliases, b'{"champion": '), (manifest, b"{")):
        path.write_bytes(broken)
        host.refresh()
        assert host.models() == ["echo"]
        assert host.scorer(*host.resolve("echo")).version == 1
    aliases.write_bytes(whole)
    version = add(registry)
    promote(registry, version)
    host.refresh()
    assert host.resolve("echo") == ("echo", version)


def test_a_changed_file_is_refused_and_the_old_version_serves(
    host: ModelHost, registry: Registry
) -> None:
    version = add(registry)
    promote(registry, version)
    path = registry.folder("echo", version) / "weights"
    path.parent.chmod(0o755)
    path.chmod(0o644)
    path.write_bytes(b"v" + b"w" * 99)
    host.refresh()
    assert host.resolve("echo") == ("echo", 1)
    with pytest.raises(errors.ModelCorrupt, match="weights"):
        host.scorer("echo", version)


def test_too_little_memory_for_one_model_keeps_no_other_from_being_followed(
    host: ModelHost, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = Scorer.load

    def fragile(registry: Registry, name: str, version: int, options: LoadOptions) -> Scorer:
        if name == "echo":
            raise MemoryError
        return load(registry, name, version, options)

    monkeypatch.setattr(Scorer, "load", fragile)
    promote(registry, add(registry))
    promote(registry, add(registry, "other"), "other")
    host.refresh()
    assert host.serving() == {"echo": 1, "other": 1}


def test_a_champion_that_was_rolled_back_while_it_was_loaded_does_not_take_over(
    host: ModelHost, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = add(registry)
    promote(registry, version)
    load = Scorer.load

    def meanwhile(*args: Any) -> Scorer:
        registry.aliases("echo").rollback(expected=1, who="test", why="")
        return load(*args)

    monkeypatch.setattr(Scorer, "load", meanwhile)
    host.refresh()
    assert host.serving() == {"echo": 1}
    assert host.kept_back() == {}
    host.refresh()
    assert host.resolve("echo") == ("echo", 1)


def test_a_champion_that_answers_nothing_here_is_kept_back(
    host: ModelHost, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = add(registry, golden=2)
    promote(registry, version)
    monkeypatch.setattr("celeriac.runtimes.load", lambda *args: Broken())
    host.refresh()
    assert host.serving() == {"echo": 1}
    said = "it answers none of its golden examples here: the model raised OSError: no libgomp.so"
    assert host.kept_back() == {"echo": (version, f"echo@{version}: {said}")}


def test_a_pinned_version_is_loaded_when_asked_for(host: ModelHost, registry: Registry) -> None:
    version = add(registry)
    assert host.resolve(f"echo@{version}") == ("echo", version)
    scorer = host.scorer("echo", version)
    assert scorer.version == version
    assert host.scorer("echo", version) is scorer


@pytest.mark.parametrize(
    ("ref", "kind"),
    [
        ("nothing", errors.ModelNotFound),
        ("echo@9", errors.VersionNotFound),
        ("echo@nobody", errors.VersionNotFound),
        ("../etc", errors.RequestError),
    ],
)
def test_what_is_not_there(host: ModelHost, ref: str, kind: type[Exception]) -> None:
    with pytest.raises(kind):
        host.resolve(ref)


def test_a_model_registered_since_the_last_refresh_is_found(
    host: ModelHost, registry: Registry
) -> None:
    promote(registry, add(registry, "new"), "new")
    assert host.resolve("new") == ("new", 1)


def test_a_reference_that_is_new_reads_no_other_model(
    host: ModelHost, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    promote(registry, add(registry, "big", device="gpu"), "big")
    host.refresh()
    promote(registry, add(registry, "new"), "new")
    read, get = set(), registry.get

    def watched(name: str, version: int) -> ModelVersion:
        read.add(name)
        return get(name, version)

    monkeypatch.setattr(registry, "get", watched)
    assert host.placed("new") == (("new", 1), "cpu")
    assert read == {"new"}
    assert host.placed("big") == (("big", 1), "gpu")
    assert read == {"new", "big"}
    with pytest.raises(errors.ModelNotFound, match="registered models: big, echo, new"):
        host.placed("nothing")
    assert read == {"new", "big"}


def test_models_of_another_device_are_not_ours(host: ModelHost, registry: Registry) -> None:
    promote(registry, add(registry, "big", device="gpu"), "big")
    host.refresh()
    assert host.models() == ["echo"]
    assert "big" not in host.loaded()


def test_a_version_is_loaded_aside_and_only_once(
    host: ModelHost, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = add(registry)
    load, go, loads = Scorer.load, threading.Event(), []

    def slow(*args: Any) -> Scorer:
        loads.append(args[2])
        assert go.wait(20)
        return load(*args)

    monkeypatch.setattr(Scorer, "load", slow)
    assert not host.is_ready("echo", version)
    assert not host.is_ready("echo", version)
    assert host.scorer("echo", 1).version == 1  # the others go on
    found: list[Scorer] = []
    waiting = threading.Thread(target=lambda: found.append(host.scorer("echo", version)))
    waiting.start()
    go.set()
    waiting.join(20)
    assert [scorer.version for scorer in found] == [version]
    assert host.is_ready("echo", version)
    assert loads == [version]


def test_a_version_that_fails_is_ready_to_say_why_and_is_tried_again_later(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [100.0]
    host = ModelHost(registry, LoadOptions(), clock=lambda: clock[0])
    version = add(registry)
    load, loads = Scorer.load, []

    def fragile(*args: Any) -> Scorer:
        loads.append(args[2])
        if len(loads) == 1:
            raise MemoryError
        return load(*args)

    monkeypatch.setattr(Scorer, "load", fragile)
    assert not host.is_ready("echo", version)
    wait_until(lambda: host.is_ready("echo", version))
    with pytest.raises(errors.WorkerError, match=r"echo@2 could not be loaded: MemoryError"):
        host.scorer("echo", version)
    assert len(loads) == 1
    clock[0] += FAILED_S
    assert host.scorer("echo", version).version == version


def test_a_registry_that_is_away_is_told_from_a_version_that_is_deleted(
    registry: Registry
) -> None:
    host = ModelHost(registry, LoadOptions(), clock=lambda: 100.0)
    away = registry.root.rename(registry.root.with_name("away"))
    for is_mount_point in (False, True):
        if is_mount_point:
            registry.root.mkdir()
        with pytest.raises(errors.RegistryError, match="registry is gone"), host.held("echo", 1):
            pass
    registry.root.rmdir()
    away.rename(registry.root)
    with pytest.raises(errors.RegistryError, match="registry is gone"):
        host.scorer("echo", 1)  # for those who ask at once, and again
    with host.held("echo", 1) as scorer:
        assert scorer.version == 1
    with pytest.raises(errors.VersionNotFound), host.held("echo", 2):
        pass
    with pytest.raises(errors.ModelNotFound), host.held("other", 1):
        pass


def test_a_long_use_keeps_its_version_and_what_was_idle_goes(registry: Registry) -> None:
    clock = [100.0]
    host = ModelHost(registry, LoadOptions(), clock=lambda: clock[0])
    host.scorer("echo", 1)
    second = add(registry)
    with host.held("echo", second):
        clock[0] += 10 * IDLE_S
        host.tidy()
        assert host.loaded() == {"echo": [second]}
    assert host.loaded() == {"echo": [second]}
    clock[0] += IDLE_S + 1
    host.tidy()
    assert host.loaded() == {}


def test_a_pool_process_lets_an_old_champion_go_and_loads_none(
    host: ModelHost, registry: Registry
) -> None:
    clock = [time.monotonic()]
    host._clock = lambda: clock[0]
    promote(registry, add(registry))
    host.note_champions()
    assert (host.loaded(), host.serving()) == ({"echo": [1]}, {})  # what is under way with it ends
    clock[0] += IDLE_S + 1
    host.note_champions()
    assert host.loaded() == {}
    host.scorer("echo", 2)  # a chunk asks for it
    host.note_champions()
    clock[0] += 10 * IDLE_S
    host.note_champions()
    assert (host.loaded(), host.serving()) == ({"echo": [2]}, {"echo": 2})  # a champion stays
    host.scorer("echo", 1)  # a job that began before
    assert host.loaded() == {"echo": [1, 2]}


def test_what_champion_a_model_has_may_be_unknown(host: ModelHost, registry: Registry) -> None:
    (registry.root / "echo" / "aliases.json").write_bytes(b"{")
    host.note_champions()
    assert host.serving() == {"echo": 1}
    shutil.rmtree(registry.root / "echo")
    host.note_champions()
    assert host.serving() == {"echo": 1}


def test_what_does_not_serve_goes_when_it_is_idle(registry: Registry) -> None:
    clock = [100.0]
    host = ModelHost(registry, LoadOptions(), clock=lambda: clock[0])
    host.refresh()
    promote(registry, add(registry))
    clock[0] += 10 * IDLE_S
    host.refresh()
    assert host.loaded() == {"echo": [1, 2]}  # what is under way with it ends
    clock[0] += IDLE_S - 1
    host.scorer("echo", 1)
    clock[0] += IDLE_S - 1
    host.tidy()
    assert host.loaded() == {"echo": [1, 2]}
    clock[0] += 2
    host.tidy()
    assert host.loaded() == {"echo": [2]}


def test_a_version_that_went_for_others_is_known_for_a_while(registry: Registry) -> None:
    clock = [100.0]
    host = ModelHost(registry, LoadOptions(), clock=lambda: clock[0])
    versions = [add(registry) for _ in range(MAX_UNALIASED + 1)]
    for version in versions:
        host.scorer("echo", version)
    assert host.loaded() == {"echo": versions[1:]}
    assert [host.has_made_room("echo", version) for version in versions[:2]] == [True, False]
    clock[0] += IDLE_S
    host.tidy()
    assert [host.has_made_room("echo", version) for version in versions[:2]] == [False, False]


def test_a_champion_that_is_kept_back_is_told_with_the_reason(
    host: ModelHost, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = Scorer.load
    monkeypatch.setattr(Scorer, "load", lambda *args: 1 / 0)
    promote(registry, add(registry))
    host.refresh()
    assert host.serving() == {"echo": 1}
    version, reason = host.kept_back()["echo"]
    assert version == 2
    assert reason == "ZeroDivisionError: division by zero"
    monkeypatch.setattr(Scorer, "load", load)
    host.refresh()
    assert host.serving() == {"echo": 2}
    assert host.kept_back() == {}


def test_a_champion_for_another_device_is_neither_loaded_nor_hides_the_pinned_ones(
    host: ModelHost, registry: Registry
) -> None:
    version = add(registry, device="gpu")
    promote(registry, version)
    host.refresh()
    assert host.serving() == {}
    assert version not in host.loaded()["echo"]
    assert host.models() == ["echo"]  # its CPU versions can be asked for
    assert host.resolve("echo@1") == ("echo", 1)


def test_a_trial_that_hangs_keeps_no_other_version_from_being_loaded(
    registry: Registry
) -> None:
    go = threading.Event()
    hanging, healthy = add(registry), add(registry)

    def trial(name: str, version: int) -> None:
        if version == hanging:
            assert go.wait(2 * WAIT_S)
            raise errors.RegistryError("it hangs")

    host = ModelHost(registry, LoadOptions(), trial=trial)
    assert not host.is_ready("echo", hanging)
    _until_ready(host, healthy)
    assert host.scorer("echo", healthy).version == healthy
    assert not host.is_ready("echo", hanging)
    go.set()
    _until_ready(host, hanging)
    with pytest.raises(errors.RegistryError, match="it hangs"):
        host.scorer("echo", hanging)
    assert host.loaded() == {"echo": [healthy]}


def test_versions_that_hang_keep_neither_their_model_nor_others_waiting(
    registry: Registry
) -> None:
    go, clock = threading.Event(), [100.0]
    hanging = [add(registry) for _ in range(MAX_OF_MODEL)]
    healthy = add(registry)
    elsewhere = add(registry, "other")

    def trial(name: str, version: int) -> None:
        if name == "echo" and version in hanging:
            assert go.wait(2 * WAIT_S)

    host = ModelHost(registry, LoadOptions(), trial=trial, clock=lambda: clock[0])
    for version in hanging[:MAX_YOUNG]:
        assert not host.is_ready("echo", version)
    assert not host.is_ready("echo", healthy)
    time.sleep(0.05)
    assert not host.is_ready("echo", healthy)  # they have just begun: it waits for its turn
    clock[0] += YOUNG_S
    _until_ready(host, healthy)
    assert host.scorer("echo", healthy).version == healthy
    for version in hanging[MAX_YOUNG:]:
        assert not host.is_ready("echo", version)
    clock[0] += YOUNG_S
    late = add(registry)
    with pytest.raises(errors.Overloaded, match=r"echo@9 .* the 6 versions .* in 2 s") as told:
        host.is_ready("echo", late)
    assert told.value.retry_after_s == RETRY_AFTER_S
    assert host.is_ready("echo", healthy)
    wait_until(lambda: host.is_ready("other", elsewhere))
    go.set()
    for version in hanging:
        _until_ready(host, version)


def _until_ready(host: ModelHost, version: int) -> None:
    wait_until(lambda: host.is_ready("echo", version))
