"""Inception score (Salimans et al. 2016): exp of the mean KL divergence between p(y | x) and its mean p(y).

From 1 (every image alike) to the number of classes K. It looks at generated images only.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.config.base import Positive
from pipeline.metrics import base
from pipeline.metrics.base import Column, Found, Images, Keyed, MetricConfig
from pipeline.metrics.features import matrix


@dataclass(frozen=True)
class InceptionScore:
    """splits: (S,) the score of each split."""

    splits: NDArray[np.float64]

    @property
    def mean(self) -> float:
        return float(self.splits.mean())

    @property
    def std(self) -> float:
        """Over the splits (divisor S), as printed in papers."""
        return float(self.splits.std())


def inception_score(probabilities: NDArray[np.floating], splits: int, rng: np.random.Generator) -> InceptionScore:
    """The score of `splits` equal parts (up to one image) of (N, K) class probabilities, shuffled by `rng` first.

    Images that come ordered by class would lower the score of every split, hence the shuffle. Raises ValueError for rows
    that are no probabilities, and for fewer images than splits.
    """
    p = matrix(probabilities, least=1)
    if (p < 0).any() or np.abs(p.sum(axis=1) - 1).max() > 1e-3:
        raise ValueError("class probabilities must be 0 or more and sum to 1 for every image; pass a softmax, not logits")
    if len(p) < splits:
        raise ValueError(
            f"evaluate.metrics.inception_score.splits is {splits}; allowed is at most {len(p)}, the number of images"
        )
    return InceptionScore(np.array([_score(part) for part in np.array_split(p[rng.permutation(len(p))], splits)]))


def _score(p: NDArray[np.float64]) -> float:
    """exp mean_i sum_y p(y | x_i) log(p(y | x_i) / p(y)), with 0 log 0 = 0."""
    marginal = np.broadcast_to(p.mean(axis=0), p.shape)
    seen = p > 0
    return float(np.exp((p[seen] * np.log(p[seen] / marginal[seen])).sum() / len(p)))


class Config(MetricConfig):
    """`splits`: equal parts of the images; the score is their mean."""

    splits: Positive

    def largest(self, images: int, half: int) -> dict[str, int]:
        return {"splits": half}


class Metric(base.Metric):
    order = 30
    reads = "probabilities"
    columns = (Column("inception_score", "inception score", "quality", "higher", decimals=2),)
    explanation = (
        "The inception score is 1 where the extractor sees all images alike, and the number of its classes where it sees each "
        "of them equally often and clearly; it looks at no real image."
    )

    @property
    def fewest(self) -> int:
        return int(self.config.splits)

    def measure(self, generated: Images, known: object, rng: Keyed) -> Found:
        found = inception_score(generated.probabilities, self.config.splits, rng("inception score"))
        return Found({"inception_score": found.mean}, {"inception_score_std": found.std}, found)
