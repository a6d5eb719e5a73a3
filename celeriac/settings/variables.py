"""Names of the environment that begin as settings do, and are none."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Mapping

PREFIX = "CELERIAC_"
CONFIG = "CELERIAC_CONFIG"
"""Names another file than ``celeriac.toml``."""
ROLE = "CELERIAC_ROLE"
"""A worker tells its processes which role it has."""
PINNED_GPU = "CELERIAC_PINNED_GPU"
"""The GPU that a process was given, as JSON."""
OTHERS = frozenset({
    CONFIG, ROLE, PINNED_GPU,
    "CELERIAC_TORCH",  # of scripts/setup
    "CELERIAC_URL",  # of the examples in docs: where the gateway is
})

NEAR = 0.75
"""How alike (as difflib counts) a name is to the setting that was meant."""
_OF_A_SERVICE = re.compile(
    r"(_|^)(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)$",
    re.ASCII,
)


def unknown(environ: Mapping[str, str], settings: Collection[str]) -> dict[str, str | None]:
    """Variables that name neither a setting nor anything else that is known, each with the
    setting that was probably meant.

    >>> unknown({"CELERIAC_BROKER_ULR": "redis://a:1/0"}, ["CELERIAC_BROKER_URL"])
    {'CELERIAC_BROKER_ULR': 'CELERIAC_BROKER_URL'}
    """
    known = OTHERS.union(settings)
    return {
        name: _nearest(name, settings) for name, value in environ.items()
        if name.startswith(PREFIX) and name not in known and not _of_a_service(name, value)
    }


def _of_a_service(name: str, value: str) -> bool:
    """True of what Kubernetes sets in each pod for a service whose name begins with celeriac."""
    name = name.removeprefix(PREFIX)
    return bool(_OF_A_SERVICE.search(name)) or (name.endswith("PORT") and "://" in value)


def _nearest(name: str, settings: Collection[str]) -> str | None:
    names = [setting.removeprefix(PREFIX) for setting in settings]
    close = difflib.get_close_matches(name.removeprefix(PREFIX), names, n=1, cutoff=NEAR)
    return PREFIX + close[0] if close else None
