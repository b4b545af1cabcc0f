"""The run that a combination comes to: the denoiser of one run, the generator of another, and whether they meet.

All of it follows from params.yaml, so that halves that do not fit are refused before anything is trained.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline.config import plugins, schema
from pipeline.config.load import read_block

if TYPE_CHECKING:
    from pipeline.families.daed import model as daed

# How far a log-SNR may lie from the denoiser's own: noise of 5 % more or less standard deviation, which the denoiser takes
# for its own. Near beta_1 = 0.1 the levels of a cosine chain of T steps are about 10/T apart, so that chains of more than 50
# steps have one that is near enough.
LEVEL_TOLERANCE = 0.1


def composed_run(params: schema.Params, name: str) -> schema.Run:
    """The run that composed.NAME comes to, from params.yaml alone. Raises ValueError as the stage would. Imports torch."""
    parts = params.composed[name]
    return compose(parts, params.runs[parts.denoiser], params.runs[parts.generator], f"composed.{name}")


def compose(parts: schema.Composed, denoiser: schema.Run, generator: schema.Run, key: str) -> schema.Run:
    """A run of family daed with the first network of one run and the other of the other.

    Raises ValueError where a half is missing, where one knows labels and the other does not, and where no level of the
    generator's chain is within LEVEL_TOLERANCE of the denoiser's in log-SNR.
    """
    from pipeline.families.daed import model as daed

    ours = _half(denoiser, "denoiser", ("daed",), f"{key}.denoiser is {parts.denoiser!r}")
    theirs = _half(generator, "generator", ("daed", "ddpm"), f"{key}.generator is {parts.generator!r}")
    if ours.labels != theirs.labels:
        raise ValueError(
            f"{key} joins runs.{parts.denoiser}, whose labels is {ours.labels}, and runs.{parts.generator}, whose labels is "
            f"{theirs.labels}; allowed: the same in both"
        )
    schedule = ours.schedule.build()
    level = ours.denoiser_level
    model = {
        "schedule": _chain(ours, theirs, parts, key),
        "prediction": theirs.prediction,
        "denoiser_prediction": ours.denoiser_prediction or ours.prediction,
        "variance": theirs.variance,
        "objective": "vlb" if theirs.variance == "learned" else "simple",
        "network": theirs.network.model_dump(mode="json"),
        "denoiser_network": (ours.denoiser_network or ours.network).model_dump(mode="json"),
        "denoiser_level": float(schedule.input(schedule.table[1:2])) if level is None else level,
        "labels": theirs.labels,
        # Both must have seen images without a class for guidance to make sense of both.
        "label_dropout": min(ours.label_dropout, theirs.label_dropout),
    }
    read_block(daed.Config, model, key)
    return schema.Run(family="daed", data=generator.data, seed=generator.seed, model=model, training=generator.training)


def _half(run: schema.Run, part: str, families: tuple[str, ...], key: str) -> Any:
    """The model block of a run that has the part."""
    if run.family not in families:
        raise ValueError(f"{key} of family {run.family}, which has no {part}; allowed: {' or '.join(families)}")
    model = read_block(plugins.family(run.family).Config, run.model, f"{key}: model")
    if run.family == "daed" and model.parts not in ("both", part):
        raise ValueError(f"{key}, which trains a {model.parts} alone; allowed: a run with parts: both or {part}")
    return model


def _chain(ours: daed.Config, theirs: Any, parts: schema.Composed, key: str) -> dict[str, Any]:
    """The schedule block of the generator's chain from its level nearest to the denoiser's on.

    theirs: the generator's model block, of any family that `_half` lets through: their schedules are tables of levels.
    """
    noise = -float(ours.schedule.build().table[1])
    levels = -theirs.schedule.build().table[1:-1]  # the last level is not one to stop at: a step must be left
    nearest = int((levels - noise).abs().argmin())
    found = float(levels[nearest])
    if abs(found - noise) > LEVEL_TOLERANCE:
        raise ValueError(
            f"{key} joins a denoiser (runs.{parts.denoiser}) of log-SNR {noise:.4g} and a generator (runs.{parts.generator}) "
            f"whose nearest level has {found:.4g}; allowed: at most {LEVEL_TOLERANCE} apart"
        )
    whole = theirs.schedule.model_dump(mode="json")
    if nearest == 0:
        return whole
    return {"kind": "merged", "of": whole["of"] if whole["kind"] == "merged" else whole, "first": {"logsnr": found}}
