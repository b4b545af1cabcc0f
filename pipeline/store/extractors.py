"""The extractor that params.yaml names, from its files: what evaluation and studies measure images with."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.config import schema
from pipeline.core.layout import Layout
from pipeline.store.data import DataDirectory
from pipeline.store.fresh import check_trained_on

if TYPE_CHECKING:
    from pipeline.metrics.features import Extractor


def open_extractor(cfg: schema.Evaluate, data: DataDirectory, root: Path) -> Extractor:
    """The extractor that `cfg` names. Raises ValueError if it is missing, has no features, or is of other data."""
    from pipeline.core.contracts import FeatureExtractor
    from pipeline.core.device import pick_device
    from pipeline.metrics.features import NetworkExtractor
    from pipeline.store import models

    folder = Layout(root).extractor(cfg.extractor)
    found = models.load(folder)
    check_trained_on(found.config, folder, data.hash, data.path)
    if not isinstance(found.model, FeatureExtractor):
        raise ValueError(f"evaluate.extractor is {cfg.extractor!r}, which has no features and logits; name a classifier")
    return NetworkExtractor(found.model, data.data_spec, name=cfg.extractor, hash=found.hash, device=pick_device())
