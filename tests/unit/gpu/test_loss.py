"""A process that has lost its GPU ends, whatever else fails then."""

from __future__ import annotations

import io
import sys

import pytest
import structlog

from workers.device_loss import EXIT_CODE, DeviceLoss


class _FullDisk(io.StringIO):
    def flush(self) -> None:
        raise OSError(28, "No space left on device")


def test_it_ends_where_its_last_words_cannot_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    codes: list[int] = []
    monkeypatch.setattr(sys, "stdout", _FullDisk())
    with structlog.testing.capture_logs():
        DeviceLoss(codes.append)(None, "CUDA error: an illegal memory access was encountered")
    assert codes == [EXIT_CODE]
