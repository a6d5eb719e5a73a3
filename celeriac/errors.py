"""Every error that Celeriac raises, and how each one crosses a wire.

An error on a wire is ``{"code", "message"}`` (and ``retry_after_s`` of an overload) and nothing
else: no path of a server, no key, no traceback. ``from_wire`` turns it back into the class that
carries the code.

CeleriacError
├── ConfigError                  config_invalid        settings or celeriac.toml are wrong
├── NoGpu                        gpu_missing           a GPU is needed, and there is none here
├── BrokerError                  broker_unavailable    Redis cannot be reached, or is too old
├── RequestError                 request_invalid       the request as a whole is at fault
│   ├── ModelNotFound            model_not_found
│   ├── VersionNotFound          version_not_found
│   ├── ContractMismatch         contract_mismatch     a message of a version that we do not read
│   ├── PayloadTooLarge          payload_too_large
│   ├── Conflict                 conflict              the id is that of another request
│   ├── PredictionNotFound       prediction_not_found  an id that was never given, or is forgotten
│   └── SensorNotFound           sensor_not_found
├── ItemError                    item_failed           one item of a request is at fault
│   ├── InvalidItem              item_invalid          it does not fit the model's input schema
│   ├── ModelFailed              model_failed          the model raised on it
│   ├── NonFiniteOutput          output_not_finite     the model answered NaN or infinity
│   └── ResourceExhausted        resource_exhausted    not enough memory for it
├── DeadlineExceeded             deadline_exceeded     no answer within the time that was allowed
│   └── Expired                  expired               its own time was over before it was answered
├── Overloaded                   overloaded            too much waits already; try again later
├── NotServed                    not_served            no worker is there for it
├── Cancelled                    cancelled
├── WorkerError                  worker_failed         a worker failed outside the model
│   └── DeviceLost               device_lost           its GPU needs a fresh process
├── RegistryError                registry_invalid      the model folder cannot be used
│   ├── ModelCorrupt             model_corrupt         a file differs from its recorded digest
│   ├── UntrustedModel           model_untrusted       it needs a type that is not trusted here
│   ├── RuntimeMissing           runtime_missing       a library that the format needs is absent
│   └── PromotionRefused         promotion_refused     the version did not pass its checks
├── DatasetError                 dataset_invalid       a source cannot be read or does not fit
│   └── UnreadableFile           file_unreadable       it is damaged, or its disk or server fails
├── OutputConflict               output_conflict       the output folder belongs to something else
├── StorageError                 storage_failed        a file cannot be written (a full disk, say)
├── JobNotFound                  job_not_found
└── JobFailed                    job_failed
"""

from __future__ import annotations

import re
from typing import Any, ClassVar


class CeleriacError(Exception):
    """Something in Celeriac went wrong."""

    code: ClassVar[str] = "error"
    exit_code: ClassVar[int] = 1
    """Of a program that it ends."""
    field: str | None = None
    """The part of the request that is at fault, where that is known. It crosses no queue."""
    _by_code: ClassVar[dict[str, type[CeleriacError]]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        CeleriacError._by_code[cls.code] = cls

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or (self.__doc__ or "").strip().splitlines()[0])

    @property
    def message(self) -> str:
        """What happened, to which thing, and what to do next."""
        return str(self.args[0])

    def to_wire(self) -> dict[str, Any]:
        """The form that may leave the process: ``{"code", "message"}``."""
        return {"code": self.code, "message": self.message}


class ConfigError(CeleriacError):
    """The configuration is not valid."""

    code = "config_invalid"


class NoGpu(CeleriacError):
    """This machine has no GPU that can be used."""

    code = "gpu_missing"
    exit_code = 69


class BrokerError(CeleriacError):
    """Redis cannot be reached."""

    code = "broker_unavailable"


class RequestError(CeleriacError):
    """The request is not valid."""

    code = "request_invalid"


class ModelNotFound(RequestError):
    """No such model."""

    code = "model_not_found"


class VersionNotFound(RequestError):
    """The model has no such version or alias."""

    code = "version_not_found"


class ContractMismatch(RequestError):
    """The message has a contract version that this worker does not read."""

    code = "contract_mismatch"


class PayloadTooLarge(RequestError):
    """The request is larger than the limit; score large data as a dataset."""

    code = "payload_too_large"


class Conflict(RequestError):
    """The id belongs to another request."""

    code = "conflict"


class PredictionNotFound(RequestError):
    """No prediction has this id, or it is forgotten."""

    code = "prediction_not_found"


class SensorNotFound(RequestError):
    """No sensor of this name has sent a reading."""

    code = "sensor_not_found"


class ItemError(CeleriacError):
    """The item could not be answered."""

    code = "item_failed"


