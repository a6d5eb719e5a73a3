"""Files that are no models, and those that unpack to far more than they are."""

from __future__ import annotations

import bz2
import gzip
import lzma
import pickle
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from celeriac import errors
from celeriac.release import suspects

MOST_BYTES, BOMB_BYTES = 1_000_000, 64_000_000
PROGRAM = b"cposix\nsystem\n."


@pytest.mark.parametrize(
    "pack", [gzip.compress, zlib.compress, lambda data: lzma.compress(data, preset=0)],
    ids=["gzip", "zlib", "xz"],
)
def test_a_packed_bomb(
    pack: Callable[[bytes], bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "m.pkl"
    path.write_bytes(pack(PROGRAM + bytes(BOMB_BYTES)))
    assert _looked_at(path, monkeypatch).names == ("posix.system",)


def test_a_torch_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "net.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("net/data.pkl", PROGRAM + bytes(BOMB_BYTES))
    assert _looked_at(path, monkeypatch).names == ("posix.system",)


@pytest.mark.parametrize(("name", "text"), [
    ("train.py", "import sklearn\n"), ("net.py", "class Net:\n    pass\n"),
    ("README.md", "# Ein schönes Modell\n"), ("model.json", '{"learner": 1}'),
])
def test_a_text_is_no_model(name: str, text: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(errors.RequestError, match=f"{name}: is a text.*joblib.dump"):
        suspects.look(path)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("pack", [bytes, bz2.compress], ids=["plain", "bz2"])
def test_a_pickle_is_no_text(
    pack: Callable[[bytes], bytes], protocol: int, tmp_path: Path
) -> None:
    path = tmp_path / "m.joblib"
    path.write_bytes(pack(pickle.dumps(Path("model"), protocol)))
    assert suspects.look(path).size > 0


def _looked_at(path: Path, monkeypatch: pytest.MonkeyPatch) -> suspects.Suspect:
    monkeypatch.setattr(suspects, "_MOST_BYTES", MOST_BYTES)
    assert path.stat().st_size < MOST_BYTES
    tracemalloc.start()
    try:
        found = suspects.look(path)
        assert tracemalloc.get_traced_memory()[1] < 10 * MOST_BYTES
    finally:
        tracemalloc.stop()
    return found


def test_a_damaged_or_encrypted_archive(tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("net/data.pkl", PROGRAM)
    whole = path.read_bytes()
    listed = whole.index(b"PK\x01\x02")
    encrypted = bytearray(whole)
    encrypted[listed + 8] |= 1
    for damaged in (whole[10:], whole.replace(b"PK\x01\x02", b"PK\x01\x09"), bytes(encrypted)):
        path.write_bytes(damaged)
        with pytest.raises(errors.RequestError, match=r"net.pt: is a damaged or encrypted archive"):
            suspects.look(path)


@pytest.mark.parametrize(("method", "first"), [(zipfile.ZIP_DEFLATED, 0), (zipfile.ZIP_LZMA, 50)])
def test_a_packed_archive_whose_content_is_damaged(
    method: int, first: int, tmp_path: Path
) -> None:
    """What unpacks it raises errors of its own."""
    path = tmp_path / "net.pt"
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("net/data.pkl", bytes(range(256)))
    damaged = bytearray(path.read_bytes())
    start = damaged.index(b"data.pkl") + len(b"data.pkl") + first
    damaged[start : start + 50] = b"\xff" * 50
    path.write_bytes(damaged)
    with pytest.raises(errors.RequestError, match=r"net.pt: is a damaged or encrypted archive"):
        suspects.look(path)
