"""Codes of pixels and the model space [-1, 1], there and back.

Code k of L levels stands at the centre of its bin, (2k + 1)/L - 1; bins are 2/L wide; the outer bins reach to infinity.
"""

from __future__ import annotations

import torch
from torch import Tensor


def dequantize(codes: Tensor, levels: int) -> Tensor:
    """Codes 0..L-1 -> float32 bin centres in [-1 + 1/L, 1 - 1/L]."""
    return (2 * codes.float() + 1) / levels - 1


def quantize(x: Tensor, levels: int) -> Tensor:
    """The nearest code of each pixel, uint8: what lies beyond the outer bins goes to the outer codes."""
    return ((x + 1) * (levels / 2)).floor().clamp(0, levels - 1).to(torch.uint8)
