"""Who may load a version that is not the champion: what a trial found, and how long it counts."""

from __future__ import annotations

import json
import platform
import threading
from collections.abc import Callable
from pathlib import Path

import numpy
import pytest

from celeriac import errors
from celeriac.registry import trials
from celeriac.registry.manifest import InputSchema, ModelDraft, OutputSchema
from celeriac.registry.store import Registry
from celeriac.registry.trials import REFUSED_S, Trials
from celeriac.release import trying
from celeriac.release.trying import Trial
from celeriac.settings import ModelsSettings, Settings


class Tries:
    """Stands in for the process: ``dies`` says whether the next ones do."""

    def __init__(self) -> None:
        self.dies = False
        self.error: Exception = errors.RegistryError("m@1: the process was ended by SIGSEGV")
        self.tried: list[int] = []

    def __call__(self, registry: Registry, name: str, version: int, settings: Settings) -> None:
        self.tried.append(version)
        if self.dies:
            raise self.error


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    registry = Registry(tmp_path / "models")
    add(registry)
    return registry


@pytest.fixture
def tries() -> Tries:
    return Tries()


@pytest.fixture
def clock() -> list[float]:
    return [1_000.0]


@pytest.fixture
def worker(registry: Registry, tries: Tries, clock: list[float]) -> Callable[[], Trial]:
    """A worker process, started when it is called."""
    return lambda: Trial(registry, Settings(), run=tries, clock=lambda: clock[0])


def add(registry: Registry, text: bytes = b"w") -> int:
    draft = ModelDraft(
        format="echo", input=InputSchema(kind="any"), output=OutputSchema(kind="any")
    )

    def write(folder: Path) -> ModelDraft:
        (folder / "weights").write_bytes(text)
        return draft

    return registry.add("m", write).version


def promote(registry: Registry, version: int) -> None:
    aliases = registry.aliases("m")
    aliases.promote(version, expected=aliases.read().get("champion"), who="test", why="")


def test_what_passes_is_tried_once_by_all_workers_together(
    worker: Callable[[], Trial], tries: Tries
) -> None:
    first, second = worker(), worker()
    first("m", 1)
    first("m", 1)
    second("m", 1)
    assert tries.tried == [1]


def test_the_champion_is_not_tried_and_one_that_was_if_it_has_changed_since(
    registry: Registry, worker: Callable[[], Trial], tries: Tries
) -> None:
    for version in (1, add(registry)):
        Trials(registry.root / "m").add_passed(version)  # as the check before a promotion does
        promote(registry, version)
    registry.aliases("m").rollback(expected=1, who="test", why="")
    for _ in range(2):
        worker()("m", 1)
        worker()("m", 2)
        path = registry.folder("m", 1) / "model.json"
        path.chmod(0o644)
        path.write_text(path.read_text() + "\n")
    path = registry.folder("m", 2) / "model.json"
    path.chmod(0o644)
    path.write_text(path.read_text() + "\n")
    worker()("m", 1)
    worker()("m", 2)
    assert tries.tried == [2]
    tries.tried.clear()
    registry.aliases("m").assign("challenger", add(registry), expected=None, who="test", why="")
    assert tries.tried == []
    worker()("m", 3)  # an alias that anybody may give says nothing of it
    assert tries.tried == [3]


def test_what_dies_is_refused_by_all_for_a_while_and_then_tried_again(
    worker: Callable[[], Trial], tries: Tries, clock: list[float]
) -> None:
    tries.dies = True
    for trial in (worker(), worker()):
        with pytest.raises(errors.RegistryError, match=r"SIGSEGV; it is not the champion, .*m@1"):
            trial("m", 1)
    assert tries.tried == [1]
    clock[0] += REFUSED_S
    tries.dies = False
    worker()("m", 1)
    assert tries.tried == [1, 1]


