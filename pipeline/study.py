"""Studies of trained models. `depth RUN`: bits/dim and FD against the number of steps T, for two reverse variances."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.config import schema
from pipeline.config.load import load_params
from pipeline.core import artifacts, command
from pipeline.core.layout import Layout
from pipeline.core.progress import Progress
from pipeline.store import extractors
from pipeline.store.data import DataDirectory

CHOICES = ("posterior", "optimal")


@dataclass(frozen=True)
class Paths:
    """root: where extractors/ lies; model: a trained run; data: a data directory; json and curve: what is written."""

    root: Path
    model: Path
    data: Path
    json: Path
    curve: Path


def bounds(model: Any, split: Any, cfg: schema.Depth, device: Any, label: str) -> dict[str, dict[str, dict[str, float]]]:
    """T or "inf" -> choice -> bits/dim and its standard error, on the first test images with the same noise for every T."""
    import torch

    from pipeline.core.random import RowRandom
    from pipeline.studies import finite_steps

    images = min(cfg.images, len(split))
    depths = sorted(model.variances)
    collected: dict[tuple[str, str], list[Any]] = {}
    ends: list[Any] = []
    with torch.inference_mode(), Progress(images * (len(depths) + 1), "images x depths", label) as progress:
        for first in range(0, images, 125):
            rows = range(first, min(first + 125, images))
            batch = split.rows(np.arange(rows.start, rows.stop), device)
            rng = RowRandom(cfg.seed, rows, 0, device)
            offset = rng.uniform((len(rows), 1), "time")[:, 0]
            terms = model.model.prior_and_reconstruction(batch, rng)
            ends.append((terms.prior + terms.reconstruction).cpu().numpy())
            for depth in depths:
                found = finite_steps.diffusion(model.model, batch, depth, cfg.times, model.variances[depth], offset, rng)
                collected.setdefault((str(depth), "posterior"), []).append(found.posterior)
                collected.setdefault((str(depth), "optimal"), []).append(found.optimal)
                progress.update(len(rows))
            limit = finite_steps.continuous(model.model, batch, cfg.times, offset, rng)
            for choice in CHOICES:  # in the limit there is one variance
                collected.setdefault(("inf", choice), []).append(limit)
            progress.update(len(rows))
    both_ends = np.concatenate(ends)
    dimensions = int(np.prod(split.images.shape[1:]))
    table: dict[str, dict[str, dict[str, float]]] = {}
    for (depth, choice), parts in collected.items():
        nats = {"diffusion": np.concatenate(parts), "ends": both_ends}
        table.setdefault(depth, {})[choice] = finite_steps.row(nats, dimensions)
    return table


def distances(
    model: Any, extract: Any, reference: Any, cfg: schema.Depth, device: Any, label: str
) -> dict[str, dict[str, float]]:
    """T -> choice -> FD of ancestral samples in T steps against `reference`, the moments of real images."""
    import torch

    from pipeline.core.device import autocast, choose_precision
    from pipeline.core.pixels import quantize
    from pipeline.core.random import RowRandom
    from pipeline.metrics.frechet import frechet_distance, moments
    from pipeline.samplers.ancestral import Ancestral
    from pipeline.samplers.trajectory import trajectory

    shape = (cfg.samples, *model.config["data"]["shape"])
    levels = model.config["data"]["levels"]
    precision = choose_precision(model.config["run"]["training"]["precision"], device)
    rows = range(cfg.samples)
    table: dict[str, dict[str, float]] = {}
    work = 2 * sum(model.variances) * cfg.samples
    with torch.inference_mode(), autocast(precision, device), Progress(work, "evaluations", label) as progress:
        for depth, variances in sorted(model.variances.items()):
            for choice in CHOICES:
                z = None
                context = trajectory(
                    model.model, Ancestral(kind="ancestral"), shape, depth,
                    lambda step: RowRandom(cfg.seed, rows, step, device), device=device, variances=variances if choice == "optimal" else None,
                )  # fmt: skip
                for index, (z, _) in enumerate(context):  # noqa: B007 - the last z is what is wanted
                    progress.update(cfg.samples if index else 0)
                assert z is not None
                codes = quantize(z, levels).cpu().numpy()
                table.setdefault(str(depth), {})[choice] = frechet_distance(moments(extract(codes).features), reference)
    return table


def run(cfg: schema.Depth, evaluate: schema.Evaluate, paths: Paths, key: str) -> None:
    """Studies the run in paths.model. `key`: where it stands in params.yaml, for messages."""
    import torch

    from pipeline.core.device import describe_device, pick_device
    from pipeline.metrics.frechet import moments
    from pipeline.store import models
    from pipeline.store.splits import Split

    device = pick_device()
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    model = models.load(paths.model, device)
    data = DataDirectory.open(paths.data)
    if model.config["data"]["hash"] != data.hash:
        raise ValueError(f"{paths.model} was trained on other data than {paths.data} holds; train it again: dvc repro")
    bits = bounds(model, Split(data, "test"), cfg, device, f"{key} bits/dim")
    extract = extractors.open_extractor(evaluate, data, paths.root)
    reference = moments(extract(np.asarray(data.images("test"))).features)
    quality = distances(model, extract, reference, cfg, device, f"{key} FD")

    table = {
        depth: {
            choice: {
                "bits_per_dim": float(f"{bits[depth][choice]['bits_per_dim']:.5g}"),
                "standard_error": float(f"{bits[depth][choice]['standard_error']:.2g}"),
                **({"fd": float(f"{quality[depth][choice]:.4g}")} if depth in quality else {}),
            }
            for choice in CHOICES
        }
        for depth in bits
    }
    artifacts.write_json(
        paths.json,
        {
            "depths": table,
            "measured": {
                "images": min(cfg.images, data.spec["counts"]["test"]), "times": cfg.times, "samples": cfg.samples,
                "data": data.hash[:8], "extractor": f"{extract.name}@{extract.hash[:8]}",
                "device": describe_device(device)["device"],
            },
        },
    )  # fmt: skip
    lines = ["steps,choice,bits_per_dim,standard_error,fd"]
    for depth, choices in table.items():
        for choice, row in choices.items():
            lines.append(f"{depth},{choice},{row['bits_per_dim']},{row['standard_error']},{row.get('fd', '')}")
    artifacts.write_text(paths.curve, "\n".join(lines) + "\n")


def main(argv: list[str] | None = None) -> int:
    parser = command.parser(__doc__)
    parser.add_argument("study", choices=["depth"])
    parser.add_argument("run", help="a name under depths:")
    args = parser.parse_args(argv)

    def work() -> None:
        params = load_params(args.params)
        cfg = command.choose(params.depths, args.run, "depths")
        place = Layout()
        paths = Paths(
            place.root, place.run(args.run), place.data(params.runs[args.run].data),
            place.report("depth", args.run), place.report("depth", args.run, ".csv"),
        )  # fmt: skip
        run(cfg, params.evaluate, paths, f"depths.{args.run}")

    return command.run_command(work)


if __name__ == "__main__":
    sys.exit(main())
