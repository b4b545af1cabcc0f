"""Two samples of seeds against each other: Welch's t-test, the interval of the mean difference, and effect size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

LEVEL = 0.95


@dataclass(frozen=True)
class Welch:
    """`difference` is mean(a) - mean(b), [low, high] its two-sided 95 % interval; `p_lower` belongs to the alternative that
    a's mean is lower. `hedges_g` is the difference in pooled standard deviations: below 0 where a is lower."""

    difference: float
    low: float
    high: float
    t: float
    degrees_of_freedom: float
    p_lower: float
    hedges_g: float


def welch(a: Sequence[float], b: Sequence[float]) -> Welch:
    """Welch (1947): variances may differ. Raises ValueError for fewer than two values, or where neither sample varies."""
    import numpy as np
    from scipy import stats

    for values in (a, b):
        if len(values) < 2:
            raise ValueError(f"a sample has {len(values)} value; allowed: 2 or more, as one says nothing about spread")
    if len(set(a)) == 1 and len(set(b)) == 1:
        raise ValueError(f"all values are {a[0]} and {b[0]}; a t-test needs values that differ within a sample")
    two_sided = stats.ttest_ind(a, b, equal_var=False)
    interval = two_sided.confidence_interval(LEVEL)
    difference = float(np.mean(a) - np.mean(b))
    degrees = len(a) + len(b) - 2
    pooled = ((len(a) - 1) * np.var(a, ddof=1) + (len(b) - 1) * np.var(b, ddof=1)) / degrees
    # The factor that takes the bias out of Cohen's d (Hedges 1981, its exact form).
    unbiased = math.exp(math.lgamma(degrees / 2) - math.lgamma((degrees - 1) / 2)) / math.sqrt(degrees / 2)
    return Welch(
        difference,
        float(interval.low),
        float(interval.high),
        float(two_sided.statistic),
        float(two_sided.df),
        float(stats.ttest_ind(a, b, equal_var=False, alternative="less").pvalue),
        unbiased * difference / math.sqrt(pooled),
    )
