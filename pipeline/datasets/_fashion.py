"""What FashionMNIST is, whoever cut it (Xiao, Rasul and Vollgraf 2017, arXiv:1708.07747).

Its files are known by the sha256 of what they hold, not by their names, which are MNIST's and those of all its successors.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pipeline.datasets import _idx
from pipeline.datasets._raw import Raw

CLASS_NAMES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")


def raw(folder: Path, source: str, kind: str, known: Mapping[str, str]) -> Raw:
    """The four IDX files of `folder`: images (N, 1, 28, 28) uint8 of 256 levels, ten classes.

    Raises ValueError where a file is missing or damaged, or holds something else than `known`, name -> sha256, says of `kind`.
    """
    train_images, train_labels = _idx.read_split(folder, "train")
    test_images, test_labels = _idx.read_split(folder, "test")
    for name, found in _idx.digests(folder).items():
        if found != known[name]:
            raise ValueError(
                f"{folder} holds another {name} than {kind} has (sha256 of its content {found[:8]}, not {known[name][:8]}); "
                "for images of your own say data.kind: idx, with data.source.class_names and data.source.source"
            )
    return Raw(train_images, train_labels, test_images, test_labels, 256, len(CLASS_NAMES), CLASS_NAMES, source)
