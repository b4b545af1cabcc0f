"""How the times of a training batch are drawn."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pipeline.core.contracts import Random


def low_discrepancy(count: int, offset: Tensor) -> Tensor:
    """t_i = (offset + i / count) mod 1, (count,) float64: each is uniform, together they cover (Kingma et al. 2021, I.1)."""
    grid = torch.arange(count, dtype=torch.float64, device=offset.device) / count
    return torch.remainder(offset.to(torch.float64) + grid, 1.0)


def stratified(count: int, rng: Random) -> Tensor:
    """Low-discrepancy times for one training batch, (count,) float64 in [0, 1)."""
    return low_discrepancy(count, rng.uniform((1,), "time"))


class LossSecondMoment(nn.Module):
    """Draws step i of 0..T-1 in proportion to sqrt(mean of its last squared losses) (Nichol and Dhariwal 2021, eq. 18).

    Steps are uniform until each has a full history. The history is a buffer: it travels in the checkpoint, so a resumed run
    does not warm up again.
    """

    history: Tensor
    count: Tensor

    def __init__(self, steps: int, kept: int = 10, uniform_share: float = 0.001) -> None:
        super().__init__()
        self.uniform_share = uniform_share
        self.register_buffer("history", torch.zeros(steps, kept, dtype=torch.float64))
        self.register_buffer("count", torch.zeros(steps, dtype=torch.int64))

    def probabilities(self) -> Tensor:
        """(T,) float64, summing to one."""
        steps, kept = self.history.shape
        if bool((self.count < kept).any()):
            return torch.full((steps,), 1 / steps, dtype=torch.float64, device=self.history.device)
        root = (self.history**2).mean(1).sqrt()
        return (1 - self.uniform_share) * root / root.sum() + self.uniform_share / steps

    def draw(self, uniform: Tensor) -> tuple[Tensor, Tensor]:
        """(B,) uniform in [0, 1) -> steps (B,) int64 and weights 1 / (T p) (B,), by which losses stay unbiased."""
        probabilities = self.probabilities()
        steps = torch.searchsorted(probabilities.cumsum(0), uniform.to(torch.float64), right=True)
        steps = steps.clamp(max=len(probabilities) - 1)  # the sum may end one rounding below 1
        return steps, 1 / (len(probabilities) * probabilities[steps])

    def update(self, steps: Tensor, losses: Tensor) -> None:
        """Adds each unweighted loss, (B,), to the history of its step; the oldest falls out."""
        kept = self.history.shape[1]
        for step, loss in zip(steps.tolist(), losses.detach().double(), strict=True):
            filled = int(self.count[step])
            if filled < kept:
                self.history[step, filled] = loss
                self.count[step] += 1
            else:
                self.history[step] = torch.cat([self.history[step, 1:], loss[None]])
