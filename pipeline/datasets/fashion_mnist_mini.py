"""A class-balanced cut of FashionMNIST that lies in the repository: 10,000 training and 2,000 test images, 28 x 28."""

from __future__ import annotations

from pathlib import Path

from pipeline.config.base import Block
from pipeline.datasets import _fashion
from pipeline.datasets._raw import Raw


class Config(Block):
    folder: str = "data/raw/fashion-mnist-mini"


def load(cfg: Config) -> Raw:
    """Raises ValueError where the files are missing or damaged."""
    source = (
        "The first 1,000 training and 200 test images of each class of FashionMNIST (Zalando Research, MIT licence), "
        "cut from Debian's package dataset-fashion-mnist."
    )
    return _fashion.raw(Path(cfg.folder), source)
