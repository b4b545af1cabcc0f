"""Whether a sample of params.yaml goes with its model: asked by `check` of what is to be trained, by `sample` of what was."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from pipeline.config.errors import listed
from pipeline.config.family import FamilyConfig
from pipeline.config.schema import Sample
from pipeline.core.contracts import Generative
from pipeline.diffusion.schedule import NoiseSchedule
from pipeline.samplers.base import Sampler


@dataclass(frozen=True)
class Sampled:
    """The model that is sampled: its family's name and class, its `model` block, its schedule.

    optimal_variances: the numbers of steps for which reverse variances are stored with it; latents: whether its data are.
    """

    family: str
    kind: type[Generative]
    block: FamilyConfig
    schedule: NoiseSchedule
    optimal_variances: Collection[int]
    latents: bool


def check_sample(sample: Sample, sampler: Sampler, model: Sampled, key: str) -> None:
    """Raises ValueError with one sentence where steps, sampler or guidance do not go with the model.

    `key`: where the sample stands in params.yaml.
    """
    try:
        model.block.check_sampling()
    except ValueError as error:
        raise ValueError(f"{key}.run is {sample.run!r}: {error}") from None
    try:
        model.schedule.times(sample.steps, sampler.spacing)
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from None
    if model.kind.samples_x and sampler.kind != "posterior":
        raise ValueError(
            f"{key}.sampler.kind is {sampler.kind!r}; allowed for the family {model.family}, which draws x_hat: 'posterior'"
        )
    if sampler.solver and not model.kind.has_probability_flow:
        raise ValueError(
            f"{key}.sampler.kind is {sampler.kind!r}; allowed for the family {model.family}, whose x_hat is not the mean of "
            "one fixed x: samplers that are no solvers of the probability flow, such as 'ancestral'"
        )
    if sampler.optimal_variance and sample.steps not in model.optimal_variances:
        raise ValueError(
            f"{key}.steps is {sample.steps}; allowed with variance: optimal are numbers of steps whose variances are stored "
            f"with the model, runs.{sample.run}.optimal_variance_steps: {listed(model.optimal_variances) or 'none'}"
        )
    if sampler.clip and model.latents:
        raise ValueError(f"{key}.sampler.clip is true; allowed for latents, which have no range to clip to: false")
    if sample.guidance is None:
        return
    if not model.block.class_conditional:
        allowed = "null, as the run is trained without labels"
    elif model.block.unconditional_probability is None:
        allowed = f"null, as x_hat of the family {model.family} is no mean to guide"
    elif model.block.unconditional_probability == 0 and sample.guidance != 1:
        allowed = "1 or null, as the run's label_dropout of 0 shows it no image without a class"
    else:
        return
    raise ValueError(f"{key}.guidance is {sample.guidance}; allowed for the run {sample.run!r}: {allowed}")
