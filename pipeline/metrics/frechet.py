"""Frechet distance between Gaussians fitted to two sets of features (Heusel et al. 2017, equation 6).

    |mu_1 - mu_2|^2 + tr S_1 + tr S_2 - 2 tr (S_1 S_2)^(1/2),        S with divisor N - 1

No matrix square root is taken. With S_i = R_i^T R_i, where R_i is the triangular factor of the centred features over
sqrt(N - 1), the eigenvalues of S_1 S_2 are the squared singular values of R_1 R_2^T, so the last trace is the sum of those
singular values. This holds for N < d too, where S is singular and square roots of S_1 S_2 break down, never squares a
condition number, and knows neither complex numbers nor negative eigenvalues that would have to be dropped.

The distance is biased upwards for few images (by about 1/N): numbers with different N do not compare.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.metrics import base
from pipeline.metrics.base import Column, Found, Images, Keyed, MetricConfig, Real
from pipeline.metrics.features import matrix


@dataclass(frozen=True)
class Moments:
    """mean (d,); factor (min(N, d), d) with factor^T factor = the covariance."""

    mean: NDArray[np.float64]
    factor: NDArray[np.float64]


def moments(features: NDArray[np.floating]) -> Moments:
    """Mean and covariance factor of (N, d) features. Raises ValueError for N < 2 and for values that are not finite."""
    points = matrix(features, least=2)
    mean = points.mean(axis=0)
    # By torch, as all heavy work: numpy's own pool of threads would fight with torch's for the cores.
    factor = torch.linalg.qr(torch.from_numpy((points - mean) / np.sqrt(len(points) - 1)), mode="r").R
    return Moments(mean, factor.numpy())


def frechet_distance(first: Moments, second: Moments) -> float:
    """The squared Frechet distance; a rounding error of about 1e-13 tr S may make that of equal sets negative: not clipped."""
    if first.mean.shape != second.mean.shape:
        raise ValueError(f"features have widths {len(first.mean)} and {len(second.mean)}; use one extractor for both sets")
    shift = np.sum((first.mean - second.mean) ** 2)
    traces = np.sum(first.factor**2) + np.sum(second.factor**2)
    overlap = torch.linalg.svdvals(torch.from_numpy(first.factor) @ torch.from_numpy(second.factor).T).sum()
    return float(shift + traces - 2 * overlap)


class Config(MetricConfig):
    """No settings."""


class Metric(base.Metric):
    order = 10
    reads = "features"

    def __init__(self, name: str, config: Config, distance: str) -> None:
        super().__init__(name, config, distance)
        title = distance.upper()
        self.columns = (Column(distance, title, "quality", "lower", interval_in_table=True, on_front=True),)
        if distance == "fid":
            self.explanation = "FID is the Fréchet distance in Inception-v3 features, with the weights named here."
        else:
            self.explanation = (
                f"{title} is the Fréchet distance between Gaussians fitted to the extractor's features: it is not FID, which "
                "is defined by Inception-v3, and compares only within one extractor and one number of images."
            )

    def describe(self, real: Real) -> Moments:
        return moments(real.reference.features)

    def measure(self, generated: Images, known: Moments, rng: Keyed) -> Found:
        return Found({self.distance: frechet_distance(moments(generated.features), known)})
