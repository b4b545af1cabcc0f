"""Heun's method on the probability flow: see flow.py."""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import Tensor

from pipeline.diffusion.schedule import Spacing
from pipeline.samplers.base import Sampler, SamplerContext
from pipeline.samplers.flow import held


class Heun(Sampler):
    """Heun's method: the mean of x_hat at both ends of the step. 2S - 1 network evaluations.

    In this form, and not in eps_hat over sigma / alpha (Karras et al. 2022, algorithm 1), since large steps of the log-SNR are
    then stable where almost all is noise.
    """

    solver: ClassVar[bool] = True

    kind: Literal["heun"]
    spacing: Spacing = "logsnr"

    def evaluations(self, times: Tensor) -> int:
        return 2 * (len(times) - 1) - 1

    def step(self, context: SamplerContext, index: int, z: Tensor, before: Tensor | None) -> tuple[Tensor, Tensor]:
        del before
        x_hat = context.reverse(z, index).x_hat
        z_s = held(context, index, z, x_hat)
        if context.last(index):
            return z_s, x_hat
        return held(context, index, z, 0.5 * (x_hat + context.reverse(z_s, index + 1).x_hat)), x_hat


Config = Heun
