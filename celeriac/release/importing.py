"""Import a pickled model that its owner trusts: loaded once, in a process of its own, and
registered in a format that holds no code.

``python -m celeriac.release.importing`` is that process. Nothing else of Celeriac unpickles a file.
"""

from __future__ import annotations

import contextlib
import math
import resource
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from celeriac import errors, runtimes
from celeriac.registry.manifest import Architecture, InputSchema
from celeriac.registry.store import Registry
from celeriac.release.aside import answer_with, run_aside
from celeriac.release.examples import read_examples, read_schema
from celeriac.release.registering import register
from celeriac.release.suspects import Suspect, look
from celeriac.runtimes import LoadOptions
from celeriac.scoring import Scorer, essence
from celeriac.settings import get_settings

TIMEOUT_S = 120.0
MEMORY_MB = 4_096
ABANDONED_AFTER_S = 86_400.0
"""Longer than any import may take."""
_TRIAL = "celeriac-import-"
COMPARED = 256
"""Examples whose answers are compared before and after, at most."""

_STATES = ("state_dict", "model_state_dict", "model", "net", "network", "weights")
"""Where checkpoints keep their weights."""
_PREFIXES = ("module.", "_orig_mod.")
"""What wrappers of training put before the name of each weight."""


@dataclass(frozen=True, kw_only=True)
class Imported:
    """What came of it."""

    ref: str
    compared: int
    same_labels: int
    """Examples that get the same label as before; those of a regressor count as the same."""
    max_difference: float
    """Of probabilities or values, before and after."""
    warnings: tuple[str, ...]


def import_model(
    path: Path, name: str, wanted: Mapping[str, Any], *,
    timeout_s: float = TIMEOUT_S, memory_mb: int = MEMORY_MB,
) -> Imported:
    """Load a file in a process of its own, convert it, compare its answers, and register it.

    The caller has said that it trusts the file: its code runs, with the rights of this user.
    ``wanted`` has what ``celeriac models import`` takes: ``examples``, ``input``, ``text_column``,
    ``architecture``, ``arguments``, ``labels``, ``metrics``, ``description``, ``device``. Raises
    RequestError or a kind of RegistryError; then nothing is registered.
    """
    suspect = look(path)
    _sweep(time.time())
    with tempfile.TemporaryDirectory(prefix=_TRIAL, ignore_cleanup_errors=True) as trial:
        result = run_aside(
            "celeriac.release.importing", [], {
                **wanted, "path": str(path.absolute()), "name": name, "memory_mb": memory_mb,
                "sha256": suspect.sha256, "trial": trial,
            },
            timeout_s=timeout_s, kind=errors.RegistryError,
            what=f"{path.name}: the process that loaded it",
            late=f"{path.name}: loading and converting it took longer than {timeout_s:g} s "
            "(--timeout-s)",
            env={"CUDA_VISIBLE_DEVICES": ""},
        )
    return Imported(**{**result, "warnings": tuple(result["warnings"])})


