"""A measurement as JSON: rounded numbers for the eye and for git, and everything in full for whoever doubts them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from pipeline.metrics.features import INCEPTION, Extractor
from pipeline.metrics.measurement import DIVERSITY, QUALITY, Measurement, Settings
from pipeline.metrics.nearest import Memorisation


@dataclass(frozen=True)
class Ground:
    """What every number of an evaluation rests on. data: hash of the data directory; split, references: the real images."""

    extractor: Extractor
    data: str
    split: str
    references: int
    settings: Settings

    @property
    def distance(self) -> str:
        """The key of the Frechet distance: FID is its name in Inception features only."""
        return "fid" if self.extractor.name == INCEPTION else "fd"

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
        """The same in full, but for the images."""
        return {
            "extractor": {name: getattr(self.extractor, name) for name in ("name", "hash", "feature_dim")},
            "data": self.data,
            "reference": {"split": self.split, "images": self.references},
            "settings": asdict(self.settings),
            "interval": "95 % percentile, random halves of the generated images without replacement; reference held fixed",
        }


def rounded(found: Measurement, ground: Ground) -> dict[str, dict[str, float]]:
    """quality and diversity, 4 significant digits."""
    groups = {"quality": QUALITY, "diversity": DIVERSITY}
    return {
        group: _named({name: significant(found.values[name], 4) for name in names}, ground) for group, names in groups.items()
    }


def memorised(found: Memorisation, pairs: Mapping[str, int]) -> dict[str, float]:
    """The group `memorisation`: shares and the ratio with 4 significant digits, counts as they are."""
    return {
        name: value if isinstance(value, int) else significant(value, 4) for name, value in {**found.values, **pairs}.items()
    }


def details(found: Measurement, ground: Ground) -> dict[str, Any]:
    """Unrounded values; intervals [low, high] and standard errors, both empty if none were asked for."""
    return {
        "values": _named(found.values, ground),
        "intervals": _named({name: [span.low, span.high] for name, span in found.intervals.items()}, ground),
        "standard_errors": _named({name: span.standard_error for name, span in found.intervals.items()}, ground),
        "kid_std": found.kid.std,
        "inception_score_std": found.inception_score.std,
    }


def significant(value: float, digits: int) -> float:
    return float(f"{value:.{digits}g}")


def _named(values: Mapping[str, Any], ground: Ground) -> dict[str, Any]:
    return {ground.distance if name == "fd" else name: value for name, value in values.items()}
