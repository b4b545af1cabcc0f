"""Small batches that meet every expectation, and patches (the committed files under broken/) that break them.

Data: 3 splits of 2 classes with 20 images each, 1 x 4 x 4, 256 levels; position 0..39 within a split, label = position mod 2.
Samples: 40 images of 3 classes, predicted class = position mod 3. A patch is a JSON file:

    {"set": [{"where": {column: value, ...}, "to": {column: value, ...}}], "drop": [{column: value, ...}],
     "metadata": {field: value}, "reference_spread": number}
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.validation.table import Metadata

BROKEN = Path(__file__).parents[1] / "validation" / "broken"
REFERENCE_SPREAD = 10.0


def data() -> tuple[pd.DataFrame, Metadata]:
    splits = ("train", "valid", "test")
    rows = [
        {"split": split, "position": position, "label": position % 2, **_image(f"{split}-{position}", position)}
        for split in splits
        for position in range(40)
    ]
    metadata = Metadata(
        shape=(1, 4, 4),
        levels=256,
        classes=2,
        recorded_counts=dict.fromkeys(splits, 40),
        recorded_class_counts={split: [20, 20] for split in splits},
        recorded_hash="0123",
        found_hash="0123",
        label_dtypes=dict.fromkeys(splits, "int64"),
    )
    return pd.DataFrame(rows), metadata


def samples() -> pd.DataFrame:
    rows = [
        {"position": position, "predicted": position % 3, "distance": 10.0, **_image(f"sample-{position}", position)}
        for position in range(40)
    ]
    return pd.DataFrame(rows)


def patches(suite: str) -> dict[str, dict[str, Any]]:
    """Rule -> the patch that breaks it."""
    return {file.stem: json.loads(file.read_text()) for file in sorted((BROKEN / suite).glob("*.json"))}


def patched(table: pd.DataFrame, patch: dict[str, Any]) -> pd.DataFrame:
    table = table.copy()
    for change in patch.get("set", []):
        chosen = _chosen(table, change["where"])
        for column, value in change["to"].items():
            if isinstance(value, float):
                table[column] = table[column].astype("float64")
            table.loc[chosen, column] = value
    for where in patch.get("drop", []):
        table = table[~_chosen(table, where)]
    return table.reset_index(drop=True)


def patched_metadata(metadata: Metadata, patch: dict[str, Any]) -> Metadata:
    return dataclasses.replace(metadata, **patch.get("metadata", {}))


def _chosen(table: pd.DataFrame, where: dict[str, Any]) -> pd.Series:
    chosen = pd.Series(True, index=table.index)
    for column, value in where.items():
        chosen &= table[column] == value
    assert chosen.any(), f"the patch's {where} names no row"
    return chosen


def _image(name: str, position: int) -> dict[str, Any]:
    statistics = {"min": 0.0, "max": 255.0, "mean": 100.0 + position // 2, "std": 50.0 + position // 2}
    return {
        "dtype": "uint8", "channels": 1, "height": 4, "width": 4, **statistics, "distinct": 16, "nonfinite": 0, "sha256": name
    }  # fmt: skip
