"""What every task shares, once: errors, log context, and what Flower may see."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from celery import Task
from celery.exceptions import Ignore, InvalidTaskError, Reject, Retry, SoftTimeLimitExceeded
from celery.worker.request import Request

from celeriac import errors
from celeriac.logs import bound, get_logger

log = get_logger(__name__)

SHOWN = ("model", "ref", "name", "job_id", "chunk_no", "chunk", "date", "host", "v")
"""Arguments that events and logs may show; of ``items`` only their number, of others nothing."""


def named(task: Task, args: Any, kwargs: Any) -> dict[str, Any]:
    """The arguments of a call by name, those too that a caller gave by their place."""
    places = args if isinstance(args, (list, tuple)) else ()
    names = kwargs if isinstance(kwargs, dict) else {}
    return dict(zip(_parameters(task.run), places, strict=False)) | names


@lru_cache(maxsize=256)
def _parameters(run: Callable[..., Any]) -> tuple[str, ...]:
    return tuple(inspect.signature(run).parameters)


def summarise(kwargs: dict[str, Any]) -> dict[str, Any]:
    """The part of a task's arguments that is no payload.

    >>> summarise({"model": "reviews", "items": ["good", "bad"]})
    {'model': 'reviews', 'items': 2}
    """
    shown = {name: kwargs[name] for name in SHOWN if isinstance(kwargs.get(name), (str, int))}
    items = kwargs.get("items")
    if isinstance(items, (list, tuple)):
        shown["items"] = len(items)
    return {name: value[:80] if isinstance(value, str) else value for name, value in shown.items()}


class SummarisedRequest(Request):  # type: ignore[misc]
    """A request whose events and log lines carry a summary instead of the caller's payload."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        try:
            super().__init__(*args, **kwargs)
        except (ValueError, TypeError, LookupError, AttributeError) as error:
            # Any other exception ends the worker, and the message goes to the next one.
            raise InvalidTaskError(f"the message is no task: {error}") from error
        self._argsrepr = "()"
        self._kwargsrepr = repr(summarise(named(self.task, self.args, self.kwargs)))
        self._request_dict["argsrepr"] = self._argsrepr
        self._request_dict["kwargsrepr"] = self._kwargsrepr

    def send_event(self, type: str, **fields: Any) -> None:
        if "result" in fields:
            fields["result"] = "'stored'"
        if "traceback" in fields:  # the log has it; it quotes payloads and names paths
            fields["traceback"] = ""
        super().send_event(type, **fields)


class CeleriacTask(Task):  # type: ignore[misc]
    """Base of all our tasks: at most three attempts, typed errors, one log context."""

    Request = "tasks.base:SummarisedRequest"
    throws = (errors.CeleriacError,)  # an answer to the caller, not a defect: no traceback logged
    max_retries = 2
    resultrepr_maxsize = 64

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        request = self.request.id or "-"
        with bound(request=request, task=self.name, **summarise(named(self, args, kwargs))):
            try:
                return super().__call__(*args, **kwargs)
            except (errors.CeleriacError, Retry, Ignore, Reject, SoftTimeLimitExceeded):
                raise
            except MemoryError as error:
                # Celery would end the whole worker and requeue the message, worker after worker.
                log.exception("task out of memory")
                raise errors.ResourceExhausted(
                    "the worker had not enough memory for this task; send fewer items at once"
                ) from error
            except TypeError as error:
                self._check_arguments(args, kwargs)
                raise self._defect(request) from error
            except Exception as error:  # what a remote caller learns must name no path of ours
                raise self._defect(request) from error

    def _check_arguments(self, args: Any, kwargs: dict[str, Any]) -> None:
        """Raises RequestError if the caller's arguments do not fit the task."""
        try:
            inspect.signature(self.run).bind(*args, **kwargs)
        except TypeError as error:
            raise errors.RequestError(f"{self.name}: {error}") from error

    def _defect(self, request: str) -> errors.WorkerError:
        log.exception("task failed")
        return errors.WorkerError(
            f"the task failed; the worker's log names the reason (request {request})"
        )
