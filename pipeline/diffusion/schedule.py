"""Noise schedules: gamma(t) = -log SNR(t), non-decreasing in t in [0, 1].

alpha^2 = sigmoid(-gamma), sigma^2 = sigmoid(gamma). Everything here is float64: differences of neighbouring gammas lose
digits in float32. gamma(0) = -inf is legal: a discrete chain starts at the data itself.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Annotated, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from pipeline.config.base import StrictConfig

Spacing = Literal["trailing", "uniform", "quadratic", "respaced", "logsnr"]


class NoiseSchedule(nn.Module, ABC):
    """gamma as a function of time, and the grids of times that samplers walk on."""

    @abstractmethod
    def gamma(self, t: Tensor) -> Tensor:
        """(B,) times in [0, 1] -> (B,) float64."""

    @abstractmethod
    def times(self, steps: int, spacing: Spacing) -> Tensor:
        """(S + 1,) float64, falling, to 0.0: S is `steps`, or less where a grid had duplicates.

        The first time is 1.0 but for `uniform` and `quadratic` steps. Raises ValueError for a grid that the schedule does not
        have.
        """

    @abstractmethod
    def input(self, gamma: Tensor) -> Tensor:
        """The network's view of gamma: (B,) -> (B,) float32, about [0, 1] by constants that training never moves."""


