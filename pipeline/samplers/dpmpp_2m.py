"""DPM-Solver++(2M) on the probability flow: see flow.py."""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import Tensor

from pipeline.diffusion.gaussian import per_image
from pipeline.diffusion.schedule import Spacing
from pipeline.samplers.base import Sampler, SamplerContext
from pipeline.samplers.flow import held


class DPMSolver(Sampler):
    """DPM-Solver++(2M) (Lu et al. 2022, algorithm 2): x_hat extrapolated to half-way in lambda from the step before and this.

    One network evaluation a step. The first step, which has none before it, is DDIM's too.
    """

    solver: ClassVar[bool] = True

    kind: Literal["dpmpp_2m"]
    spacing: Spacing = "logsnr"

    def step(self, context: SamplerContext, index: int, z: Tensor, before: Tensor | None) -> tuple[Tensor, Tensor]:
        x_hat = context.reverse(z, index).x_hat
        if before is None or context.last(index):
            return held(context, index, z, x_hat), x_hat
        (gamma_s, gamma_t), (_, gamma_before) = context.gammas(z, index), context.gammas(z, index - 1)
        ratio = (gamma_t - gamma_s) / (gamma_before - gamma_t)  # of this step's length to that of the step before
        return held(context, index, z, x_hat + per_image(0.5 * ratio, z) * (x_hat - before)), x_hat


Config = DPMSolver
