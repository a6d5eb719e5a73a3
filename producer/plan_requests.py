"""Plan requests: a batch worker that is free reads a dataset and cuts it, while who submits waits.

So a program that submits needs none of the libraries that read data, and what is wrong with the
dataset is still raised by its call. Nobody depends on the worker: where none is free, or the one
that began falls silent, the submitter plans by itself. Orders (:mod:`producer.orders`) are what a
worker plans for somebody who does not wait.
"""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import redis

from celeriac import errors
from celeriac.datasets.copies import Copies
from celeriac.datasets.places import Place, S3Path
from celeriac.jobs.folder import JobFolder
from celeriac.jobs.ledger import Answer
from celeriac.jobs.manifest import read_manifest
from celeriac.keys import PLAN_REQUEST_S, plan_replies_key, plan_request_key
from celeriac.messages import BATCH_PLAN_DATASET, CONTRACT, ModelRef, batch_queue
from celeriac.registry.catalogue import fetch
from celeriac.registry.placement import seen_of_late
from producer import wire
from producer.broker import Broker
from producer.planning import Planned, PlanOptions, Progress, plan_dataset

CLAIM_S = 0.2
"""So long a submitter waits for a worker to begin; one that is free takes some milliseconds."""
SILENT_S = 5.0
"""A worker that is not heard of for so long has ended; it is heard each second."""
MAX_UNREAD = 4
"""So many words that nobody has read: the submitter is gone."""
MAX_REPLY_BYTES = 64_000_000
_POP_S = 1.0
_STOPPED = b"stopped"


class PlanRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A dataset that is to be planned. Paths are absolute."""

    source: str
    model: str
    """``NAME@VERSION``."""
    output: str
    """The job's folder: for copies of what has no place to cut."""
    options: PlanOptions


