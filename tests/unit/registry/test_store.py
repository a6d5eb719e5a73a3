from __future__ import annotations

import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from celeriac import errors
from celeriac.messages import ModelRef
from celeriac.registry.catalogue import Catalogue
from celeriac.registry.manifest import (
    FileRecord,
    InputSchema,
    ModelDraft,
    ModelVersion,
    OutputSchema,
)
from celeriac.registry.retired import Retired
from celeriac.registry.store import Registry

DRAFT = ModelDraft(
    format="echo", input=InputSchema(kind="any"), output=OutputSchema(kind="any"),
    metrics={"accuracy": 0.5},
)


def write(folder: Path) -> ModelDraft:
    (folder / "weights.bin").write_bytes(b"12345678")
    (folder / "more").mkdir()
    (folder / "more" / "vocabulary.txt").write_text("a\nb\n")
    return DRAFT


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "models")


def version_folder(registry: Registry) -> Path:
    registry.add("reviews", write)
    folder = registry.folder("reviews", 1)
    folder.chmod(0o755)
    (folder / "weights.bin").chmod(0o644)
    return folder


def test_versions_count_from_one_and_never_change(registry: Registry) -> None:
    first, second = registry.add("reviews", write), registry.add("reviews", write)
    assert (first.ref, second.ref) == ("reviews@1", "reviews@2")
    assert registry.names() == ["reviews"]
    assert registry.versions("reviews") == [1, 2]
    assert registry.get("reviews", 2) == registry.verify("reviews", 2) == second
    assert [record.path for record in second.files] == ["more/vocabulary.txt", "weights.bin"]
    folder = registry.folder("reviews", 2)
    modes = [path.stat().st_mode & 0o222 for path in [folder, *folder.rglob("*")]]
    assert not any(modes)


def test_an_empty_registry_has_no_models(registry: Registry) -> None:
    assert registry.names() == []
    assert registry.infos() == {}
    with pytest.raises(errors.ModelNotFound, match="registered models: none yet here"):
        registry.versions("reviews")


def test_a_failed_registration_leaves_nothing(registry: Registry) -> None:
    def fail(folder: Path) -> ModelDraft:
        (folder / "half").write_text("x")
        raise RuntimeError("no space")

    with pytest.raises(RuntimeError):
        registry.add("reviews", fail)
    assert list(registry.root.iterdir()) == []


