"""Halving and doubling of feature maps through the FIR filter [1, 3, 3, 1] (Karras et al. 2020), as depthwise convolutions.

The filter is its own low-pass: a stride-2 convolution without it folds high frequencies onto low ones, and a nearest-neighbour
doubling leaves blocks. Beyond the border stands 0, as in the reference code.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

FILTER = (1.0, 3.0, 3.0, 1.0)


class _FIR(nn.Module):
    """The filter's outer product, once per channel; `gain` is the sum of its weights."""

    weight: Tensor

    def __init__(self, channels: int, gain: float) -> None:
        super().__init__()
        self.channels = channels
        line = torch.tensor(FILTER) / sum(FILTER)
        self.register_buffer("weight", gain * torch.outer(line, line).repeat(channels, 1, 1, 1), persistent=False)

    def filtered(self, h: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, h: Tensor) -> Tensor:
        # In float32 whatever the autocast: depthwise gradients in bf16 are ten times slower on a CPU, casts included.
        with torch.autocast(h.device.type, enabled=False):
            return self.filtered(h.float()).to(h.dtype)


class FIRDown(_FIR):
    """(B, C, H, W) -> (B, C, H // 2, W // 2): filtered, then every second value; a constant keeps its value."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, gain=1.0)

    def filtered(self, h: Tensor) -> Tensor:
        return F.conv2d(h, self.weight, stride=2, padding=1, groups=self.channels)


class FIRUp(_FIR):
    """(B, C, H, W) -> (B, C, 2 H, 2 W): zeros in between, then filtered; a constant keeps its value (gain 4 for the zeros)."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, gain=4.0)

    def filtered(self, h: Tensor) -> Tensor:
        return F.conv_transpose2d(h, self.weight, stride=2, padding=1, groups=self.channels)