def test_what_fails_again_and_again_is_refused_for_longer(
    registry: Registry, worker: Callable[[], Trial], tries: Tries, clock: list[float]
) -> None:
    tries.dies = True
    for _ in range(60):  # somebody asks each minute
        with pytest.raises(errors.RegistryError):
            worker()("m", 1)
        clock[0] += REFUSED_S
    assert len(tries.tried) == 3 + 7  # after 1, 2 and 4 minutes, then every eight
    Trials(registry.root / "m").add_passed(1)  # as a check does
    worker()("m", 1)
    Trials(registry.root / "m").add_failed(1, errors.RegistryError("it died"))
    clock[0] += REFUSED_S
    tries.dies = False
    worker()("m", 1)


def test_errors_that_say_what_to_do_are_passed_on_as_they_are(
    worker: Callable[[], Trial], tries: Tries
) -> None:
    tries.dies, tries.error = True, errors.UntrustedModel("m@1: add the type")
    for trial in (worker(), worker()):
        with pytest.raises(errors.UntrustedModel, match=r"^m@1: add the type$"):
            trial("m", 1)


def test_another_machine_tries_for_itself(
    worker: Callable[[], Trial], tries: Tries, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries.dies = True
    with pytest.raises(errors.RegistryError):
        worker()("m", 1)
    monkeypatch.setattr(trials.platform, "node", lambda: "larger.example")
    tries.dies = False
    worker()("m", 1)
    assert tries.tried == [1, 1]


def test_another_version_of_the_same_number_is_tried(
    registry: Registry, worker: Callable[[], Trial], tries: Tries
) -> None:
    first = worker()
    first("m", 1)
    path = registry.folder("m", 1) / "model.json"
    path.chmod(0o644)
    path.write_text(path.read_text() + "\n")
    first("m", 1)
    assert tries.tried == [1, 1]
    worker()("m", 1)
    assert tries.tried == [1, 1]


def test_another_release_of_a_library_has_what_passed_and_what_failed_tried_again(
    worker: Callable[[], Trial], tries: Tries, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = {"torch": "2.13.0"}
    monkeypatch.setattr(trials, "releases", lambda *_: dict(here))
    worker()("m", 1)
    here["torch"] = "2.14.0"
    tries.dies = True
    for _ in range(2):
        with pytest.raises(errors.RegistryError):
            worker()("m", 1)
    assert tries.tried == [1, 1]
    here["torch"] = "2.14.1"  # the cure, at once
    tries.dies = False
    worker()("m", 1)
    for torch in ("2.13.0", "2.14.1"):  # machines that share the registry, and not their releases
        here["torch"] = torch
        worker()("m", 1)
    assert tries.tried == [1, 1, 1]


def test_the_releases_are_those_of_the_runtimes_and_of_what_a_version_was_written_by(
    registry: Registry
) -> None:
    draft = ModelDraft(
        format="echo", input=InputSchema(kind="any"), output=OutputSchema(kind="any"),
        frameworks={"pytest": "1.0", "no-such-package": "1.0", "": "1.0"},
    )
    number = registry.add("m", lambda _: draft).version
    Trials(registry.root / "m").add_passed(number)
    record = json.loads((registry.root / "m" / ".trials" / f"{number}.json").read_text())
    (found,) = record["releases"]
    assert found["pytest"] == pytest.__version__
    assert found["numpy"] == numpy.__version__
    assert found["python"] == platform.python_version()
    assert not found.keys() & {"no-such-package", ""}


def test_a_record_from_before_releases_were_kept_counts_for_nothing(
    registry: Registry, worker: Callable[[], Trial], tries: Tries
) -> None:
    Trials(registry.root / "m").add_passed(1)
    path = registry.root / "m" / ".trials" / "1.json"
    path.write_text(json.dumps({"manifest": json.loads(path.read_text())["manifest"]}))
    worker()("m", 1)
    worker()("m", 1)
    assert tries.tried == [1]


@pytest.mark.parametrize("damaged", [b"", b"[]", b'{"manifest"', b"[" * 100_000])
def test_a_damaged_record_counts_for_nothing(
    registry: Registry, worker: Callable[[], Trial], tries: Tries, damaged: bytes
) -> None:
    worker()("m", 1)
    (registry.root / "m" / ".trials" / "1.json").write_bytes(damaged)
    worker()("m", 1)
    worker()("m", 1)
    assert tries.tried == [1, 1]


def test_only_the_newest_releases_are_kept(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(2 * trials.MOST_KEPT):
        monkeypatch.setattr(trials, "releases", lambda *_, of=number: {"torch": f"2.{of}"})
        Trials(registry.root / "m").add_passed(1)
    record = json.loads((registry.root / "m" / ".trials" / "1.json").read_text())
    assert len(record["releases"]) == trials.MOST_KEPT
    assert Trials(registry.root / "m").has_passed(1)


def test_a_registry_that_nobody_can_write_costs_each_process_its_own_trial(
    registry: Registry, worker: Callable[[], Trial], tries: Tries
) -> None:
    (registry.root / "m" / ".trials").write_text("in the way")
    first = worker()
    first("m", 1)
    first("m", 1)
    worker()("m", 1)
    assert tries.tried == [1, 1]


def test_a_registry_that_vanishes_during_a_trial_says_nothing_of_the_version(
    registry: Registry, clock: list[float]
) -> None:
    elsewhere, tried = registry.root.with_name("elsewhere"), []

    def vanish(registry: Registry, name: str, version: int, settings: Settings) -> None:
        tried.append(version)
        if len(tried) == 1:
            registry.root.rename(elsewhere)
            raise errors.ModelNotFound("no model named 'm'")

    trial = Trial(registry, Settings(), run=vanish, clock=lambda: clock[0])
    with pytest.raises(errors.ModelNotFound):
        trial("m", 1)
    elsewhere.rename(registry.root)
    trial("m", 1)
    assert tried == [1, 1]


def test_where_no_process_can_be_started_it_is_refused_with_the_way_out(
    registry: Registry, worker: Callable[[], Trial], tries: Tries
) -> None:
    tries.dies, tries.error = True, BlockingIOError(11, "Resource temporarily unavailable")
    with pytest.raises(errors.RegistryError, match=r"no process can be started here .*temporarily"):
        worker()("m", 1)
    Trials(registry.root / "m").add_passed(1)  # as a check on another machine does
    worker()("m", 1)


def test_two_workers_that_want_it_at_once_try_it_once(
    registry: Registry, clock: list[float]
) -> None:
    tried, go = [], threading.Event()

    def slow(registry: Registry, name: str, version: int, settings: Settings) -> None:
        tried.append(version)
        assert go.wait(20)

    workers = [Trial(registry, Settings(), run=slow, clock=lambda: clock[0]) for _ in range(3)]
    threads = [threading.Thread(target=trial, args=("m", 1)) for trial in workers]
    for thread in threads:
        thread.start()
    go.set()
    for thread in threads:
        thread.join(20)
    assert tried == [1]


def test_who_waits_in_vain_for_anothers_trial_is_told_of_which_version(
    registry: Registry, tries: Tries, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trying, "_GRACE_S", -0.05)
    settings = Settings(models=ModelsSettings(check_timeout_s=0.1))
    with (
        Trials(registry.root / "m").alone(1, 1),
        pytest.raises(errors.RegistryError, match=r"^m@1 .* has been trying it for 0.05 s"),
    ):
        Trial(registry, settings, run=tries)("m", 1)
    assert tries.tried == []


def test_a_record_that_cannot_be_deleted_keeps_no_version(registry: Registry) -> None:
    promote(registry, add(registry))
    assert registry.aliases("m").retire([1]) == [1]
    (registry.root / "m" / ".trials" / "1.json").mkdir(parents=True)
    registry.delete("m", 1)
    assert registry.retired("m") == {}
    assert not list((registry.root / "m").glob("*trash*"))


def test_a_version_that_is_deleted_leaves_no_record(registry: Registry) -> None:
    promote(registry, add(registry))
    found = Trials(registry.root / "m")
    found.add_passed(1)
    with found.alone(1, 1):
        pass
    assert registry.aliases("m").retire([1]) == [1]
    registry.delete("m", 1)
    assert list((registry.root / "m" / ".trials").iterdir()) == []
