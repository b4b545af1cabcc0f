"""Repeats as a metric: how many pairs of a set's own images are equal, or nearly so (duplicates.py)."""

from __future__ import annotations

from pipeline.metrics import base
from pipeline.metrics.base import Column, Found, Images, Keyed, MetricConfig, Real
from pipeline.metrics.duplicates import repeats


class Config(MetricConfig):
    """No settings of its own: what is nearly equal is data.near_duplicate_grey_levels, as in the prepared data."""


class Metric(base.Metric):
    order = 60
    reads = "pixels"
    resampled = False  # a half has a quarter of the pairs
    columns = (
        Column("duplicates", "equal pairs", "memorisation", "lower"),
        Column("near_duplicates", "nearly equal pairs", "memorisation", "lower"),
    )
    explanation = "Pairs are counted among the images of a row."

    @property
    def fewest(self) -> int:
        return 1

    def describe(self, real: Real) -> tuple[int, float]:
        return real.levels, real.near_duplicate_grey_levels

    def measure(self, generated: Images, known: tuple[int, float], rng: Keyed) -> Found:
        return Found(repeats(generated.codes, *known))
