"""Items that are too large are refused before they are encoded."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from celeriac import errors
from producer import realtime


@pytest.mark.parametrize("item", [bytes(800), bytearray(800), np.zeros((10, 10))])
def test_what_is_too_large_is_not_encoded_first(
    item: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(item: Any) -> None:
        raise AssertionError(item)

    monkeypatch.setattr(realtime, "json_value", fail)
    with pytest.raises(errors.PayloadTooLarge, match="bytes on the wire; at most 1,000"):
        realtime.encode(item, 1_000)


@pytest.mark.parametrize("item", [bytes(700), "x" * 990, np.zeros(80), [1, 2], None, 1.5])
def test_what_fits_is_encoded(item: Any) -> None:
    assert 0 < len(realtime.encode(item, 1_000)) <= 1_000
