"""How times are drawn: independently, or spread evenly over [0, 1)."""

from __future__ import annotations

import torch
from torch import Tensor

from pipeline.roles import Random


def low_discrepancy(count: int, offset: Tensor) -> Tensor:
    """t_i = (offset + i / count) mod 1, (count,) float64: each is uniform, together they cover (Kingma et al. 2021, I.1)."""
    grid = torch.arange(count, dtype=torch.float64, device=offset.device) / count
    return torch.remainder(offset.to(torch.float64) + grid, 1.0)


def stratified(count: int, rng: Random) -> Tensor:
    """Low-discrepancy times for one training batch, (count,) float64 in [0, 1)."""
    return low_discrepancy(count, rng.uniform((1,), "time"))
