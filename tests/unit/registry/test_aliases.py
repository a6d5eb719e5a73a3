from __future__ import annotations

import fcntl
import os
import threading
from pathlib import Path

import pytest

from celeriac import errors
from celeriac.registry import files
from celeriac.registry.aliases import MOST_WORDS, Aliases


@pytest.fixture
def aliases(tmp_path: Path) -> Aliases:
    return Aliases(tmp_path)


def test_promotion_keeps_the_champion_before(aliases: Aliases) -> None:
    assert aliases.read() == {}
    assert aliases.promote(1, expected=None, who="ann", why="first")
    assert aliases.read() == {"champion": 1}
    assert aliases.promote(3, expected=1, who="bob", why="better")
    assert aliases.read() == {"champion": 3, "previous": 1}


def test_promoting_the_champion_changes_nothing(aliases: Aliases) -> None:
    aliases.promote(1, expected=None, who="ann", why="")
    assert not aliases.promote(1, expected=1, who="ann", why="")
    assert len(aliases.history()) == 1


def test_rollback_goes_back_once(aliases: Aliases) -> None:
    aliases.promote(1, expected=None, who="ann", why="")
    aliases.promote(2, expected=1, who="ann", why="")
    aliases.rollback(expected=1, who="eve", why="too slow")
    assert aliases.read() == {"champion": 1}
    with pytest.raises(errors.PromotionRefused):
        aliases.rollback(expected=1, who="eve", why="")


def test_history_tells_who_moved_what_and_why(aliases: Aliases) -> None:
    aliases.promote(1, expected=None, who="ann", why="first")
    aliases.promote(2, expected=1, who="bob", why="better")
    moves = [(move.alias, move.from_, move.to, move.who, move.why) for move in aliases.history()]
    assert moves == [
        ("champion", None, 1, "ann", "first"),
        ("champion", 1, 2, "bob", "better"),
        ("previous", None, 1, "bob", "better"),
    ]


def test_a_promotion_that_saw_another_champion_is_refused(aliases: Aliases) -> None:
    aliases.promote(1, expected=None, who="ann", why="")
    with pytest.raises(errors.PromotionRefused, match="changed from none to 1"):
        aliases.promote(2, expected=None, who="bob", why="")
    assert aliases.read() == {"champion": 1}


