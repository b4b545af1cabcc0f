"""One row of numbers per image: what the expectations look at instead of pixels."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipeline.core import artifacts
from pipeline.store.data import SPLITS, DataDirectory

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True)
class Metadata:
    """What is said of the arrays (`recorded`, from spec.json) and what they are (`found`).

    shape: (C, H, W); counts: images by split; class_counts: images by split and class; label_dtypes: by split.
    """

    shape: tuple[int, int, int]
    levels: int
    classes: int
    recorded_counts: Mapping[str, int]
    recorded_class_counts: Mapping[str, list[int]]
    recorded_hash: str
    found_hash: str
    label_dtypes: Mapping[str, str]


def data_table(directory: DataDirectory) -> DataFrame:
    """Rows of all splits; columns: split, position, label, then those of `statistics`.

    Raises ValueError where an array is missing, is not an array, or has no label for each image.
    """
    import pandas as pd

    parts = []
    for split in SPLITS:
        images, labels = _array(directory, split, "images"), _array(directory, split, "labels")
        if images.ndim != 4 or labels.shape != images.shape[:1]:
            raise ValueError(
                f"{directory.path} has {split} images of shape {images.shape} and labels of shape {labels.shape}; allowed are "
                "(N, C, H, W) and (N,); run: dvc repro prepare"
            )
        keys = pd.DataFrame({"split": split, "position": np.arange(len(images)), "label": np.asarray(labels)})
        parts.append(pd.concat([keys, statistics(images)], axis=1))
    return pd.concat(parts, ignore_index=True)


def metadata(directory: DataDirectory) -> Metadata:
    """Reads spec.json and hashes the arrays anew. Raises ValueError where a key is missing or the data are not pixels."""
    spec = directory.spec
    missing = sorted({"shape", "levels", "classes", "counts", "class_counts", "hash"} - set(spec))
    if missing:
        raise ValueError(f"{directory.path}/spec.json lacks {', '.join(missing)}; run: dvc repro prepare")
    if spec["levels"] is None:
        raise ValueError(f"{directory.path} holds real-valued latents; only images of whole levels are validated")
    arrays = {f"{split}.{kind}": _array(directory, split, kind) for split in SPLITS for kind in ("images", "labels")}
    channels, height, width = spec["shape"]
    return Metadata(
        shape=(channels, height, width),
        levels=spec["levels"],
        classes=spec["classes"],
        recorded_counts=spec["counts"],
        recorded_class_counts=spec["class_counts"],
        recorded_hash=spec["hash"],
        found_hash=artifacts.hash_arrays(arrays),
        label_dtypes={split: str(arrays[f"{split}.labels"].dtype) for split in SPLITS},
    )


def sample_table(images: NDArray[Any], nonfinite: NDArray[np.int64], predicted: NDArray[np.int64]) -> DataFrame:
    """Rows for generated images (N, C, H, W) uint8; columns: position, predicted, distance, then those of `statistics`.

    nonfinite: (N,) how many values of each image were not finite before coding to uint8. predicted: (N,) the class that the
    extractor sees. distance: root mean square difference from the batch's mean image, in codes.
    """
    import pandas as pd

    assert len(images) == len(nonfinite) == len(predicted) > 0, (len(images), len(nonfinite), len(predicted))
    keys = pd.DataFrame({"position": np.arange(len(images)), "predicted": predicted, "distance": _distance(images)})
    return pd.concat([keys, statistics(images).assign(nonfinite=nonfinite)], axis=1)


def spread(images: NDArray[Any]) -> float:
    """How much images (N, C, H, W) differ, in codes: the root mean square of `distance`.

    Times sqrt(2) this is the root mean square difference, per pixel, between two images drawn with replacement.
    """
    return float(np.sqrt((_distance(images) ** 2).mean()))


def statistics(images: NDArray[Any]) -> DataFrame:
    """A row per image of (N, C, H, W): dtype, channels, height, width, min, max, mean, std, distinct, nonfinite, sha256.

    Numbers are taken over the finite values, and are NaN where an image has none; distinct counts different values.
    """
    import pandas as pd

    rows = [_row(np.asarray(image)) for image in images]
    _, channels, height, width = images.shape
    table = pd.DataFrame(rows, columns=["min", "max", "mean", "std", "distinct", "nonfinite", "sha256"])
    for place, (name, value) in enumerate(
        {"dtype": str(images.dtype), "channels": channels, "height": height, "width": width}.items()
    ):
        table.insert(place, name, value)
    return table


def _row(image: NDArray[Any]) -> tuple[float, float, float, float, int, int, str]:
    finite = image[np.isfinite(image)].astype(np.float64)
    digest = hashlib.sha256(np.ascontiguousarray(image).tobytes()).hexdigest()
    if finite.size == 0:
        return np.nan, np.nan, np.nan, np.nan, 0, image.size, digest
    distinct = len(np.unique(finite))
    return finite.min(), finite.max(), finite.mean(), finite.std(), distinct, image.size - finite.size, digest


def _distance(images: NDArray[Any]) -> NDArray[np.float64]:
    flat = images.reshape(len(images), -1)
    mean = flat.mean(0, dtype=np.float64)
    return np.array([np.sqrt(((image - mean) ** 2).mean()) for image in flat])


def _array(directory: DataDirectory, split: str, kind: str) -> NDArray[Any]:
    read = directory.images if kind == "images" else directory.labels
    try:
        return read(split)
    except (OSError, ValueError) as error:
        raise ValueError(f"{directory.path} has no readable {split}.{kind}.npy ({error}); run: dvc repro prepare") from None
