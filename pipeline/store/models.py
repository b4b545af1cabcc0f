"""A trained model as other stages see it: model.safetensors (averaged weights) and config.json (how to build it)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from pipeline.config import plugins, schema
from pipeline.config.family import FamilyConfig
from pipeline.config.load import read_block, read_model
from pipeline.core import artifacts
from pipeline.core.contracts import DataSpec, Pretrained, Trainable
from pipeline.store.fresh import mend, stage_of
from pipeline.store.results import Source


@dataclass(frozen=True)
class Saved:
    """model: in evaluation mode; config: config.json; hash: sha256 of the weights file; variances: by number of steps.

    block: the `model` block of config.json, as the family reads it.
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


def _fill(model: Trainable | Pretrained, weights: Path, again: str) -> None:
    """The tensors of the file `weights` into `model`. Raises ValueError where they do not fit it, or are not finite."""
    try:
        tensors = artifacts.read_tensors(weights)
    except SafetensorError as error:
        raise ValueError(f"{weights} is damaged ({error}); run: {again}") from None
    try:
        model.load_state_dict(tensors)
    except RuntimeError:
        raise ValueError(f"{weights} does not fit the model that config.json beside it describes; run: {again}") from None
    check_finite(model, tensors, str(weights))


def check_finite(model: Trainable | Pretrained, tensors: Mapping[str, torch.Tensor], whose: str) -> None:
    """Raises ValueError, naming the first of the model's parameters that has a value in `tensors` that is not finite.

    A buffer may have such values: the ends of a schedule's table are infinite.
    """
    for name, _ in model.named_parameters():
        if not torch.isfinite(tensors[name]).all():
            raise ValueError(f"{whose} has values in {name} that are not finite; train anew with a lower learning_rate")


def load(folder: str | Path, device: torch.device | str = "cpu") -> Saved:
    """The model in `folder`. Raises ValueError where it is missing, damaged, or has weights that are not finite."""
    folder = Path(folder)
    weights, again = folder / "model.safetensors", mend(folder)
    if not weights.is_file():
        raise ValueError(f"{weights} does not exist; train it first: {again}")
    source = Source.open(folder / "config.json", stage_of(folder))
    for key in ("run", "data.shape", "data.levels", "data.classes", "data.hash"):
        source.get(key)
    described = source.values
    written = described["run"]
    kind = schema.Codec if "encode" in written else schema.Run if "optimal_variance_steps" in written else schema.Extractor
    run = read_block(kind, written, str(folder / "config.json"))
    table = folder / "variance.json"
    variances = Source.open(table, stage_of(folder)).values if table.is_file() else {}
    model = build(run, data_spec(described), str(folder))
    _fill(model, weights, again)
    return Saved(
        model.to(device).eval(),
        described,
        artifacts.hash_file(weights),
        {int(steps): torch.tensor(values, dtype=torch.float64, device=device) for steps, values in variances.items()},
        read_model(run, str(folder)),
    )
