"""One model as a chain of T steps, with the posterior's variance and with the optimal one: bits/dim, and FD of its samples.

As T grows both bounds go to the continuous-time one: the first as C/T; the second from nearby already at small T, because the
variance makes up for what the mean misses (DiffEnc, eq. 7-9 and appendix F, where finite T is left to future work).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from pipeline.config import plugins
from pipeline.config.base import NotNegative
from pipeline.core.contracts import FiniteStepModel, Generative, LikelihoodModel
from pipeline.core.layout import latents_of
from pipeline.core.progress import Progress
from pipeline.diffusion import finite_steps_bound
from pipeline.studies.base import Context, Presentation, Quantity, Result, StudyConfig, value

if TYPE_CHECKING:
    from pipeline.config.schema import Params

CHOICES = {"posterior": "posterior variance", "optimal": "optimal variance"}
BATCH = 125


class FiniteSteps(StudyConfig):
    """`images`: test images whose bits/dim is measured, with at most `times` steps of each chain; `samples`: for FD.

    The chains are those of the run's `optimal_variance_steps`.
    """

    kind: Literal["finite_steps"]
    images: Annotated[int, Field(ge=2)]
    times: Annotated[int, Field(ge=2)]
    samples: Annotated[int, Field(ge=2)]
    seed: NotNegative

    def check(self, params: Params, key: str) -> None:
        family, data = params.family(self.run), params.data_of(self.run)
        model = plugins.family(family).Model
        if not issubclass(model, FiniteStepModel) or not issubclass(model, LikelihoodModel):
            raise ValueError(
                f"{key}.run is {self.run!r}, whose family {family} is no chain of any number of steps with a bound for each; "
                "allowed: runs of families that are, such as vdm"
            )
        if latents_of(data) is not None:
            raise ValueError(f"{key}.run is {self.run!r}, whose data {data} are latents: bits/dim needs discrete data")
        if not params.runs[self.run].optimal_variance_steps:
            raise ValueError(
                f"{key} studies a run without optimal_variance_steps; add runs.{self.run}.optimal_variance_steps, such as "
                "[4, 8, 16], or remove it"
            )

    def measure(self, context: Context) -> Result:
        bits = bounds(self, context)
        quality = distances(self, context)
        rows = {
            steps: {
                choice: {**bits[steps][choice], **({"fd": quality[steps][choice]} if steps in quality else {})}
                for choice in CHOICES
            }
            for steps in bits
        }
        images = min(self.images, len(context.data.labels("test")))
        return Result(rows, {"images": images, "times": self.times, "samples": self.samples})

    def present(self, result: Result) -> Presentation:
        measured = result.measured
        return Presentation(
            title=f"{self.run} as a chain of T steps",
            rows="steps T",
            quantities=[
                *(
                    Quantity("bits/dim", f"{choice}.bits_per_dim", label, error=f"{choice}.standard_error", better="↓")
                    for choice, label in CHOICES.items()
                ),
                *(Quantity("FD", f"{choice}.fd", label, better="↓", digits=4) for choice, label in CHOICES.items()),
            ],
            explanation=(
                f"bits/dim on {measured['images']} test images with the same noise for every T; FD of {measured['samples']} "
                "ancestral samples, so few that it compares only within this table. The optimal variance was estimated on "
                "training images."
            ),
            caption="The bound loosens as T falls, and far less so with the variance that is optimal for that T.",
            labels={"inf": "∞"},
        )

    def figure(self, result: Result) -> str:
        """bits/dim and FD against T, both axes logarithmic; the limit is a dashed line."""
        from matplotlib.ticker import NullLocator, ScalarFormatter

        from pipeline.reporting.figure import COLOURS, new, style, svg

        finite = [steps for steps in result.rows if steps != "inf"]
        places = [int(steps) for steps in finite]
        with style():
            figure = new(7.6, 3.0)
            panels = figure.subplots(1, 2)
            for axes, quantity, title in zip(panels, ("bits_per_dim", "fd"), ("bits/dim", "FD"), strict=True):
                for (choice, label), colour, marker in zip(CHOICES.items(), COLOURS, "os", strict=False):
                    values = [value(result.rows[steps], f"{choice}.{quantity}") for steps in finite]
                    axes.plot(places, values, f"{marker}-", color=colour, markersize=4, linewidth=1.3, label=label)
                limit = value(result.rows["inf"], f"posterior.{quantity}")
                if limit is not None:
                    axes.axhline(limit, color="#777777", linestyle="--", linewidth=1, label="T → ∞")
                axes.set_xscale("log", base=2)
                axes.set_yscale("log")
                for axis in (axes.xaxis, axes.yaxis):
                    axis.set_major_formatter(ScalarFormatter())
                axes.xaxis.set_minor_locator(NullLocator())
                axes.set_xticks(places)
                axes.set_title(title)
                axes.set_xlabel("steps T")
            panels[0].legend()
            figure.tight_layout()
            return svg(figure)


Config = FiniteSteps

# T or "inf" -> choice of the variance -> what was measured.
Table = dict[str, dict[str, dict[str, float]]]


def bounds(cfg: FiniteSteps, context: Context) -> Table:
    """bits/dim and its standard error, on the first test images with the same noise for every T."""
    from pipeline.core.random import RowRandom
    from pipeline.store.splits import Split

    split, device = Split(context.data, "test"), context.device
    model, variances = context.model.model, context.model.variances
    assert isinstance(model, Generative) and isinstance(model, LikelihoodModel)
    images = min(cfg.images, len(split))
    chains = sorted(variances)
    collected: dict[tuple[str, str], list[NDArray[np.float64]]] = {}
    ends: list[NDArray[np.float64]] = []
    work = Progress(images * (len(chains) + 1), "images x chains", f"{context.key} bits/dim")
    with torch.inference_mode(), work as progress:
        for first in range(0, images, BATCH):
            rows = range(first, min(first + BATCH, images))
            batch = split.rows(np.arange(rows.start, rows.stop), device)
            rng = RowRandom(cfg.seed, rows, 0, device)
            offset = rng.uniform((len(rows), 1), "time")[:, 0]
            terms = model.prior_and_reconstruction(batch, rng)
            ends.append((terms.prior + terms.reconstruction).cpu().numpy())
            for steps in chains:
                found = finite_steps_bound.chain(model, batch, steps, cfg.times, variances[steps], offset, rng)
                collected.setdefault((str(steps), "posterior"), []).append(found.posterior.cpu().numpy())
                collected.setdefault((str(steps), "optimal"), []).append(found.optimal.cpu().numpy())
                progress.update(len(rows))
            limit = finite_steps_bound.continuous(model, batch, cfg.times, offset, rng).cpu().numpy()
            for choice in CHOICES:  # in the limit there is one variance
                collected.setdefault(("inf", choice), []).append(limit)
            progress.update(len(rows))
    both_ends = np.concatenate(ends)
    table: Table = {}
    for (chain, choice), parts in collected.items():
        nats = {"diffusion": np.concatenate(parts), "ends": both_ends}
        table.setdefault(chain, {})[choice] = row(nats, context.data.data_spec.dimensions)
    return table


def distances(cfg: FiniteSteps, context: Context) -> dict[str, dict[str, float]]:
    """T -> choice -> FD of ancestral samples in T steps against the test images."""
    from pipeline.core.device import autocast, choose_precision
    from pipeline.core.pixels import quantize
    from pipeline.core.random import RowRandom
    from pipeline.metrics.frechet import frechet_distance, moments
    from pipeline.samplers.ancestral import Ancestral
    from pipeline.samplers.trajectory import trajectory

    extract, config, device = context.extractor(), context.model.config, context.device
    reference = moments(extract(np.asarray(context.data.images("test"))).features)
    shape = (cfg.samples, *config["data"]["shape"])
    precision = choose_precision(config["run"]["training"]["precision"], device)
    sampler = Ancestral(kind="ancestral", clip=True, spacing="trailing", variance="model")
    rows = range(cfg.samples)
    table: dict[str, dict[str, float]] = {}
    work = Progress(2 * sum(context.model.variances) * cfg.samples, "evaluations", f"{context.key} FD")
    with torch.inference_mode(), autocast(precision, device), work as progress:
        for steps, variances in sorted(context.model.variances.items()):
            for choice in CHOICES:
                z = None
                walk = trajectory(
                    context.model.model, sampler, shape, steps,  # type: ignore[arg-type]  # generative, by `check`
                    lambda step: RowRandom(cfg.seed, rows, step, device), device=device,
                    variances=variances if choice == "optimal" else None,
                )  # fmt: skip
                for index, (z, _) in enumerate(walk):  # noqa: B007 - the last z is what is wanted
                    progress.update(cfg.samples if index else 0)
                assert z is not None
                codes = quantize(z, config["data"]["levels"]).cpu().numpy()
                table.setdefault(str(steps), {})[choice] = frechet_distance(moments(extract(codes).features), reference)
    return table


def row(nats: Mapping[str, NDArray[np.float64]], dimensions: int) -> dict[str, float]:
    """Terms in nats per image -> {"bits_per_dim", "standard_error"} of their sum over images."""
    bits = sum(nats.values()) / (dimensions * np.log(2))
    return {"bits_per_dim": float(bits.mean()), "standard_error": float(bits.std(ddof=1) / len(bits) ** 0.5)}
