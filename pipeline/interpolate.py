"""Draws the way between two real images through the latents of a run: DDIM inversion, slerp, DDIM back (Song et al. 2021).

Each row begins with the first image and ends with the second; between them stand what comes back from their latents and from
latents on the great circle between those. How far the two that come back are from the images themselves is printed.

Reads   runs/<run>, the run's data (and the codec beside it, if they are latents)
Writes  interpolations/<run>.png, or --out
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline.config.load import load_params
from pipeline.core import artifacts, command
from pipeline.core.layout import Layout
from pipeline.store.data import DataDirectory
from pipeline.store.fresh import check_model, check_trained_on, role_of

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Paths:
    """model: a folder with model.safetensors; data: what the run was trained on; out: the picture."""

    model: Path
    data: Path
    out: Path


def run(pairs: list[tuple[int, int]], steps: int, points: int, paths: Paths, key: str) -> float:
    """Draws one row per pair of test images; returns the mean absolute error of those that come back, in grey levels of 255.

    `key`: where the run stands in params.yaml, for messages. Raises ValueError for a model without a flow, and unknown images.
    """
    import torch

    from pipeline.core.contracts import Generative
    from pipeline.core.device import pick_device
    from pipeline.core.pixels import quantize
    from pipeline.reporting.images import grid, png, to_bytes
    from pipeline.samplers.ddim import DDIM
    from pipeline.samplers.inversion import invert, reconstruct, slerp
    from pipeline.store import latents, models
    from pipeline.store.splits import Split

    device = pick_device()
    model = models.load(paths.model, device)
    network = model.model
    if not isinstance(network, Generative) or not network.has_probability_flow:
        raise ValueError(
            f"{key} is of the family {model.config['run']['family']}, which has no flow to follow back; name another run"
        )
    data = DataDirectory.open(paths.data)
    check_trained_on(model.config, paths.model, data.hash, paths.data)
    split = Split(data, "test")
    for index in (index for pair in pairs for index in pair):
        if not 0 <= index < len(split):
            raise ValueError(f"--images names {index}; allowed: 0 to {len(split) - 1}, the images of the test split")
    codec = latents.open_codec(paths.data, device) if split.levels is None else None
    levels = split.levels if codec is None else codec.levels
    assert levels is not None

    def shown(z: Tensor) -> Tensor:
        return quantize((z if codec is None else codec.decode(z)).float().cpu().nan_to_num(), levels)

    labelled = model.block.class_conditional
    sampler = DDIM(kind="ddim", clip=False)  # clipping cannot be undone
    rows = []
    with torch.inference_mode():
        for first, second in pairs:
            batch = split.rows(np.array([first, second]), device)
            none = torch.full((2,), data.data_spec.classes, device=device) if labelled else None
            ends = invert(network, batch.x, steps, none, device, sampler)
            shares = [index / (points - 1) for index in range(points)]
            between = torch.cat([slerp(ends[:1], ends[1:], share) for share in shares])
            y = torch.full((points,), data.data_spec.classes, device=device) if labelled else None
            x = reconstruct(network, between, steps, y, device, sampler)
            rows.append(torch.cat([shown(batch.x[:1]), shown(x), shown(batch.x[1:])]))
    back = torch.stack(rows).double() * (255 / (levels - 1))
    error = float((back[:, [1, -2]] - back[:, [0, -1]]).abs().mean())
    picture = to_bytes(torch.cat(rows).numpy(), levels)
    with artifacts.atomic(paths.out) as file:
        file.write(png(grid(picture, points + 2)))
    return error


def main(argv: list[str] | None = None) -> int:
    parser = command.parser(__doc__)
    parser.add_argument("run", help="a name under runs: or composed:")
    parser.add_argument("--images", type=int, nargs="+", default=[0, 1, 2, 3], help="test images, in pairs (default: 0 1 2 3)")
    parser.add_argument("--steps", type=int, default=100, help="steps of each way (default: %(default)s)")
    parser.add_argument("--points", type=int, default=9, help="latents per row, both ends included (default: %(default)s)")
    parser.add_argument("--out", type=command.path, help="the picture (default: interpolations/<run>.png)")
    args = parser.parse_args(argv)

    def work() -> None:
        params = load_params(args.params)
        if args.run not in {**params.runs, **params.composed}:
            raise ValueError(f"runs has no {args.run!r}; allowed: {', '.join([*params.runs, *params.composed])}")
        if len(args.images) % 2:
            raise ValueError(f"--images names {len(args.images)} images; allowed: an even number, as they go in pairs")
        if args.points < 2:
            raise ValueError(f"--points is {args.points}; allowed: 2 or more, as both ends are among them")
        place = Layout()
        out = args.out or place.interpolation(args.run)
        pairs = list(zip(args.images[::2], args.images[1::2], strict=True))
        paths = Paths(place.run(args.run), place.data(params.data_of(args.run)), out)
        check_model(params, role_of(params, args.run), args.run, place.root)
        command.writable(out.parent)
        error = run(pairs, args.steps, args.points, paths, args.run)
        print(f"{out}: the images come back with a mean absolute error of {error:.2f} of 255 grey levels")

    return command.run_command(work)


if __name__ == "__main__":
    sys.exit(main())
