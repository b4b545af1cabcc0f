"""DAED from two trained runs: the denoiser of one, the generator of another, and whether they meet.

The denoiser comes from a `daed` run, the generator from a run of any family with a chain of discrete steps. The generator's
chain is cut off at its level nearest to the noise that the denoiser was trained on.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol, cast

from pipeline.config import plugins
from pipeline.core.contracts import Composition, DiscreteChainModel, Part, Trainable
from pipeline.families.daed import model as daed

if TYPE_CHECKING:
    from pipeline.diffusion.discrete import Variance
    from pipeline.diffusion.prediction import Prediction
    from pipeline.diffusion.schedule import Discrete
    from pipeline.families.daed.schedule import Split
    from pipeline.networks.choice import Network

PARTS: tuple[str, ...] = ("denoiser", "generator")

# How far a log-SNR may lie from the denoiser's own: noise of 5 % more or less standard deviation, which the denoiser takes
# for its own. Near beta_1 = 0.1 the levels of a cosine chain of T steps are about 10/T apart, so that chains of more than 50
# steps have one that is near enough.
LEVEL_TOLERANCE = 0.1


class ChainConfig(Protocol):
    """What the configuration of every DiscreteChainModel has."""

    @property
    def schedule(self) -> Discrete | Split: ...

    @property
    def prediction(self) -> Prediction: ...

    @property
    def variance(self) -> Variance: ...

    @property
    def network(self) -> Network: ...

    @property
    def labels(self) -> bool: ...

    @property
    def label_dropout(self) -> float: ...


def compose(parts: Mapping[str, Part], key: str) -> Composition:
    """The first network of one run and the other of the other.

    Raises ValueError where a half is missing, where one knows labels and the other does not, and where no level of the
    generator's chain is within LEVEL_TOLERANCE of the denoiser's in log-SNR.
    """
    ours, theirs = _denoiser(parts["denoiser"], key), _generator(parts["generator"], key)
    if ours.labels != theirs.labels:
        raise ValueError(
            f"{key} joins runs.{parts['denoiser'].run}, whose labels is {ours.labels}, and runs.{parts['generator'].run}, "
            f"whose labels is {theirs.labels}; allowed: the same in both"
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
    group = plugins.family(parts["generator"].family).Model.chain_group
    return Composition(model, {"denoiser": ("denoiser", "denoiser"), "generator": ("generator", group)}, "generator")


def put_together(model: Trainable, parts: Mapping[str, Trainable]) -> None:
    """Gives `model` the denoiser of the one part and the chain's network of the other."""
    denoiser, generator = parts["denoiser"], parts["generator"]
    assert isinstance(model, daed.Model)
    assert isinstance(denoiser, daed.Model)
    assert isinstance(generator, DiscreteChainModel)
    model.denoiser.load_state_dict(denoiser.denoiser.state_dict())
    model.generator.load_state_dict(generator.chain_network().state_dict())


def _denoiser(part: Part, key: str) -> daed.Config:
    """The model block of a run that has a denoiser."""
    if not isinstance(part.config, daed.Config):
        raise ValueError(
            f"{key}.parts.denoiser is {part.run!r} of family {part.family}, which has no denoiser; allowed: a run of family "
            "daed"
        )
    _has(part, "denoiser", key)
    return part.config


def _generator(part: Part, key: str) -> ChainConfig:
    """The model block of a run that has a generator."""
    if not issubclass(plugins.family(part.family).Model, DiscreteChainModel):
        allowed = " or ".join(plugins.families_with(DiscreteChainModel))
        raise ValueError(
            f"{key}.parts.generator is {part.run!r} of family {part.family}, which has no generator; allowed: a run of family "
            f"{allowed}"
        )
    _has(part, "generator", key)
    return cast(ChainConfig, part.config)


def _has(part: Part, name: str, key: str) -> None:
    """Refuses a run of DAED that trains the other half alone."""
    if isinstance(part.config, daed.Config) and part.config.parts not in ("both", name):
        raise ValueError(
            f"{key}.parts.{name} is {part.run!r}, which trains a {part.config.parts} alone; allowed: a run with parts: both or "
            f"{name}"
        )


def _chain(ours: daed.Config, theirs: ChainConfig, parts: Mapping[str, Part], key: str) -> dict[str, Any]:
    """The schedule block of the generator's chain from its level nearest to the denoiser's on."""
    noise = -float(ours.schedule.build().table[1])
    levels = -theirs.schedule.build().table[1:-1]  # the last level is not one to stop at: a step must be left
    nearest = int((levels - noise).abs().argmin())
    found = float(levels[nearest])
    if abs(found - noise) > LEVEL_TOLERANCE:
        raise ValueError(
            f"{key} joins a denoiser (runs.{parts['denoiser'].run}) of log-SNR {noise:.4g} and a generator "
            f"(runs.{parts['generator'].run}) whose nearest level has {found:.4g}; allowed: at most {LEVEL_TOLERANCE} apart"
        )
    whole = theirs.schedule.model_dump(mode="json")
    if nearest == 0:
        return whole
    return {"kind": "merged", "of": whole["of"] if whole["kind"] == "merged" else whole, "first": {"logsnr": found}}
