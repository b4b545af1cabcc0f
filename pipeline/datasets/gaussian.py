"""Synthetic images of independent normal pixels: density, entropy and optimal denoiser are known, for tests.

A pixel is x ~ N(mean, std^2) in model space, coded to the nearest of `levels` bins whose centres are (2k + 1)/levels - 1. The
bins cover [-1, 1]; what falls outside goes to the end bins, is counted, and is refused where it would be more than one in a
thousand.
"""

from __future__ import annotations

import math
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from pipeline.config.base import NotNegative, Positive, StrictConfig
from pipeline.datasets._raw import Raw

OUTSIDE_ALLOWED = 1e-3


class Config(StrictConfig):
    """mean, std in model space [-1, 1]; shape is (C, H, W); train and test are numbers of images."""

    shape: tuple[Positive, Positive, Positive] = (1, 8, 8)
    mean: Annotated[float, Field(gt=-1, lt=1)] = 0.1
    std: Annotated[float, Field(gt=0)] = 0.25
    train: Positive = 2000
    test: Positive = 500
    levels: Annotated[int, Field(ge=2, le=256)] = 256
    seed: NotNegative = 0

    @model_validator(mode="after")
    def _fits(self) -> Config:
        if self.shape[0] not in (1, 3):
            raise ValueError(
                f"data.source.shape is {list(self.shape)}; allowed: 1 (grey) or 3 (red, green, blue) channels, which come "
                "first, as samples are drawn"
            )
        outside = outside_probability(self.mean, self.std)
        if outside > OUTSIDE_ALLOWED:
            raise ValueError(
                f"data.source.std is {self.std} with data.source.mean {self.mean}, which puts {outside:.2g} of the pixels "
                f"outside [-1, 1]; allowed: at most {OUTSIDE_ALLOWED}; lower data.source.std"
            )
        return self


def outside_probability(mean: float, std: float) -> float:
    """P(|x| > 1) for x ~ N(mean, std^2)."""
    return 0.5 * math.erfc((1 - mean) / (std * math.sqrt(2))) + 0.5 * math.erfc((1 + mean) / (std * math.sqrt(2)))


def load(cfg: Config) -> Raw:
    """One class; `density` has mean, std (model space) and how many pixels of each split fell outside [-1, 1]."""
    train, train_outside = _draw(cfg, cfg.train, 0)
    test, test_outside = _draw(cfg, cfg.test, 1)
    density = {
        "mean": cfg.mean,
        "std": cfg.std,
        "pixels": {"train": train.size, "test": test.size},
        "pixels_outside": {"train": train_outside, "test": test_outside},
    }
    source = f"Synthetic: independent pixels from N({cfg.mean}, {cfg.std}^2) in [-1, 1], seed {cfg.seed}; no rights reserved."
    labels = np.zeros(max(cfg.train, cfg.test), np.int64)
    return Raw(train, labels[: cfg.train], test, labels[: cfg.test], cfg.levels, 1, ("noise",), source, density)


def _draw(cfg: Config, count: int, split: int) -> tuple[NDArray[np.uint8], int]:
    """Codes (count, C, H, W) and the number of pixels outside [-1, 1]."""
    x = np.random.default_rng([cfg.seed, split]).normal(cfg.mean, cfg.std, (count, *cfg.shape))
    codes = np.floor((x + 1) / 2 * cfg.levels).clip(0, cfg.levels - 1)
    return codes.astype(np.uint8), int((np.abs(x) > 1).sum())
