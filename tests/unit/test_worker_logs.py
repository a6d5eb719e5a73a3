"""Logs of workers and beat are ours, and Celery's own options count."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from celeriac import logs
from celeriac.settings import LogSettings, Settings
from workers import lifecycle


@pytest.fixture(autouse=True)
def root_logger() -> Iterator[logging.Logger]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield root
    structlog.reset_defaults()
    for handler in set(root.handlers) - set(handlers):
        handler.close()
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.mark.parametrize(
    ("line", "level"),
    [
        ("celery -A workers.app beat", logging.INFO),
        ("celery -A workers.app worker -Q batch.cpu -l DEBUG", logging.DEBUG),
        ("celery -A workers.app worker -Q batch.cpu --loglevel=debug", logging.DEBUG),
    ],
)
def test_the_level_is_that_of_the_settings_unless_asked_for(
    monkeypatch: pytest.MonkeyPatch, root_logger: logging.Logger, line: str, level: int
) -> None:
    monkeypatch.setattr(lifecycle, "get_settings", Settings)
    monkeypatch.setattr(sys, "argv", line.split())
    asked = logging.DEBUG if "ebug" in line.lower() else logging.WARNING  # Celery's default
    lifecycle._configure_logging(loglevel=asked)
    assert root_logger.level == level


def test_a_file_of_the_command_line_takes_the_lines(tmp_path: Path) -> None:
    file = tmp_path / "worker.log"
    logs.configure(LogSettings(format="json"), file=str(file))
    logs.get_logger("test").info("chunk scored", rows=3)
    line = json.loads(file.read_text())
    assert (line["event"], line["rows"], line["level"]) == ("chunk scored", 3, "info")