def test_a_registration_that_is_killed_leaves_no_version_that_others_cannot_read(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(folder: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("celeriac.registry.store._make_read_only", killed)
    umask = os.umask(0o077)
    try:
        with pytest.raises(KeyboardInterrupt):
            registry.add("reviews", write)
    finally:
        os.umask(umask)
    folder = registry.folder("reviews", 1)
    assert folder.stat().st_mode & 0o777 == 0o755
    assert (folder / "model.json").stat().st_mode & 0o444 == 0o444
    assert registry.verify("reviews", 1).version == 1


def test_a_file_that_lies_where_a_version_would_stops_none(registry: Registry) -> None:
    registry.add("reviews", write)
    (registry.root / "reviews" / "2").write_text("notes")
    assert registry.add("reviews", write).version == 3
    assert registry.versions("reviews") == [1, 3]


@pytest.mark.parametrize("when", ["write", "seal"])
def test_a_full_disk_is_told_and_leaves_nothing(
    registry: Registry, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    def full(*_: Any) -> Any:
        raise OSError(28, "No space left on device")

    if when == "seal":
        monkeypatch.setattr("celeriac.registry.files.write", full)
    with pytest.raises(errors.RegistryError, match=r"^reviews: no version .*: No space left on"):
        registry.add("reviews", full if when == "write" else write)
    assert list(registry.root.iterdir()) == []


@pytest.mark.parametrize("change", [
    {"metrics": {"accuracy": float("nan")}}, {"metrics": {"f1": float("inf")}},
    {"description": "a\udcffb"},
])  # fmt: skip
def test_what_no_manifest_can_say_is_refused_and_leaves_nothing(
    registry: Registry, change: dict[str, Any]
) -> None:
    with pytest.raises(errors.RegistryError, match=r"^reviews: model.json takes finite numbers"):
        registry.add("reviews", lambda folder: DRAFT.model_copy(update=change))
    assert list(registry.root.iterdir()) == []


def test_a_first_registration_that_fails_beside_another_takes_nothing_away(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It removes the model's folder, which is empty, just before the other makes its own in it."""
    make, taken = tempfile.mkdtemp, list[str]()

    def late(prefix: str, dir: Path) -> str:
        if len(taken) < 3:
            taken.append(prefix)
            dir.rmdir()
        return make(prefix=prefix, dir=dir)

    monkeypatch.setattr(tempfile, "mkdtemp", late)
    assert registry.add("reviews", write).version == 1
    assert registry.verify("reviews", 1).version == 1


def test_a_root_that_cannot_be_written_is_named_with_its_setting(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(errors.RegistryError, match=r"file: no model .*CELERIAC_MODELS_ROOT"):
        Registry(tmp_path / "file").add("reviews", write)


def test_a_file_that_cannot_be_read_is_an_error_of_that_version(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.add("reviews", write)

    def refuse(folder: Path, path: Path) -> FileRecord:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("celeriac.registry.files.record", refuse)
    with pytest.raises(errors.RegistryError, match=r"^reviews@1: more/vocabulary.txt cannot be"):
        registry.verify("reviews", 1)


def test_what_a_crash_leaves_is_no_version_and_is_cleared_a_day_later(registry: Registry) -> None:
    registry.add("reviews", write)
    left = registry.root / "reviews" / ".tmp-crashed"
    left.mkdir()
    (left / "model.json").write_text("{")
    assert registry.versions("reviews") == [1]
    registry.add("reviews", write)
    assert left.exists()
    os.utime(left, (time.time() - 90_000,) * 2)
    registry.add("reviews", write)
    assert not left.exists()


def test_registrations_at_once_get_different_numbers(registry: Registry) -> None:
    barrier = threading.Barrier(8)
    numbers: list[int] = []

    def register() -> None:
        def together(folder: Path) -> ModelDraft:
            draft = write(folder)
            barrier.wait(10)
            return draft

        numbers.append(registry.add("reviews", together).version)

    threads = [threading.Thread(target=register) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(numbers) == registry.versions("reviews") == list(range(1, 9))
    for number in numbers:
        assert registry.verify("reviews", number).version == number


def test_a_changed_byte_is_found(registry: Registry) -> None:
    (version_folder(registry) / "weights.bin").write_bytes(b"12345679")
    with pytest.raises(errors.ModelCorrupt, match=r"reviews@1: weights.bin was changed"):
        registry.verify("reviews", 1)


def test_a_shortened_file_is_found(registry: Registry) -> None:
    (version_folder(registry) / "weights.bin").write_bytes(b"1234")
    with pytest.raises(errors.ModelCorrupt, match=r"weights.bin has 4 bytes where 8 were written"):
        registry.verify("reviews", 1)


def test_a_missing_file_is_found(registry: Registry) -> None:
    (version_folder(registry) / "weights.bin").unlink()
    with pytest.raises(errors.ModelCorrupt, match=r"weights.bin is missing"):
        registry.verify("reviews", 1)


def test_a_foreign_file_is_found(registry: Registry) -> None:
    (version_folder(registry) / "extra.py").write_text("")
    with pytest.raises(errors.ModelCorrupt, match=r"extra.py does not belong"):
        registry.verify("reviews", 1)


def test_a_link_in_place_of_a_file_is_refused(registry: Registry, tmp_path: Path) -> None:
    folder = version_folder(registry)
    same = tmp_path / "same.bin"
    same.write_bytes(b"12345678")
    (folder / "weights.bin").unlink()
    (folder / "weights.bin").symlink_to(same)
    with pytest.raises(errors.ModelCorrupt, match=r"weights.bin is not a regular file"):
        registry.verify("reviews", 1)


def test_a_damaged_manifest_does_not_take_others_down(registry: Registry) -> None:
    folder = version_folder(registry)
    registry.add("reviews", write)
    registry.add("digits", write)
    (folder / "model.json").chmod(0o644)
    (folder / "model.json").write_text('{"contract": 1')
    infos = registry.infos()
    assert sorted(infos) == ["digits", "reviews"]
    assert list(infos["reviews"].versions) == [2]
    with pytest.raises(errors.ModelCorrupt, match=r"reviews@1: model.json is damaged"):
        registry.get("reviews", 1)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e999"])
def test_a_number_that_json_has_not_takes_down_one_version_only(
    registry: Registry, number: str
) -> None:
    """Nobody could read a catalogue with it."""
    path = version_folder(registry) / "model.json"
    registry.add("digits", write)
    path.chmod(0o644)
    path.write_text(path.read_text().replace('"accuracy": 0.5', f'"accuracy": {number}'))
    with pytest.raises(errors.ModelCorrupt, match=r"model.json is damaged \(metrics.acc"):
        registry.get("reviews", 1)
    published = Catalogue(models=registry.infos()).model_dump_json()
    found = Catalogue.model_validate_json(published).models
    assert {name: list(model.versions) for name, model in found.items()} == {
        "digits": [1], "reviews": [],
    }


def test_damaged_aliases_take_down_one_model_only(registry: Registry) -> None:
    registry.add("reviews", write)
    registry.add("digits", write)
    (registry.root / "reviews" / "aliases.json").write_text("[]")
    assert sorted(registry.infos()) == ["digits"]


def test_what_was_known_of_a_model_holds_while_it_cannot_be_read(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = version_folder(registry) / "model.json"
    for name in ("reviews", "digits", "gone"):
        registry.add(name, write)
    known = registry.infos()
    read_bytes = Path.read_bytes

    def no_disk(file: Path) -> bytes:
        if file == path:
            raise OSError(5, "Input/output error")
        return read_bytes(file)

    monkeypatch.setattr(Path, "read_bytes", no_disk)
    with pytest.raises(errors.RegistryError, match=r"reviews@1: model.json cannot be read") as told:
        registry.get("reviews", 1)
    assert type(told.value) is errors.RegistryError
    shutil.rmtree(registry.root / "gone")
    (registry.root / "digits" / "aliases.json").write_text("[]")
    assert list(registry.infos()) == ["reviews"]
    assert registry.infos(known) == {name: known[name] for name in ("digits", "reviews")}


@pytest.mark.parametrize("is_mounted", [True, False])
def test_a_registry_that_is_gone_takes_down_nothing(registry: Registry, is_mounted: bool) -> None:
    registry.add("reviews", write)
    known = registry.infos()
    registry.root.rename(registry.root.with_name("elsewhere"))
    if is_mounted:
        registry.root.mkdir()
    with pytest.raises(errors.RegistryError, match=r"models: the registry is gone .*mounted\?"):
        registry.infos(known)
    assert registry.infos() == {}
    registry.add("reviews", write)
    assert list(registry.infos(known)) == ["reviews"]


@pytest.mark.parametrize("what", ["registry", "model", "version", "marks"])
def test_a_folder_of_another_user_hides_nothing_else(
    registry: Registry, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    for name in ("reviews", "reviews", "digits"):
        registry.add(name, write)
    known = registry.infos()
    forbidden = {
        "registry": registry.root, "model": registry.root / "reviews",
        "version": registry.root / "reviews" / "2",
        "marks": registry.root / "reviews" / ".retired",
    }[what]
    stat = os.stat

    def refuse(read: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def reading(path: Any) -> Any:
            if Path(path) == forbidden:
                raise PermissionError(13, "Permission denied", str(path))
            return read(path)

        return reading

    def no_stat(path: Any, **options: Any) -> os.stat_result:
        if Path(path).parent == forbidden and what != "registry":
            raise PermissionError(13, "Permission denied", str(path))
        return stat(path, **options)

    for name in ("listdir", "scandir"):  # pathlib takes the second from Python 3.13 on
        monkeypatch.setattr(os, name, refuse(getattr(os, name)))
    monkeypatch.setattr(os, "stat", no_stat)
    if what == "registry":
        with pytest.raises(errors.RegistryError, match=r"the registry cannot be read \(Permission"):
            registry.infos()
        return
    found = registry.infos()
    assert "digits" in found
    assert list(found["reviews"].versions if "reviews" in found else ()) == (
        [1, 2] if what == "version" else []
    )
    assert registry.infos(known) == known


def test_a_version_copied_by_hand_is_refused(registry: Registry) -> None:
    registry.add("reviews", write)
    (registry.root / "reviews" / "1").rename(registry.root / "reviews" / "7")
    with pytest.raises(errors.ModelCorrupt, match=r"reviews@7: its .* is that of reviews@1"):
        registry.verify("reviews", 7)


def test_references_resolve_as_in_the_catalogue(registry: Registry) -> None:
    registry.add("reviews", write)
    registry.aliases("reviews").promote(1, expected=None, who="a", why="")
    catalogue = Catalogue(models=registry.infos())
    for text in ("reviews", "reviews@1", "reviews@champion"):
        ref = ModelRef.parse(text)
        assert registry.resolve(ref) == catalogue.resolve(ref).version == 1
    for text in ("tea", "reviews@2", "reviews@canary"):
        ref = ModelRef.parse(text)
        with pytest.raises(errors.RequestError) as on_disk:
            registry.resolve(ref)
        with pytest.raises(errors.RequestError) as published:
            catalogue.resolve(ref)
        assert type(on_disk.value) is type(published.value)
        assert on_disk.value.message == published.value.message


@pytest.mark.parametrize("path", ["/etc/passwd", "../x", "a/../../x", "", "a//b", "./a"])
def test_a_record_never_points_outside(path: str) -> None:
    with pytest.raises(ValueError, match="does not lie in"):
        FileRecord(path=path, sha256="0" * 64, size=1)


def test_a_folder_that_cannot_be_read_is_an_error_of_that_version(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.add("reviews", write)

    def refuse(folder: Path) -> Iterator[Path]:
        raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr("celeriac.registry.files.walk", refuse)
    with pytest.raises(errors.RegistryError, match=r"^reviews@1: its folder cannot be read: Perm"):
        registry.verify("reviews", 1)


def test_a_mark_without_its_version_is_no_retired_version(registry: Registry) -> None:
    for _ in range(2):
        registry.add("reviews", write)
    registry.aliases("reviews").retire([1])
    assert list(registry.retired("reviews")) == [1]
    version = registry.folder("reviews", 1)
    version.chmod(0o755)
    version.rename(version.parent / ".tmp-trash")  # what a crash in `delete` leaves
    assert registry.retired("reviews") == {}
    assert registry.versions("reviews") == [2]


def test_the_number_of_a_deleted_version_is_not_given_again(registry: Registry) -> None:
    for _ in range(2):
        registry.add("reviews", write)
    registry.aliases("reviews").retire([1, 2])
    for number in (2, 1):
        registry.delete("reviews", number)
    assert registry.names() == []
    assert registry.add("reviews", write).version == 3
    assert registry.versions("reviews") == [3]


def test_a_version_deleted_while_models_are_listed_takes_none_down(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(2):
        registry.add("reviews", write)
    registry.aliases("reviews").retire([1])
    marks = Retired.since_s

    def deleted_meanwhile(retired: Retired) -> dict[int, float]:
        monkeypatch.setattr(Retired, "since_s", marks)
        registry.delete("reviews", 1)
        return marks(retired)

    monkeypatch.setattr(Retired, "since_s", deleted_meanwhile)
    assert list(registry.infos()["reviews"].versions) == [2]
    assert registry.versions("reviews") == [2]


def test_a_model_or_version_that_vanishes_is_left_out(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("reviews", "reviews", "spam"):
        registry.add(name, write)
    get, versions = Registry.get, Registry.versions

    def gone(registry: Registry, name: str, version: int) -> ModelVersion:
        if version == 1:
            raise errors.VersionNotFound("gone")
        return get(registry, name, version)

    def all_gone(registry: Registry, name: str) -> list[int]:
        if name == "spam":
            raise errors.ModelNotFound("gone")
        return versions(registry, name)

    monkeypatch.setattr(Registry, "get", gone)
    monkeypatch.setattr(Registry, "versions", all_gone)
    infos = registry.infos()
    assert list(infos) == ["reviews"]
    assert list(infos["reviews"].versions) == [2]


def test_a_mark_that_is_taken_away_meanwhile_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    retired = Retired(tmp_path)
    retired.add(1)
    retired.add(2)
    listed = list((tmp_path / ".retired").iterdir())
    monkeypatch.setattr(Path, "iterdir", lambda folder: iter(listed))
    retired.remove(1)
    assert list(retired.since_s()) == [2]
