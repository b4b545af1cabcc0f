"""Chains whose first step, from the data to level 1, has a network of its own (DAED; Deja et al. 2022, sections 4 and 6).

The noise beta_1 of that step is a parameter: beta_1 = 0.025, 0.1, 0.2, 0.3 are log-SNRs of 3.66, 2.20, 1.39, 0.85. The chain
over it is either spread anew (`linear-combine`, as in the paper's code) or the rest of a chain whose first steps are merged
into one (`merged`, as in the paper's text). T always counts the first step.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from pipeline.config.base import StrictConfig
from pipeline.diffusion import schedule as chains
from pipeline.diffusion.gaussian import transition_std
from pipeline.diffusion.schedule import DiscreteSchedule, NoiseSchedule, Spacing, linear_betas

TimeSampling = Literal["uniform", "code", "paper"]


class TwoPartSchedule(DiscreteSchedule):
    """The chain without its levels 1..merged; what was level merged + 1 is level 1, at which the first step ends.

    `input` stays that of the whole chain, so that a network that was trained on the whole chain sees what it knows.
    """

    lowest: float
    highest: float

    def __init__(self, chain: DiscreteSchedule, merged: int = 0) -> None:
        NoiseSchedule.__init__(self)
        assert 0 <= merged <= chain.steps - 2, "a level for the generator must be left"
        self.register_buffer("table", torch.cat([chain.table[:1], chain.table[merged + 1 :]]))
        self.lowest, self.highest = float(chain.table[1]), float(chain.table[-1])

    @property
    def beta_1(self) -> float:
        """The variance of the noise at level 1."""
        return float(torch.sigmoid(self.table[1]))

    def betas(self) -> Tensor:
        """(T,) float64."""
        std = transition_std(self.table[:-1], self.table[1:])
        return std * std

    def input(self, gamma: Tensor) -> Tensor:
        return ((gamma - self.lowest) / (self.highest - self.lowest)).float()

    def times(self, steps: int, spacing: Spacing) -> Tensor:
        """A chain's grids, each of which holds level 1: the denoiser knows no other. `trailing`, which would pass it by,
        makes S - 1 equal steps from T to level 1."""
        if not 2 <= steps <= self.steps:
            raise ValueError(
                f"steps is {steps}; allowed: 2 to {self.steps}, the number of levels of the run's schedule, as one step is the "
                "denoiser's"
            )
        return super().times(steps, spacing)

    def _levels(self, steps: int, spacing: Spacing) -> list[int]:
        if spacing != "trailing":
            return super()._levels(steps, spacing)
        return [1, *(round((self.steps - 1) * (i + 1) / (steps - 1)) + 1 for i in range(steps - 1))]


def merge_at(chain: DiscreteSchedule, beta_1: float) -> int:
    """sp = argmin_t |alpha_bar_t - (1 - beta_1)| over t = 0..T-1: merging into one step leaves T - sp steps."""
    return int((torch.sigmoid(-chain.table[1:]) - (1 - beta_1)).abs().argmin())


def step_probabilities(sampling: TimeSampling, schedule: TwoPartSchedule) -> Tensor:
    """p(step), (T,) float64, of steps 0..T-1 of which 0 is the denoiser's.

    `uniform`: 1/T. `code`: beta_1 T for step 0 and 1 for the others, so p(0) = beta_1 T / (beta_1 T + T - 1), about
    beta_1 / (1 + beta_1), and the generator's steps are even (what the paper's code does; its section 6 says "uniform").
    `paper`: in proportion to beta_t (its appendix A.4), which draws the generator's steps unevenly too, more of them the
    noisier they are. With weights 1/(T p) all three have the same expected loss.
    """
    if sampling == "uniform":
        weights = torch.ones_like(schedule.table[1:])
    elif sampling == "code":
        weights = torch.ones_like(schedule.table[1:])
        weights[0] = schedule.beta_1 * schedule.steps
    else:
        weights = schedule.betas()
    return weights / weights.sum()


def two_part_betas(steps: int) -> Tensor:
    """(T,) from 0.001 * 1000/T to 0.02 * 1000/T: the linear betas of the paper's code, which begin at ten times DDPM's.

    Below T = 10 the code has 0.01 * 100/T to 0.02 * 100/T.
    """
    return linear_betas(steps, 1e-3, 0.02) if steps >= 10 else linear_betas(steps, 1e-3, 2e-3)


class FirstStepConfig(StrictConfig):
    """The noise of the first step, as its variance `beta` or as the `logsnr` after it: log((1 - beta) / beta)."""

    beta: Annotated[float, Field(gt=0, lt=1)] | None = None
    logsnr: Annotated[float, Field(ge=-20, le=20)] | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> FirstStepConfig:
        if (self.beta is None) == (self.logsnr is None):
            raise ValueError(f"beta is {self.beta} and logsnr is {self.logsnr}; allowed: exactly one of both")
        return self

    @property
    def beta_1(self) -> float:
        if self.beta is not None:
            return self.beta
        assert self.logsnr is not None
        return 1 / (1 + math.exp(self.logsnr))


class LinearBetaConfig(chains.LinearBetaConfig):
    """As in DDPM; the first step, with the chain's own beta, is the denoiser's."""

    def build(self) -> TwoPartSchedule:
        return TwoPartSchedule(super().build())


class ScaledLinearBetaConfig(chains.ScaledLinearBetaConfig):
    """As in latent diffusion; the first step, with the chain's own beta, is the denoiser's."""

    def build(self) -> TwoPartSchedule:
        return TwoPartSchedule(super().build())


class CosineBetaConfig(chains.CosineBetaConfig):
    """As in improved DDPM; the first step, with the chain's own beta, is the denoiser's."""

    def build(self) -> TwoPartSchedule:
        return TwoPartSchedule(super().build())


class RandomWalkConfig(chains.RandomWalkConfig):
    """The random walk; the first step, with the chain's own beta, is the denoiser's."""

    def build(self) -> TwoPartSchedule:
        return TwoPartSchedule(super().build())


class LinearCombineConfig(StrictConfig):
    """`two_part_betas` of `steps` with the first replaced: the steps above are spread anew, a little larger than merging's."""

    kind: Literal["linear-combine"]
    steps: Annotated[int, Field(ge=3)] = 900
    first: FirstStepConfig

    @model_validator(mode="after")
    def _below_one(self) -> LinearCombineConfig:
        if 10 <= self.steps <= 20:
            raise ValueError(
                f"steps is {self.steps}, which makes the last beta {20 / self.steps:.3g}; allowed: betas below 1, so 3 to 9 "
                "or more than 20 steps"
            )
        return self

    def build(self) -> TwoPartSchedule:
        betas = two_part_betas(self.steps)
        betas[0] = self.first.beta_1
        return TwoPartSchedule(DiscreteSchedule(betas))


