"""Examples and schemas from files: .csv, .jsonl, .npy, or a folder of images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from celeriac import errors
from celeriac.registry.manifest import InputSchema


def read_examples(path: Path | None, text_column: str, model: Any) -> Any:
    """Inputs as ``release.register`` takes them. Raises RequestError.

    ``model`` may know its columns (``feature_names_in_``); a text model reads ``text_column``.
    """
    if path is None:
        raise errors.RequestError("give --examples FILE: inputs tell what the model takes")
    if path.is_dir():
        return _read_images(path)
    if not path.is_file():
        raise errors.RequestError(f"{path}: no such file")
    try:
        return _READERS[path.suffix](path, text_column, model)
    except KeyError:
        raise errors.RequestError(
            f"{path}: examples are .csv, .jsonl or .npy, or a folder of images"
        ) from None
    except (ValueError, OSError) as error:
        raise errors.RequestError(f"{path}: cannot be read: {error}") from error


_IMAGES = (".png", ".jpg", ".jpeg", ".webp", ".gif")


def _read_images(folder: Path) -> list[bytes]:
    files = [path for path in sorted(folder.iterdir()) if path.suffix.lower() in _IMAGES]
    if not files:
        raise errors.RequestError(f"{folder}: the folder holds no image ({', '.join(_IMAGES)})")
    return [path.read_bytes() for path in files[:_MOST_IMAGES]]


_MOST_IMAGES = 100
"""A few of them become golden examples."""


def read_schema(path: Path | None) -> InputSchema | None:
    """An input schema from JSON; None without a file. Raises RequestError."""
    if path is None:
        return None
    try:
        return InputSchema.model_validate_json(path.read_bytes())
    except OSError as error:
        raise errors.RequestError(f"{path}: cannot be read: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise errors.RequestError(
            f"{path}: is no input schema: {where}{': ' if where else ''}{first['msg']}"
        ) from error


def read_frame(path: Path) -> Any:
    """A CSV file as a pandas frame. Raises RequestError."""
    import pandas as pd

    try:
        return pd.read_csv(path)
    except (ValueError, OSError) as error:  # pandas' own errors are kinds of ValueError
        told = " ".join(str(error).split())
        raise errors.RequestError(f"{path}: cannot be read: {told}") from error


def _read_csv(path: Path, text_column: str, model: Any) -> Any:
    frame = read_frame(path)
    names = getattr(model, "feature_names_in_", None)
    if names is not None:
        missing = [str(name) for name in names if name not in frame.columns]
        if missing:
            raise errors.RequestError(f"{path}: lacks the model's columns {', '.join(missing)}")
        return frame[list(names)]
    if text_column in frame.columns:
        return frame[text_column].dropna().astype(str).tolist()
    values = frame.to_numpy()
    if values.dtype == object:
        raise errors.RequestError(
            f"{path}: has no column {text_column!r}, which a text model would read (--text-column "
            f"names another), and not only numbers; it has: {', '.join(map(str, frame.columns))}"
        )
    return values


def _read_jsonl(path: Path, _text_column: str, _model: Any) -> Any:
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), start=1):
        try:
            rows += [json.loads(line)] if line.strip() else []
        except ValueError as error:
            raise ValueError(f"line {number} is not JSON: {error}") from error
    return rows


def _read_npy(path: Path, _text_column: str, _model: Any) -> Any:
    import numpy as np

    try:
        return np.load(path, allow_pickle=False)
    except ValueError as error:  # numpy says how to unpickle it
        raise errors.RequestError(f"{path}: is no .npy file of plain numbers") from error


_READERS = {".csv": _read_csv, ".jsonl": _read_jsonl, ".npy": _read_npy}
