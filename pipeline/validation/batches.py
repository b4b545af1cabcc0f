"""The frames that expectations are laid on, made from a table of images: what images, classes and splits are to each other."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pipeline.store.data import SPLITS
from pipeline.validation.table import Metadata

if TYPE_CHECKING:
    from pandas import DataFrame


def data_images(table: DataFrame) -> DataFrame:
    """The table with, per image: repeats (equal images before it in its split), splits (in how many splits it lies)."""
    return table.assign(
        repeats=table.groupby(["split", "sha256"]).cumcount(),
        splits=table.groupby("sha256")["split"].transform("nunique"),
    )


def data_classes(table: DataFrame, classes: int) -> DataFrame:
    """A row per split and class: images, times_smallest (over the smallest class that the split has)."""
    import pandas as pd

    rows = []
    for split in SPLITS:
        counts = [int(((table["split"] == split) & (table["label"] == label)).sum()) for label in range(classes)]
        smallest = min((count for count in counts if count), default=1)
        rows += [(split, label, count, count / smallest) for label, count in enumerate(counts)]
    return pd.DataFrame(rows, columns=["split", "label", "images", "times_smallest"])


def data_splits(table: DataFrame, metadata: Metadata) -> DataFrame:
    """A row per split: images, class_counts and hash as found and as recorded, label_dtype, mean_shift, std_shift.

    A shift is how far the split's average of the images' mean (or std) lies from the training split's, in units of the
    training split's standard deviation of that statistic. The hash is that of all arrays together.
    """
    import pandas as pd

    train = table[table["split"] == "train"]
    rows = []
    for split in SPLITS:
        part = table[table["split"] == split]
        found = [int((part["label"] == label).sum()) for label in range(metadata.classes)]
        row = {
            "split": split,
            "images": len(part),
            "recorded_images": metadata.recorded_counts.get(split, 0),
            "class_counts": str(found),
            "recorded_class_counts": str(list(metadata.recorded_class_counts.get(split, []))),
            "hash": metadata.found_hash,
            "recorded_hash": metadata.recorded_hash,
            "label_dtype": metadata.label_dtypes[split],
        }
        for statistic in ("mean", "std"):
            difference = part[statistic].mean() - train[statistic].mean()
            # A training split in which the statistic never varies has no unit: any difference is infinitely many.
            deviation = train[statistic].std(ddof=0)
            row[f"{statistic}_shift"] = difference / deviation if deviation > 0 else np.inf * difference if difference else 0.0
        rows.append(row)
    return pd.DataFrame(rows)


def sample_images(table: DataFrame) -> DataFrame:
    """The table with repeats: equal images before this one."""
    return table.assign(repeats=table.groupby("sha256").cumcount())


def sample_classes(table: DataFrame, classes: int) -> DataFrame:
    """A row per class: the share of images that the extractor takes for it."""
    import pandas as pd

    counts = np.bincount(table["predicted"], minlength=classes)
    assert len(counts) == classes, (len(counts), classes)
    return pd.DataFrame({"label": np.arange(classes), "share": counts / counts.sum()})


def sample_collection(table: DataFrame, reference_spread: float) -> DataFrame:
    """One row: diversity, the spread of the samples over that of the reference images."""
    import pandas as pd

    if not reference_spread > 0:
        raise ValueError(f"the reference images have the spread {reference_spread}; to judge diversity it must be above 0")
    return pd.DataFrame({"samples": ["all"], "diversity": [np.sqrt((table["distance"] ** 2).mean()) / reference_spread]})
