"""Networks that misbehave where they are measured; the measuring process imports them by name."""

from __future__ import annotations

import os
import time

import torch
from torch import nn


class Unconvertible(nn.Module):
    """Looks at its rows; those of zeros, which converters try, it does not survive."""

    def __init__(self, exits: bool) -> None:
        super().__init__()
        self.arguments = {"exits": exits}
        self.layer = nn.Linear(1, 2)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        if not rows.any():
            if self.arguments["exits"]:
                os._exit(4)
            raise ValueError("rows of zeros")
        return self.layer(rows)


class Misbehaving(nn.Module):
    """Answers with zeros; where rows are not zeros, it hangs (1) or ends its process (2)."""

    def __init__(self) -> None:
        super().__init__()
        self.arguments: dict[str, int] = {}
        self.layer = nn.Linear(1, 2)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        first = float(rows.max())
        if first == 1:
            time.sleep(60)
        if first == 2:
            os._exit(3)
        return self.layer(rows * 0)
