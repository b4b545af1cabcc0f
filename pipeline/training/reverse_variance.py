"""The optimal reverse variances of a trained model, estimated on training images and stored with the model."""

from __future__ import annotations

import numpy as np
import torch

from pipeline.core.contracts import Generative
from pipeline.core.progress import Progress
from pipeline.core.random import KeyedRandom
from pipeline.diffusion.finite_steps import optimal_variance, squared_error
from pipeline.store.splits import Split

EVALUATIONS = 2048
FEWEST_IMAGES = 16


@torch.inference_mode()
def estimate(
    model: Generative, split: Split, chains: tuple[int, ...], seed: int, device: torch.device
) -> dict[int, list[float]]:
    """T, one of `chains` -> sigma_P^2 of its T steps, first that from t = 1.

    Each step is measured on its own images, about 2048 evaluations for all steps of a chain: a variance is a mean over many
    dimensions already. Arithmetic is float32, never autocast.
    """
    dimensions = int(np.prod(split.images.shape[1:]))
    counts = {steps: min(max(EVALUATIONS // steps, FEWEST_IMAGES), len(split)) for steps in chains}
    table: dict[int, list[float]] = {}
    with Progress(sum(steps * count for steps, count in counts.items()), "evaluations", "optimal variance") as progress:
        for steps, count in counts.items():
            times = model.schedule.times(steps, "trailing").to(device)
            variances: list[float] = []
            for step in range(steps):
                rows = (np.arange(count) + step * count) % len(split)
                squared: list[torch.Tensor] = []
                for first in range(0, count, 128):
                    batch = split.rows(rows[first : first + 128], device)
                    t, s = times[step].expand(len(batch.x)), times[step + 1].expand(len(batch.x))
                    found, variance_q = squared_error(model, batch, s, t, KeyedRandom(seed, step * count + first, device))
                    squared.append(found)
                    progress.update(len(batch.x))
                variances.append(float(optimal_variance(torch.cat(squared), variance_q[0], dimensions)))
            table[steps] = variances
    return table
