"""Measures bits/dim of one run: prior, reconstruction and diffusion terms, with standard errors and a curve over time.

Noise is keyed by (seed, image), times are low-discrepancy within each image, weights are the averaged ones, arithmetic is
float32 or better: never autocast.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipeline.config import schema
from pipeline.config.load import load_params
from pipeline.core import artifacts, command
from pipeline.core.layout import Layout
from pipeline.core.likelihood_terms import TERMS, TOTAL_AND_TERMS
from pipeline.core.progress import Progress
from pipeline.core.rounding import to_digits
from pipeline.store.data import DataDirectory
from pipeline.store.fresh import check_model, check_trained_on

if TYPE_CHECKING:
    import torch

    from pipeline.core.contracts import LikelihoodModel
    from pipeline.store.splits import Split

ESTIMATES = 2  # of each term for each image, independent of each other
CURVE_BINS = 40


@dataclass(frozen=True)
class Paths:
    """model: a folder with model.safetensors; data: a data directory; json and curve: what is written.

    images: gets bits/dim of every image, (N, 4) float64 in the order total, prior, reconstruction, diffusion: two runs that
    were measured on the same images differ by far less noise image by image than their means do. None: not kept.
    """

    model: Path
    data: Path
    json: Path
    curve: Path
    images: Path | None = None


@dataclass(frozen=True)
class Estimates:
    """nats: term -> (images, 2), per image; time, diffusion: (images, times), at every single time."""

    nats: dict[str, NDArray[np.float64]]
    time: NDArray[np.float64]
    diffusion: NDArray[np.float64]


def estimate(
    model: LikelihoodModel, split: Split, images: int, cfg: schema.Bound, device: torch.device, label: str
) -> Estimates:
    """Every term of the bound for the first `images` of a split.

    The times of an image come in two independent sets, each low-discrepancy: their difference is what tells Monte-Carlo
    noise from differences between images.
    """
    import torch

    from pipeline.core.random import RowRandom
    from pipeline.diffusion.times import low_discrepancy

    per_estimate = cfg.times // ESTIMATES
    nats = {name: np.zeros((images, ESTIMATES)) for name in TERMS}
    time, diffusion = np.zeros((2, images, ESTIMATES * per_estimate))
    with torch.inference_mode(), Progress(images * per_estimate * ESTIMATES, "evaluations", label) as progress:
        for first in range(0, images, cfg.batch):
            rows = range(first, min(first + cfg.batch, images))
            batch = split.rows(np.arange(rows.start, rows.stop), device)
            for number in range(ESTIMATES):
                offset = RowRandom(cfg.seed, rows, number, device).uniform((len(rows), 1), "time")[:, 0]
                grid = torch.stack([low_discrepancy(per_estimate, value) for value in offset], 1)
                here = slice(rows.start, rows.stop)
                ends = model.prior_and_reconstruction(batch, RowRandom(cfg.seed, rows, number * per_estimate, device))
                nats["prior"][here, number], nats["reconstruction"][here, number] = ends.prior.cpu(), ends.reconstruction.cpu()
                for index in range(per_estimate):
                    step = number * per_estimate + index
                    found = model.diffusion_term(batch, grid[index], RowRandom(cfg.seed, rows, step, device))
                    time[here, step], diffusion[here, step] = found.time.cpu(), found.nats.cpu()
                    progress.update(len(rows))
                nats["diffusion"][here, number] = diffusion[here, number * per_estimate : (number + 1) * per_estimate].mean(1)
    return Estimates(nats, time, diffusion)


def bits_per_dim(found: Estimates, dimensions: int) -> dict[str, NDArray[np.float64]]:
    """Term -> (images, 2) in bits/dim, and their sum under `total`; `dimensions` is C * H * W."""
    bits = {name: values / (dimensions * np.log(2)) for name, values in found.nats.items()}
    bits["total"] = bits["prior"] + bits["reconstruction"] + bits["diffusion"]
    return bits


def standard_errors(values: NDArray[np.float64]) -> dict[str, float]:
    """values: (images, 2) estimates -> standard errors of the mean over images.

    `total` is what the mean may be off by as an estimate for other images; `monte_carlo` is the part that more times would
    remove, from the difference of the two; `data` is the rest.
    """
    images = len(values)
    total = values.mean(1).var(ddof=1) / images
    monte_carlo = ((values[:, 0] - values[:, 1]) ** 2 / 4).mean() / images
    # The difference of two estimates may fall below zero when there is nothing but Monte-Carlo noise.
    return {"total": total**0.5, "data": max(total - monte_carlo, 0.0) ** 0.5, "monte_carlo": monte_carlo**0.5}


def curve(found: Estimates, gamma: Any, dimensions: int) -> str:
    """CSV: time (centre of the bin), logsnr there, bits_per_dim (the diffusion term per unit of time), its standard error."""
    bits, time = found.diffusion.ravel() / (dimensions * np.log(2)), found.time.ravel()
    edges = np.linspace(0, 1, CURVE_BINS + 1)
    lines = ["time,logsnr,bits_per_dim,standard_error"]
    which = np.clip(np.ceil(time * CURVE_BINS).astype(int) - 1, 0, CURVE_BINS - 1)
    for index in range(CURVE_BINS):
        if (which == index).any():  # a chain of few steps leaves bins without a time; they have no line
            # Every draw estimates the whole term, wherever it was made: a bin's part is the mean of those made in it, with
            # zeros for the others, whatever density the model draws times from.
            part = np.where(which == index, bits, 0.0) * CURVE_BINS
            centre = (edges[index] + edges[index + 1]) / 2
            # A time that was drawn: a discrete schedule has none between two of its levels.
            middle = float(np.quantile(time[which == index], 0.5, method="nearest"))
            error = part.std(ddof=1) / len(part) ** 0.5
            lines.append(f"{centre:.4f},{-gamma(middle):.4f},{part.mean():.5g},{error:.3g}")
    return "\n".join(lines) + "\n"


def run(cfg: schema.Bound, paths: Paths, key: str) -> None:
    """Measures the model in paths.model. `key`: where the bound stands in params.yaml, for messages."""
    import torch

    from pipeline.core.contracts import Generative, LikelihoodModel
    from pipeline.core.device import describe_device, pick_device
    from pipeline.store import models
    from pipeline.store.splits import Split

    device = pick_device()
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    model = models.load(paths.model, device)
    data = DataDirectory.open(paths.data)
    if not isinstance(model.model, LikelihoodModel) or not isinstance(model.model, Generative):
        raise ValueError(
            f"{key} asks for bits/dim of the family {model.config['run']['family']}, which has no bound; remove it"
        )
    check_trained_on(model.config, paths.model, data.hash, paths.data)
    split = Split(data, cfg.split)
    images = len(split) if cfg.images is None else cfg.images
    if images > len(split):
        raise ValueError(
            f"{key}.images is {images}; allowed: up to {len(split)}, the images of the {cfg.split} split, or null for all"
        )
    found = estimate(model.model, split, images, cfg, device, key)

    dimensions = data.data_spec.dimensions
    bits = bits_per_dim(found, dimensions)
    errors = {name: standard_errors(values) for name, values in bits.items()}
    means = {name: float(bits[name].mean()) for name in TOTAL_AND_TERMS}
    for name, values in bits.items():  # before anything is written
        if not np.isfinite(values).all():
            raise ValueError(
                f"{key}: the term {name} of {paths.model} is not finite for {int((~np.isfinite(values)).any(1).sum())} of "
                f"{images} images; train it anew with a lower learning_rate"
            )
    schedule = model.model.schedule

    def gamma(t: float) -> float:
        return float(schedule.gamma(torch.tensor([t], dtype=torch.float64, device=device))[0])

    lines = curve(found, gamma, dimensions)
    artifacts.write_json(
        paths.json,
        {
            "bits_per_dim": {
                **{name: to_digits(value, 5) for name, value in means.items()},
                "standard_error": to_digits(errors["total"]["total"], 2),
            },
            "standard_errors": {
                name: {part: to_digits(value, 2) for part, value in parts.items()} for name, parts in errors.items()
            },
            "measured": {
                "split": cfg.split, "images": images, "times_per_image": ESTIMATES * (cfg.times // ESTIMATES),
                "seed": cfg.seed, "data": data.hash[:8], "device": describe_device(device)["device"],
            },
        },
    )  # fmt: skip
    artifacts.write_text(paths.curve, lines)
    if paths.images is not None:
        artifacts.write_array(paths.images, np.stack([bits[name].mean(1) for name in TOTAL_AND_TERMS], 1))
        # Last, with a hash of the numbers: where it does not fit them, the measurement broke off.
        artifacts.write_json(
            paths.images.with_name("details.json"),
            {
                "family": model.config["run"]["family"], "model": model.block.model_dump(mode="json"), "weights": model.hash,
                "block": cfg.model_dump(mode="json"), "sha256": artifacts.hash_file(paths.images),
            },
        )  # fmt: skip
    print(f"{key}: {means['total']:.4f} bits/dim, standard error {errors['total']['total']:.2g}", flush=True)


def main(argv: list[str] | None = None) -> int:
    parser = command.parser(__doc__)
    parser.add_argument("run", help="a name under bounds:")
    parser.add_argument(
        "--model", type=command.path, help="measure the model in this folder instead of the run's own; goes with --out"
    )
    parser.add_argument(
        "--out", type=command.path, help="write this JSON file, and a CSV file beside it, instead of reports/bounds"
    )
    args = parser.parse_args(argv)

    def work() -> None:
        params = load_params(args.params)
        cfg = command.choose(params.bounds, args.run, "bounds")
        if args.model is not None and args.out is None:
            raise ValueError(f"--model is {args.model} without --out; name a file, as reports/bounds is for models in runs/")
        place = Layout()
        model = args.model or place.run(args.run)
        out = args.out or place.report("bounds", args.run)
        if args.model is None:
            check_model(params, "runs", args.run, place.root)
        images = None if args.out is not None else place.bound(args.run) / "bits.npy"
        command.writable(out.parent, *(() if images is None else (images.parent,)))
        run(
            cfg,
            Paths(model, place.data(params.runs[args.run].data), out, out.with_suffix(".csv"), images),
            f"bounds.{args.run}",
        )

    return command.run_command(work)


if __name__ == "__main__":
    sys.exit(main())
