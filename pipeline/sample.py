"""Generates one named sample of params.yaml: images, a grid, a trajectory strip, and how long it took.

Image i depends on the sample's seed and on i only. The network always sees batches of the same size, so that neither the
number of images nor their order changes a rounding.
"""

from __future__ import annotations

import statistics
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pipeline import artifacts, config, stage
from pipeline.progress import Progress

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from pipeline.diffusion.sampler import DDIM, Ancestral
    from pipeline.training.saved import Saved

BATCH = 100
STRIP_IMAGES, STRIP_MOMENTS = 6, 12


@dataclass(frozen=True)
class Paths:
    """model: a folder with model.safetensors; out: gets images.npy, grid.png, trajectory.png, sample.json, timing.json."""

    model: Path
    out: Path


@dataclass(frozen=True)
class Generated:
    """images: (N, C, H, W) in model space, unclipped; strip: (moments, images, C, H, W) of z and x_hat; seconds by batch."""

    images: Tensor
    strip: Tensor
    seconds: list[float]


def generate(
    model: Saved, sampler: Ancestral | DDIM, steps: int, images: int, seed: int, where: torch.device, precision: str,
    batch: int = BATCH, label: str = "sample",
) -> Generated:  # fmt: skip
    """Images 0..images-1 of a seed. Seconds exclude a warm-up step and are synchronised with the device."""
    import torch

    from pipeline import device
    from pipeline.diffusion.sampler import trajectory
    from pipeline.training.random import RowRandom

    network = model.model
    variances = model.variances[steps] if getattr(sampler, "variance", "model") == "optimal" else None
    shape, classes = tuple(model.config["data"]["shape"]), model.config["data"]["classes"]
    conditional = bool(model.config["run"]["model"].get("labels", False))
    keep = np.unique(np.linspace(0, steps, min(STRIP_MOMENTS, steps + 1)).round().astype(int))
    parts: list[Tensor] = []
    strip: list[Tensor] = []
    seconds: list[float] = []

    def synchronise() -> None:
        if where.type == "cuda":
            torch.cuda.synchronize()

    with torch.inference_mode(), device.autocast("bf16" if precision == "bf16" else "float32", where):
        rows = range(batch)
        y = _labels(rows, classes, where) if conditional else None
        warm = trajectory(
            network, sampler, (batch, *shape), steps, partial(RowRandom, seed, rows, device=where), y, where, variances
        )
        next(warm), next(warm)
        with Progress(-(-images // batch) * batch * steps, "evaluations", label) as progress:
            for first in range(0, images, batch):
                rows = range(first, first + batch)  # beyond `images` in the last batch: computed, not kept
                y = _labels(rows, classes, where) if conditional else None
                synchronise()
                began = time.perf_counter()
                z = None
                random = partial(RowRandom, seed, rows, device=where)
                walk = trajectory(network, sampler, (batch, *shape), steps, random, y, where, variances)
                for index, (z, x_hat) in enumerate(walk):
                    if first == 0 and index in keep:
                        shown = z if x_hat is None else torch.cat([z[:STRIP_IMAGES], x_hat[:STRIP_IMAGES]])
                        strip.append((torch.cat([z[:STRIP_IMAGES]] * 2) if x_hat is None else shown).float().cpu())
                    if index:
                        progress.update(batch)
                synchronise()
                seconds.append(time.perf_counter() - began)
                assert z is not None
                parts.append(z.float().cpu())
    return Generated(torch.cat(parts)[:images], torch.stack(strip), seconds)


def run(cfg: config.Sample, paths: Paths, key: str) -> None:
    """Generates `cfg` with the model in paths.model. `key`: where it stands in params.yaml, for messages."""
    import torch

    from pipeline import device
    from pipeline.diffusion.likelihood import to_codes
    from pipeline.diffusion.sampler import Sampler
    from pipeline.images import grid, png, to_bytes
    from pipeline.roles import Generative
    from pipeline.training import saved

    where = device.pick()
    sampler = config.read_block(Sampler, cfg.sampler, f"{key}.sampler")
    model = saved.load(paths.model, where)
    if not isinstance(model.model, Generative):
        raise ValueError(f"{key}.run is {cfg.run!r}, which generates nothing; name a generative run")
    precision = device.precision(model.config["run"]["training"]["precision"], where)
    made = generate(model, sampler, cfg.steps, cfg.images, cfg.seed, where, precision, label=key)

    levels = model.config["data"]["levels"]
    finite = torch.isfinite(made.images)
    nonfinite = (~finite).flatten(1).sum(1)
    codes: NDArray[np.uint8] = to_codes(torch.where(finite, made.images, 0.0), levels).numpy()
    beyond = ((made.images.abs() > 1) & finite).float().mean()
    artifacts.write_array(paths.out / "images.npy", codes)
    shown = to_bytes(codes[:100], levels)
    with artifacts.atomic(paths.out / "grid.png") as file:
        file.write(png(grid(shown, 10)))
    moments, rows = made.strip.shape[:2]
    strip = to_bytes(to_codes(made.strip.nan_to_num(), levels).numpy(), levels)
    order = [(moment, image + part * (rows // 2)) for image in range(rows // 2) for part in (0, 1) for moment in range(moments)]
    with artifacts.atomic(paths.out / "trajectory.png") as file:
        file.write(png(grid(np.stack([strip[moment, row] for moment, row in order]), moments)))
    artifacts.write_json(
        paths.out / "sample.json",
        {
            "run": cfg.run, "sampler": sampler.model_dump(mode="json"), "steps": cfg.steps, "seed": cfg.seed,
            "images": cfg.images, "weights": model.hash, "data": model.config["data"]["hash"], "levels": levels,
            "nonfinite": {str(i): int(n) for i, n in enumerate(nonfinite) if n},
            "share_of_pixels_beyond_range": round(float(beyond), 6),
        },
    )  # fmt: skip
    rate = BATCH / statistics.median(made.seconds)
    artifacts.write_json(
        paths.out / "timing.json",
        {"images_per_second": rate, "network_evaluations": cfg.steps, "images": cfg.images, "batch": BATCH,
         "seconds_per_batch": [round(value, 4) for value in made.seconds], "precision": precision, **device.describe(where)},
    )  # fmt: skip
    print(f"{key}: {cfg.images} images, {rate:.3g} images/s, {cfg.steps} network evaluations each", flush=True)


def _labels(rows: range, classes: int, where: torch.device) -> Tensor:
    """Classes in turn, so that every class is asked for equally often."""
    import torch

    return torch.tensor([row % classes for row in rows], device=where)


def main(argv: list[str] | None = None) -> int:
    parser = stage.parser(__doc__)
    parser.add_argument("sample", help="a name under samples:")
    args = parser.parse_args(argv)

    def work() -> None:
        cfg = stage.choose(config.load(args.params).samples, args.sample, "samples")
        folder = Path("runs") / cfg.run
        run(cfg, Paths(folder / "train", folder / "samples" / args.sample), f"samples.{args.sample}")

    return stage.guarded(work)


if __name__ == "__main__":
    sys.exit(main())
