"""A network that tells how many compute threads its process has; workers import it by this name."""

from __future__ import annotations

import time

import numpy as np
import torch
from threadpoolctl import threadpool_info
from torch import nn

BUSY_S = 0.5


class Threads(nn.Module):
    """Rows of zeros are answered with zeros, others with what was seen in the process.

    Three numbers: threads of torch, the most of any other library, and the cores that a product of
    large matrices kept busy.
    """

    def __init__(self) -> None:
        super().__init__()
        self.arguments: dict[str, int] = {}
        self.layer = nn.Linear(1, 3)
        nn.init.zeros_(self.layer.weight)
        nn.init.zeros_(self.layer.bias)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        if not bool(rows.any()):
            return self.layer(rows * 0)
        pools = [pool["num_threads"] for pool in threadpool_info()]
        seen = [torch.get_num_threads(), max(pools, default=1), _busy_cores()]
        return torch.tensor([seen] * len(rows), dtype=torch.float32)


def _busy_cores() -> float:
    one = torch.rand(700, 700)
    other = np.random.default_rng(0).random((700, 700))
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    while time.perf_counter() - wall_s < BUSY_S:
        one @ one
        other @ other
    return (time.process_time() - cpu_s) / (time.perf_counter() - wall_s)
