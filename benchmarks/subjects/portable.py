"""The models for peers, whose environments have no Celeriac: joblib and a state dict.

``BENCH_MODEL`` names the model, ``BENCH_PORTABLE`` the folder that :func:`save` wrote.
"""

from __future__ import annotations

import os
import runpy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

Answers = Callable[[Sequence[Any]], list[dict[str, Any]]]
ARCHITECTURES = Path(__file__).parents[2] / "celeriac" / "runtimes" / "architectures.py"


def save(folder: Path, text: Any, digits: Any) -> None:
    """Write both models."""
    import joblib
    import torch

    folder.mkdir(parents=True, exist_ok=True)
    joblib.dump(text, folder / "text.joblib")
    torch.save({"arguments": digits.arguments, "state": digits.state_dict()}, folder / "digits.pt")


def model() -> Answers:
    """The model that the environment names, as a function of a list of items."""
    return load(os.environ["BENCH_MODEL"], Path(os.environ["BENCH_PORTABLE"]))


def load(name: str, folder: Path) -> Answers:
    """One of the two models."""
    return (_text if name == "text" else _digits)(folder)


def _text(folder: Path) -> Answers:
    import joblib

    pipeline = joblib.load(folder / "text.joblib")
    classes = pipeline.classes_.tolist()
    return lambda items: _labelled(pipeline.predict_proba(list(items)), classes)


def _digits(folder: Path) -> Answers:
    import numpy as np
    import torch

    torch.set_num_threads(1)
    saved = torch.load(folder / "digits.pt", weights_only=True)
    network = runpy.run_path(str(ARCHITECTURES))["DigitCNN"](**saved["arguments"])
    network.load_state_dict(saved["state"])
    network.eval()
    classes = list(range(10))

    def answers(items: Sequence[Any]) -> list[dict[str, Any]]:
        with torch.inference_mode():
            logits = network(torch.from_numpy(np.asarray(items, dtype=np.float32)))
            return _labelled(logits.softmax(1).numpy(), classes)

    return answers


def _labelled(probabilities: Any, classes: list[Any]) -> list[dict[str, Any]]:
    chosen = probabilities.argmax(axis=1)
    best = probabilities[range(len(chosen)), chosen]
    return [
        {"label": classes[number], "probability": probability}
        for number, probability in zip(chosen.tolist(), best.tolist(), strict=True)
    ]
