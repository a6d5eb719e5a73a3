"""The progress of jobs as server-sent events: each says all, so none is missed by who comes back.

However many streams there are, one exchange with Redis looks after all their jobs, twice a second.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec

from celeriac import errors
from celeriac.logs import get_logger
from producer.gateway.failures import GatewayBusy
from producer.jobs import JobStatus

log = get_logger(__name__)

LOOK_S = 0.5
HEARTBEAT_S = 10.0
"""A stream that has nothing to say says so after this long, so that nobody cuts it off."""
BUSY_RETRY_S = 5.0
COMING_S = 1.0
"""So long a stream for which there was room may take to begin; most take some milliseconds."""

# A blank line ends an event: some clients (httpx-sse) make one of it even where there is no data.
_HEARTBEAT = b": nothing new\n"
_RECONNECT = b"retry: 1000\n"

Look = Callable[[list[str]], Awaitable[list[JobStatus | None]]]
Shown = Callable[[JobStatus], dict[str, Any]]
_encode = msgspec.json.Encoder().encode


class _Watched:
    """One job that somebody watches."""

    __slots__ = ("changed", "is_gone", "status", "streams")

    def __init__(self, status: JobStatus) -> None:
        self.status = status
        self.is_gone = False
        self.streams = 0
        self.changed = asyncio.Event()

    def tell(self, status: JobStatus | None) -> None:
        """Wake the streams if something changed."""
        if status == self.status:
            return
        if status is None:
            self.is_gone = True
        else:
            self.status = status
        self.wake()

    def wake(self) -> None:
        changed, self.changed = self.changed, asyncio.Event()
        changed.set()


class Progress:
    """The streams of one process. ``is_ending`` says that it drains: then they end, and their
    callers come back to another one."""

    def __init__(self, look: Look, is_ending: Callable[[], bool]) -> None:
        self._look = look
        self._is_ending = is_ending
        self._watched: dict[str, _Watched] = {}
        self._coming: list[tuple[float, str]] = []
        """Streams for which there was room and that have not begun: until when (monotonic) they
        count, and their tenants."""
        self._task: asyncio.Task[None] | None = None

    @property
    def streams(self) -> int:
        """How many there are."""
        return sum(one.streams for one in self._watched.values())

    def check_room(self, most: int, tenant: str = "", most_of_tenant: int = 0) -> None:
        """Raises GatewayBusy if there are ``most`` streams already, or ``most_of_tenant`` (0: any
        number) of ``tenant``. One more is expected to begin then."""
        now_s = time.monotonic()
        self._coming = [one for one in self._coming if one[0] > now_s]
        if self.streams + len(self._coming) >= most:
            raise _busy(f"{most:,} streams of events are open already")
        if 0 < most_of_tenant <= self._streams_of(tenant):
            raise _busy(f"your tenant has {most_of_tenant:,} streams of events open already")
        self._coming.append((now_s + COMING_S, tenant))

    def _streams_of(self, tenant: str) -> int:
        every = self._watched.values()
        coming = sum(1 for _, its in self._coming if its == tenant)
        return coming + sum(one.streams for one in every if one.status.tenant == tenant)

    async def events(
        self, status: JobStatus, shown: Shown, last_id: str = ""
    ) -> AsyncIterator[bytes]:
        """``event: status`` now (unless ``last_id`` was the same) and at each change; at the
        job's end ``event: end``."""
        with self._watching(status) as watched:
            yield _RECONNECT
            while True:
                changed, now = watched.changed, watched.status
                if watched.is_gone:
                    yield _event("end", "", _gone(now.id))
                    return
                if now.state.is_final:
                    yield _event("end", *_told(shown(now)))
                    return
                event_id, data = _told(shown(now))
                if event_id != last_id:
                    last_id = event_id
                    yield _event("status", event_id, data)
                while not await _came(changed):
                    yield _HEARTBEAT
                if self._is_ending():
                    return

    @contextmanager
    def _watching(self, status: JobStatus) -> Iterator[_Watched]:
        watched = self._watched.setdefault(status.id, _Watched(status))
        watched.streams += 1
        for place, (_, tenant) in enumerate(self._coming):
            if tenant == status.tenant:
                del self._coming[place]
                break
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())
        try:
            yield watched
        finally:
            watched.streams -= 1
            if not watched.streams:
                self._watched.pop(status.id, None)
            if not self._watched and self._task is not None:
                self._task.cancel()
                self._task = None

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            if self._is_ending():
                for one in self._watched.values():
                    one.wake()
                continue
            ids = list(self._watched)
            try:
                found = await self._look(ids)
            except errors.BrokerError:
                continue  # the streams stay; the state goes on where it was
            except Exception:
                log.exception("the state of jobs could not be read")
                continue
            for job_id, status in zip(ids, found, strict=True):
                if job_id in self._watched:
                    self._watched[job_id].tell(status)


def _busy(what: str) -> GatewayBusy:
    return GatewayBusy(
        f"{what} ([gateway] max_event_streams); ask for the job's state now and then instead",
        BUSY_RETRY_S,
    )


async def _came(changed: asyncio.Event) -> bool:
    try:
        async with asyncio.timeout(HEARTBEAT_S):
            await changed.wait()
    except TimeoutError:
        return False
    return True


def _told(fields: dict[str, Any]) -> tuple[str, bytes]:
    """The event's id, which is the same for the same state in every process, and its data."""
    data = _encode(fields)
    return hashlib.blake2b(data, digest_size=8).hexdigest(), data


def is_told(fields: dict[str, Any], last_id: str) -> bool:
    """Whether ``last_id`` is that of the event with ``fields``."""
    return _told(fields)[0] == last_id


def _gone(job_id: str) -> bytes:
    return _encode({"id": job_id, "object": "batch", "status": "unknown", "error": {
        "code": "job_not_found", "message": "the job was deleted",
    }})


def _event(name: str, event_id: str, data: bytes) -> bytes:
    head = f"id: {event_id}\n" if event_id else ""
    return f"{head}event: {name}\ndata: ".encode() + data + b"\n\n"