def _sweep(now_s: float) -> None:
    """Delete what imports have left that were killed with their command."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_TRIAL}*"):
        with contextlib.suppress(OSError):  # it is another user's, or gone
            if now_s - folder.stat().st_mtime > ABANDONED_AFTER_S:
                shutil.rmtree(folder, ignore_errors=True)


# --- in the process that loads the file -----------------------------------------------------------


def _import(wanted: dict[str, Any]) -> dict[str, Any]:
    path = Path(wanted["path"])
    suspect = look(path)
    if suspect.sha256 != wanted["sha256"]:
        raise errors.RequestError(f"{path.name} changed while it was looked at; try again")
    limit = wanted["memory_mb"] * 1_000_000
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    named = wanted.get("architecture")
    architecture = (
        Architecture(path=named, arguments=wanted.get("arguments") or {}) if named else None
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            model = _load(path, suspect, architecture)
        except Exception as error:
            raise _explained(error, path, suspect, wanted["memory_mb"]) from error
    schema = read_schema(Path(wanted["input"])) if wanted.get("input") else None
    examples = read_examples(
        Path(wanted["examples"]) if wanted.get("examples") else None, wanted["text_column"], model
    )
    parity = _convert(wanted, model, architecture, examples, schema)
    return {**parity, "warnings": _notes(caught, suspect)}


def _convert(
    wanted: dict[str, Any], model: Any, architecture: Architecture | None, examples: Any,
    schema: InputSchema | None,
) -> dict[str, Any]:
    """Register the model; first elsewhere, to be compared, so that a failure leaves none."""
    options: dict[str, Any] = {
        "examples": examples, "labels": wanted.get("labels"), "input": schema,
        "text_column": wanted["text_column"], "architecture": architecture,
        "device": wanted.get("device") or "cpu",
    }
    trial = Registry(Path(wanted["trial"]))
    version = register(wanted["name"], model, registry=trial, golden=COMPARED, **options)
    form = runtimes.runtime(version.format)
    before = Scorer(version, form.wrap(model, version.output, version.input))
    after = Scorer.load(trial, version.name, version.version, LoadOptions.of(get_settings()))
    items = [example.item for example in version.golden]
    pairs = list(zip(before.score(items), after.score(items), strict=True))
    registered = register(
        wanted["name"], model, metrics=wanted.get("metrics"),
        description=wanted.get("description") or "", **options,
    )
    return {
        "ref": registered.ref, "compared": len(pairs),
        "same_labels": sum(a.get("label") == b.get("label") for a, b in pairs),
        "max_difference": max(
            (_difference(essence(a), essence(b)) for a, b in pairs), default=0.0
        ),
    }


def _load(path: Path, suspect: Suspect, architecture: Architecture | None) -> Any:
    if suspect.kind == "torchscript":
        raise errors.RegistryError(
            f"{path.name} is TorchScript, which holds code; save the weights of the original "
            "network, torch.save(network.state_dict(), FILE), and import those"
        )
    if suspect.kind == "torch":
        return _load_torch(path, architecture)
    import joblib

    return joblib.load(path)


def _load_torch(path: Path, architecture: Architecture | None) -> Any:
    torch = runtimes.library("torch", pip="'torch>=2.10' safetensors")
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # noqa: BLE001 - not only weights; its owner trusts it
        found = torch.load(path, map_location="cpu", weights_only=False)
    for name in _STATES:
        if isinstance(found, Mapping) and isinstance(found.get(name), (Mapping, torch.nn.Module)):
            found = found[name]
    if isinstance(found, torch.nn.Module):
        return found
    if not isinstance(found, Mapping) or not all(map(torch.is_tensor, found.values())):
        raise errors.RegistryError(
            f"{path.name} holds neither a network nor a state_dict; save it with "
            "torch.save(network.state_dict(), FILE)"
        )
    if architecture is None:
        raise errors.RequestError(
            f"{path.name} holds weights alone; name its code: --architecture "
            "package.module:Class --arguments '{...}'"
        )
    network = runtimes.runtime("torch").build(architecture, LoadOptions.of(get_settings()))
    try:
        network.load_state_dict(_without_prefix(found))
    except RuntimeError as error:
        raise errors.RegistryError(
            f"{path.name} does not hold the weights of {architecture.path}; are class and "
            f"arguments those of the training? {' '.join(str(error).split())[:300]}"
        ) from error
    return network


def _without_prefix(state: Mapping[str, Any]) -> Mapping[str, Any]:
    for prefix in _PREFIXES:
        if all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): value for name, value in state.items()}
    return state


def _explained(
    error: Exception, path: Path, suspect: Suspect, memory_mb: int
) -> errors.CeleriacError:
    """What went wrong with the file, and the cure."""
    if isinstance(error, errors.CeleriacError):
        return error
    if isinstance(error, MemoryError):
        return errors.RegistryError(
            f"{path.name}: loading it needs more than {memory_mb} MB (--memory-mb)"
        )
    told = errors.told(error)
    if isinstance(error, ModuleNotFoundError) and not _is_sklearn(error.name):
        return errors.RuntimeMissing(
            f"{path.name} needs the module {error.name}, which is not found here: install its "
            "package (or run this where your own module lies) and import again"
        )
    if isinstance(error, AttributeError) and "module '__main__'" in told:
        return errors.RegistryError(
            f"{path.name} needs a class or function of the notebook or script that wrote it "
            f"({told}); move it into a module, write the file again, and import it where that "
            "module can be found"
        )
    other = _other_release(suspect)
    if other:
        return errors.RegistryError(
            f"{path.name} cannot be loaded: {told}. It was written by scikit-learn "
            f"{suspect.sklearn}, and here is {other}: install that release in an environment of "
            f"its own, pip install scikit-learn=={suspect.sklearn}, and import it there, or write "
            "it there with skops.io.dump(estimator, FILE)"
        )
    return errors.RegistryError(f"{path.name} cannot be loaded: {told}")


def _is_sklearn(module: str | None) -> bool:
    return (module or "").partition(".")[0] == "sklearn"


def _other_release(suspect: Suspect) -> str:
    """The installed scikit-learn, if the file is of another one."""
    if not suspect.sklearn:
        return ""
    here = runtimes.frameworks("scikit-learn")["scikit-learn"]
    return here if here != suspect.sklearn else ""


def _notes(caught: Sequence[warnings.WarningMessage], suspect: Suspect) -> list[str]:
    notes = []
    other = _other_release(suspect)
    if other:
        notes.append(
            f"written by scikit-learn {suspect.sklearn}, loaded by {other}: the answers compared "
            "are those of this release; look at some that you know"
        )
    for warning in caught:
        text = errors.without_paths(str(warning.message).partition("\n")[0])
        if "InconsistentVersion" not in type(warning.message).__name__ and text not in notes:
            notes.append(text)
    return notes[:5]


def _difference(one: Any, other: Any) -> float:
    """The largest difference of numbers in two answers of one shape."""
    if isinstance(one, Mapping):
        return max((_difference(one[key], other[key]) for key in one), default=0.0)
    if isinstance(one, list):
        return max(map(_difference, one, other), default=0.0)
    if isinstance(one, float) and isinstance(other, (int, float)):
        return 0.0 if one == other else abs(one - other)
    return 0.0 if one == other else math.inf


def main() -> int:
    """The importing process."""
    return answer_with(lambda wanted: [_import(wanted)], told=_told)


def _told(error: BaseException) -> errors.CeleriacError:
    if isinstance(error, MemoryError):
        return errors.RegistryError("converting it needs more memory: --memory-mb gives it more")
    return errors.RegistryError(f"converting it raised {errors.told(error)}")


if __name__ == "__main__":
    sys.exit(main())
