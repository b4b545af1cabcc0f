"""The blocks of params.yaml as frozen, strict types. Nothing here imports torch, so that flows and `--help` stay fast.

No value has a default here: what changes a number stands in params.yaml, where DVC sees it, if only under `defaults:`. Only
blocks that may be left out altogether, such as codecs:, are empty by themselves.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, model_validator

from pipeline.config.base import Fraction, Name, NotNegative, Positive, StrictConfig
from pipeline.config.references import check_references


class Data(StrictConfig):
    """What `prepare` writes to data/prepared: the module pipeline/datasets/<kind>.py reads `source`.

    `near_duplicate_grey_levels`: images that differ by no more grey levels of 255 per pixel, on average, count as duplicates.
    """

    kind: str
    source: dict[str, Any]
    valid_fraction: Annotated[float, Field(gt=0, lt=1)]
    near_duplicate_grey_levels: Annotated[float, Field(ge=0, le=20)]
    seed: Annotated[int, Field(ge=0, lt=2**32)]


class DataLimits(StrictConfig):
    """What the data expectations tolerate. Shifts are in units of the training split's standard deviation."""

    class_imbalance: Annotated[float, Field(ge=1)]
    drift: Annotated[float, Field(gt=0)]
    constant_images: Fraction
    duplicates: Fraction


class SampleLimits(StrictConfig):
    """What the expectations on generated samples tolerate (shares of all images unless said)."""

    duplicates: Fraction
    smallest_class: Fraction
    largest_class: Fraction
    diversity: Annotated[float, Field(ge=0)]


class Validate(StrictConfig):
    data: DataLimits
    samples: SampleLimits


class OptimizerGroup(StrictConfig):
    """What one group's optimizer has of its own; null or left out: as the training block says."""

    learning_rate: Annotated[float, Field(gt=0)] | None = None
    clip_norm: Annotated[float, Field(gt=0)] | None = None


class Training(StrictConfig):
    """How the one training loop runs. Steps are optimizer steps; `ema_fraction` is the EMA horizon over the steps so far.

    `optimizer_groups`: settings of single optimizer_groups; `patience`: steps on end with the same symptom that end a training.
    """

    steps: Positive
    batch: Positive
    learning_rate: Annotated[float, Field(gt=0)]
    weight_decay: Annotated[float, Field(ge=0)]
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]]
    warmup: NotNegative
    lr_cooldown_fraction: Fraction
    clip_norm: Annotated[float, Field(gt=0)] | None
    ema_fraction: Annotated[float, Field(gt=0, le=1)]
    ema_longest: Annotated[float, Field(gt=1)]
    log_every: Positive
    valid_every: Positive
    valid_images: Positive
    checkpoint_every: Positive
    precision: Literal["auto", "bf16", "float32"]
    optimizer_groups: dict[str, OptimizerGroup] = Field(default_factory=dict)
    patience: Positive

    @model_validator(mode="after")
    def _warms_up_within_the_run(self) -> Training:
        if self.warmup >= self.steps:
            raise ValueError(
                f"warmup is {self.warmup}; allowed: fewer than steps, which is {self.steps}, as the rate would never be reached"
            )
        return self


class Entry(StrictConfig):
    """One model. `family: vdm` names the module pipeline/families/vdm, whose Config reads `model`.

    `training` is null where nothing is trained, as the weights come from a file.
    """

    family: str
    data: str
    seed: NotNegative
    model: dict[str, Any]
    training: Training | None


class Extractor(Entry):
    """What images are measured in, or what a perceptual loss looks through."""


class Run(Entry):
    """One model to train.

    `optimal_variance_steps`: numbers of steps T for which the optimal reverse variances are estimated after training and stored
    with the model.
    """

    optimal_variance_steps: tuple[Positive, ...] = ()
    training: Training


class Codec(Run):
    """A codec to train. `encode: sample` writes one draw of each image's posterior, `mean` the posterior's mean.

    `extractor`: the classifier through which a perceptual loss looks, a name under extractors:.
    """

    encode: Literal["sample", "mean"]
    extractor: Name


class Composed(StrictConfig):
    """A model of `family` put together from trained runs.

    `parts`: what each run gives, in the words of pipeline/families/<family>/compose.py, and the run's name.
    """

    family: str
    parts: Annotated[dict[str, Name], Field(min_length=1)]


class Sample(StrictConfig):
    """One set of generated images. Image i depends on (seed, i) only.

    `guidance`: strength w of classifier-free guidance, without + w (with - without); null or left out asks a run with labels
    for the classes in turn without guidance, and costs one network evaluation per step instead of two.
    """

    run: Name
    sampler: dict[str, Any]
    steps: Positive
    guidance: Annotated[float, Field(ge=0)] | None = None
    images: Positive
    seed: NotNegative


class Study(StrictConfig):
    """A question to the trained model `run`. The module pipeline/studies/<kind>.py reads the rest by its Config."""

    model_config = ConfigDict(extra="allow")

    kind: str
    run: Name

    @property
    def values(self) -> dict[str, Any]:
        """The whole block, with the values that belong to the module."""
        return self.model_dump()


class Bound(StrictConfig):
    """How bits/dim of one run is measured: `images` of `split` (null: all), `times` low-discrepancy times per image."""

    split: Literal["valid", "test"]
    images: Annotated[int, Field(ge=2)] | None
    times: Annotated[int, Field(ge=2)]
    batch: Positive
    seed: NotNegative


class Evaluate(StrictConfig):
    """How samples are measured against `reference`, in the features of `extractor`, a name under extractors:.

    `metrics`: the settings of those that have some, by module of pipeline/metrics; every metric there is measured.
    `interval_resamples`: halves of the images behind every interval, 0 for no intervals.
    """

    extractor: Name
    reference: Literal["train", "test"]
    metrics: dict[str, dict[str, Any]] = Field(default_factory=dict)
    interval_resamples: NotNegative
    baseline_images: Positive
    seed: NotNegative


class Params(StrictConfig):
    data: Data
    validate_: Validate = Field(alias="validate")
    extractors: dict[Name, Extractor]
    codecs: dict[Name, Codec] = Field(default_factory=dict)
    runs: dict[Name, Run]
    composed: dict[Name, Composed] = Field(default_factory=dict)
    samples: dict[Name, Sample]
    bounds: dict[Name, Bound] = Field(default_factory=dict)
    studies: dict[Name, Study] = Field(default_factory=dict)
    evaluate: Evaluate

    @model_validator(mode="after")
    def _names_meet(self) -> Params:
        check_references(self)
        return self

    def family(self, run: str) -> str:
        """The family of an entry of runs: or composed:."""
        return self.composed[run].family if run in self.composed else self.runs[run].family

    def data_of(self, run: str) -> str:
        """The data directory of an entry of runs: or composed:."""
        return self.runs[self.trained(run)[0]].data

    def trained(self, run: str) -> list[str]:
        """The entries of runs: that an entry of runs: or composed: is, or is put together from; all are on the same data."""
        return list(dict.fromkeys(self.composed[run].parts.values())) if run in self.composed else [run]
