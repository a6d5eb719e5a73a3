"""What a recipe does to a network, with torch itself: other ways to the same answers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from celeriac.registry.manifest import OutputSchema
from celeriac.runtimes.architectures import DigitCNN
from celeriac.runtimes.torch import TorchModel
from celeriac.runtimes.torch_recipe import applied, compiler

IMAGES = torch.tensor(np.random.default_rng(1).random((5, 8, 8)), dtype=torch.float32)


def network() -> DigitCNN:
    torch.manual_seed(1)
    return DigitCNN().eval()


def answers(module: Any) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = module(IMAGES)
    return found


@pytest.mark.parametrize(
    ("recipe", "off_by"), [({}, 0.0), ({"channels_last": True}, 1e-5), ({"int8": True}, 0.05)]
)
def test_the_answers_are_those_of_the_network(recipe: dict[str, bool], off_by: float) -> None:
    expected = answers(network())
    assert (answers(applied(network(), recipe)) - expected).abs().max() <= off_by


def test_with_weights_of_8_bits_each_item_is_asked_alone() -> None:
    """Inputs are rounded by one scale for all of a call: beside a large item others were zeros."""
    output = OutputSchema(kind="classifier", labels=[*range(10)])
    model = TorchModel(applied(network(), {"int8": True}).eval(), output, alone=True)
    images = IMAGES.numpy().copy()
    expected = model.predict(images).probabilities
    images[0] *= 1e6
    images[2, 3, 3] = np.nan
    found = model.predict(images).probabilities
    assert np.array_equal(found[[1, 3, 4]], expected[[1, 3, 4]])
    assert np.isnan(found[2]).all()


def test_what_each_does() -> None:
    last = applied(network(), {"channels_last": True})
    assert last.features[3].weight.is_contiguous(memory_format=torch.channels_last)
    small = applied(network(), {"int8": True})
    assert small.classifier.weight().dtype is torch.qint8
    assert "qint8" not in str(network().classifier.weight.dtype)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")
@pytest.mark.skipif(compiler() is None, reason="no C++ compiler")
def test_a_compiled_network_answers_alike_for_any_size() -> None:
    module = applied(network(), {"compile": True})
    expected = answers(network())
    with torch.inference_mode():
        for count in (1, 3, 5):
            found = module(IMAGES[:count])
            assert (found - expected[:count]).abs().max() < 1e-5


def test_without_a_compiler_the_network_runs_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("celeriac.runtimes.torch_recipe.compiler", lambda: None)
    plain = network()
    assert applied(plain, {"compile": True}) is plain
