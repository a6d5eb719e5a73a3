"""What was asked for of a dataset that a worker plans, as data: the ledger keeps it."""

from __future__ import annotations

from typing import Any

import msgspec

from celeriac.jobs.plan import DEFAULT_TENANT


class Order(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A dataset and how it is to be scored. Paths are absolute; over HTTP with links resolved."""

    source: str = ""
    """Empty: the job was planned by who submitted it."""
    model: str = ""
    """``NAME@VERSION``."""
    output: str = ""
    options: dict[str, Any] = {}
    """Further arguments of :func:`producer.datasets.submit_dataset`."""
    tenant: str = DEFAULT_TENANT
    source_roots: tuple[str, ...] | None = ()
    """Folders that the dataset may be read from; none at all unless they are named. None: any, for
    a program that could read them itself. So is ``output_roots``."""
    output_roots: tuple[str, ...] | None = ()
    expires_ms: int = 0
    """Unix time at which the job ends. 0: never."""
    resumes: bool = False
    """The job was there before: what is planned of it stays."""
    resume_share: float | None = None
    """``max_error_share`` from now on."""


def encode_order(order: Order) -> str:
    """As the ledger keeps it."""
    return msgspec.json.encode(order).decode()


def decode_order(text: str) -> Order:
    """The inverse of :func:`encode_order`. Of no text: that of a job that nobody ordered."""
    return msgspec.json.decode(text, type=Order) if text else Order()
