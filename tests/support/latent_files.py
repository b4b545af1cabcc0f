"""A data directory of small images and a codec for it, as `prepare` and `train` leave them, without training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline import encode
from pipeline.config import schema
from pipeline.core import artifacts
from pipeline.families.autoencoder.model import Model
from pipeline.store import models
from pipeline.store.data import DataDirectory, write_data
from tests.support.blocks import codec

COUNTS = {"train": 130, "valid": 20, "test": 30}
LEVELS, CLASSES, SEED = 17, 5, 3
FAMILIES: dict[str, dict[str, Any]] = {
    "autoencoder": {
        "network": {"kind": "autoencoder", "widths": (16, 16), "latent_channels": 2},
        "objective": {"kind": "kl", "perceptual": {}, "discriminator": {"start": 0}},
    },
    "classifier": {"network": {"kind": "convnet", "widths": (16,)}},
}


def write_images(folder: Path, seed: int = 0, brightest_test: int = LEVELS) -> DataDirectory:
    """Random codes; those of the test split stay below `brightest_test`."""
    rng, splits = np.random.default_rng(seed), {}
    for split, count in COUNTS.items():
        codes = rng.integers(0, LEVELS, (count, 1, 8, 8), dtype=np.uint8)
        kept = np.minimum(codes, brightest_test - 1) if split == "test" else codes
        splits[split] = (kept.astype(np.uint8), np.arange(count) % CLASSES)
    return write_data(folder, splits, levels=LEVELS, classes=CLASSES, extra={"source": "random codes"})


def block(how: str = "sample", family: str = "autoencoder") -> schema.Codec:
    training = {"steps": 1, "learning_rate": 0.1, "precision": "float32"}
    return codec(family, data="data/prepared", seed=SEED, model=FAMILIES[family], training=training, encode=how)


def write_codec(folder: Path, data: DataDirectory, seed: int = 0, family: str = "autoencoder") -> Path:
    """Random weights, so that every layer does something."""
    made, cfg = torch.Generator().manual_seed(seed), block(family=family)
    model = models.build(cfg, data.data_spec, "codecs.kl")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=made))
        if isinstance(model, Model):
            model.network.encoder.head.bias[2:] = -4.0  # narrow posteriors: the spread of the latents is that of their means
    artifacts.write_tensors(folder / "model.safetensors", model.state_dict())
    described = {name: data.spec[name] for name in ("shape", "levels", "classes", "hash")}
    artifacts.write_json(folder / "config.json", {"run": cfg.model_dump(mode="json"), "data": described})
    return folder


def paths(root: Path) -> encode.Paths:
    return encode.Paths(root / "data/prepared", root / "codecs/kl", root / "data/latents/kl", root / "reports/codecs/kl.json")


def write_latents(root: Path, how: str = "sample") -> DataDirectory:
    """All of it below `root`."""
    write_codec(root / "codecs/kl", write_images(root / "data/prepared"))
    encode.run(block(how), paths(root), "kl")
    return DataDirectory.open(root / "data/latents/kl")
