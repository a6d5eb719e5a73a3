"""Files that unpack to far more than they are cost no memory to look at."""

from __future__ import annotations

import gzip
import lzma
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

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