class Reply(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a worker says of a request: how far it is, or the last word."""

    read: int = 0
    """Bytes of the dataset, of ``total``."""
    total: int = 0
    is_last: bool = False
    planned: Planned | None = None
    """Without it the last word is that the submitter must plan by itself, or what is wrong."""
    copies: tuple[str, ...] = ()
    """Those that were made: they are the submitter's to keep or delete."""
    error: dict[str, Any] | None = None
    host: str = ""


# --- who submits ---------------------------------------------------------------------------------


def may_ask(source: Any, output: Place) -> bool:
    """True if a worker can read the source, too, and this process has not loaded what it takes."""
    is_named = isinstance(source, (str, Path, S3Path)) and bool(str(source))
    return is_named and not isinstance(output, S3Path) and not has_readers()


def has_readers() -> bool:
    """True if this process has loaded what reads datasets."""
    return "pyarrow" in sys.modules


def ask(
    broker: Broker, request: PlanRequest, device: str, copies: Copies,
    on_progress: Progress | None = None,
) -> Planned | None:
    """The plan of a worker of ``device``. None if none is free, the one that began is gone, or JSON
    cannot say what is asked: the caller plans then. ``copies`` takes over those that were made.

    Raises what :func:`plan_dataset` does, of what a worker finds, and what ``on_progress`` does.
    """
    text, folder = _as_json(request), Path(request.output)
    was_there, last = folder.exists(), None
    try:
        if text is None or not seen_of_late(broker.redis, {batch_queue(device)}):
            return None
        if not _made(folder):
            return None
        asker = _Asker(broker, wire.new_id(), copies)
        last = asker.ask(text, request.model, batch_queue(device), on_progress)
    except (redis.RedisError, msgspec.MsgspecError):  # who enters the job tells of Redis
        return None
    finally:
        if not was_there and (last is None or last.planned is None):
            with suppress(OSError):  # not there, or in use
                folder.rmdir()
    if last is not None and last.error is not None:
        raise _found(errors.from_wire(last.error), last.host)
    return None if last is None else last.planned


def _made(folder: Path) -> bool:
    """Make the job's folder, which is its submitter's: a worker may be another user. False if it
    cannot be made, of which the caller hears soon."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return True


def _as_json(request: PlanRequest) -> bytes | None:
    """None for what JSON cannot say: numbers of numpy, say."""
    try:
        return msgspec.json.encode(request)
    except (TypeError, ValueError):
        return None


def _found(error: errors.CeleriacError, host: str) -> errors.CeleriacError:
    """An error that names the other machine, which may see other files."""
    if host == socket.gethostname():
        return error
    return type(error)(f"{error.message} (as the batch worker on {host} sees it)")


class _Asker:
    """The submitter's end of one request."""

    def __init__(self, broker: Broker, request_id: str, copies: Copies) -> None:
        self._client = broker.redis
        self._id, self._copies = request_id, copies
        self._request, self._replies = plan_request_key(request_id), plan_replies_key(request_id)
        self._pop_s = min(_POP_S, broker.settings.broker.socket_timeout_s / 2)

    def ask(
        self, text: bytes, model: str, queue: str, on_progress: Progress | None
    ) -> Reply | None:
        """The worker's last word; None if there is none. Raises redis.RedisError."""
        try:
            self.send(text, model, queue)
            return self.wait(on_progress)
        except redis.RedisError:
            raise
        except BaseException:
            self.stop()
            raise

    def send(self, text: bytes, model: str, queue: str) -> None:
        """To the head of the queue. Raises redis.RedisError."""
        message = wire.task_message(
            BATCH_PLAN_DATASET, wire.new_id(), queue, {"v": CONTRACT, "request_id": self._id},
            shown={"model": model}, ignore_result=True,
        )
        with self._client.pipeline(transaction=True) as pipe:
            pipe.set(self._request, text, ex=PLAN_REQUEST_S)
            pipe.rpush(queue, message)
            pipe.execute()

    def wait(self, on_progress: Progress | None) -> Reply | None:
        """The worker's last word; None if there is none. Raises redis.RedisError."""
        reply = self._pop(CLAIM_S)
        if reply is None and self._client.getdel(self._request) is not None:
            return None  # nobody had begun, and nobody will
        heard_s = time.monotonic()
        while reply is not None or time.monotonic() - heard_s < SILENT_S:
            if reply is not None:
                heard_s = time.monotonic()
                if on_progress is not None and reply.total:
                    on_progress(reply.read, reply.total)
                if reply.is_last:
                    return reply
            reply = self._pop(self._pop_s)
        return None

    def stop(self) -> None:
        """Have the worker plan no more, and leave no copies; if it has ended, hear of them."""
        with suppress(redis.RedisError, msgspec.MsgspecError):
            with self._client.pipeline(transaction=True) as pipe:
                pipe.set(self._request, _STOPPED, ex=PLAN_REQUEST_S)
                pipe.lrange(self._replies, 0, -1)
                unread: list[bytes] = pipe.execute()[1]
            for text in unread:
                self._hear(text)

    def _pop(self, timeout_s: float) -> Reply | None:
        found: Any = self._client.blpop([self._replies], timeout=timeout_s)
        return None if found is None else self._hear(found[1])

    def _hear(self, text: bytes) -> Reply:
        reply = msgspec.json.decode(text, type=Reply)
        self._copies.adopt(reply.copies)
        return reply


# --- who plans -----------------------------------------------------------------------------------


class Caller:
    """The worker's end of one request."""

    def __init__(self, broker: Broker, request_id: str) -> None:
        self._client = broker.redis
        self._request, self._replies = plan_request_key(request_id), plan_replies_key(request_id)
        self.at = (0, 0)
        """Bytes of the dataset that were read, and in all."""
        self.folder: JobFolder | None = None
        """Its job's."""
        self.copies: Copies | None = None
        """Those that are made for it."""
        self.has_stopped = False
        """It wants no plan any more. One that is not heard of may have gone on by itself."""

    def claim(self) -> PlanRequest | None:
        """The request; None if nobody waits for it any more, or it is not one of this release.
        Raises redis.RedisError."""
        text: Any = self._client.getdel(self._request)
        if text is None:
            return None
        try:
            request = msgspec.json.decode(text, type=PlanRequest)
        except msgspec.MsgspecError:
            self.end()
            return None
        self._tell(Reply())
        return request

    def renew(self) -> Answer:
        """Say how far the plan is; KEPT if somebody wants to know. Raises redis.RedisError."""
        unread = self._tell(Reply(*self.at))
        return Answer.LOST if self.has_stopped or unread > MAX_UNREAD else Answer.KEPT

    def end(self, planned: Planned | None = None, error: dict[str, Any] | None = None) -> None:
        """The last word: the plan, what is wrong with the dataset, or neither, if the caller had
        better plan by itself. Raises redis.RedisError."""
        last = Reply(*self.at, is_last=True, copies=self._made, host=socket.gethostname())
        self._tell(msgspec.structs.replace(last, planned=planned, error=error))
        self.tidy()

    def tidy(self) -> None:
        """Leave no copies to a caller that has stopped, or to a job that has ended since: it went
        on without this process, which was stopped itself."""
        if self.copies is None or self.folder is None:
            return
        if self.has_stopped or read_manifest(self.folder) is not None:
            self.copies.discard()

    @property
    def _made(self) -> tuple[str, ...]:
        return self.copies.made if self.copies is not None else ()

    def _tell(self, reply: Reply) -> int:
        """How many words nobody has read so far."""
        text = msgspec.json.encode(reply)
        if len(text) > MAX_REPLY_BYTES:
            text = msgspec.json.encode(Reply(is_last=True, copies=self._made))
        with self._client.pipeline(transaction=True) as pipe:
            pipe.rpush(self._replies, text)
            pipe.expire(self._replies, PLAN_REQUEST_S)
            pipe.get(self._request)  # at once: of a last word either who stops hears, or we do
            unread, _, said = pipe.execute()
        self.has_stopped = said == _STOPPED
        return int(unread)


def plan(
    broker: Broker, request: PlanRequest, caller: Caller, is_stopped: Callable[[], bool]
) -> Planned:
    """Plan for a caller. Raises what :func:`plan_dataset` does, and Cancelled if it is gone."""
    from celeriac.datasets.sources import open_source

    def check(read: int, total: int) -> None:
        caller.at = (read, total)
        if is_stopped():
            raise errors.Cancelled("nobody waits for the plan any more")

    ref = ModelRef.parse(request.model)
    version = fetch(broker.redis).resolve(ref)
    caller.folder = JobFolder(request.output)
    caller.copies = Copies(caller.folder.copies)
    try:
        source = open_source(request.source)
        return plan_dataset(source, ref.name, version, request.options, caller.copies, check)
    except errors.Cancelled:
        caller.tidy()
        raise
