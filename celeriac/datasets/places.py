"""Where files are: a local path, or an object in S3 with the same few methods.

Access to S3 is set by the usual variables: ``AWS_ENDPOINT_URL_S3`` or ``AWS_ENDPOINT_URL``,
``AWS_REGION``, ``AWS_ACCESS_KEY_ID``, ``AWS_SECRET_ACCESS_KEY``, ``AWS_PROFILE`` ...
"""

from __future__ import annotations

import fnmatch
import glob
import os
import re
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, NamedTuple, cast
from urllib.parse import urlsplit

from celeriac import errors
from celeriac.datasets.libraries import require_readers

S3_PREFIX = "s3://"
_CONNECT_TIMEOUT_S = 5.0
_REQUEST_TIMEOUT_S = 60.0
_ATTEMPTS = 4


@dataclass(frozen=True)
class Stat:
    """Size and time of an object, by the names of ``os.stat``."""

    st_size: int
    st_mtime_ns: int


@dataclass(frozen=True, order=True)
class S3Path:
    """An object or a prefix of S3; the part of ``pathlib.Path`` that datasets and jobs use.

    A write is one atomic PUT: nobody ever reads a part of an object.
    """

    key: str
    """``bucket/name``, without a slash at the end."""

    def __str__(self) -> str:
        return S3_PREFIX + self.key

    def __truediv__(self, name: str) -> S3Path:
        return S3Path(f"{self.key}/{name}")

    @property
    def name(self) -> str:
        return PurePosixPath(self.key).name

    @property
    def suffix(self) -> str:
        return PurePosixPath(self.key).suffix

    @property
    def parent(self) -> S3Path:
        return S3Path(self.key.rpartition("/")[0] or self.key)

    def with_name(self, name: str) -> S3Path:
        return self.parent / name

    def expanduser(self) -> S3Path:
        return self

    def resolve(self) -> S3Path:
        return self

    def exists(self) -> bool:
        return self._kind() != "NotFound"

    def is_file(self) -> bool:
        return self._kind() == "File"

    def is_dir(self) -> bool:
        return self._kind() == "Directory"

    def stat(self) -> Stat:
        """Raises FileNotFoundError."""
        info = _filesystem().get_file_info(self.key)
        if info.type.name != "File":
            raise FileNotFoundError(2, "no such object", str(self))
        return Stat(info.size, info.mtime_ns or 0)

    def etag(self) -> str:
        """What changes whenever the object does."""
        with self.open() as file:
            return str(cast("Any", file).metadata().get("ETag", b"").decode().strip('"'))

    def open(self, mode: str = "rb") -> BinaryIO:
        """The content, for reading, with seek. Raises FileNotFoundError."""
        if mode != "rb":
            raise ValueError(f"an object is opened for reading; write it with put(): {mode!r}")
        return cast("BinaryIO", _filesystem().open_input_file(self.key))

    def read_bytes(self) -> bytes:
        with self.open() as file:
            return file.read()

    def put(self, file: BinaryIO) -> None:
        """The rest of ``file`` as the whole new content: atomic, at the end."""
        with _filesystem().open_output_stream(self.key, compression=None) as target:
            while block := file.read(_PUT_BYTES):
                target.write(block)

    def replace(self, target: S3Path) -> None:
        """Copy to ``target``, then delete: ``target`` is whole at every moment."""
        _filesystem().move(self.key, target.key)

    def unlink(self, missing_ok: bool = False) -> None:
        try:
            _filesystem().delete_file(self.key)
        except FileNotFoundError:
            if not missing_ok:
                raise

    def mkdir(self, mode: int = 0o777, parents: bool = False, exist_ok: bool = False) -> None:
        """Nothing: a folder is there as soon as something is in it."""

    def iterdir(self) -> Iterator[S3Path]:
        for info in self._infos(recursive=False):
            yield S3Path(info.path)

    def glob(self, pattern: str) -> Iterator[S3Path]:
        for path in self.iterdir():
            if fnmatch.fnmatchcase(path.name, pattern):
                yield path

    def files(self, *, below: bool = True) -> Iterator[Listed]:
        """The objects under this prefix, deep down or not."""
        for info in self._infos(recursive=below):
            if info.type.name == "File":
                yield Listed(str(S3Path(info.path)), info.size, info.mtime_ns or 0)

    def _infos(self, *, recursive: bool) -> Any:
        filesystem = _filesystem()
        from pyarrow.fs import FileSelector

        selector = FileSelector(self.key, allow_not_found=True, recursive=recursive)
        return filesystem.get_file_info(selector)

    def _kind(self) -> str:
        return str(_filesystem().get_file_info(self.key).type.name)


