"""Ancestral sampling: one draw from p(z_s given z_t) after the other (Ho et al. 2020, algorithm 2)."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import model_validator
from torch import Tensor

from pipeline.diffusion.gaussian import Reverse, per_image, posterior_std, transition_std
from pipeline.samplers.base import Sampler, SamplerContext


class Ancestral(Sampler):
    """z_s = mean + std noise: a draw from p(z_s | z_t).

    `variance`: `model` is the model's own, also where it is learned; `small` and `large` are those of DDPM for the jump from t
    to s, the posterior's and the transition's; `optimal` are those that were estimated for this number of steps (DiffEnc,
    appendix F). With `large` and `optimal` the last step adds no noise.
    """

    takes_variances: ClassVar[bool] = True

    kind: Literal["ancestral"]
    variance: Literal["model", "small", "large", "optimal"] = "model"

    @model_validator(mode="after")
    def _estimated_on_its_grid(self) -> Ancestral:
        if self.variance == "optimal" and self.spacing != "trailing":
            raise ValueError(
                f"spacing is {self.spacing!r}; allowed with variance: optimal, which is estimated on that grid: 'trailing'"
            )
        return self

    @property
    def optimal_variance(self) -> bool:
        return self.variance == "optimal"

    def step(self, context: SamplerContext, index: int, z: Tensor, before: Tensor | None) -> tuple[Tensor, Tensor]:
        del before
        reverse = context.reverse(z, index)
        return reverse.mean + self._std(context, index, reverse) * context.noise(z, index), reverse.x_hat

    def _std(self, context: SamplerContext, index: int, reverse: Reverse) -> Tensor:
        gamma_s, gamma_t = context.gammas(reverse.mean, index)
        if context.variances is not None:
            std = context.variances[index].sqrt().expand_as(gamma_s)
        elif self.variance == "small":
            return per_image(posterior_std(gamma_s, gamma_t), reverse.mean)
        elif self.variance == "large":
            std = transition_std(gamma_s, gamma_t)
        else:
            assert self.variance == "model", "the optimal variances are given"
            return reverse.std
        return per_image(torch.zeros_like(std) if context.last(index) else std, reverse.mean)


Config = Ancestral
