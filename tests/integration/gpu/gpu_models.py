"""A network that breaks its context as a kernel's assertion would; workers import it by name."""

from __future__ import annotations

import time

import torch
from torch import nn

BREAKS = 13.0
SLOW = 7.0


class Fragile(nn.Module):
    """Gives back its numbers. 13 ends all use of the device; 7 takes half a second."""

    def __init__(self) -> None:
        super().__init__()
        self.arguments: dict[str, object] = {}
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        if (rows == BREAKS).any():
            raise torch.AcceleratorError("CUDA error: device-side assert triggered\nat 0xdead")
        if (rows == SLOW).any():
            time.sleep(0.5)
        return rows[:, 0]