_PUT_BYTES = 1 << 23

Place = Path | S3Path


class Listed(NamedTuple):
    """A file, and the state in which it was found. (A tuple: there may be a million.)"""

    name: str
    """Its whole path, as text: a Path costs more than the look at the file."""
    size: int
    mtime_ns: int
    is_regular: bool = True
    """False of a pipe, a socket or a device: whoever reads it may wait for ever."""

    @property
    def path(self) -> Place:
        return place(self.name)

    @property
    def own_name(self) -> str:
        """Without the folders before it."""
        return self.name.rpartition("/")[2]


def place(name: str | Path | S3Path) -> Place:
    """The local path or the object that ``name`` means.

    Raises DatasetError for an ``s3://`` name without a bucket.
    """
    if isinstance(name, S3Path):
        return name
    found = re.match(r"s3:/{1,2}(?=[^/]|$)", str(name))  # a Path made one slash of two
    if not found:
        return Path(name)
    key = str(name)[found.end() :].strip("/")
    if not key:
        raise errors.DatasetError(f"{name}: names no bucket; it looks like s3://bucket/folder")
    return S3Path(key)


def expanded(name: str | Path | S3Path) -> Place:
    """As :func:`place`, with ``~`` and ``~USER`` for the folder that a shell takes for them.

    Raises DatasetError if nobody knows it.
    """
    try:
        return place(name).expanduser()
    except RuntimeError:
        raise errors.DatasetError(
            f"{name}: nobody here has such a home folder; write ./~... for a name that begins so"
        ) from None


def absolute(name: str | Path | S3Path) -> str:
    """The name under which every process of this machine finds it, whatever folder it looks from.

    Links stay as they are. What is no file may be a pattern, and then the folder that one looks
    from is none. Raises DatasetError as :func:`expanded` does.

    >>> absolute("/data/in.csv"), absolute("s3://lake/in/")
    ('/data/in.csv', 's3://lake/in')
    """
    found = expanded(name)
    if isinstance(found, S3Path) or found.is_absolute():
        return str(found)
    here = os.getcwd()  # noqa: PTH109 - as text
    is_there = os.path.exists(found)  # noqa: PTH110 - one that must not be seen is not
    return str(Path(here if is_there else glob.escape(here)) / found)


def describe(source: Any) -> str:
    """What a job says of its source: where it is, whatever folder one looks from.

    Raises DatasetError as :func:`absolute` and :func:`check_name` do.
    """
    if isinstance(source, (str, Path, S3Path)):
        return check_name(absolute(source))
    return f"a frame of {len(source):,} rows" if hasattr(source, "__len__") else "a frame"


def check_name(name: str) -> str:
    """``name`` itself. Raises DatasetError if its bytes are no text: no output could hold it."""
    try:
        name.encode()
    except UnicodeEncodeError:
        shown = os.fsencode(name).decode(errors="backslashreplace")
        raise errors.DatasetError(f"{shown}: the name is not UTF-8; rename the file") from None
    return name


def linked(path: Path) -> Path:
    """``path`` with its links followed. Those that run in a circle stay as they are, and nothing
    behind them can be read: ``Path.resolve`` does the same from Python 3.13 on, and raises
    RuntimeError before.
    """
    return Path(os.path.realpath(path))


def is_s3(name: object) -> bool:
    """True for what :func:`place` makes an object of."""
    return isinstance(name, S3Path) or str(name).startswith("s3:/")


def listed(path: Place) -> Listed:
    """A file as it is now. Raises DatasetError if there is none."""
    try:
        found = path.stat()
    except OSError as error:
        raise _unreadable(path, error) from error
    return Listed(str(path), found.st_size, found.st_mtime_ns, _is_regular(found))


def _is_regular(found: os.stat_result | Stat) -> bool:
    return isinstance(found, Stat) or stat.S_ISREG(found.st_mode)


def _unreadable(path: Place, error: OSError) -> errors.DatasetError:
    return errors.DatasetError(f"{path}: cannot be read: {error.strerror or error}")


_Check = Callable[[Place], None]
"""Raises for a file that may not be read."""