class InvalidItem(ItemError):
    """The item does not fit the model's input schema."""

    code = "item_invalid"


class ModelFailed(ItemError):
    """The model raised an error on this item."""

    code = "model_failed"


class NonFiniteOutput(ItemError):
    """The model answered with NaN or infinity."""

    code = "output_not_finite"


class ResourceExhausted(ItemError):
    """There was not enough memory for this item."""

    code = "resource_exhausted"


class DeadlineExceeded(CeleriacError):
    """No answer came within the time that was allowed."""

    code = "deadline_exceeded"


class Expired(DeadlineExceeded):
    """Its time was over before it was answered."""

    code = "expired"


class Overloaded(CeleriacError):
    """Too much work waits already."""

    code = "overloaded"

    def __init__(self, message: str | None = None, retry_after_s: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
        """After this many seconds there should be room; 0 if that is not known."""

    def to_wire(self) -> dict[str, Any]:
        """``{"code", "message", "retry_after_s"}``."""
        return {**super().to_wire(), "retry_after_s": self.retry_after_s}


class NotServed(CeleriacError):
    """No worker is there that could answer."""

    code = "not_served"


class Cancelled(CeleriacError):
    """The work was cancelled."""

    code = "cancelled"


class WorkerError(CeleriacError):
    """A worker failed; its log has the reason."""

    code = "worker_failed"


class DeviceLost(WorkerError):
    """The worker's GPU cannot be used by its process any more."""

    code = "device_lost"


class RegistryError(CeleriacError):
    """The model cannot be used."""

    code = "registry_invalid"


class ModelCorrupt(RegistryError):
    """A file of the model differs from its recorded digest."""

    code = "model_corrupt"


class UntrustedModel(RegistryError):
    """The model needs a type that this server does not trust."""

    code = "model_untrusted"


class RuntimeMissing(RegistryError):
    """A library that this model's format needs is not installed."""

    code = "runtime_missing"


class PromotionRefused(RegistryError):
    """The version did not pass its checks, so the old one goes on serving."""

    code = "promotion_refused"


class DatasetError(CeleriacError):
    """The dataset cannot be read."""

    code = "dataset_invalid"


class UnreadableFile(DatasetError):
    """A file of the dataset cannot be read, here and now."""

    code = "file_unreadable"


class OutputConflict(CeleriacError):
    """The output folder belongs to something else."""

    code = "output_conflict"


class StorageError(CeleriacError):
    """A file cannot be written."""

    code = "storage_failed"


class JobNotFound(CeleriacError):
    """No such job."""

    code = "job_not_found"


class JobFailed(CeleriacError):
    """The job failed."""

    code = "job_failed"


_PATH = re.compile(r"(?:/[\w.@+-]+)+/([\w.@+-]+)")
"""A path of this machine: only its last part may leave."""
_HOST = re.compile(r" on host [\w.-]+")


def without_paths(text: str, most: int = 200) -> str:
    """At most so many characters of a message, of each path only its last part.

    >>> without_paths("no such file: /srv/models/net.bin")
    'no such file: net.bin'
    """
    return _PATH.sub(r"\1", text.strip())[:most]


def without_hosts(text: str) -> str:
    """A message without the names of machines, as messages of ours have them.

    >>> without_hosts("it is not reached on host node-7.example; submit it again")
    'it is not reached; submit it again'
    """
    return _HOST.sub("", text)


def told(error: BaseException) -> str:
    """The class and first line of a foreign error, for callers on other machines.

    >>> told(ValueError("wrong shape"))
    'ValueError: wrong shape'
    """
    text = without_paths(str(error).strip().partition("\n")[0])
    text = text.encode("utf-8", "backslashreplace").decode()  # it may hold half of a surrogate pair
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def by_class_name(name: str) -> type[CeleriacError] | None:
    """Our error class of that name; None if it is not one of ours."""
    known = (kind for kind in CeleriacError._by_code.values() if kind.__name__ == name)
    return CeleriacError if name == "CeleriacError" else next(known, None)


def from_wire(error: dict[str, Any]) -> CeleriacError:
    """The exception that ``{"code", "message"}`` stands for; an unknown code keeps its message.

    >>> from_wire({"code": "model_not_found", "message": "no model named 'x'"})
    ModelNotFound("no model named 'x'")
    """
    code = str(error.get("code", "error"))
    message = str(error.get("message") or code)
    kind = CeleriacError._by_code.get(code, CeleriacError)
    if kind is Overloaded:
        return Overloaded(message, _seconds(error.get("retry_after_s")))
    return kind(message)


def _seconds(value: Any) -> float:
    known = isinstance(value, (int, float)) and 0 <= value < 86_400
    return float(value) if known else 0.0
