"""The data-directory format: what `prepare` and `encode` write and every later stage reads.

A data directory holds `spec.json` and, per split, `<split>.images.npy` ((N, C, H, W) uint8 codes, or float32 latents) and
`<split>.labels.npy` ((N,) int64). Readers memory-map.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipeline.core import artifacts
from pipeline.store.results import Source, open_array

if TYPE_CHECKING:
    from pipeline.core.contracts import DataSpec

SPLITS = ("train", "valid", "test")


@dataclass(frozen=True)
class DataDirectory:
    """A prepared data set, or latents of one: `spec` is spec.json as written by `write_data`."""

    path: Path
    spec: Mapping[str, Any]

    @classmethod
    def open(cls, path: str | Path) -> DataDirectory:
        """Raises ValueError where spec.json is missing or damaged, or no picture can show its images."""
        folder = Path(path)
        file = folder / "spec.json"
        if not file.is_file():
            raise ValueError(f"{folder} holds no prepared data (no spec.json); run: dvc repro {_stage(folder)}")
        spec = Source.open(file, _stage(folder))
        for key in ("shape", "levels", "classes", "dtype", "counts", "class_counts", "hash"):
            spec.get(key)
        found = cls(folder, spec.values)
        if found.spec["levels"] is not None:
            check_drawable(found.spec["shape"], str(folder))
        return found

    def images(self, split: str) -> NDArray[Any]:
        """(N, C, H, W), memory-mapped. Raises ValueError where the file is missing or damaged; likewise `labels`."""
        return open_array(self.path / f"{split}.images.npy", _stage(self.path))

    def labels(self, split: str) -> NDArray[np.int64]:
        """(N,), memory-mapped."""
        return open_array(self.path / f"{split}.labels.npy", _stage(self.path))

    @property
    def hash(self) -> str:
        """sha256 of all arrays: the data version that stands beside every number."""
        return str(self.spec["hash"])

    @property
    def data_spec(self) -> DataSpec:
        from pipeline.core.contracts import DataSpec

        channels, height, width = self.spec["shape"]
        return DataSpec((channels, height, width), self.spec["levels"], self.spec["classes"])


def check_drawable(shape: Sequence[int], whose: str) -> None:
    """Raises ValueError for images (C, H, W) that no picture can show: samples of a model of them could not be looked at."""
    if shape[0] not in (1, 3):
        raise ValueError(f"{whose} has images of {shape[0]} channels; allowed: 1 (grey) or 3 (red, green, blue)")


def _stage(folder: Path) -> str:
    return f"encode@{folder.name}" if folder.parent.name == "latents" else "prepare"


def write_data(
    path: str | Path,
    splits: Mapping[str, tuple[NDArray[Any], NDArray[np.int64]]],
    *,
    levels: int | None,
    classes: int,
    extra: Mapping[str, Any],
) -> DataDirectory:
    """Writes a data directory; spec.json comes last, so a directory without it is unfinished.

    spec.json: shape (C, H, W), levels, classes, dtype, counts and class_counts by split, hash, then `extra` (source,
    duplicates removed, ...).
    """
    folder = Path(path)
    arrays: dict[str, NDArray[Any]] = {}
    for split, (images, labels) in splits.items():
        assert images.ndim == 4 and len(images) == len(labels), (split, images.shape, labels.shape)
        arrays[f"{split}.images"], arrays[f"{split}.labels"] = images, labels.astype(np.int64)
    for name, array in arrays.items():
        artifacts.write_array(folder / f"{name}.npy", array)
    first = next(iter(splits.values()))[0]
    spec = {
        "shape": list(first.shape[1:]),
        "levels": levels,
        "classes": classes,
        "dtype": str(first.dtype),
        "counts": {split: len(labels) for split, (_, labels) in splits.items()},
        "class_counts": {split: np.bincount(labels, minlength=classes).tolist() for split, (_, labels) in splits.items()},
        "hash": artifacts.hash_arrays(arrays),
        **extra,
    }
    artifacts.write_json(folder / "spec.json", spec)
    return DataDirectory(folder, spec)
