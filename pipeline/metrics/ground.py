"""What every set of images is measured against: the reference in the features of an extractor, and keyed draws."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pipeline.config import schema
from pipeline.store.data import DataDirectory

if TYPE_CHECKING:
    import numpy as np

    from pipeline.metrics.features import Extractor
    from pipeline.metrics.measurement import Reference
    from pipeline.metrics.record import Ground


def levels_of(data: DataDirectory) -> int:
    if data.data_spec.levels is None:
        raise ValueError(f"{data.path} holds latents without levels; images are needed to compare with")
    return data.data_spec.levels


def lay(cfg: schema.Params, data: DataDirectory, extractor: Extractor) -> tuple[Ground, Reference]:
    """The ground that numbers rest on, and what the metrics need of the reference images, computed once."""
    from pipeline.metrics.base import Real
    from pipeline.metrics.measurement import describe, images, open_metrics
    from pipeline.metrics.record import Ground

    split, resamples = cfg.evaluate.reference, cfg.evaluate.interval_resamples
    metrics = open_metrics(cfg.evaluate.metrics, extractor.distance)
    codes = data.images(split)
    real = Real(
        images(codes, extractor(codes)), data.images("train"), data.images("test"), levels_of(data),
        cfg.data.near_duplicate_grey_levels,
    )  # fmt: skip
    return Ground(extractor, data.hash, split, len(codes), metrics, resamples), describe(real, metrics, resamples)


def keyed(seed: int, name: str) -> Callable[[str], np.random.Generator]:
    """Generators keyed by (seed, name of the set, purpose)."""
    import numpy as np

    from pipeline.core.random import derive_seed

    return lambda purpose: np.random.default_rng(derive_seed(seed, "evaluate", name, purpose))


def computed_on(extractor: Extractor) -> dict[str, Any]:
    from pipeline.core.device import describe_device

    return dict(describe_device(extractor.device))
