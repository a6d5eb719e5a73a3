"""The ``celeriac`` command as a whole: its version, and what its help says of options."""

from __future__ import annotations

import errno
import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.main import get_command

import workers.cli
import workers.cli.status
from celeriac import __version__, errors
from celeriac.settings import get_settings
from producer.cli import advise, main, models, reviews, sensors, terminal
from workers.lock import StateLock

ROOT = Path(__file__).parents[2]


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


def names(command: Any, before: tuple[str, ...] = ()) -> set[tuple[str, ...]]:
    """Of a command and of all below it."""
    found = {before}
    for name, inner in getattr(command, "commands", {}).items():
        found |= names(inner, (*before, name))
    return found


def test_a_command_alone_is_what_it_is_among_all() -> None:
    all_names = names(get_command(main.build()))
    commands = {found[0] for found in all_names if found}
    assert commands == {*main.PRODUCER_COMMANDS, *workers.cli.COMMANDS}
    arranged = [name for names_of in main.PANELS.values() for name in names_of]
    assert sorted(arranged) == sorted(commands)
    for command in commands:
        alone = names(get_command(main.build([command, "--help"])))
        wanted = {found for found in all_names if found[:1] == (command,)}
        assert {found for found in alone if found[:1] == (command,)} == wanted


@pytest.mark.parametrize("words", [["--help"], ["bach"], ["--nothing", "batch"], []])
def test_all_commands_are_there_where_none_is_named(words: list[str]) -> None:
    assert names(get_command(main.build(words))) == names(get_command(main.build()))


def test_a_command_loads_no_others() -> None:
    program = (
        "import sys; from producer.cli.main import build; build(['batch', 'submit'])\n"
        "print([name for name in ('workers.cli.up', 'producer.cli.predict', 'celery', 'pyarrow')"
        " if name in sys.modules])"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60,
        cwd=ROOT,
    )
    assert ran.stdout == "[]\n"


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

    def built(_: object) -> None:
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


def refused(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, code: int, *words: str
) -> str:
    """What the command says that ends with this exit code."""
    monkeypatch.setattr(sys, "argv", ["celeriac", *words])
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as ended:
        main.main()
    assert ended.value.code == code
    return capsys.readouterr().err


def test_an_output_on_a_full_disk_is_told(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def built(_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(main, "build", built)
    said = refused(capsys, monkeypatch, 1, "models", "list")
    assert said == "celeriac: the output: No space left on device\n"


def test_no_job_is_older_than_a_century(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    said = refused(capsys, monkeypatch, 2, "batch", "purge", "--older-than-days", "1e300")
    assert "less than or equal to 36500" in said


def test_a_key_whose_name_is_no_tenant(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "--tenant" in refused(capsys, monkeypatch, 1, "gateway-key", "The Shop")


def test_a_waiter_for_json_says_that_the_job_goes_on(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    job = nullcontext(SimpleNamespace(id="20261127-1"))
    monkeypatch.setattr(reviews, "made_aside", lambda _: job)
    monkeypatch.setattr("producer.applications.reviews.summary_of", interrupted)
    words = ("reviews", "summarise", "x.csv", "--product", "p", "--json")
    said = refused(capsys, monkeypatch, 130, *words)
    assert "job 20261127-1 goes on; `celeriac batch status 20261127-1`" in said


def test_status_goes_on_showing_where_there_is_no_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pages = iter(["two"])
    monkeypatch.setattr(workers.cli.status, "_look", lambda _: "one")
    monkeypatch.setattr(workers.cli.status, "_look_again", lambda _: next(pages))
    with pytest.raises(StopIteration):
        workers.cli.status.status(watch=True, every_s=0.0)
    assert capsys.readouterr().out == "one\ntwo\n"


def test_large_figures_have_no_exponent(capsys: pytest.CaptureFixture[str]) -> None:
    models.tell_latency({"latency": {"one_ms": 0.0571, "batch_ms": 1_190.4, "batch_items": 32.0}})
    said = capsys.readouterr().out
    assert said == "one item takes 0.0571 ms, a batch of 32 1,190 ms\n"
    assert advise._ms(1_045.2) == "1,045 ms"
    assert sensors._numbers([101_325.0, 20.5]) == "101,325, 20.5"
