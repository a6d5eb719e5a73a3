"""What a pickled file is and names, read without running any of it."""

from __future__ import annotations

import codecs
import hashlib
import lzma
import pickletools
import re
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from celeriac import errors

Kind = Literal["pickle", "torch", "torchscript", "skops", "other"]

_MOST_BYTES = 64_000_000
"""So much of a file is looked through, and of what it unpacks to."""
_SAFE = (".skops", ".safetensors", ".onnx")
_SOURCES = (".py", ".ipynb")
"""Texts that may begin as a pickle does."""
_HEAD_BYTES = 4_096
_MODELS = ("sklearn", "numpy", "scipy", "pandas", "joblib", "torch", "collections", "_codecs")
"""Packages that pickles of models name; what else a file names is shown first."""
_WRITTEN_BY = re.compile(rb"_sklearn_version.{1,8}?(\d+\.\d+[\w.]*)", re.DOTALL)
_GZIP = 31
"""zlib's word for it."""
_DAMAGED = (
    zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError, OSError, ValueError,
)
"""What an archive raises that is damaged, or encrypted."""
_PACKED: tuple[tuple[bytes, Callable[[], Any]], ...] = (
    (b"\x1f\x8b", lambda: zlib.decompressobj(_GZIP)), (b"\x78", zlib.decompressobj),
    (b"\xfd7zXZ", lzma.LZMADecompressor),
)


@dataclass(frozen=True, kw_only=True)
class Suspect:
    """A file that nobody has loaded yet."""

    kind: Kind
    sha256: str
    size: int
    names: tuple[str, ...]
    """``module.name`` of what loading it would call for, unusual ones first; perhaps not all."""
    sklearn: str
    """The release of scikit-learn that wrote it; empty: not known, or none."""


def look(path: Path) -> Suspect:
    """Read a file as bytes. Raises RequestError if it is none, a text, or of a safe format."""
    if not path.is_file():
        raise errors.RequestError(f"{path}: no such file")
    if path.suffix in _SAFE:
        raise errors.RequestError(
            f"{path}: {path.suffix} holds no code and needs no import: "
            f"celeriac models register NAME {path}"
        )
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        file.seek(0)
        data = file.read(_MOST_BYTES)
    kind, program = _opened(path, data)
    if path.suffix in _SOURCES or (kind == "other" and _is_text(data[:_HEAD_BYTES])):
        raise errors.RequestError(
            f"{path}: is a text, not a pickled model; have the code that trains the model write "
            "it, joblib.dump(model, FILE), and import that file"
        )
    found = _WRITTEN_BY.search(program)
    return Suspect(
        kind=kind, sha256=digest, size=path.stat().st_size, names=_names(program),
        sklearn=found[1].decode() if found else "",
    )


def _opened(path: Path, data: bytes) -> tuple[Kind, bytes]:
    """The kind of a file, and the pickle in it."""
    if zipfile.is_zipfile(path):
        try:
            return _of_archive(path)
        except _DAMAGED as error:
            raise errors.RequestError(
                f"{path}: is a damaged or encrypted archive ({errors.told(error)}); write the "
                "model again"
            ) from error
    for magic, unpacker in _PACKED:
        if data.startswith(magic):
            try:
                return "pickle", unpacker().decompress(data, _MOST_BYTES)
            except (lzma.LZMAError, zlib.error):
                return "pickle", b""
    if path.suffix in (".pt", ".pth"):
        return "torch", data
    return ("pickle" if data[:1] in (b"\x80", b"(", b"c", b"]", b"}") else "other"), data


def _of_archive(path: Path) -> tuple[Kind, bytes]:
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        if "schema.json" in names:
            return "skops", b""
        if any(name.endswith("/constants.pkl") for name in names):
            return "torchscript", b""
        pickles = [name for name in names if name.endswith("/data.pkl")]
        if not pickles:
            return "other", b""
        with archive.open(pickles[0]) as file:
            return "torch", file.read(_MOST_BYTES)


def _is_text(head: bytes) -> bool:
    """True for UTF-8; its last character may be cut."""
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return False
    return b"\0" not in head


def _names(program: bytes) -> tuple[str, ...]:
    """As far as it can be read: joblib puts arrays between the instructions."""
    names: dict[str, None] = {}
    texts, memo = [""], dict[int, str]()
    try:
        for operation, argument, _ in pickletools.genops(program):
            if operation.name == "GLOBAL":
                names[str(argument).replace(" ", ".")] = None
            elif operation.name == "STACK_GLOBAL":
                names[".".join(texts[-2:])] = None
            elif operation.name == "MEMOIZE":
                memo[len(memo)] = texts[-1]
            elif operation.name.endswith("PUT") and isinstance(argument, int):
                memo[argument] = texts[-1]
            elif operation.name.endswith("GET") and isinstance(argument, int):
                texts.append(memo.get(argument, ""))
            elif isinstance(argument, str):
                texts.append(argument)
    except Exception:  # noqa: BLE001 - from here on it cannot be read
        names.setdefault("...", None)
    return tuple(sorted(names, key=lambda name: name.partition(".")[0] in _MODELS))
