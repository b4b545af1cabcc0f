"""Layers that several networks share."""

from __future__ import annotations

import math
from typing import TypeVar

import torch
from torch import Tensor, nn

Layer = TypeVar("Layer", nn.Conv2d, nn.Linear)


def zeroed(layer: Layer) -> Layer:
    """The layer with weights and bias at zero, so that its block begins as the identity."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def group_norm(channels: int, per_group: int = 16) -> nn.GroupNorm:
    """Groups of 16 channels: in bf16 channels-last, fewer per group fall off the fast path by a factor of ten."""
    assert channels % per_group == 0, (channels, per_group)
    return nn.GroupNorm(channels // per_group, channels, eps=1e-5)


class Sinusoid(nn.Module):
    """(B,) scalars of about [0, 1] -> (B, width): sin and cos of 1000 u times a geometric ladder of frequencies."""

    frequencies: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        half = width // 2
        self.register_buffer(
            "frequencies", 1000 * torch.exp(-math.log(10_000) * torch.arange(half) / (half - 1)), persistent=False
        )

    def forward(self, u: Tensor) -> Tensor:
        angles = u[:, None] * self.frequencies
        return torch.cat([angles.sin(), angles.cos()], 1)


def fourier_features(z: Tensor, octaves: tuple[int, ...]) -> Tensor:
    """(B, C, H, W) -> (B, 2 C len(octaves), H, W): sin and cos of 2^k 2 pi z (Kingma et al. 2021, section 5.1).

    They let a convolution see differences of one grey level, which is what bits/dim is made of.
    """
    waves = [wave for k in octaves for wave in ((2**k * 2 * math.pi * z).sin(), (2**k * 2 * math.pi * z).cos())]
    return torch.cat(waves, 1)
