"""Generates one named sample of params.yaml: images, a grid, a trajectory strip, and how long it took.

Image i depends on the sample's seed and on i only. The network always sees batches of the same size, so that neither the
number of images nor their order changes a rounding. Latents are decoded by the codec that lies beside the run's data.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pipeline.config import schema
from pipeline.config.load import load_params
from pipeline.core import artifacts, command
from pipeline.core.layout import Layout
from pipeline.core.progress import Progress
from pipeline.store.data import check_drawable
from pipeline.store.fresh import check_model, check_trained_on, role_of

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from pipeline.samplers.base import Sampler
    from pipeline.store.models import Saved

BATCH = 100
STRIP_IMAGES, STRIP_MOMENTS = 6, 12


@dataclass(frozen=True)
class Paths:
    """model: a folder with model.safetensors; out: gets images.npy, grid.png, trajectory.png, sample.json, timing.json.

    data: what the model was trained on, beside which the codec lies if they are latents.
    """

    model: Path
    out: Path
    data: Path = Layout().prepared


@dataclass(frozen=True)
class Generated:
    """What `generate` makes.

    images: (N, C, H, W) in model space, unclipped, decoded where the model's data are latents; strip: (moments, images, C, H,
    W) of z and x_hat, likewise; seconds: by batch, decoding included; evaluations: of the network, per image.
    """

    images: Tensor
    strip: Tensor
    seconds: list[float]
    evaluations: int


def generate(
    model: Saved, sampler: Sampler, steps: int, images: int, seed: int, device: torch.device, precision: str,
    guidance: float | None = None, decode: Callable[[Tensor], Tensor] | None = None, batch: int = BATCH, label: str = "sample",
) -> Generated:  # fmt: skip
    """Images 0..images-1 of a seed. Every batch is timed alike, after a warm-up step, synchronised with the device.

    decode: from what the model generates to images (None: they are images). Raises ValueError where guidance does not apply.
    """
    import torch

    from pipeline.core.contracts import Generative
    from pipeline.core.device import autocast
    from pipeline.core.random import RowRandom
    from pipeline.samplers.trajectory import trajectory

    network = model.model
    assert isinstance(network, Generative)
    if guidance is not None:
        network.guide(guidance)
    times = network.schedule.times(steps, sampler.spacing)
    moments = len(times) - 1
    variances = model.variances[steps] if sampler.optimal_variance else None
    shape, classes = tuple(model.config["data"]["shape"]), model.config["data"]["classes"]
    conditional = model.block.class_conditional
    keep = np.unique(np.linspace(0, moments, min(STRIP_MOMENTS, moments + 1)).round().astype(int))
    finish = decode or (lambda z: z)
    parts: list[Tensor] = []
    strip: list[Tensor] = []
    seconds: list[float] = []

    def walk(rows: range) -> Iterator[tuple[Tensor, Tensor | None]]:
        y = torch.tensor([row % classes for row in rows], device=device) if conditional else None  # every class equally often
        random = partial(RowRandom, seed, rows, device=device)
        return trajectory(network, sampler, (batch, *shape), steps, random, y, device, variances)

    def synchronise() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize()

    with torch.inference_mode(), autocast("bf16" if precision == "bf16" else "float32", device):
        warm = walk(range(batch))
        finish((next(warm), next(warm))[1][0])
        with Progress(-(-images // batch) * batch * moments, "image steps", label) as progress:
            for first in range(0, images, batch):
                synchronise()
                began = time.perf_counter()
                z = None
                # Rows beyond `images` in the last batch are computed and not kept.
                for index, (z, x_hat) in enumerate(walk(range(first, first + batch))):
                    if first == 0 and index in keep:
                        pair = (z, z if x_hat is None else x_hat)
                        strip.append(torch.stack([part[:STRIP_IMAGES] for part in pair]))
                    if index:
                        progress.update(batch)
                assert z is not None
                made = finish(z)
                synchronise()
                seconds.append(time.perf_counter() - began)
                parts.append(made.float().cpu())
        shown = torch.stack([finish(pair.flatten(0, 1)).float().cpu() for pair in strip])
    evaluations = sampler.evaluations(times) * (1 if guidance is None else 2)
    return Generated(torch.cat(parts)[:images], shown, seconds, evaluations)


def run(cfg: schema.Sample, paths: Paths, key: str) -> None:
    """Generates `cfg` with the model in paths.model. `key`: where it stands in params.yaml, for messages."""
    import torch

    from pipeline.config.load import read_plugin
    from pipeline.core.contracts import Generative
    from pipeline.core.device import choose_precision, describe_device, pick_device
    from pipeline.core.pixels import quantize
    from pipeline.reporting.images import grid, png, to_bytes
    from pipeline.samplers.fits import Sampled, check_sample
    from pipeline.store import latents, models

    device = pick_device()
    sampler: Sampler = read_plugin("samplers", cfg.sampler, f"{key}.sampler")
    model = models.load(paths.model, device)
    if not isinstance(model.model, Generative):
        raise ValueError(f"{key}.run is {cfg.run!r}, which generates nothing; name a generative run")
    kind, family, latent = type(model.model), model.config["run"]["family"], model.config["data"]["levels"] is None
    check_sample(cfg, sampler, Sampled(family, kind, model.block, model.model.schedule, model.variances, latent), key)
    precision = choose_precision(model.config["run"]["training"]["precision"], device)
    codec = latents.open_codec(paths.data, device) if model.config["data"]["levels"] is None else None
    if codec is not None:
        check_trained_on(model.config, paths.model, codec.data, paths.data)
    else:
        check_drawable(model.config["data"]["shape"], str(paths.model))
    decode = None if codec is None else codec.decode
    made = generate(model, sampler, cfg.steps, cfg.images, cfg.seed, device, precision, cfg.guidance, decode, label=key)

    levels = model.config["data"]["levels"] if codec is None else codec.levels
    finite = torch.isfinite(made.images)
    nonfinite = (~finite).flatten(1).sum(1)
    codes: NDArray[np.uint8] = quantize(torch.where(finite, made.images, 0.0), levels).numpy()
    beyond = ((made.images.abs() > 1) & finite).float().mean()
    artifacts.write_array(paths.out / "images.npy", codes)
    shown = to_bytes(codes[:100], levels)
    with artifacts.atomic(paths.out / "grid.png") as file:
        file.write(png(grid(shown, 10)))
    moments, rows = made.strip.shape[:2]
    strip = to_bytes(quantize(made.strip.nan_to_num(), levels).numpy(), levels)
    order = [(moment, image + part * (rows // 2)) for image in range(rows // 2) for part in (0, 1) for moment in range(moments)]
    with artifacts.atomic(paths.out / "trajectory.png") as file:
        file.write(png(grid(np.stack([strip[moment, row] for moment, row in order]), moments)))
    rate = BATCH / statistics.median(made.seconds)
    artifacts.write_json(
        paths.out / "timing.json",
        {"images_per_second": rate, "network_evaluations": made.evaluations, "images": cfg.images, "batch": BATCH,
         "repeats": len(made.seconds), "seconds_per_repeat": [round(value, 4) for value in made.seconds],
         "decoding": codec is not None, "precision": precision, **describe_device(device)},
    )  # fmt: skip
    # Last, with a hash of the images: where it does not fit them, sampling broke off.
    artifacts.write_json(
        paths.out / "sample.json",
        {
            "run": cfg.run, "described": described(sampler, cfg.guidance, model.block.class_conditional),
            "sampler": sampler.model_dump(mode="json"), "steps": cfg.steps, "guidance": cfg.guidance,
            "seed": cfg.seed, "images": cfg.images, "weights": model.hash, "levels": levels,
            "data": model.config["data"]["hash"] if codec is None else codec.source,
            "codec": None if codec is None else {"name": codec.name, "weights": codec.weights, "latents": codec.data},
            "nonfinite": {str(i): int(n) for i, n in enumerate(nonfinite) if n},
            "share_of_pixels_beyond_range": round(float(beyond), 6),
            "block": cfg.model_dump(mode="json"), "code": model.config["code"],
            "sha256": artifacts.hash_file(paths.out / "images.npy"),
        },
    )  # fmt: skip
    print(f"{key}: {cfg.images} images, {rate:.3g} images/s, {made.evaluations} network evaluations each", flush=True)


def described(sampler: Sampler, guidance: float | None, class_conditional: bool) -> str:
    """The sampler in a few words, with guidance, or that the classes are asked for in turn, as in "ddim, guidance 2"."""
    if guidance is not None:
        return f"{sampler.described()}, guidance {guidance:g}"
    return f"{sampler.described()}, by class" if class_conditional else sampler.described()


def main(argv: list[str] | None = None) -> int:
    parser = command.parser(__doc__)
    parser.add_argument("sample", help="a name under samples:")
    args = parser.parse_args(argv)

    def work() -> None:
        params = load_params(args.params)
        cfg = command.choose(params.samples, args.sample, "samples")
        place = Layout()
        paths = Paths(place.run(cfg.run), place.sample(args.sample), place.data(params.data_of(cfg.run)))
        check_model(params, role_of(params, cfg.run), cfg.run, place.root)
        command.writable(paths.out)
        run(cfg, paths, f"samples.{args.sample}")

    return command.run_command(work)


if __name__ == "__main__":
    sys.exit(main())
