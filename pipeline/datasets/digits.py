"""scikit-learn's handwritten digits: 1,797 images, 8 x 8, 17 levels. Small enough for tests."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field

from pipeline.config.base import StrictConfig
from pipeline.datasets._raw import Raw


class Config(StrictConfig):
    """`test_fraction`: the share of each class that is held out; which images is fixed."""

    test_fraction: Annotated[float, Field(ge=0.05, le=0.5)] = 0.2


def load(cfg: Config) -> Raw:
    """Images (N, 1, 8, 8); the set has no test split of its own, so one is drawn, stratified by class."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    pixels, labels = load_digits(return_X_y=True)
    images = pixels.reshape(-1, 1, 8, 8).astype(np.uint8)
    train, test = train_test_split(np.arange(len(labels)), test_size=cfg.test_fraction, stratify=labels, random_state=0)
    train, test = np.sort(train), np.sort(test)
    labels = labels.astype(np.int64)
    source = (
        "Optical Recognition of Handwritten Digits (E. Alpaydin and C. Kaynak, UCI, CC BY 4.0), as shipped by scikit-learn."
    )
    names = tuple(str(digit) for digit in range(10))
    return Raw(images[train], labels[train], images[test], labels[test], 17, 10, names, source)
