"""The variance-preserving schedule in very few steps, for generators that jump (Xiao, Kreis, Vahdat 2022, appendix B)."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from pipeline.config.base import StrictConfig
from pipeline.diffusion.schedule import DiscreteSchedule, Spacing

FIRST = 1e-3  # u_0, where the reference code begins the continuous-time chain


class FewSteps(DiscreteSchedule):
    """A discrete chain that is walked in its own T steps only."""

    def times(self, steps: int, spacing: Spacing) -> Tensor:
        """(T + 1,) float64 from 1.0 down to 0.0, whatever the spacing. Raises ValueError for another number of steps."""
        if steps != self.steps:
            raise ValueError(f"steps is {steps}; allowed: {self.steps}, as the generator is trained for exactly those jumps")
        return torch.linspace(1.0, 0.0, steps + 1, dtype=torch.float64)

    def input(self, gamma: Tensor) -> Tensor:
        # The chain of a single step has one level only, and no range to scale by.
        return super().input(gamma) if self.steps > 1 else torch.zeros_like(gamma).float()


def vp_betas(steps: int, beta_min: float = 0.1, beta_max: float = 20.0) -> Tensor:
    """(T,) float64: beta_k = 1 - ab(u_k)/ab(u_{k-1}), ab(u) = exp(-u^2 (beta_max - beta_min)/2 - u beta_min), where
    u_k = 1e-3 + (1 - 1e-3) k/T: the VP-SDE of Song et al. 2021 at T + 1 times.

    The reference code puts 1e-8 before them, so that its data has noise of standard deviation 1e-4; here it has none.
    """
    u = FIRST + (1 - FIRST) * torch.arange(steps + 1, dtype=torch.float64) / steps
    log_alpha_bar = -0.5 * u**2 * (beta_max - beta_min) - u * beta_min
    return -torch.expm1(log_alpha_bar.diff())


class VPBetaConfig(StrictConfig):
    """`beta_min` and `beta_max` are the rates of the VP-SDE at its ends."""

    kind: Literal["vp-beta"]
    steps: Literal[1, 2, 4, 8] = 4
    beta_min: Annotated[float, Field(gt=0)] = 0.1
    beta_max: Annotated[float, Field(gt=0)] = 20.0

    @model_validator(mode="after")
    def _ordered(self) -> VPBetaConfig:
        if self.beta_min > self.beta_max:
            raise ValueError(f"beta_min is {self.beta_min}; allowed: up to beta_max, which is {self.beta_max}")
        return self

    def build(self) -> FewSteps:
        return FewSteps(vp_betas(self.steps, self.beta_min, self.beta_max))
