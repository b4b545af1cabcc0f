"""The codec beside a latent data directory: how latents, and samples of a model trained on them, become images.

A latent data directory (written by the stage `encode`) is a data directory whose arrays hold latents times `scale`, with
`codec/` in it, the model that made them, and in spec.json `codec` (name, weights, scale, encode, seed) and `encoded` (path,
hash, shape and levels of the images).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.store.data import DataDirectory
from pipeline.store.fresh import check_trained_on

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from pipeline.core.contracts import Codec


@dataclass(frozen=True)
class LatentCodec:
    """codec: the trained model; weights: sha256 of its file; scale: what latents were multiplied by, so that their std is 1.

    data: hash of the latents; source: hash of the images that were encoded, which are of `shape` (C, H, W) and `levels`.
    """

    name: str
    codec: Codec
    weights: str
    scale: float
    data: str
    source: str
    shape: tuple[int, int, int]
    levels: int

    def decode(self, z: Tensor) -> Tensor:
        """(B, *latent shape), of std about 1 -> (B, C, H, W) in model space, not clipped."""
        return self.codec.decode(z / self.scale)


def open_codec(path: str | Path, device: torch.device | str = "cpu") -> LatentCodec:
    """The codec in the latent data directory `path`.

    Raises ValueError where it is missing, not the one that made the latents, or trained on other images than it encoded.
    """
    from pipeline.core.contracts import Codec
    from pipeline.store import models

    data = DataDirectory.open(path)
    if "codec" not in data.spec:
        raise ValueError(f"{data.path} holds no latents (no codec in spec.json); name a folder that pipeline.encode wrote")
    described, images = data.spec["codec"], data.spec["encoded"]
    folder, again = data.path / "codec", f"python -m pipeline.encode {described['name']}"
    if not (folder / "model.safetensors").is_file():
        raise ValueError(f"{folder} holds no codec, without which latents become no images; run: {again}")
    found = models.load(folder, device)
    if found.hash != described["weights"]:
        raise ValueError(
            f"{folder} has the weights {found.hash[:8]}, the latents beside it are of {described['weights'][:8]}; run: {again}"
        )
    check_trained_on(found.config, folder, images["hash"], images["path"])
    assert isinstance(found.model, Codec), folder
    channels, height, width = images["shape"]
    return LatentCodec(
        described["name"], found.model, found.hash, described["scale"],
        data.hash, images["hash"], (channels, height, width), images["levels"],
    )  # fmt: skip