class DiscreteSchedule(NoiseSchedule):
    """T noise levels from a table of alpha-bar; time i/T is the state after i steps, and time 0 is the data."""

    table: Tensor

    def __init__(self, betas: Tensor) -> None:
        """betas: (T,) float64 in (0, 1)."""
        super().__init__()
        assert betas.dtype == torch.float64 and bool(((betas > 0) & (betas < 1)).all())
        log_alpha_bar = torch.log1p(-betas).cumsum(0)
        # log(alpha-bar / (1 - alpha-bar)) through expm1: raw alpha-bar loses the digits of 1 - alpha-bar.
        gamma = torch.log(-torch.expm1(log_alpha_bar)) - log_alpha_bar
        self.register_buffer("table", torch.cat([torch.full((1,), -math.inf, dtype=torch.float64), gamma]))

    @property
    def steps(self) -> int:
        """T."""
        return len(self.table) - 1

    def gamma(self, t: Tensor) -> Tensor:
        position = t.to(torch.float64) * self.steps
        index = position.round()
        assert bool(((position - index).abs() < 1e-6).all()), "times of a discrete schedule are multiples of 1/T"
        return self.table[index.long()]

    def times(self, steps: int, spacing: Spacing) -> Tensor:
        """Levels of the chain, and then the data.

        `trailing`: T, T - T/S, ... rounded; `uniform` and `quadratic`: DDIM's (Song et al. 2021, appendix D.2, and its code),
        from the data up in equal steps, or in steps whose square roots are equal up to 0.8 T; `respaced` (improved DDPM): S
        levels from T to 1 evenly; `logsnr`: the levels nearest to S values of gamma spread evenly from level T to level 1.
        """
        if not 1 <= steps <= self.steps:
            raise ValueError(f"steps is {steps}; allowed: 1 to {self.steps}, the number of levels of the run's schedule")
        if steps == 1 and spacing in ("uniform", "quadratic"):
            raise ValueError(f"steps is 1; allowed with sampler.spacing {spacing!r}, which begins next to the data: 2 or more")
        levels = sorted(set(self._levels(steps, spacing)), reverse=True)
        return torch.tensor([*levels, 0], dtype=torch.float64) / self.steps

    def _levels(self, steps: int, spacing: Spacing) -> list[int]:
        total = self.steps
        match spacing:
            case "trailing":
                return [round(total * (i + 1) / steps) for i in range(steps)]
            case "uniform":
                return [i * total // steps + 1 for i in range(steps)]
            case "quadratic":
                return [4 * total * i**2 // (5 * (steps - 1) ** 2) + 1 for i in range(steps)]
            case "respaced":
                stride = (total - 1) / (steps - 1) if steps > 1 else 0.0
                return [*(round(i * stride) + 1 for i in range(steps - 1)), total]
            case "logsnr":
                gamma = self.table[1:].cpu()
                wanted = torch.linspace(float(gamma[-1]), float(gamma[0]), steps, dtype=torch.float64)
                above = torch.searchsorted(gamma, wanted).clamp(1, total - 1)
                nearer_below = wanted - gamma[above - 1] < gamma[above] - wanted
                return [*(torch.where(nearer_below, above - 1, above) + 1).tolist()]

    def input(self, gamma: Tensor) -> Tensor:
        return ((gamma - self.table[1]) / (self.table[-1] - self.table[1])).float()


class ContinuousSchedule(NoiseSchedule):
    """gamma differentiable in t, with finite end points. `gamma_min` and `gamma_max` are those it was configured with."""

    def __init__(self, gamma_min: float, gamma_max: float) -> None:
        super().__init__()
        self.gamma_min, self.gamma_max = gamma_min, gamma_max

    @property
    def learned(self) -> bool:
        """Whether training moves the schedule: then the prior and reconstruction terms depend on weights too."""
        return next(self.parameters(), None) is not None

    def ends(self, count: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """gamma at t = 0 and t = 1, each (count,) float64."""
        zeros = torch.zeros(count, dtype=torch.float64, device=device)
        return self.gamma(zeros), self.gamma(zeros + 1)

    def minimise_variance(self, losses: Tensor) -> None:
        """Tells the schedule the diffusion losses, (B,), that the coming backward pass is of; most have no use for it."""

    def gamma_and_slope(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """gamma and d gamma / dt, each (B,) float64."""
        t = t.to(torch.float64)
        both: tuple[Tensor, Tensor] = torch.func.jvp(self.gamma, (t,), (torch.ones_like(t),))[:2]
        return both

    def times(self, steps: int, spacing: Spacing) -> Tensor:
        """`trailing`: equal steps in t; `logsnr`: equal steps in gamma. Grids of levels are for chains."""
        if steps < 1:
            raise ValueError(f"steps is {steps}; allowed: 1 or more")
        if spacing not in ("trailing", "logsnr"):
            raise ValueError(f"sampler.spacing is {spacing!r}; allowed for a continuous schedule: 'logsnr', 'trailing'")
        times = torch.linspace(1.0, 0.0, steps + 1, dtype=torch.float64)
        if spacing == "logsnr":
            times[1:-1] = self._bisect(times[1:-1])
        return times

    @torch.no_grad()
    def _bisect(self, share: Tensor) -> Tensor:
        """The times at which gamma has gone these shares of its way from t = 0 to t = 1; (B,) float64 -> (B,)."""
        device = next(self.parameters(), share).device
        first, last = self.ends(len(share), device)
        wanted = first + (last - first) * share.to(device)
        low, high = torch.zeros_like(wanted), torch.ones_like(wanted)
        for _ in range(60):
            middle = (low + high) / 2
            below = self.gamma(middle) < wanted
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return high.to(share.device)

    def input(self, gamma: Tensor) -> Tensor:
        return ((gamma - self.gamma_min) / (self.gamma_max - self.gamma_min)).float()


class LinearLogSNRSchedule(ContinuousSchedule):
    """gamma(t) = gamma_min + (gamma_max - gamma_min) t (VDM's fixed schedule)."""

    def gamma(self, t: Tensor) -> Tensor:
        return self.gamma_min + (self.gamma_max - self.gamma_min) * t.to(torch.float64)


def linear_betas(steps: int, first: float = 1e-4, last: float = 0.02) -> Tensor:
    """(T,) evenly from first * 1000/T to last * 1000/T (Ho et al. 2020; the scaling is Nichol and Dhariwal's)."""
    return torch.linspace(first * 1000 / steps, last * 1000 / steps, steps, dtype=torch.float64)


def scaled_linear_betas(steps: int, first: float, last: float) -> Tensor:
    """(T,) whose square roots are even between those of `first` and `last` (latent diffusion, Rombach et al. 2022)."""
    return torch.linspace(first**0.5, last**0.5, steps, dtype=torch.float64) ** 2


def cosine_betas(steps: int, offset: float = 0.008, largest: float = 0.999) -> Tensor:
    """(T,) from alpha-bar proportional to cos^2 (Nichol and Dhariwal 2021, eq. 17), each at most `largest`."""
    u = torch.arange(steps + 1, dtype=torch.float64) / steps
    f = torch.cos((u + offset) / (1 + offset) * math.pi / 2) ** 2
    return (1 - f[1:] / f[:-1]).clamp(max=largest)


def random_walk_betas(steps: int) -> Tensor:
    """(T,): beta_t = 1/(t + 1), the unit-variance random walk x_t = x_0 + noise_1 + ... + noise_t after rescaling.

    Dividing x_t by sqrt(1 + t) gives a variance-preserving chain with alpha-bar = 1/(1 + t), so SNR(t) = 1/t.
    """
    return 1 / torch.arange(2, steps + 2, dtype=torch.float64)


class LinearBetaConfig(StrictConfig):
    """`first` and `last` are the end points at T = 1000; they scale with 1000/T."""

    kind: Literal["linear-beta"]
    steps: Annotated[int, Field(ge=2)] = 1000
    first: Annotated[float, Field(gt=0, lt=1)] = 1e-4
    last: Annotated[float, Field(gt=0, lt=1)] = 0.02

    @model_validator(mode="after")
    def _below_one(self) -> LinearBetaConfig:
        if self.last * 1000 / self.steps >= 1 or self.first * 1000 / self.steps >= 1:
            raise ValueError(
                f"steps is {self.steps}, which makes the last beta {self.last * 1000 / self.steps:.3g}; "
                f"allowed: betas below 1, so more than {1000 * max(self.first, self.last):.0f} steps"
            )
        return self

    def build(self) -> DiscreteSchedule:
        return DiscreteSchedule(linear_betas(self.steps, self.first, self.last))


class ScaledLinearBetaConfig(StrictConfig):
    """What latent diffusion's code calls "linear"; `first` and `last` are its betas at `steps`, whatever their number."""

    kind: Literal["scaled-linear-beta"]
    steps: Annotated[int, Field(ge=2)] = 1000
    first: Annotated[float, Field(gt=0, lt=1)] = 0.0015
    last: Annotated[float, Field(gt=0, lt=1)] = 0.0195

    def build(self) -> DiscreteSchedule:
        return DiscreteSchedule(scaled_linear_betas(self.steps, self.first, self.last))


class CosineBetaConfig(StrictConfig):
    kind: Literal["cosine-beta"]
    steps: Annotated[int, Field(ge=2)] = 1000
    offset: Annotated[float, Field(ge=0, lt=1)] = 0.008

    def build(self) -> DiscreteSchedule:
        return DiscreteSchedule(cosine_betas(self.steps, self.offset))


class RandomWalkConfig(StrictConfig):
    """T steps of unit Gaussian noise on the data itself; it ends at SNR 1/T."""

    kind: Literal["random-walk"]
    steps: Annotated[int, Field(ge=2)] = 1000

    def build(self) -> DiscreteSchedule:
        return DiscreteSchedule(random_walk_betas(self.steps))


class LogSNREndsConfig(StrictConfig):
    """gamma = -log SNR from gamma_min (t = 0) to gamma_max (t = 1)."""

    gamma_min: float = -13.3
    gamma_max: float = 5.0

    @model_validator(mode="after")
    def _ordered(self) -> LogSNREndsConfig:
        if self.gamma_min >= self.gamma_max:
            raise ValueError(f"gamma_min is {self.gamma_min}; allowed: below gamma_max, which is {self.gamma_max}")
        return self


class LinearLogSNRConfig(LogSNREndsConfig):
    """Linear in t between end points that stay where they are."""

    kind: Literal["linear-logsnr"]

    def build(self) -> LinearLogSNRSchedule:
        return LinearLogSNRSchedule(self.gamma_min, self.gamma_max)


Discrete = Annotated[
    LinearBetaConfig | ScaledLinearBetaConfig | CosineBetaConfig | RandomWalkConfig, Field(discriminator="kind")
]