def test_of_promotions_at_once_one_wins(aliases: Aliases) -> None:
    outcomes: list[bool] = []

    def promote(version: int) -> None:
        try:
            outcomes.append(aliases.promote(version, expected=None, who="x", why=""))
        except errors.PromotionRefused:
            outcomes.append(False)

    threads = [threading.Thread(target=promote, args=(number,)) for number in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == [False] * 7 + [True]
    assert len(aliases.history()) == 1


def test_a_lock_that_is_held_ends_the_wait(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with path.open("ab") as holder:
        fcntl.flock(holder, fcntl.LOCK_EX)
        with (
            pytest.raises(errors.RegistryError, match=rf"^{tmp_path.name}: another process"),
            files.locked(path, timeout_s=0.1),
        ):
            pass


def test_a_damaged_file_is_named(aliases: Aliases) -> None:
    (aliases.folder / "aliases.json").write_text('{"champion": "one"}')
    with pytest.raises(errors.ModelCorrupt, match=r"aliases.json is damaged"):
        aliases.read()


def test_the_history_keeps_what_was_measured(aliases: Aliases) -> None:
    aliases.promote(1, expected=None, who="ann", why="", metrics={"one_ms": 0.5})
    aliases.promote(2, expected=1, who="ann", why="")
    assert [move.metrics for move in aliases.history()] == [{"one_ms": 0.5}, {}, {}]


def test_a_free_alias_comes_and_goes(aliases: Aliases) -> None:
    aliases.promote(1, expected=None, who="ann", why="")
    assert aliases.assign("challenger", 2, expected=None, who="ann", why="try it")
    assert not aliases.assign("challenger", 2, expected=2, who="ann", why="")
    assert aliases.read() == {"champion": 1, "challenger": 2}
    with pytest.raises(errors.PromotionRefused, match="challenger changed from none to 2"):
        aliases.assign("challenger", 3, expected=None, who="bob", why="")
    assert aliases.assign("challenger", None, expected=2, who="ann", why="lost")
    assert aliases.read() == {"champion": 1}
    last = aliases.history()[-1]
    assert (last.alias, last.from_, last.to, last.why) == ("challenger", 2, None, "lost")


@pytest.mark.parametrize("alias", ["champion", "previous", "Big", "3", "", "a b"])
def test_some_names_are_no_free_alias(aliases: Aliases, alias: str) -> None:
    with pytest.raises(errors.RequestError):
        aliases.assign(alias, 1, expected=None, who="ann", why="")
    assert aliases.read() == {}


@pytest.mark.parametrize("cut", [1, 20, 80])
def test_a_last_line_that_a_crash_has_cut_is_left_out_and_mended(
    aliases: Aliases, cut: int
) -> None:
    aliases.promote(1, expected=None, who="ann", why="first")
    aliases.promote(2, expected=1, who="ann", why="second")
    path = aliases.folder / "history.jsonl"
    path.write_bytes(path.read_bytes()[:-cut])
    assert aliases.history()[0].why == "first"
    aliases.rollback(expected=1, who="eve", why="third")
    assert all(line.endswith(b"}\n") for line in path.read_bytes().splitlines(keepends=True))
    assert aliases.history()[-1].why == "third"
    assert aliases._replayed() == aliases.read() == {"champion": 1}


def test_a_move_that_a_crash_kept_from_the_history_is_added(aliases: Aliases) -> None:
    aliases.promote(1, expected=None, who="ann", why="")
    (aliases.folder / "aliases.json").write_text('{"champion": 4}')
    aliases.promote(5, expected=4, who="ann", why="")
    champions = [(m.from_, m.to, m.who) for m in aliases.history() if m.alias == "champion"]
    assert champions == [(None, 1, "ann"), (1, 4, ""), (4, 5, "ann")]


def test_what_is_retired_gets_no_alias(aliases: Aliases) -> None:
    aliases.promote(1, expected=None, who="ann", why="")
    assert aliases.retire([1, 2]) == [2]
    with pytest.raises(errors.PromotionRefused, match="2 is retired"):
        aliases.promote(2, expected=1, who="ann", why="")
    with pytest.raises(errors.PromotionRefused, match="2 is retired"):
        aliases.assign("challenger", 2, expected=None, who="ann", why="")
    assert aliases.read() == {"champion": 1}


def test_a_reason_of_any_bytes_is_one_line_that_can_be_read(aliases: Aliases) -> None:
    aliases.promote(1, expected=None, who="ann\udcff", why="one\ntwo \x1b[31m" + "x" * 100_000)
    (move,) = aliases.history()
    assert move.who == "ann"
    assert move.why.startswith("one two  [31mxxx")
    assert len(move.why) <= MOST_WORDS
    aliases.promote(2, expected=1, who="ann", why="")
    assert len(aliases.history()) == 3  # nothing was "found so"


def _full(*_: object) -> None:
    raise OSError(28, "No space left on device")


def test_on_a_full_disk_nothing_moves_and_nothing_is_left(
    aliases: Aliases, monkeypatch: pytest.MonkeyPatch
) -> None:
    aliases.promote(1, expected=None, who="ann", why="")
    before = {path.name: path.read_bytes() for path in aliases.folder.iterdir()}
    with monkeypatch.context() as patch:
        patch.setattr("celeriac.registry.files.os.fsync", _full)
        with pytest.raises(errors.RegistryError, match=r"cannot be changed \(No space left"):
            aliases.promote(2, expected=1, who="ann", why="")
    assert {path.name: path.read_bytes() for path in aliases.folder.iterdir()} == before
    aliases.promote(2, expected=1, who="ann", why="")


def test_a_move_that_its_history_has_no_room_for_has_happened(
    aliases: Aliases, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(files, "append", _full)
        assert aliases.promote(1, expected=None, who="ann", why="")
    assert aliases.read() == {"champion": 1}
    aliases.promote(2, expected=1, who="ann", why="")
    assert [(move.to, move.why[:8]) for move in aliases.history()] == [
        (1, "found so"), (2, ""), (1, ""),
    ]


@pytest.mark.parametrize(("folder", "file"), [(0o755, 0o644), (0o775, 0o664), (0o700, 0o600)])
def test_what_is_written_is_as_open_as_its_folder(
    aliases: Aliases, folder: int, file: int
) -> None:
    aliases.folder.chmod(folder)
    umask = os.umask(0o077)
    try:
        aliases.promote(1, expected=None, who="ann", why="")
    finally:
        os.umask(umask)
    for name in ("aliases.json", "history.jsonl"):
        assert (aliases.folder / name).stat().st_mode & 0o777 == file
