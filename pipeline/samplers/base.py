"""The contract of samplers: a `SamplerContext`, a model on a grid of times, and the `Sampler`, which takes its steps."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from pipeline.config.base import StrictConfig
from pipeline.core.contracts import Generative, Random
from pipeline.diffusion.gaussian import Reverse
from pipeline.diffusion.schedule import Spacing


@dataclass(frozen=True)
class SamplerContext:
    """Step i of 0..steps-1 goes from t = times[i] to s = times[i + 1].

    times: (steps + 1,) float64, falling to 0; random(step): the randomness of that step, where 0 is the start and i + 1 is
    step i; y: (B,) classes; clip: the bound of |x_hat| (None: no clipping); variances: (steps,) float64, sigma_P^2 of each
    step in place of the model's own.
    """

    model: Generative
    times: Tensor
    random: Callable[[int], Random]
    y: Tensor | None = None
    clip: float | None = None
    variances: Tensor | None = None

    @property
    def steps(self) -> int:
        return len(self.times) - 1

    def last(self, index: int) -> bool:
        return index == self.steps - 1

    def reverse(self, z: Tensor, index: int) -> Reverse:
        """p(z_s | z_t) of step `index` at z = z_t, (B, C, H, W): one network evaluation."""
        t, s = (time.expand(len(z)) for time in self.times[index : index + 2])
        return self.model.reverse(z, s, t, self.y, self.random(index + 1), clip=self.clip)

    def gammas(self, z: Tensor, index: int) -> tuple[Tensor, Tensor]:
        """gamma_s and gamma_t of step `index`, each (B,) float64."""
        t, s = (time.expand(len(z)) for time in self.times[index : index + 2])
        return self.model.schedule.gamma(s), self.model.schedule.gamma(t)

    def noise(self, z: Tensor, index: int) -> Tensor:
        """Fresh N(0, 1) for step `index`, (B, C, H, W)."""
        return self.random(index + 1).normal(tuple(z.shape), "noise")


class Sampler(StrictConfig):
    """A sampler. Its module adds `kind`, options of its own, and another grid where its own differs.

    `solver`: whether the model must have a probability flow to solve; `clip` keeps x_hat within [-1, 1] before anything is made
    of it: not in the papers of DDPM and DDIM, but in their code; on for pixels. `takes_variances`: whether the variances of the
    steps may be given from outside.
    """

    solver: ClassVar[bool] = False
    takes_variances: ClassVar[bool] = False

    kind: str
    clip: bool = True
    spacing: Spacing = "trailing"

    def described(self) -> str:
        """The kind, and the options that differ from their defaults, in a few words, as in "ddim eta 0.5"."""
        words = [self.kind]
        for name, field in type(self).model_fields.items():
            value = getattr(self, name)
            if name != "kind" and value != field.default:
                if isinstance(value, bool):
                    words.append(f"{name} {'on' if value else 'off'}")
                else:
                    words.append(f"{name} {value:g}" if isinstance(value, int | float) else str(value))
        return " ".join(words)

    def evaluations(self, times: Tensor) -> int:
        """How often the network is evaluated for an image on this grid, (steps + 1,)."""
        return len(times) - 1

    @property
    def optimal_variance(self) -> bool:
        """Whether the steps' variances are those that were estimated for this number of steps and stored with the model."""
        return False

    @abstractmethod
    def step(self, context: SamplerContext, index: int, z: Tensor, before: Tensor | None) -> tuple[Tensor, Tensor]:
        """z_s and x_hat from z = z_t, each (B, C, H, W); before: x_hat of the step before, None in the first."""
