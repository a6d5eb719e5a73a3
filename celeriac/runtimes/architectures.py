"""Small torch networks whose weights can be registered as they are.

Each keeps the arguments that made it in ``arguments``, so that ``release.register`` can write
them down. Networks of your own do the same, and live below a prefix that ``[models]
architectures`` allows.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn


class DigitCNN(nn.Module):
    """Two convolutions and a linear layer for square images of one channel.

    Takes ``(n, side, side)``, ``(n, 1, side, side)`` or flattened images; ``side`` is a multiple
    of 4 (8 for scikit-learn's digits, 28 for MNIST). ``scale`` is the largest pixel value. Returns
    one logit per class.
    """

    def __init__(
        self, side: int = 8, classes: int = 10, width: int = 16, scale: float = 1.0
    ) -> None:
        super().__init__()
        if side < 4 or side % 4:
            raise ValueError(f"side must be a multiple of 4, not {side}")
        self.arguments = {"side": side, "classes": classes, "width": width, "scale": scale}
        self.side, self.scale = side, scale
        self.features = nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(width, 2 * width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        )
        self.classifier = nn.Linear(2 * width * (side // 4) ** 2, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits, ``(n, classes)``."""
        pixels = images.reshape(-1, 1, self.side, self.side) / self.scale
        logits: torch.Tensor = self.classifier(self.features(pixels).flatten(1))
        return logits


class MLP(nn.Module):
    """Linear layers with ReLU between them, for tables of numbers.

    Returns ``(n, outputs)``: logits of a classifier, values of a regressor.
    """

    def __init__(self, inputs: int, outputs: int, hidden: Sequence[int] = (64, 64)) -> None:
        super().__init__()
        self.arguments = {"inputs": inputs, "outputs": outputs, "hidden": list(hidden)}
        sizes = [inputs, *hidden]
        layers: list[nn.Module] = []
        for size, following in pairwise(sizes):
            layers += [nn.Linear(size, following), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Linear(sizes[-1], outputs))

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Values, ``(n, outputs)``."""
        values: torch.Tensor = self.layers(rows.flatten(1))
        return values
