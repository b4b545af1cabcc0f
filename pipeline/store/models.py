"""A trained model as other stages see it: model.safetensors (averaged weights) and schema.json (how to build it)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pipeline.config import plugins, schema
from pipeline.config.family import FamilyConfig
from pipeline.config.load import read_block, read_model
from pipeline.core import artifacts
from pipeline.core.contracts import DataSpec, Pretrained, Trainable


@dataclass(frozen=True)
class Saved:
    """model: in evaluation mode; config: schema.json; hash: sha256 of the weights file; variances: by number of steps."""

    """model: in evaluation mode; config: schema.json; hash: sha256 of the weights file; variances: by number of steps.

    block: the `model` block of schema.json, as the family reads it.
    """

    model: Trainable | Pretrained
    config: Mapping[str, Any]
    hash: str
    variances: Mapping[int, torch.Tensor]
    block: FamilyConfig


def build(run: schema.Entry, spec: DataSpec, key: str) -> Trainable | Pretrained:
    """The model of an entry without its weights; `key` is where the entry stands in params.yaml."""
    try:
        block = read_model(run, key)
        block.check_data(discrete=spec.levels is not None)
        model: Trainable | Pretrained = plugins.family(run.family).build(block, spec)
    except ValueError as error:
        message = str(error)
        raise ValueError(message if message.startswith(key) else f"{key}.model.{message}") from None
    return model


def data_spec(described: Mapping[str, Any]) -> DataSpec:
    """Of the data that a model was trained on. `described`: its config.json."""
    data = described["data"]
    channels, height, width = data["shape"]
    return DataSpec((channels, height, width), data["levels"], data["classes"])


def load(folder: str | Path, device: torch.device | str = "cpu") -> Saved:
    """The model in `folder`. Raises ValueError when it is not there."""
    folder = Path(folder)
    weights = folder / "model.safetensors"
    if not weights.is_file():
        raise ValueError(f"{weights} does not exist; train it first: dvc repro")
    described = artifacts.read_json(folder / "config.json")
    written = described["run"]
    kind = schema.Codec if "encode" in written else schema.Run if "depths" in written else schema.Extractor
    run = read_block(kind, written, str(folder / "config.json"))
    table = folder / "variance.json"
    variances = artifacts.read_json(table) if table.is_file() else {}
    model = build(run, data_spec(described), str(folder))
    model.load_state_dict(artifacts.read_tensors(weights))
    return Saved(
        model.to(device).eval(),
        described,
        artifacts.hash_file(weights),
        {int(steps): torch.tensor(values, dtype=torch.float64, device=device) for steps, values in variances.items()},
        read_model(run, str(folder)),
    )