class MergedConfig(StrictConfig):
    """The steps of `of` up to the level nearest to `first` as one step, then the rest: T - sp steps, see `merge_at`."""

    kind: Literal["merged"]
    of: Annotated[
        chains.LinearBetaConfig
        | chains.ScaledLinearBetaConfig
        | chains.CosineBetaConfig
        | chains.RandomWalkConfig
        | LinearCombineConfig,
        Field(discriminator="kind"),
    ]
    first: FirstStepConfig

    @model_validator(mode="after")
    def _within_the_chain(self) -> MergedConfig:
        chain = self.of.build()
        asked = math.log1p(-self.first.beta_1) - math.log(self.first.beta_1)
        most, least = (-float(chain.table[level]) for level in (1, -2))
        # A level that was written down as its log-SNR may come back one rounding further out.
        if not least - 1e-9 <= asked <= most + 1e-9:
            raise ValueError(
                f"first has a log-SNR of {asked:.4g}; allowed: {least:.4g} to {most:.4g}, the levels of `of` that leave a "
                "step to the generator"
            )
        return self

    def build(self) -> TwoPartSchedule:
        chain = self.of.build()
        return TwoPartSchedule(chain, merge_at(chain, self.first.beta_1))


Split = Annotated[
    LinearBetaConfig | ScaledLinearBetaConfig | CosineBetaConfig | RandomWalkConfig | LinearCombineConfig | MergedConfig,
    Field(discriminator="kind"),
]
