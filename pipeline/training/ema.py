"""An exponential moving average of weights whose horizon grows with the run."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def decay(step: int, fraction: float, longest: float) -> float:
    """1 - 1/horizon after `step` updates, where the horizon is `fraction` of the steps so far, from 1 to `longest` steps.

    A constant decay averages noise into a short run for thousands of steps; a tenth of the steps so far fits any length.
    """
    return 1 - 1 / min(max(fraction * step, 1.0), longest)


class Average:
    """Follows the parameters of a model; its buffers (loss histories) are copied."""

    def __init__(self, model: nn.Module) -> None:
        self.tensors = {name: value.detach().clone() for name, value in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module, decay: float) -> None:
        parameters = dict(model.named_parameters())
        own = [self.tensors[name] for name in parameters]
        torch._foreach_lerp_(own, [value.detach() for value in parameters.values()], 1 - decay)
        for name, value in model.state_dict().items():
            if name not in parameters:
                self.tensors[name].copy_(value)

    @torch.no_grad()
    def swap(self, model: nn.Module) -> None:
        """Exchanges the averaged parameters with the model's own; calling it twice changes nothing."""
        for name, value in model.named_parameters():
            held = value.detach().clone()
            value.copy_(self.tensors[name])
            self.tensors[name].copy_(held)

    def state(self) -> dict[str, Tensor]:
        return self.tensors

    @torch.no_grad()
    def load(self, tensors: dict[str, Tensor]) -> None:
        for name, value in self.tensors.items():
            value.copy_(tensors[name])
