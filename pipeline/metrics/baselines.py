"""What numbers mean next to images that need no model: the best that can be hoped for, and two failures.

training images   other real images: what is left is the difference of two finite sets
mean image        the mean training image plus Gaussian noise of each pixel's deviation: right moments, no structure
noise             uniform codes
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BLOCK = 1000


@dataclass(frozen=True)
class Coded:
    """images (N, C, H, W) uint8; clipped: the share of pixels that fell outside the codes 0..levels - 1 and were put on 0 or
    the last code."""

    images: NDArray[np.uint8]
    clipped: float


def training_images(train: NDArray[np.uint8], count: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """`count` of the (M, C, H, W) training images, without replacement. Raises ValueError if there are fewer."""
    if count > len(train):
        raise ValueError(f"evaluate.baseline_images is {count}; allowed is at most {len(train)}, the training images")
    return train[np.sort(rng.choice(len(train), count, replace=False))]


def mean_image(train: NDArray[np.uint8], count: int, levels: int, rng: np.random.Generator) -> Coded:
    """`count` draws of N(mean, std^2), pixel by pixel over the (M, C, H, W) training images, rounded to codes."""
    total = np.zeros(train.shape[1:])
    squares = np.zeros(train.shape[1:])
    for start in range(0, len(train), BLOCK):
        block = train[start : start + BLOCK].astype(np.float64)
        total += block.sum(axis=0)
        squares += (block**2).sum(axis=0)
    mean = total / len(train)
    # Sums of integers are exact in float64; the difference of a constant pixel may still round below zero.
    std = np.sqrt(np.maximum(squares / len(train) - mean**2, 0))
    codes = np.rint(mean + std * rng.standard_normal((count, *mean.shape)))
    outside = (codes < 0) | (codes > levels - 1)
    return Coded(codes.clip(0, levels - 1).astype(np.uint8), float(outside.mean()))


def noise(shape: tuple[int, int, int], count: int, levels: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """(count, *shape) codes, uniform on 0..levels - 1."""
    return rng.integers(0, levels, (count, *shape), dtype=np.uint8)
