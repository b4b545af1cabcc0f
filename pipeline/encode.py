"""Encodes the images that a codec was trained on: a latent data directory, with its scale and the codec in it.

The scale is 1 over the standard deviation of all latents of the training split, computed once; the arrays hold latents times
scale. A draw is keyed by (the codec's seed, split, row); arithmetic is float32, never autocast. Diffusion trains on the
directory as on any other.
"""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pipeline.config import schema
from pipeline.config.load import load_params
from pipeline.core import artifacts, command
from pipeline.core.layout import Layout
from pipeline.core.progress import Progress
from pipeline.core.rounding import to_digits
from pipeline.store.data import SPLITS, DataDirectory, write_data
from pipeline.store.fresh import check_model, check_trained_on

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from pipeline.core.contracts import Codec
    from pipeline.store.splits import Split

BATCH = 100
FILES = ("model.safetensors", "config.json")


@dataclass(frozen=True)
class Paths:
    """data: a data directory; codec: a folder with model.safetensors; out: the latent data directory; json: the measurement."""

    data: Path
    codec: Path
    out: Path
    json: Path


@dataclass(frozen=True)
class Fidelity:
    """What decoding gives back, clipped to the range of pixels, against the images, over all pixels.

    absolute: mean |x - x_hat| in grey levels of 0..255; psnr: 10 log10(255^2 / mean squared error), in dB.
    """

    absolute: float
    psnr: float


def encode_split(
    codec: Codec, split: Split, step: int, seed: int | None, device: torch.device, progress: Progress, batch: int = BATCH
) -> NDArray[np.float32]:
    """(N, c, h, w): draws keyed by (seed, row, step), or means where `seed` is None."""
    import torch

    from pipeline.core.random import RowRandom

    parts: list[NDArray[np.float32]] = []
    with torch.inference_mode():
        for first in range(0, len(split), batch):
            rows = range(first, min(first + batch, len(split)))
            x = split.rows(np.arange(rows.start, rows.stop), device).x
            rng = None if seed is None else RowRandom(seed, rows, step, device)
            parts.append(codec.encode(x, rng).cpu().numpy())
            progress.update(len(rows))
    return np.concatenate(parts)


def scale_of(latents: NDArray[np.float32], key: str) -> float:
    """1 / std over all elements, in float64. Raises ValueError where that is no use as a scale."""
    std = float(latents.std(dtype=np.float64))
    if not (np.isfinite(std) and std > 0):
        raise ValueError(f"{key} has latents of standard deviation {std}; allowed: above 0 and finite; train it anew")
    return 1 / std


def fidelity(codec: Codec, split: Split, latents: NDArray[np.float32], device: torch.device) -> Fidelity:
    """How far the images of `split` are from what their `latents`, unscaled, decode to."""
    import torch

    assert split.levels is not None
    # One code is 2 / levels in model space, and codes 0..levels-1 go to grey levels 0..255.
    to_grey = split.levels / 2 * 255 / (split.levels - 1)
    absolute = squared = 0.0
    with torch.inference_mode():
        for first in range(0, len(split), BATCH):
            index = np.arange(first, min(first + BATCH, len(split)))
            x: Tensor = split.rows(index, device).x
            x_hat = codec.decode(torch.from_numpy(latents[index]).to(device)).clamp(-1, 1)
            error = (x - x_hat).double() * to_grey
            absolute, squared = absolute + float(error.abs().sum()), squared + float((error**2).sum())
    pixels = split.images.size
    return Fidelity(absolute / pixels, float(10 * np.log10(255**2 / (squared / pixels))))


def run(cfg: schema.Codec, paths: Paths, name: str) -> None:
    """Encodes every split of paths.data by the codec in paths.codec. `name`: the codec's name under codecs:."""
    import torch

    from pipeline.core.contracts import Codec
    from pipeline.core.device import pick_device
    from pipeline.store import models
    from pipeline.store.splits import Split

    key = f"codecs.{name}"
    device = pick_device()
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    if not (paths.codec / "model.safetensors").is_file():
        raise ValueError(f"{paths.codec} holds no trained codec; run: python -m pipeline.train --codec {name}")
    found = models.load(paths.codec, device)
    data = DataDirectory.open(paths.data)
    if not isinstance(found.model, Codec):
        raise ValueError(
            f"{key}.family is {cfg.family!r}, which encodes nothing; name a family of codecs, such as 'autoencoder'"
        )
    check_trained_on(found.config, paths.codec, data.hash, paths.data)

    splits = {split: Split(data, split) for split in SPLITS}
    seed = cfg.seed if cfg.encode == "sample" else None
    with Progress(sum(len(split) for split in splits.values()), "images", key) as progress:
        encoded = {
            split: encode_split(found.model, images, step, seed, device, progress)
            for step, (split, images) in enumerate(splits.items())
        }
    scale = scale_of(encoded["train"], key)
    measured = fidelity(found.model, splits["valid"], encoded["valid"], device)

    # A spec.json of an earlier run must not stand beside arrays of this one if we are stopped between the two.
    (paths.out / "spec.json").unlink(missing_ok=True)
    for file in FILES:
        with open(paths.codec / file, "rb") as original, artifacts.atomic(paths.out / "codec" / file) as copy:
            shutil.copyfileobj(original, copy)
    made = write_data(
        paths.out,
        {split: ((values * scale).astype(np.float32), data.labels(split)) for split, values in encoded.items()},
        levels=None,
        classes=data.spec["classes"],
        extra={
            "codec": {"name": name, "weights": found.hash, "scale": scale, "encode": cfg.encode, "seed": seed},
            "encoded": {"path": str(paths.data), **{part: data.spec[part] for part in ("hash", "shape", "levels")}},
        },
    )
    artifacts.write_json(
        paths.json,
        {
            "psnr_db": round(measured.psnr, 3),
            "mean_absolute_error_grey_levels": round(measured.absolute, 4),
            "scale": to_digits(scale, 6),
            "measured": {
                "split": "valid", "images": len(splits["valid"]), "encode": cfg.encode, "latent_shape": made.spec["shape"],
                "data": data.hash[:8], "weights": found.hash[:8],
            },
        },
    )  # fmt: skip
    print(
        f"{key}: latents of {'x'.join(str(side) for side in made.spec['shape'])}, scale {scale:.4g}, "
        f"error {measured.absolute:.2f} of 255 grey levels, PSNR {measured.psnr:.1f} dB",
        flush=True,
    )


def main(argv: list[str] | None = None) -> int:
    parser = command.parser(__doc__)
    parser.add_argument("codec", help="a name under codecs:")
    args = parser.parse_args(argv)

    def work() -> None:
        params, place = load_params(args.params), Layout()
        cfg = command.choose(params.codecs, args.codec, "codecs")
        check_model(params, "codecs", args.codec, place.root)
        paths = Paths(
            place.data(cfg.data),
            place.codec(args.codec),
            place.latents(args.codec),
            place.report("codecs", args.codec),
        )
        command.writable(paths.out, paths.json.parent)
        run(cfg, paths, args.codec)

    return command.run_command(work)


if __name__ == "__main__":
    sys.exit(main())
