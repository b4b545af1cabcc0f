"""A measurement as JSON: rounded numbers for the eye and for git, and everything in full for whoever doubts them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.core.rounding import to_digits
from pipeline.metrics.base import GROUPS, Metric
from pipeline.metrics.features import Extractor
from pipeline.metrics.measurement import Measurement, columns, description

# Its numbers are counts and searches of single images, which stand together with their details.
APART = "memorisation"


@dataclass(frozen=True)
class Ground:
    """What every number of an evaluation rests on. data: hash of the data directory; split, references: the real images."""

    extractor: Extractor
    data: str
    split: str
    references: int
    metrics: tuple[Metric, ...]
    resamples: int

    def measured(self, images: int, device: str) -> dict[str, Any]:
        """The provenance that stands beside the rounded numbers."""
        return {
            "extractor": f"{self.extractor.name}@{self.extractor.hash[:8]}",
            "data": self.data[:8],
            "images": images,
            "reference": f"{self.split} ({self.references})",
            "device": device,
        }

    def provenance(self) -> dict[str, Any]:
        """The same in full, but for the images, and what the numbers are."""
        settings = {metric.name: metric.config.model_dump(mode="json") for metric in self.metrics}
        return {
            "extractor": {name: getattr(self.extractor, name) for name in ("name", "hash", "feature_dim")},
            "data": self.data,
            "reference": {"split": self.split, "images": self.references},
            "settings": {
                "metrics": {name: values for name, values in settings.items() if values},
                "interval_resamples": self.resamples,
            },
            "interval": "95 % percentile, random halves of the generated images without replacement; reference held fixed",
            "distance": self.extractor.distance,
            "metrics": description(self.metrics),
        }


def rounded(found: Measurement) -> dict[str, dict[str, float]]:
    """The numbers by group: counts as they are, all others with 4 significant digits."""
    groups: dict[str, dict[str, float]] = {group: {} for group in GROUPS}
    for column in columns(found.metrics):
        value = found.values[column.key]
        groups[column.group][column.key] = value if isinstance(value, int) else to_digits(value, 4)
    return groups


def details(found: Measurement) -> dict[str, Any]:
    """Unrounded values; intervals [low, high] and standard errors, both empty if none were asked for; what metrics add."""
    apart = {column.key for column in columns(found.metrics) if column.group == APART}
    more: dict[str, Any] = {}
    more_apart: dict[str, Any] = {}
    for metric in found.metrics:
        (more_apart if metric.columns[0].group == APART else more).update(found.found[metric.name].details)
    return {
        "values": _without(found.values, apart),
        "intervals": {name: [span.low, span.high] for name, span in found.intervals.items()},
        "standard_errors": {name: span.standard_error for name, span in found.intervals.items()},
        **more,
        APART: {**{key: value for key, value in found.values.items() if key in apart}, **more_apart},
    }


def _without(values: Mapping[str, float], keys: set[str]) -> dict[str, float]:
    return {key: value for key, value in values.items() if key not in keys}