def list_files(folder: Place, check: _Check | None = None) -> list[Listed]:
    """The files in a folder, not in its folders. ``check`` may refuse one.

    Raises OSError for a folder that cannot be read, DatasetError for a file that is not there.
    """
    if isinstance(folder, S3Path):
        return list(folder.files(below=False))
    return list(_files_in(str(folder), check, []))


def list_below(folder: Place, check: _Check | None = None) -> list[Listed]:
    """The files in the folders of a folder, deep down, not those in itself; else as above. Raises
    DatasetError also for one of those that cannot be read.

    Folders whose names begin with ``.`` or ``_`` are not looked at, and links to folders are not
    followed.
    """
    if isinstance(folder, S3Path):
        before = len(str(folder)) + 1
        inside = ((at, at.name[before:].split("/")[:-1]) for at in folder.files(below=True))
        return [at for at, folders in inside if folders and not any(map(is_hidden, folders))]
    waiting = _folders_in(str(folder))
    files: list[Listed] = []
    while waiting:
        inner: list[str] = []
        at = waiting.pop()
        try:
            files += _files_in(at, check, inner)
        except OSError as error:
            raise _unreadable(Path(at), error) from error
        waiting += inner
    return files


def is_hidden(name: str) -> bool:
    """True for a file or folder that is not looked at, as ``_SUCCESS`` or ``.tmp-1``."""
    return name.startswith((".", "_"))


def _folders_in(folder: str) -> list[str]:
    with os.scandir(folder) as entries:
        return [entry.path for entry in entries if _is_folder(entry)]


def _is_folder(entry: os.DirEntry[str]) -> bool:
    return entry.is_dir(follow_symlinks=False) and not is_hidden(entry.name)


def _files_in(folder: str, check: _Check | None, folders: list[str]) -> Iterator[Listed]:
    """One look at each: there may be a million. From the open folder, which spares the way to it.

    ``folders`` gets those that are in it.
    """
    before = folder.rstrip("/") + "/"
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with os.scandir(descriptor) as entries:
            for entry in entries:
                name = before + entry.name
                if _is_folder(entry):
                    folders.append(name)
                    continue
                state = _state(entry, name, check)
                if not stat.S_ISDIR(state.st_mode):
                    if check:
                        check(Path(name))
                    regular = stat.S_ISREG(state.st_mode)
                    yield Listed(name, state.st_size, state.st_mtime_ns, regular)
    finally:
        os.close(descriptor)


def _state(
    entry: os.DirEntry[str], name: str, check: _Check | None
) -> os.stat_result:
    try:
        return entry.stat()
    except OSError as error:
        if check:
            check(Path(name))
        raise _unreadable(Path(name), error) from error


def match_s3(pattern: str) -> list[Listed]:
    """Objects whose whole name fits a shell pattern; ``*`` stays within a folder."""
    fixed = re.split(r"[*?\[]", pattern, maxsplit=1)[0]
    folder = place(fixed.rpartition("/")[0])
    rule = re.compile(_regex(str(place(pattern))))
    files = cast("S3Path", folder).files()
    return [at for at in files if rule.fullmatch(at.name)]


def _regex(pattern: str) -> str:
    parts = re.split(r"(\*\*/|\*|\?|\[[^]]+\])", pattern)
    words = {"**/": "(?:.*/)?", "*": "[^/]*", "?": "[^/]"}
    return "".join(
        words.get(part) or (part.replace("[!", "[^", 1) if part[:1] == "[" else re.escape(part))
        for part in parts
    )


def _filesystem() -> Any:
    return _s3(os.getpid(), _endpoint(), _region())


@lru_cache(maxsize=4)
def _s3(_pid: int, endpoint: str, region: str) -> Any:
    """A client for each process: its threads do not survive a fork. Raises DatasetError without the
    library that has it."""
    require_readers()
    from pyarrow.fs import AwsStandardS3RetryStrategy, S3FileSystem

    url = urlsplit(endpoint)
    return S3FileSystem(
        region=region, scheme=url.scheme or "https", endpoint_override=url.netloc or None,
        connect_timeout=_CONNECT_TIMEOUT_S, request_timeout=_REQUEST_TIMEOUT_S,
        allow_delayed_open=True,  # else a small object is a multipart upload of three requests
        retry_strategy=AwsStandardS3RetryStrategy(max_attempts=_ATTEMPTS),
    )


def _endpoint() -> str:
    found = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
    return found if "://" in found or not found else f"https://{found}"


def _region() -> str:
    found = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    return found or "us-east-1"
