"""Improved precision and recall (Kynkaanniemi et al. 2019), density and coverage (Naeem et al. 2020).

Around every point of a set lies a closed ball whose radius is the distance to the point's k-th nearest neighbour in the
same set, itself not counted. With G generated and R reference images:

    precision  share of generated images in any reference ball           quality
    density    reference balls per generated image, over k               quality; 1 for equal distributions, may exceed 1
    recall     share of reference images in any generated ball           diversity
    coverage   share of reference images with a generated one in their ball     diversity

Everything is returned per image, so that reduction and resampling happen outside. Distances are computed in float64 in
blocks of rows (memory: a block x the larger set), squared and not rooted. Rounding may make that of two equal points a tiny
negative number, which is as much inside every ball as zero is.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.config.base import Positive
from pipeline.metrics import base
from pipeline.metrics.base import Column, Found, Images, Keyed, MetricConfig, Real
from pipeline.metrics.distances import blocks
from pipeline.metrics.features import matrix


@dataclass(frozen=True)
class Neighbourhoods:
    """Per image: balls (G,) int64, the reference balls it lies in; recalled (R,) bool; covered (R,) bool."""

    balls: NDArray[np.int64]
    recalled: NDArray[np.bool_]
    covered: NDArray[np.bool_]
    k: int

    @property
    def precise(self) -> NDArray[np.bool_]:
        """(G,): whether a generated image lies in any reference ball."""
        return self.balls > 0

    @property
    def densities(self) -> NDArray[np.float64]:
        """(G,): what each generated image adds to the mean that is the density."""
        return self.balls / self.k


@dataclass(frozen=True)
class Manifold:
    """points (N, d) and squared radii (N,) of the balls around them, float64."""

    points: Tensor
    radii: Tensor
    k: int


def manifold(features: NDArray[np.floating], k: int) -> Manifold:
    """Balls of the k-th nearest neighbour. Raises ValueError for fewer than k + 1 points or values that are not finite."""
    if len(features) < k + 1:
        raise ValueError(
            f"evaluate.metrics.prdc.nearest_k is {k}; allowed is at most {len(features) - 1}, the images of a set less one"
        )
    points = torch.from_numpy(matrix(features, least=2))
    radii = []
    for start, distances in blocks(points, points):
        rows = torch.arange(len(distances))
        distances[rows, start + rows] = torch.inf
        radii.append(distances.topk(k, dim=1, largest=False).values[:, -1])
    return Manifold(points, torch.cat(radii), k)


def neighbourhoods(generated: Manifold, reference: Manifold) -> Neighbourhoods:
    """Who lies in whose ball. Raises ValueError if the widths of the features differ."""
    if generated.points.shape[1] != reference.points.shape[1]:
        widths = f"{generated.points.shape[1]} and {reference.points.shape[1]}"
        raise ValueError(f"features have widths {widths}; use one extractor for both sets")
    assert generated.k == reference.k, (generated.k, reference.k)
    balls = torch.zeros(len(generated.points), dtype=torch.int64)
    recalled, covered = [], []
    for start, distances in blocks(reference.points, generated.points):
        inside = distances <= reference.radii[start : start + len(distances), None]
        balls += inside.sum(dim=0)
        covered.append(inside.any(dim=1))
        recalled.append((distances <= generated.radii).any(dim=1))
    return Neighbourhoods(balls.numpy(), torch.cat(recalled).numpy(), torch.cat(covered).numpy(), reference.k)


def of_subsets(points: NDArray[np.floating], subsets: NDArray[np.int64], k: int, reference: Manifold) -> list[Neighbourhoods]:
    """neighbourhoods(manifold(points[subset], k), reference) for each row of `subsets`, (S, n) indices without repeats.

    Every distance is computed once instead of once per subset: with 100 halves, in a tenth of the time.
    """
    generated = torch.from_numpy(matrix(points, least=k + 1))
    assert generated.shape[1] == reference.points.shape[1], "the same features as those of the whole set"
    count, chosen = len(generated), torch.from_numpy(subsets)
    radii = torch.full((len(chosen), count), -torch.inf, dtype=torch.float64)  # nothing lies in the ball of who is left out
    for start, distances in blocks(generated, generated):
        rows = torch.arange(len(distances))
        distances[rows, start + rows] = torch.inf
        for number, subset in enumerate(chosen):
            own = subset[(subset >= start) & (subset < start + len(distances))]
            radii[number, own] = distances[own - start][:, subset].topk(k, dim=1, largest=False).values[:, -1]
    members = torch.zeros(len(chosen), count).scatter_(1, chosen, 1.0)
    balls, widest = torch.zeros(count, dtype=torch.int64), radii.amax(dim=0)
    recalled, covered = [], []
    for start, distances in blocks(reference.points, generated):
        inside = distances <= reference.radii[start : start + len(distances), None]
        balls += inside.sum(dim=0)
        covered.append(members @ inside.float().T > 0)
        # Most pairs lie in no ball of any subset: the few others are the only ones to look at again.
        row, column = (distances <= widest).nonzero(as_tuple=True)
        apart, reached = distances[row, column], torch.zeros(len(radii), len(distances), dtype=torch.bool)
        for number, own in enumerate(radii):
            reached[number, row[apart <= own[column]]] = True
        recalled.append(reached)
    rows_recalled, rows_covered = torch.cat(recalled, dim=1).numpy(), torch.cat(covered, dim=1).numpy()
    return [
        Neighbourhoods(balls[subset].numpy(), rows_recalled[number], rows_covered[number], k)
        for number, subset in enumerate(chosen)
    ]


class Config(MetricConfig):
    """`nearest_k`: which nearest neighbour the radius of a ball reaches to."""

    nearest_k: Positive

    def largest(self, images: int, half: int) -> dict[str, int]:
        return {"nearest_k": half - 1}


class Metric(base.Metric):
    order = 40
    reads = "features"
    columns = (
        Column("precision", "precision", "quality", "higher", decimals=3, on_front=True),
        Column("density", "density", "quality", "higher", decimals=3),
        Column("recall", "recall", "diversity", "higher", decimals=3, on_front=True),
        Column("coverage", "coverage", "diversity", "higher", decimals=3, on_front=True),
    )
    explanation = (
        "Precision and density say how many samples look real; recall and coverage, how much of the reference they reach."
    )

    @property
    def fewest(self) -> int:
        return int(self.config.nearest_k) + 1

    def describe(self, real: Real) -> Manifold:
        return manifold(real.reference.features, self.config.nearest_k)

    def measure(self, generated: Images, known: Manifold, rng: Keyed) -> Found:
        found = neighbourhoods(manifold(generated.features, self.config.nearest_k), known)
        return Found(_shares(found), results=found)

    def of_halves(
        self, generated: Images, halves: NDArray[np.int64], known: Manifold, rng: Keyed
    ) -> dict[str, NDArray[np.float64]]:
        shares = [_shares(found) for found in of_subsets(generated.features, halves, self.config.nearest_k, known)]
        return {name: np.array([share[name] for share in shares]) for name in shares[0]}


def _shares(found: Neighbourhoods) -> dict[str, float]:
    return {
        "precision": float(found.precise.mean()),
        "density": float(found.densities.mean()),
        "recall": float(found.recalled.mean()),
        "coverage": float(found.covered.mean()),
    }
