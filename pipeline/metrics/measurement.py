"""All sample metrics of one set of generated images against one reference, with intervals."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.metrics import kid
from pipeline.metrics.features import Features, matrix
from pipeline.metrics.frechet import Moments, frechet_distance, moments
from pipeline.metrics.inception_score import InceptionScore, inception_score
from pipeline.metrics.interval import Interval, halves, interval
from pipeline.metrics.prdc import Manifold, Neighbourhoods, manifold, neighbourhoods, of_subsets

# rng(purpose): a generator keyed by the purpose, so that no metric's draws depend on another's.
Keyed = Callable[[str], np.random.Generator]

QUALITY = ("fd", "kid", "precision", "density", "inception_score")
DIVERSITY = ("recall", "coverage")


@dataclass(frozen=True)
class Settings:
    """neighbours: k of precision, recall, density and coverage; replicates: halves for the intervals, 0 for none."""

    nearest_k: int
    kid_subsets: int
    kid_subset_size: int
    inception_score_splits: int
    replicates: int


@dataclass(frozen=True)
class Reference:
    """What the metrics need of the reference images, computed once. kernel: the mean kernel within the set."""

    features: NDArray[np.float64]
    moments: Moments
    manifold: Manifold
    kernel: float


@dataclass(frozen=True)
class Measurement:
    """Per-image, per-subset and per-split results; `intervals` by the names of `values`, empty if none were asked for."""

    frechet: float
    kid: kid.KernelDistance
    inception_score: InceptionScore
    neighbourhoods: Neighbourhoods
    intervals: Mapping[str, Interval]

    @property
    def values(self) -> dict[str, float]:
        """The numbers that are compared: QUALITY and DIVERSITY by name."""
        return {
            "fd": self.frechet,
            "kid": self.kid.mean,
            "inception_score": self.inception_score.mean,
            **_shares(self.neighbourhoods),
        }


def describe(features: NDArray[np.floating], settings: Settings) -> Reference:
    """(R, F) features of the reference images. Raises ValueError for too few images or values that are not finite."""
    points = matrix(features, least=2)
    return Reference(points, moments(points), manifold(points, settings.nearest_k), kid.within(points))


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Hundreds of small operations: on a busy machine, threads would wait for each other much longer than they work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@one_thread()
def measure(generated: Features, reference: Reference, settings: Settings, rng: Keyed) -> Measurement:
    """Every metric of N generated images. Raises ValueError for too few images, or features that are not finite."""
    points = matrix(generated.features, least=2)
    count = len(points)
    needed = max(settings.nearest_k + 1, settings.inception_score_splits, 2)
    if settings.replicates and count < 2 * needed:
        raise ValueError(
            f"there are {count} images; intervals from halves of them need {2 * needed} or more with evaluate.nearest_k "
            f"{settings.nearest_k} and evaluate.inception_score_splits {settings.inception_score_splits}; "
            "sample more, or set evaluate.interval_resamples to 0"
        )
    distance = kid.kernel_distance(
        points, reference.features, settings.kid_subsets, settings.kid_subset_size, rng("kid subsets")
    )
    measured = Measurement(
        frechet=frechet_distance(moments(points), reference.moments),
        kid=distance,
        inception_score=inception_score(generated.probabilities, settings.inception_score_splits, rng("inception score")),
        neighbourhoods=neighbourhoods(manifold(points, settings.nearest_k), reference.manifold),
        intervals={},
    )
    if not settings.replicates:
        return measured
    replicates = _replicates(generated, points, reference, settings, rng)
    intervals = {name: interval(measured.values[name], np.array(found), count) for name, found in replicates.items()}
    return replace(measured, intervals=intervals)


def _replicates(
    generated: Features, points: NDArray[np.float64], reference: Reference, settings: Settings, rng: Keyed
) -> dict[str, list[float]]:
    """Every metric of each of the halves."""
    shuffle, chosen = rng("inception score of halves"), halves(len(points), settings.replicates, rng("halves"))
    shares = [_shares(some) for some in of_subsets(points, chosen, settings.nearest_k, reference.manifold)]
    splits = settings.inception_score_splits
    return {
        "fd": [frechet_distance(moments(points[half]), reference.moments) for half in chosen],
        # The whole half instead of subsets of it: the same expectation, and no Monte Carlo error of subsets.
        "kid": kid.of_subsets(points, chosen, reference.features, reference.kernel).tolist(),
        "inception_score": [inception_score(generated.probabilities[half], splits, shuffle).mean for half in chosen],
        **{name: [share[name] for share in shares] for name in shares[0]},
    }


def _shares(found: Neighbourhoods) -> dict[str, float]:
    return {
        "precision": float(found.precise.mean()),
        "density": float(found.densities.mean()),
        "recall": float(found.recalled.mean()),
        "coverage": float(found.covered.mean()),
    }
