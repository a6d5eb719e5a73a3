"""The results of a job over HTTP: a list of files, and each of them as it is.

Only files that the job's manifest names leave, and only from folders that jobs over HTTP may write
to; what they tell of this machine stays here (``disclosure``).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeVar

from fastapi.responses import FileResponse, Response, StreamingResponse
from starlette.responses import MalformedRangeHeader, RangeNotSatisfiable
from starlette.types import Receive, Scope, Send

from celeriac import errors
from celeriac.datasets.places import Place
from celeriac.jobs.folder import JobFolder
from celeriac.jobs.manifest import Manifest, read_manifest
from producer.gateway.disclosure import ABOUT, Disclosure
from producer.gateway.failures import NoSuchRange, RouteNotFound, fault
from producer.jobs import JobStatus

BLOCK_BYTES = 1 << 20
T = TypeVar("T")

_TYPES = {
    ".parquet": "application/vnd.apache.parquet", ".csv": "text/csv; charset=utf-8",
    ".jsonl": "application/x-ndjson", ".json": "application/json",
    ".html": "text/html; charset=utf-8",
}
KINDS = sorted({kind.partition(";")[0] for kind in (*_TYPES.values(), "application/octet-stream")})
"""Content types of the files."""
SHAPE: dict[str, Any] = {"application/json": {"schema": {
    "type": "object", "required": ["object", "data"], "properties": {
        "object": {"const": "list"},
        "data": {"type": "array", "items": {
            "type": "object", "required": ["name", "kind", "bytes"], "properties": {
                "name": {"type": "string"}, "kind": {"type": "string"},
                "bytes": {"type": "integer"}, "rows": {"type": "integer"},
                "sha256": {"type": "string"},
            },
        }},
    },
}}}
"""Of the list, for the OpenAPI page."""
SAFE = {
    "X-Content-Type-Options": "nosniff",
    # The report is a page of figures with its own styles: it runs nothing and loads nothing.
    "Content-Security-Policy": "sandbox; default-src 'none'; style-src 'unsafe-inline'; "
                               "img-src data:",
}


class ResultFile(NamedTuple):
    """One file of a finished job's output."""

    name: str
    kind: str
    """``part``, ``errors``, ``merged``, ``aggregates``, ``report`` or ``manifest``."""
    bytes: int | None = None
    """None: the manifest does not say it, the file does."""
    rows: int | None = None
    sha256: str | None = None

    @property
    def shown(self) -> dict[str, Any]:
        return {name: value for name, value in self._asdict().items() if value is not None}


def check_finished(folder: JobFolder, job: JobStatus) -> None:
    """Raises Conflict if the folder has no results (yet, or any more), or those of another job."""
    _manifest(folder, job)


def list_results(folder: JobFolder, job: JobStatus) -> list[ResultFile]:
    """The files of a finished job. Raises Conflict if it has none (yet, or any more)."""
    files = _named(folder, _manifest(folder, job))
    return [one if one.bytes is not None else _sized(folder, job, one) for one in files]


def _named(folder: JobFolder, manifest: Manifest) -> list[ResultFile]:
    files = [
        ResultFile(part.file, "part", part.bytes, part.rows, part.sha256)
        for part in manifest.parts
    ]
    if manifest.merged:
        one = manifest.merged
        files.append(ResultFile(one.file, "merged", one.bytes, one.rows, one.sha256))
    files += [
        ResultFile(one.file, "aggregates", one.bytes, one.rows, one.sha256)
        for one in manifest.aggregates
    ]
    others = [(part.errors, "errors") for part in manifest.parts if part.errors]
    others += [(manifest.report, "report")] if manifest.report else []
    others.append((folder.manifest.name, "manifest"))
    return files + [ResultFile(name, kind) for name, kind in others]


def _sized(folder: JobFolder, job: JobStatus, found: ResultFile) -> ResultFile:
    """With the size that the file has now. Raises Conflict if it was deleted."""
    try:
        return found._replace(bytes=_at(folder, found.name).stat().st_size)
    except FileNotFoundError as error:
        raise errors.Conflict(
            f"{found.name} of job {job.id} is gone: it was deleted from the job's output folder; "
            "submit the job again"
        ) from error


