"""What a caller is told when the catalogue does not come."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest

from celeriac import errors
from producer.routes import Routes


def test_a_catalogue_that_does_not_come_names_no_address() -> None:
    """Callers over HTTP read it: a time of a millisecond would tell each of them where Redis is."""
    asked = threading.Event()

    class Broker:
        url = "redis://10.1.2.3:6379/0"

        @property
        def redis(self) -> Any:
            asked.wait(5)
            return SimpleNamespace()

    broker: Any = Broker()
    try:
        with pytest.raises(errors.DeadlineExceeded, match="gave no catalogue") as caught:
            Routes(broker).catalogue(0.001)
    finally:
        asked.set()
    assert "10.1.2.3" not in caught.value.message
