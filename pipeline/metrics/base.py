"""The contract of a metric. A metric is one module of this folder with a `Config` and a `Metric`; nothing lists them.

    class Config(MetricConfig):     its settings, the block evaluate.metrics.<module> of params.yaml; without settings, no block
    class Metric(base.Metric):      its columns and how they are measured

What it says of its columns goes with the numbers into every evaluation, so that tables know titles and directions without
the code of the metric.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.config.base import StrictConfig

# rng(purpose): a generator keyed by the purpose, so that no metric's draws depend on another's.
Keyed = Callable[[str], np.random.Generator]

GROUPS = ("quality", "diversity", "memorisation")


class MetricConfig(StrictConfig):
    """The settings of a metric."""

    def largest(self, images: int, half: int) -> dict[str, int]:
        """Field -> the largest value that goes with so many images, and half of them where intervals are wanted."""
        del images, half
        return {}


@dataclass(frozen=True)
class Column:
    """One number of a metric, as files and tables have it.

    key: its name in JSON; group: where it stands there; better: which way it is better, None for neither; decimals: places in
    tables, None for 3 significant digits; interval_in_table: whether the table of all numbers shows its interval; on_front:
    whether the table of the Pareto front shows it.
    """

    key: str
    title: str
    group: Literal["quality", "diversity", "memorisation"]
    better: Literal["lower", "higher"] | None
    decimals: int | None = None
    interval_in_table: bool = False
    on_front: bool = False


@dataclass(frozen=True)
class Images:
    """One set: codes (N, C, H, W) 0..levels - 1; features (N, F) float64, finite; probabilities (N, K) of the classes."""

    codes: NDArray[np.uint8]
    features: NDArray[np.float64]
    probabilities: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.features)

    def take(self, rows: NDArray[np.int64]) -> Images:
        """The images at `rows`, (n,)."""
        return Images(self.codes[rows], self.features[rows], self.probabilities[rows])


@dataclass(frozen=True)
class Real:
    """What images are measured against: the reference split, and codes of the splits train and test, (M, C, H, W).

    near_duplicate_grey_levels: the mean difference, of 255 grey levels, up to which two images count as duplicates.
    """

    reference: Images
    training: NDArray[np.uint8]
    test: NDArray[np.uint8]
    levels: int
    near_duplicate_grey_levels: float


@dataclass(frozen=True)
class Found:
    """values: by the keys of the columns, floats or counts; details: more for JSON; results: per image or subset, any type."""

    values: Mapping[str, float]
    details: Mapping[str, Any] = field(default_factory=dict)
    results: Any = None


class Metric(ABC):
    """`name`: its module; `config`: its settings; `distance`: what the Frechet distance is called, fd or fid.

    columns, explanation: what it measures, and what that is, in sentences below a table; order: where its columns stand, the
    lowest first, equal ones by name; reads: what it needs of images; resampled: whether it has intervals.
    """

    columns: tuple[Column, ...]
    explanation: str
    order: ClassVar[int] = 100
    reads: ClassVar[Literal["features", "probabilities", "pixels"]]
    resampled: ClassVar[bool] = True

    def __init__(self, name: str, config: Any, distance: str) -> None:
        self.name, self.config, self.distance = name, config, distance

    @property
    def fewest(self) -> int:
        """How many images are measured at least; twice as many where intervals are wanted."""
        return 2

    def describe(self, real: Real) -> Any:
        """What `measure` needs of the real images, computed once for all sets. Raises ValueError for too few of them."""
        return real.reference

    @abstractmethod
    def measure(self, generated: Images, known: Any, rng: Keyed) -> Found:
        """The numbers of one set against `known`, what `describe` returned. Raises ValueError for sets that have none."""

    def of_halves(self, generated: Images, halves: NDArray[np.int64], known: Any, rng: Keyed) -> dict[str, NDArray[np.float64]]:
        """Key -> (S,): the number on each row of `halves`, (S, n) indices without repeats.

        By the definition, each half anew; a metric that shares work between halves does better. A purpose has one stream of
        draws for all halves.
        """
        shared = functools.cache(lambda purpose: rng(f"{purpose} of halves"))
        rows = [self.measure(generated.take(half), known, shared).values for half in halves]
        return {column.key: np.array([row[column.key] for row in rows]) for column in self.columns}
