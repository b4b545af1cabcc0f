"""Kernel inception distance (Binkowski et al. 2018, section 4): unbiased MMD^2 with the kernel (x.y / d + 1)^3.

The name is kept for any extractor, as the file formats do; which one it was stands beside the number.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from pipeline.config.base import Positive
from pipeline.metrics import base
from pipeline.metrics.base import Column, Found, Images, Keyed, MetricConfig, Real
from pipeline.metrics.features import matrix

BLOCK = 512


@dataclass(frozen=True)
class KernelDistance:
    """subsets: (S,) unbiased MMD^2, one per pair of subsets; single values may be negative, as an unbiased estimate must."""

    subsets: NDArray[np.float64]

    @property
    def mean(self) -> float:
        return float(self.subsets.mean())

    @property
    def std(self) -> float:
        """Over the subsets (divisor S): the deviation that is printed beside KID; not a standard error of the mean."""
        return float(self.subsets.std())


def kernel(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N, M): (x_i.y_j / d + 1)^3 of (N, d) and (M, d)."""
    # By torch, as all heavy work: numpy's own pool of threads would fight with torch's for the cores.
    products = torch.from_numpy(first) @ torch.from_numpy(second).T
    return np.asarray((products / first.shape[1] + 1).pow(3).numpy())


def kernel_sum(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """sum_ij (x_i.y_j / d + 1)^3 over (N, d) and (M, d), in blocks of rows."""
    return float(sum(kernel(rows, second).sum() for rows in _blocks(first)))


def within(points: NDArray[np.float64]) -> float:
    """Mean kernel over the N (N - 1) pairs i != j."""
    count = len(points)
    return float((kernel_sum(points, points) - _own(points).sum()) / (count * (count - 1)))


def between(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """Mean kernel over all N M pairs."""
    return kernel_sum(first, second) / (len(first) * len(second))


def mmd(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """Unbiased MMD^2 between (N, d) and (M, d): a U-statistic, no pair (i, i) counts. (ibid., equation 4)"""
    return within(first) + within(second) - 2 * between(first, second)


def kernel_distance(
    generated: NDArray[np.floating],
    reference: NDArray[np.floating],
    subsets: int,
    size: int,
    rng: np.random.Generator,
) -> KernelDistance:
    """MMD^2 on `subsets` pairs of random subsets of `size` images each, drawn without replacement.

    Raises ValueError if either set is smaller than a subset, or features are not finite or differ in width.
    """
    x, y = matrix(generated, least=2), matrix(reference, least=2)
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"features have widths {x.shape[1]} and {y.shape[1]}; use one extractor for both sets")
    smaller = min(len(x), len(y))
    if size > smaller:
        raise ValueError(
            f"evaluate.metrics.kid.subset_size is {size}; allowed is at most {smaller}, the images of the smaller set"
        )
    values = [
        mmd(x[rng.choice(len(x), size, replace=False)], y[rng.choice(len(y), size, replace=False)]) for _ in range(subsets)
    ]
    return KernelDistance(np.array(values))


def of_subsets(
    points: NDArray[np.float64], subsets: NDArray[np.int64], reference: NDArray[np.float64], reference_within: float
) -> NDArray[np.float64]:
    """(S,): unbiased MMD^2 of points[subset] and `reference` for each row of `subsets`, (S, n) indices without repeats.

    `reference_within` is within(reference). The kernel is computed once instead of once per subset.
    """
    size = subsets.shape[1]
    members = np.zeros((len(subsets), len(points)))
    np.put_along_axis(members, subsets, 1.0, axis=1)
    pairs, across = -(members @ _own(points)), np.zeros(len(subsets))
    for start in range(0, len(points), BLOCK):
        rows, inside = points[start : start + BLOCK], members[:, start : start + BLOCK]
        pairs += (inside @ kernel(rows, points) * members).sum(axis=1)
        across += inside @ kernel(rows, reference).sum(axis=1)
    return np.asarray(pairs / (size * (size - 1)) + reference_within - 2 * across / (size * len(reference)))


def _own(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N,): the kernel of every point with itself."""
    return np.asarray(((points**2).sum(axis=1) / points.shape[1] + 1) ** 3)


def _blocks(points: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    return [points[start : start + BLOCK] for start in range(0, len(points), BLOCK)]


class Config(MetricConfig):
    """`subsets`: pairs of random subsets of `subset_size` images each; KID is their mean."""

    subsets: Positive
    subset_size: Annotated[int, Field(ge=2)]

    def largest(self, images: int, half: int) -> dict[str, int]:
        return {"subset_size": images}


class Metric(base.Metric):
    order = 20
    reads = "features"
    columns = (Column("kid", "KID", "quality", "lower", on_front=True),)
    explanation = "KID is the kernel distance of Bińkowski et al. in the same features; it has no bias, and may be negative."

    def describe(self, real: Real) -> tuple[NDArray[np.float64], float]:
        """The features of the reference, and the mean kernel within it."""
        points = matrix(real.reference.features, least=2)
        return points, within(points)

    def measure(self, generated: Images, known: tuple[NDArray[np.float64], float], rng: Keyed) -> Found:
        config, (reference, _) = self.config, known
        found = kernel_distance(generated.features, reference, config.subsets, config.subset_size, rng("kid subsets"))
        return Found({"kid": found.mean}, {"kid_std": found.std}, found)

    def of_halves(
        self, generated: Images, halves: NDArray[np.int64], known: tuple[NDArray[np.float64], float], rng: Keyed
    ) -> dict[str, NDArray[np.float64]]:
        """The whole half instead of subsets of it: the same expectation, and no Monte Carlo error of subsets."""
        return {"kid": of_subsets(generated.features, halves, *known)}
