"""Learned schedules of continuous time: end points, and a monotone network between them (Kingma et al. 2021, H and I)."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from pipeline.diffusion.schedule import ContinuousSchedule, LinearLogSNRConfig, LogSNREndsConfig


class LearnedEnds(ContinuousSchedule):
    """gamma(t) = gamma_0 + |width| t, with both numbers trained on the whole bound.

    The network's input keeps the normalisation by the configured end points, so that it does not move under the network.
    """

    def __init__(self, gamma_min: float, gamma_max: float) -> None:
        super().__init__(gamma_min, gamma_max)
        self.gamma_0 = nn.Parameter(torch.tensor(gamma_min))
        self.width = nn.Parameter(torch.tensor(gamma_max - gamma_min))

    def gamma(self, t: Tensor) -> Tensor:
        return self.gamma_0.double() + self.width.double().abs() * t.to(torch.float64)


class MonotoneSchedule(ContinuousSchedule):
    """Three layers with non-negative weights, pinned at the end points by eq. 59; (B,) -> (B,).

    The interior does not change the expected loss of a continuous-time bound, only its variance, and is trained to make that
    small: eq. 60-62 with d/d eta of E[L^2] = E[2 L dL/d eta], taken from the one ordinary backward pass by multiplying each
    example's gradient by twice its loss on the way into the interior. dL is taken with respect to both gamma and its slope,
    on which each example's loss depends.
    """

    _losses: Tensor | None

    def __init__(self, gamma_min: float, gamma_max: float, hidden: int, learned_ends: bool) -> None:
        super().__init__(gamma_min, gamma_max)
        self.outer = LearnedEnds(gamma_min, gamma_max)
        if not learned_ends:
            self.outer.requires_grad_(False)
        self.l1_weight = nn.Parameter(torch.ones(()))
        self.l1_bias = nn.Parameter(torch.zeros(()))
        # Half of the hidden units rise early and half late; the last layer begins small, so gamma begins near a line.
        self.l2_weight = nn.Parameter(torch.full((hidden,), 4.0))
        self.l2_bias = nn.Parameter(torch.linspace(-4.0, 0.0, hidden))
        self.l3_weight = nn.Parameter(torch.full((hidden,), 0.1 / hidden))
        self._losses = None

    def gamma(self, t: Tensor) -> Tensor:
        gamma: Tensor = self.outer.gamma(self._shape(t.to(torch.float64)))
        return gamma

    def gamma_and_slope(self, t: Tensor) -> tuple[Tensor, Tensor]:
        t = t.to(torch.float64)
        shape, steepness = torch.func.jvp(self._shape, (t,), (torch.ones_like(t),))[:2]
        for value in (shape, steepness):
            if value.requires_grad:
                value.register_hook(self._by_twice_the_loss)
        return self.outer.gamma(shape), self.outer.width.double().abs() * steepness

    def minimise_variance(self, losses: Tensor) -> None:
        self._losses = losses.detach().double()

    def _by_twice_the_loss(self, gradient: Tensor) -> Tensor:
        assert self._losses is not None, "minimise_variance comes before the backward pass"
        return 2 * self._losses * gradient

    def _shape(self, t: Tensor) -> Tensor:
        """(B,) -> (B,): 0 at t = 0, 1 at t = 1, strictly increasing in between."""
        ends = self._raw(torch.tensor([0.0, 1.0], dtype=torch.float64, device=t.device))
        return (self._raw(t) - ends[0]) / (ends[1] - ends[0])

    def _raw(self, t: Tensor) -> Tensor:
        h1 = self.l1_weight.double().abs() * t + self.l1_bias.double()
        h2 = torch.sigmoid(h1[:, None] * self.l2_weight.double().abs() + self.l2_bias.double())
        return h1 + h2 @ self.l3_weight.double().abs()


class LearnedLinearConfig(LogSNREndsConfig):
    """Linear in t; both end points are trained, from gamma_min and gamma_max."""

    kind: Literal["learned-linear"]

    def build(self) -> LearnedEnds:
        return LearnedEnds(self.gamma_min, self.gamma_max)


class MonotoneConfig(LogSNREndsConfig):
    """The monotone network; `ends: learned` trains the end points too."""

    kind: Literal["monotone"]
    hidden: Annotated[int, Field(ge=1)] = 1024
    ends: Literal["fixed", "learned"] = "learned"

    def build(self) -> MonotoneSchedule:
        return MonotoneSchedule(self.gamma_min, self.gamma_max, self.hidden, self.ends == "learned")


Continuous = Annotated[LinearLogSNRConfig | LearnedLinearConfig | MonotoneConfig, Field(discriminator="kind")]
