"""Stands in for NVML: the GPUs are those that ``STAND_IN_GPUS`` lists, as JSON.

Put its folder first on PYTHONPATH. Each GPU: ``{"uuid", "name", "memory", "mig": [uuid, ...]}``.
``nvmlInit`` fails, as on a machine without a driver, if the variable is not set.
"""

import json
import os
from types import SimpleNamespace


class NVMLError(Exception):
    pass


def _gpus():
    return json.loads(os.environ["STAND_IN_GPUS"])


def nvmlInit():
    if "STAND_IN_GPUS" not in os.environ:
        raise NVMLError("NVML Shared Library Not Found")


def nvmlShutdown():
    pass


def nvmlDeviceGetCount():
    return len(_gpus())


def nvmlDeviceGetHandleByIndex(number):
    return _gpus()[number]


def nvmlDeviceGetHandleByUUID(uuid):
    for gpu in _gpus():
        if gpu["uuid"] == uuid:
            return gpu
        if uuid in gpu.get("mig", ()):
            return {**gpu, "uuid": uuid, "part": True}
    raise NVMLError("Not Found")


def nvmlDeviceGetUUID(handle):
    return handle["uuid"]


def nvmlDeviceGetName(handle):
    return handle["name"]


def nvmlDeviceGetMemoryInfo(handle):
    return SimpleNamespace(total=handle.get("memory", 40_000_000_000), used=handle.get("used", 0))


def nvmlDeviceGetUtilizationRates(handle):
    if handle.get("part"):
        raise NVMLError("Not Supported")
    return SimpleNamespace(gpu=handle.get("busy", 0), memory=0)


def nvmlDeviceGetMigMode(handle):
    if "mig" not in handle:
        raise NVMLError("Not Supported")
    return 1, 1


def nvmlDeviceGetMaxMigDeviceCount(handle):
    return 7


def nvmlDeviceGetMigDeviceHandleByIndex(handle, place):
    if place >= len(handle["mig"]):
        raise NVMLError("Not Found")
    return {**handle, "uuid": handle["mig"][place], "name": handle["name"] + " MIG 1g.5gb"}
