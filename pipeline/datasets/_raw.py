"""What every data set hands to `prepare`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from pipeline.core.contracts import DataSpec


@dataclass(frozen=True)
class Raw:
    """A data set as its makers split it.

    train_images, test_images: (N, C, H, W) uint8 codes 0..levels - 1; train_labels, test_labels: (N,) int64, 0..classes - 1.
    source: one sentence, where the images are from and under which licence. density: for synthetic sets, the law of a pixel.
    Raises ValueError where arrays, levels and classes don't agree.
    """

    train_images: NDArray[np.uint8]
    train_labels: NDArray[np.int64]
    test_images: NDArray[np.uint8]
    test_labels: NDArray[np.int64]
    levels: int
    classes: int
    class_names: tuple[str, ...]
    source: str
    density: Mapping[str, Any] | None = None

    def split(self, name: Literal["train", "test"]) -> tuple[NDArray[np.uint8], NDArray[np.int64], int]:
        """Images, labels and levels of one split."""
        if name == "train":
            return self.train_images, self.train_labels, self.levels
        return self.test_images, self.test_labels, self.levels

    def __post_init__(self) -> None:
        assert len(self.class_names) == self.classes, (self.class_names, self.classes)
        for split, images, labels in (
            ("train", self.train_images, self.train_labels),
            ("test", self.test_images, self.test_labels),
        ):
            assert images.dtype == np.uint8, images.dtype
            assert labels.dtype == np.int64, labels.dtype
            assert images.ndim == 4, images.shape
            assert labels.shape == images.shape[:1], (images.shape, labels.shape)
            if images.size == 0:
                raise ValueError(f"the {split} split of the data set has no images; at least one is needed")
            if images.max() >= self.levels:
                raise ValueError(f"the {split} split has a pixel of value {images.max()}; allowed: 0 to {self.levels - 1}")
            if labels.min() < 0 or labels.max() >= self.classes:
                raise ValueError(
                    f"the {split} split has labels from {labels.min()} to {labels.max()}; allowed: 0 to {self.classes - 1}"
                )
        if self.train_images.shape[1:] != self.test_images.shape[1:]:
            raise ValueError(
                f"training images are {self.train_images.shape[1:]} and test images {self.test_images.shape[1:]} "
                "(channels, height, width); they must be alike"
            )

    @property
    def data_spec(self) -> DataSpec:
        """What a model must know of these images."""
        from pipeline.core.contracts import DataSpec

        channels, height, width = self.train_images.shape[1:]
        return DataSpec((channels, height, width), self.levels, self.classes)