def find_result(folder: JobFolder, job: JobStatus, name: str) -> tuple[ResultFile, Place]:
    """A file by the name that the list has for it. Raises Conflict, RouteNotFound."""
    files = _named(folder, _manifest(folder, job))
    found = next((one for one in files if one.name == name), None)
    if found is None:
        raise RouteNotFound(f"job {job.id} has no such file; its results list what there is")
    path = _at(folder, name)
    if isinstance(path, Path) and path.resolve() != path:  # a link that somebody put there
        raise RouteNotFound(f"job {job.id} has no such file; its results list what there is")
    return _sized(folder, job, found), path


def respond(
    found: ResultFile, path: Place, disclosure: Disclosure, *, is_head: bool = False
) -> Response:
    """The content of a file; of data on a disk, parts of it too (``Range``)."""
    headers = dict(SAFE)
    if found.sha256:
        headers["ETag"] = f'"{found.sha256}"'
    kind = _TYPES.get(path.suffix, "application/octet-stream")
    shown = "inline" if found.kind in ("report", "manifest") else "attachment"
    if found.kind not in ABOUT and isinstance(path, Path):
        return _File(
            path, media_type=kind, headers=headers, filename=path.name,
            content_disposition_type=shown,
        )
    headers["Content-Disposition"] = f'{shown}; filename="{path.name}"'
    headers["Content-Length"] = str(found.bytes)
    if is_head:
        return Response(media_type=kind, headers=headers)
    return StreamingResponse(_told(found, path, disclosure), media_type=kind, headers=headers)


class _File(FileResponse):
    """Says in our form what is wrong with a ``Range``, instead of in plain text; for HEAD nothing
    is read."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await super().__call__({**scope, "method": scope["celeriac"].method}, receive, send)

    @classmethod
    def _parse_range_header(cls, http_range: str, file_size: int) -> list[tuple[int, int]]:
        try:
            return super()._parse_range_header(http_range, file_size)
        except MalformedRangeHeader as error:
            raise fault("Range is one or more parts, as in bytes=0-999", "Range") from error
        except RangeNotSatisfiable as error:
            raise NoSuchRange(f"the file has {file_size:,} bytes", file_size) from error


async def in_thread(work: Callable[..., T], *arguments: Any) -> T:
    """``work`` in one of the threads for files: a slow disk or S3 holds up nothing but files."""
    return await asyncio.get_running_loop().run_in_executor(_threads, work, *arguments)


_threads = ThreadPoolExecutor(16, "files")


async def _told(found: ResultFile, path: Place, disclosure: Disclosure) -> AsyncIterator[bytes]:
    if found.kind not in ABOUT:
        async for block in _blocks(path):
            yield block
    elif found.kind != "errors":
        data = await in_thread(path.read_bytes)
        yield await in_thread(disclosure.of_file, data)
    else:
        rest = b""
        async for block in _blocks(path):
            lines, end, rest = (rest + block).rpartition(b"\n")
            yield await in_thread(disclosure.of_errors, lines + end)
        yield disclosure.of_errors(rest)


async def _blocks(path: Place) -> AsyncIterator[bytes]:
    file: BinaryIO = await in_thread(path.open, "rb")
    try:
        while block := await in_thread(file.read, BLOCK_BYTES):
            yield block
    finally:
        await in_thread(file.close)


def _manifest(folder: JobFolder, job: JobStatus) -> Manifest:
    manifest = read_manifest(folder)
    if manifest is not None and manifest.job_id == job.id:
        return manifest
    if job.state.is_whole:
        raise errors.Conflict(
            f"the results of job {job.id} are gone: its output folder was deleted or moved, or "
            "another job has it now; submit it again"
        )
    raise errors.Conflict(
        f"job {job.id} has no results (yet): they are there once its status is completed or "
        "completed_with_errors"
    )


def _at(folder: JobFolder, name: str) -> Place:
    path = folder.path
    for part in name.split("/"):
        if part in ("", ".", ".."):
            raise errors.JobFailed("the manifest names a file outside the job's folder")
        path = path / part
    return path
