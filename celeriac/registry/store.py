"""The registry on disk: ``<root>/<name>/<version>/`` folders that never change.

A version is written into a temporary folder beside its final place and renamed, so a crash leaves
nothing that looks like a version. The rename takes the number: it fails if somebody else has it.
"""

from __future__ import annotations

import contextlib
import errno
import getpass
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path

from pydantic import ValidationError

from celeriac import errors
from celeriac.disk import sync
from celeriac.logs import get_logger
from celeriac.messages import ModelRef, check_model_name
from celeriac.registry import files
from celeriac.registry.aliases import Aliases
from celeriac.registry.catalogue import ModelInfo, version_info
from celeriac.registry.manifest import MANIFEST_NAME, FileRecord, ModelDraft, ModelVersion
from celeriac.registry.reference import pick, unknown_model, unknown_version
from celeriac.registry.retired import Retired
from celeriac.registry.trials import Trials

log = get_logger(__name__)

_TEMPORARY = ".tmp-"
_ABANDONED_AFTER_S = 86_400

NONE_HERE = "none yet here (CELERIAC_MODELS_ROOT, or [models] root, names the folder)"


class Registry:
    """The models below one folder. Safe with threads and processes, on one file system."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root)

    def names(self) -> list[str]:
        """Names of all models with at least one version; those too whose folder cannot be read.

        Raises RegistryError if the registry itself cannot be.
        """
        return [name for name in self._folders() if self._has_versions(name)]

    def versions(self, name: str) -> list[int]:
        """Numbers of all versions that are not retired, rising.

        Raises ModelNotFound, or RegistryError if the model's folder cannot be read.
        """
        marks = set(Retired(self.root / check_model_name(name)).numbers())
        numbers = self._numbers(name)  # after the marks: they outlive their versions
        if not numbers:
            raise unknown_model(name, self.names(), NONE_HERE)
        return [number for number in numbers if number not in marks]

    def retired(self, name: str) -> dict[int, float]:
        """Versions that are about to be deleted, with the Unix time at which each was retired."""
        marks = Retired(self.root / name).since_s()
        numbers = self._numbers(name)  # marks of what is deleted stay
        return {number: since_s for number, since_s in marks.items() if number in numbers}

    def folder(self, name: str, version: int) -> Path:
        """Where a version lies, retired or not. Raises ModelNotFound or VersionNotFound."""
        if version not in self._numbers(check_model_name(name)):
            raise unknown_version(name, version, self.versions(name))
        return self.root / name / str(version)

    def get(self, name: str, version: int) -> ModelVersion:
        """``model.json`` of a version, its files not verified.

        Raises ModelNotFound, VersionNotFound, ModelCorrupt if it is damaged, or RegistryError if it
        cannot be read.
        """
        path = self.folder(name, version) / MANIFEST_NAME
        try:
            manifest = ModelVersion.model_validate_json(path.read_bytes())
        except OSError as error:
            raise files.unreadable(f"{name}@{version}: {MANIFEST_NAME}", error) from error
        except ValidationError as error:
            raise errors.ModelCorrupt(
                f"{name}@{version}: {MANIFEST_NAME} is damaged ({_reason(error)}); "
                "register the model again"
            ) from error
        if (manifest.name, manifest.version) != (name, version):
            raise errors.ModelCorrupt(
                f"{name}@{version}: its {MANIFEST_NAME} is that of {manifest.ref}; "
                "versions are never copied or renamed by hand"
            )
        return manifest

    def aliases(self, name: str) -> Aliases:
        """The aliases of a model. Raises ModelNotFound."""
        self.versions(name)
        return Aliases(self.root / name)

    def resolve(self, ref: ModelRef) -> int:
        """The number that ``ref`` means. Raises ModelNotFound or VersionNotFound."""
        versions = self.versions(ref.name)
        return pick(ref, versions, {} if ref.version else self.aliases(ref.name).read())

    def verify(self, name: str, version: int) -> ModelVersion:
        """Check every file of a version against its record, without loading any of them.

        Raises ModelCorrupt (RegistryError if it cannot be read), which names version and file.
        """
        manifest = self.get(name, version)
        folder = self.folder(name, version)
        records = {record.path: record for record in manifest.files}
        try:
            found = {path.relative_to(folder).as_posix(): path for path in files.walk(folder)}
        except OSError as error:
            raise errors.RegistryError(
                f"{manifest.ref}: its folder cannot be read: {error.strerror}"
            ) from error
        found.pop(MANIFEST_NAME, None)
        if folder.is_symlink():
            raise _corrupt(manifest, ".", "is a symbolic link")
        for path in sorted(found.keys() - records.keys()):
            raise _corrupt(manifest, path, "does not belong to the version")
        for path, expected in records.items():
            _verify_file(manifest, found.get(path), expected, folder)
        return manifest

    def add(self, name: str, write: Callable[[Path], ModelDraft]) -> ModelVersion:
        """Register a new version. ``write`` fills an empty folder and describes what it wrote.

        Raises RegistryError if the registry cannot be written, or ``model.json`` cannot say what
        the version is, and whatever else ``write`` raises; then, and after a crash, there is no new
        version.
        """
        home = self.root / check_model_name(name)
        try:
            folder = _make_folder(home)
        except OSError as error:
            raise errors.RegistryError(
                f"{self.root}: no model can be written here ({error.strerror}); "
                "[models] root in celeriac.toml, or CELERIAC_MODELS_ROOT, names the folder"
            ) from error
        try:
            draft = write(folder)
            return self._seal(name, folder, draft)
        except BaseException as error:
            shutil.rmtree(folder, ignore_errors=True)
            with contextlib.suppress(OSError):
                home.rmdir()  # a first registration that failed leaves nothing
            if isinstance(error, OSError):
                raise errors.RegistryError(
                    f"{name}: no version could be written to {home}: "
                    f"{error.strerror or errors.told(error)}"
                ) from error
            raise

    def delete(self, name: str, version: int) -> None:
        """Delete a retired version; no other one ever gets its number. What a crash leaves of it is
        no version, and is cleared later.

        Raises ModelNotFound, VersionNotFound, or RegistryError if it is not retired or its files
        cannot be deleted.
        """
        folder = self.folder(name, version)
        if version not in Retired(self.root / name):
            raise errors.RegistryError(f"{name}@{version} is in use: retire it before it goes")
        trash = folder.parent / f"{_TEMPORARY}trash-{version}-{os.getpid()}"
        try:
            folder.chmod(0o755)  # a folder that nobody may write cannot be renamed
            folder.rename(trash)
            sync(folder.parent)  # the mark stays: the number is never given again
            Trials(folder.parent).forget(version)
            _delete_tree(trash)
        except OSError as error:
            raise errors.RegistryError(
                f"{name}@{version} cannot be deleted: {error.strerror}"
            ) from error

    def infos(self, known: Mapping[str, ModelInfo] | None = None) -> dict[str, ModelInfo]:
        """All models as the catalogue publishes them.

        What cannot be read is logged, and is what it was in ``known``: a version that serves goes
        on. What is not known is left out. Raises RegistryError if the registry cannot be read, or
        holds nothing where models are known: a disk that is not mounted looks like that.
        """
        known, infos = known or {}, {}
        names = self.names()
        if known and not names:
            raise errors.RegistryError(
                f"{self.root}: the registry is gone or holds no model any more, and "
                f"{', '.join(sorted(known)[:5])} were known; is its disk mounted? Nothing is "
                "followed or published until it holds a model"
            )
        for name in names:
            try:
                infos[name] = self.info(name, known.get(name))
            except errors.ModelNotFound:  # deleted meanwhile
                continue
            except errors.RegistryError as error:
                if name in known:
                    infos[name] = known[name]
                log.warning("model cannot be read", model=name, reason=error.message,
                            is_known=name in known)
        return infos

    def check_there(self) -> None:
        """Raises RegistryError if the registry cannot be read, or has no folder of any model: a
        disk that is not mounted looks like that."""
        if not self._folders():
            raise errors.RegistryError(
                "the registry is gone or holds no model any more; is its disk mounted? [models] "
                "root, or CELERIAC_MODELS_ROOT, names its folder"
            )

    def info(self, name: str, known: ModelInfo | None = None) -> ModelInfo:
        """One model as the catalogue publishes it. A version that cannot be read is logged, and is
        what it was in ``known``, or left out.

        Raises ModelNotFound, or RegistryError if its aliases or its folder cannot be read.
        """
        versions = {}
        for number in self.versions(name):
            try:
                versions[number] = version_info(self.get(name, number))
            except errors.VersionNotFound:  # deleted meanwhile
                continue
            except errors.RegistryError as error:
                if known and number in known.versions:
                    versions[number] = known.versions[number]
                log.warning("version cannot be read", model=name, version=number,
                            reason=error.message, is_known=number in versions)
        return ModelInfo(name=name, aliases=self.aliases(name).read(), versions=versions)

    def _folders(self) -> list[str]:
        """Names of what may be models."""
        try:
            if not self.root.is_dir():
                return []
            found = sorted(path.name for path in self.root.iterdir() if path.is_dir())
        except OSError as error:
            raise files.unreadable(f"{self.root}: the registry", error) from error
        return [name for name in found if _is_name(name)]

    def _has_versions(self, name: str) -> bool:
        try:
            return bool(self._numbers(name))
        except errors.RegistryError:
            return True

    def _numbers(self, name: str) -> list[int]:
        try:
            entries = list((self.root / name).iterdir())
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise files.unreadable(f"{name}: its folder", error) from error
        return sorted(int(path.name) for path in entries if _is_version(path))

    def _seal(self, name: str, folder: Path, draft: ModelDraft) -> ModelVersion:
        written = list(files.walk(folder))
        records = tuple(files.record(folder, path) for path in written)
        for path in written:
            path.chmod(0o444)
            sync(path)
        home = folder.parent
        number = max([*self._numbers(name), *Retired(home).numbers()], default=0) + 1
        while True:
            manifest = _numbered(name, number, records, draft)
            files.write(folder / MANIFEST_NAME, _as_json(manifest))
            (folder / MANIFEST_NAME).chmod(0o644)  # others must read it, if we are killed
            folder.chmod(0o755)
            sync(folder)
            try:
                folder.rename(home / str(number))
                break
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                    raise
                number += 1  # another registration was faster, or somebody's file lies there
        sync(home)
        _make_read_only(home / str(number))
        return manifest


def _numbered(
    name: str, number: int, records: tuple[FileRecord, ...], draft: ModelDraft
) -> ModelVersion:
    try:
        return ModelVersion(
            **{field: getattr(draft, field) for field in ModelDraft.model_fields},
            name=name, version=number, files=records,
            created_at=datetime.now(UTC).isoformat(timespec="seconds"), created_by=_user(),
        )
    except ValidationError as error:
        raise _unsayable(name, _reason(error)) from error


def _as_json(manifest: ModelVersion) -> bytes:
    first = {"contract": manifest.contract, "name": manifest.name, "version": manifest.version}
    try:
        data = first | manifest.model_dump(mode="json")
        return json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False).encode()
    except ValueError as error:
        raise _unsayable(manifest.name, str(error)) from error


def _unsayable(name: str, reason: str) -> errors.RegistryError:
    return errors.RegistryError(
        f"{name}: {MANIFEST_NAME} takes finite numbers and valid Unicode; of its metrics, texts "
        f"and golden examples something is neither ({reason})"
    )


def _make_read_only(folder: Path) -> None:
    (folder / MANIFEST_NAME).chmod(0o444)
    for path in folder.rglob("*"):
        if path.is_dir():
            path.chmod(0o555)
    folder.chmod(0o555)


def _verify_file(
    manifest: ModelVersion, path: Path | None, expected: FileRecord, folder: Path
) -> None:
    if path is None:
        raise _corrupt(manifest, expected.path, "is missing")
    if path.is_symlink() or not path.is_file():
        raise _corrupt(manifest, expected.path, "is not a regular file")
    try:
        found = files.record(folder, path)
    except OSError as error:
        raise errors.RegistryError(
            f"{manifest.ref}: {expected.path} cannot be read: {error.strerror}"
        ) from error
    if found.size != expected.size:
        raise _corrupt(
            manifest, expected.path, f"has {found.size} bytes where {expected.size} were written"
        )
    if found.sha256 != expected.sha256:
        raise _corrupt(manifest, expected.path, "was changed: its SHA-256 is not the recorded one")


def _corrupt(manifest: ModelVersion, path: str, what: str) -> errors.ModelCorrupt:
    return errors.ModelCorrupt(f"{manifest.ref}: {path} {what}; register the model again")


def _make_folder(home: Path, tries: int = 20) -> Path:
    """A folder for a version, beside its final place. Raises OSError."""
    try:
        home.mkdir(parents=True, exist_ok=True)
        _clear_abandoned(home)
        return Path(tempfile.mkdtemp(prefix=_TEMPORARY, dir=home))
    except (FileNotFoundError, FileExistsError):
        if tries == 1:
            raise
    return _make_folder(home, tries - 1)  # a first registration that failed took ``home`` away


def _clear_abandoned(home: Path) -> None:
    for path in home.glob(f"{_TEMPORARY}*"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > _ABANDONED_AFTER_S:
                _delete_tree(path)


def _delete_tree(folder: Path) -> None:
    for path in [folder, *folder.rglob("*")]:
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o755)
    shutil.rmtree(folder)


def _is_name(name: str) -> bool:
    try:
        return check_model_name(name) == name
    except errors.RequestError:
        return False


def _is_version(path: Path) -> bool:
    number = path.name
    if not (number.isascii() and number.isdigit() and not number.startswith("0")):
        return False
    try:
        return len(number) <= 9 and (path / MANIFEST_NAME).is_file()
    except OSError:  # who reads it is told
        return True


def _reason(error: ValidationError) -> str:
    first = error.errors()[0]
    where = ".".join(map(str, first["loc"]))
    return f"{where}: {first['msg']}" if where else str(first["msg"])


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return ""
