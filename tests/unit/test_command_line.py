"""The ``celeriac`` command as a whole: its version, and what its help says of options."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from celeriac import __version__, errors
from celeriac.settings import get_settings
from producer.cli import main, models, terminal
from workers.lock import StateLock


def printed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *words: str
) -> str:
    """What the command prints that ends well; a wide window, so that no phrase is broken."""
    monkeypatch.setattr(sys, "argv", ["celeriac", *words])
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as ended:
        main.main()
    assert ended.value.code == 0
    return capsys.readouterr().out


def test_the_version_needs_no_command(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert printed(capsys, monkeypatch, "--version") == f"celeriac {__version__}\n"


def test_a_flag_does_not_look_as_if_it_took_a_value(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = printed(capsys, monkeypatch, "batch", "submit", "--help")
    assert "--wait" in text
    assert "<str>" in text
    assert "<bool>" not in text


def test_help_names_the_section_of_a_setting(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "default: [realtime] timeout_s." in printed(capsys, monkeypatch, "predict", "--help")


def options(command: Any) -> Iterator[Any]:
    """Of a command and of all below it."""
    yield from command.params
    for inner in getattr(command, "commands", {}).values():
        yield from options(inner)


def test_a_number_of_seconds_says_so_in_its_name() -> None:
    found = {
        option.opts[0] for option in options(get_command(main.build()))
        if "econds" in (getattr(option, "help", None) or "")
        and not getattr(option, "is_flag", False)
    }
    assert {"--timeout-s", "--wait-s", "--every-s", "--expires-s"} <= found
    assert [name for name in sorted(found) if not name.endswith("-s")] == []


def test_one_is_not_many() -> None:
    assert [terminal.counted(number, "row") for number in (0, 1, 2_000)] == [
        "0 rows", "1 row", "2,000 rows"
    ]


@pytest.mark.parametrize(("asked", "hint"), [
    ("wine@1", True), ("wine@2", False), ("beer@1", False), ("wine@challenger", False),
])
def test_a_version_in_another_registry_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: str, hint: bool
) -> None:
    (tmp_path / "wine" / "1").mkdir(parents=True)
    monkeypatch.setenv("CELERIAC_MODELS_ROOT", str(tmp_path))
    get_settings.cache_clear()

    def refused(*_: object, **__: object) -> None:
        raise errors.ModelNotFound("no model named that")

    monkeypatch.setattr(models.Client, "promote", refused)
    monkeypatch.setattr(models, "_require_maintenance", lambda _: None)
    try:
        with pytest.raises(errors.ModelNotFound) as raised:
            models._through_queue("promote", asked, "", False)
    finally:
        get_settings.cache_clear()
    assert ("the workers have another registry" in raised.value.message) is hint
    assert (str(tmp_path) in raised.value.message) is hint


def test_a_folder_that_cannot_be_written_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()

    def built() -> None:
        (tmp_path / "file" / "folder").mkdir()

    monkeypatch.setattr(main, "build", built)
    with pytest.raises(SystemExit) as ended:
        main.main()
    assert ended.value.code == 1
    assert capsys.readouterr().err == f"celeriac: {tmp_path}/file/folder: Not a directory\n"


def test_a_state_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(errors.ConfigError, match=r"state folder .*cannot be written.*STATE_DIR"):
        StateLock(tmp_path / "file" / "state").acquire()
