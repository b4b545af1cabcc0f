"""What FashionMNIST is, whoever cut it (Xiao, Rasul and Vollgraf 2017, arXiv:1708.07747)."""

from __future__ import annotations

from pathlib import Path

from pipeline.datasets import _idx
from pipeline.datasets._raw import Raw

CLASS_NAMES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")


def raw(folder: Path, source: str) -> Raw:
    """The four IDX files of `folder`: images (N, 1, 28, 28) uint8 of 256 levels, ten classes."""
    train_images, train_labels = _idx.read_split(folder, "train")
    test_images, test_labels = _idx.read_split(folder, "test")
    return Raw(train_images, train_labels, test_images, test_labels, 256, len(CLASS_NAMES), CLASS_NAMES, source)
