"""What a finished training writes: the weights, what they were made of, the curve, the time it took."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.config import schema
from pipeline.core import artifacts
from pipeline.core.code import trained_by
from pipeline.core.device import describe_device
from pipeline.store.data import DataDirectory
from pipeline.training import curve


@dataclass(frozen=True)
class Paths:
    """data: a data directory; out: gets model.safetensors, config.json, timing.json; curve: gets the training curve (CSV).

    extractor: the folder of what a perceptual loss looks through.
    """

    data: Path
    out: Path
    curve: Path
    extractor: Path | None = None


def made_of(
    cfg: schema.Entry, data: DataDirectory, precision: str, device: torch.device, extractor: str | None
) -> dict[str, Any]:
    """What the result depends on, to the bit. extractor: the hash of the weights that a perceptual loss sees through."""
    return {
        **cfg.model_dump(mode="json"), "data": data.hash, "extractor": extractor, "precision": precision, "device": device.type,
        "torch": torch.__version__, "threads": torch.get_num_threads(), "code": trained_by(cfg.family),
    }  # fmt: skip


def write(
    paths: Paths, cfg: schema.Entry, data: DataDirectory, model: nn.Module, weights: Mapping[str, Tensor],
    rows: Sequence[curve.Row], more: Mapping[str, Any],
) -> None:  # fmt: skip
    """model.safetensors with `weights`, config.json with what made them and `more`, and the curve of `rows`."""
    artifacts.write_tensors(paths.out / "model.safetensors", weights)
    artifacts.write_json(
        paths.out / "config.json",
        {
            "run": cfg.model_dump(mode="json"),
            "data": {name: data.spec[name] for name in ("shape", "levels", "classes", "hash")},
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "code": trained_by(cfg.family),
            **more,
        },
    )
    artifacts.write_text(paths.curve, curve.to_csv(rows))


def write_timing(paths: Paths, seconds: float, device: torch.device, more: Mapping[str, Any]) -> None:
    """timing.json, last of all: what took how long where."""
    artifacts.write_json(paths.out / "timing.json", {"seconds": round(seconds, 1), **more, **describe_device(device)})
