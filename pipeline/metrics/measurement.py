"""Every metric of the folder on one set of generated images against one reference, with intervals."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.config import plugins
from pipeline.config.load import read_metrics
from pipeline.metrics.base import GROUPS, Column, Found, Images, Keyed, Metric, Real
from pipeline.metrics.features import Features, matrix
from pipeline.metrics.interval import Interval, halves, interval


@dataclass(frozen=True)
class Reference:
    """known: by the name of a metric, what it needs of the real images; resamples: halves for the intervals, 0 for none."""

    metrics: tuple[Metric, ...]
    known: Mapping[str, Any]
    resamples: int


@dataclass(frozen=True)
class Measurement:
    """found: by the name of a metric; intervals: by the keys of the columns that have one, empty if none were asked for."""

    metrics: tuple[Metric, ...]
    found: Mapping[str, Found]
    intervals: Mapping[str, Interval]

    @property
    def values(self) -> dict[str, float]:
        """Every number by its key, in the order of the tables."""
        every = {key: value for found in self.found.values() for key, value in found.values.items()}
        return {column.key: every[column.key] for column in columns(self.metrics)}


def open_metrics(settings: Mapping[str, Mapping[str, Any]], distance: str) -> tuple[Metric, ...]:
    """The metrics of the folder in the order of their columns. Raises ValueError for settings that one cannot read.

    settings: evaluate.metrics of params.yaml; distance: what the Frechet distance in the extractor's features is called.
    """
    found = [plugins.module("metrics", name).Metric(name, config, distance) for name, config in read_metrics(settings).items()]
    ordered = tuple(sorted(found, key=lambda metric: (metric.order, metric.name)))
    keys = [column.key for metric in ordered for column in metric.columns]
    assert len(keys) == len(set(keys)), f"two metrics have one key: {sorted(keys)}"
    return ordered


def columns(metrics: tuple[Metric, ...]) -> list[Column]:
    """Every column, in the order of the tables: by group, and within a group by metric."""
    return [column for group in GROUPS for metric in metrics for column in metric.columns if column.group == group]


def description(metrics: tuple[Metric, ...]) -> list[dict[str, Any]]:
    """What tables need to know of the metrics, for JSON."""
    return [
        {
            "name": metric.name,
            "explanation": metric.explanation,
            "intervals": metric.resampled,
            "columns": [asdict(column) for column in metric.columns],
        }
        for metric in metrics
    ]


def images(codes: NDArray[np.uint8], found: Features) -> Images:
    """A set to measure. Raises ValueError for fewer than 2 images or features that are not finite."""
    return Images(codes, matrix(found.features, least=2), found.probabilities)


def describe(real: Real, metrics: tuple[Metric, ...], resamples: int) -> Reference:
    """Everything that is computed once. Raises ValueError for too few real images."""
    return Reference(metrics, {metric.name: metric.describe(real) for metric in metrics}, resamples)


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Hundreds of small operations: on a busy machine, threads would wait for each other much longer than they work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def measure(generated: Images, reference: Reference, rng: Keyed) -> Measurement:
    """Every metric of N generated images. Raises ValueError for too few images."""
    resampled = [metric for metric in reference.metrics if metric.resampled and reference.resamples]
    _enough(len(generated), resampled)
    found: dict[str, Found] = {}
    for metric in reference.metrics:
        # Searches among all pixels are large products, and faster with all threads.
        with contextlib.nullcontext() if metric.reads == "pixels" else one_thread():
            found[metric.name] = metric.measure(generated, reference.known[metric.name], rng)
        keys = [column.key for column in metric.columns]
        assert set(found[metric.name].values) == set(keys), f"metric {metric.name} measures {found[metric.name]}, not {keys}"
    measured = Measurement(reference.metrics, found, {})
    if not resampled:
        return measured
    chosen, values = halves(len(generated), reference.resamples, rng("halves")), measured.values
    intervals: dict[str, Interval] = {}
    with one_thread():
        for metric in resampled:
            resamples = metric.of_halves(generated, chosen, reference.known[metric.name], rng)
            intervals |= {key: interval(values[key], each, len(generated)) for key, each in resamples.items()}
    ordered = {key: intervals[key] for key in values if key in intervals}
    return Measurement(reference.metrics, found, ordered)


def _enough(count: int, resampled: list[Metric]) -> None:
    """Raises ValueError where a half of the images is too few for one of the metrics."""
    most = max(resampled, key=lambda metric: metric.fewest, default=None)
    if most is not None and count < 2 * most.fewest:
        raise ValueError(
            f"there are {count} images; intervals from halves of them need {2 * most.fewest} or more with the metric "
            f"{most.name}; sample more, ask less by evaluate.metrics.{most.name}, or set evaluate.interval_resamples to 0"
        )
