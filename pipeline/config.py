"""params.yaml -> frozen, strict types. The only reader of params.yaml.

Nothing here imports torch, so that flows and `--help` stay fast. Blocks whose meaning belongs to a module (`model:` to the
family, `source:` to the data set, `sampler:` to the samplers) are kept as mappings by `load` and read by that module's own
pydantic `Config`; the stage `check` reads every one of them, so that a bad value ends before any other stage works.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Protocol, TypeVar

from pydantic import BaseModel, Field, TypeAdapter, ValidationError, model_validator

from pipeline.block import Block as Block
from pipeline.block import FamilyConfig
from pipeline.sentences import fields_at, listed, sentence, unknown
from pipeline.yaml_file import read, tuples

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")]
Positive = Annotated[int, Field(gt=0)]
NotNegative = Annotated[int, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
T = TypeVar("T")


class Data(Block):
    """What `prepare` writes to data/prepared: the module pipeline/datasets/<kind>.py reads `source`."""

    kind: str
    source: dict[str, Any] = Field(default_factory=dict)
    valid_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.1
    near_duplicate: Annotated[float, Field(ge=0, le=20)] = 1.5
    seed: NotNegative = 0


class DataLimits(Block):
    """What the data expectations tolerate. Shifts are in units of the training split's standard deviation."""

    class_imbalance: Annotated[float, Field(ge=1)] = 1.5
    drift: Annotated[float, Field(gt=0)] = 0.25
    constant_images: Fraction = 0.001
    duplicates: Fraction = 0.01


class SampleLimits(Block):
    """What the expectations on generated samples tolerate (shares of all images unless said)."""

    duplicates: Fraction = 0.02
    smallest_class: Fraction = 0.005
    largest_class: Fraction = 0.4
    diversity: Annotated[float, Field(ge=0)] = 0.25


class Validate(Block):
    data: DataLimits = DataLimits()
    samples: SampleLimits = SampleLimits()


class Player(Block):
    """What one player's optimiser has of its own; null: as the training block says."""

    learning_rate: Annotated[float, Field(gt=0)] | None = None
    clip_norm: Annotated[float, Field(gt=0)] | None = None


class Training(Block):
    """How the one training loop runs. Steps are optimiser steps; `ema_fraction` is the EMA horizon over the steps so far.

    `players`: settings of single players; `patience`: steps on end with the same symptom that end a training.
    """

    steps: Positive
    batch: Positive = 64
    learning_rate: Annotated[float, Field(gt=0)]
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.99)
    warmup: NotNegative = 50
    decay_fraction: Fraction = 0.3
    clip_norm: Annotated[float, Field(gt=0)] | None = 1.0
    ema_fraction: Annotated[float, Field(gt=0, le=1)] = 0.1
    ema_longest: Annotated[float, Field(gt=1)] = 10_000.0
    log_every: Positive = 10
    valid_every: Positive = 100
    valid_images: Positive = 512
    checkpoint_every: Positive = 200
    precision: Literal["auto", "bf16", "float32"] = "auto"
    players: dict[str, Player] = Field(default_factory=dict)
    patience: Positive = 100


class Run(Block):
    """One model to train. `family: vdm` names the module pipeline/families/vdm.py, whose Config reads `model`.

    `depths`: numbers of steps for which the optimal reverse variances are estimated after training and stored with the model.
    """

    family: str
    data: str
    seed: NotNegative = 0
    depths: tuple[Positive, ...] = ()
    model: dict[str, Any] = Field(default_factory=dict)
    training: Training


class Codec(Run):
    """A codec to train. `encode: sample` writes one draw of each image's posterior, `mean` the posterior's mean."""

    encode: Literal["sample", "mean"] = "sample"


class Combined(Block):
    """A model put together from two trained runs: `denoiser` makes the last step, `generator` those before (DAED)."""

    denoiser: Name
    generator: Name


class Sample(Block):
    """One set of generated images. Image i depends on (seed, i) only.

    `guidance`: strength w of classifier-free guidance, without + w (with - without); null asks a run with labels for the
    classes in turn without guidance, and costs one network evaluation per step instead of two.
    """

    run: Name
    sampler: dict[str, Any]
    steps: Positive
    guidance: Annotated[float, Field(ge=0)] | None = None
    images: Positive
    seed: NotNegative = 0


class Depth(Block):
    """How a run is studied at its `depths`: bits/dim on `images` test images with `times` steps each, FD on `samples`."""

    images: Positive = 250
    times: Annotated[int, Field(ge=2)] = 8
    samples: Annotated[int, Field(ge=2)] = 160
    seed: NotNegative = 0


class Bound(Block):
    """How bits/dim of one run is measured: `images` of `split` (null: all), `times` low-discrepancy times per image."""

    split: Literal["valid", "test"] = "test"
    images: Positive | None = None
    times: Annotated[int, Field(ge=2)] = 8
    batch: Positive = 100
    seed: NotNegative = 0


class Evaluate(Block):
    """How samples are measured against `reference`, in the features of `extractor`.

    `extractor` is a name under extractors:, or `inception` with `inception_weights` a safetensors or torch file of
    torchvision's Inception-v3 that the user has.
    """

    extractor: Name
    inception_weights: str | None = None
    reference: Literal["train", "test"] = "test"
    neighbours: Positive = 5
    kid_subsets: Positive = 50
    kid_subset_size: Annotated[int, Field(ge=2)] = 200
    inception_score_splits: Positive = 5
    bootstrap: NotNegative = 100
    baseline_images: Positive = 1000
    seed: NotNegative = 0


class Params(Block):
    data: Data
    validate_: Validate = Field(default=Validate(), alias="validate")
    extractors: dict[Name, Run]
    codecs: dict[Name, Codec] = Field(default_factory=dict)
    runs: dict[Name, Run]
    combined: dict[Name, Combined] = Field(default_factory=dict)
    samples: dict[Name, Sample]
    bounds: dict[Name, Bound] = Field(default_factory=dict)
    depths: dict[Name, Depth] = Field(default_factory=dict)
    evaluate: Evaluate

    @model_validator(mode="after")
    def _names_meet(self) -> Params:
        taken: dict[str, str] = {}
        for role in ("extractors", "codecs", "runs", "combined"):
            for name in getattr(self, role):
                if name in taken:
                    raise ValueError(
                        f"{role}.{name} has the name of an entry of {taken[name]}; allowed: names that differ, as results are "
                        "filed under them"
                    )
                taken[name] = role
        for name, parts in self.combined.items():
            for part, run_name in (("denoiser", parts.denoiser), ("generator", parts.generator)):
                if run_name not in self.runs:
                    raise unknown(f"combined.{name}.{part}", run_name, list(self.runs))
            ours, theirs = self.runs[parts.denoiser].data, self.runs[parts.generator].data
            if ours != theirs:
                raise ValueError(
                    f"combined.{name} joins runs.{parts.denoiser} of {ours} and runs.{parts.generator} of {theirs}; allowed: "
                    "two runs of the same data"
                )
        for role, block in (("runs", self.runs), ("codecs", self.codecs), ("extractors", self.extractors)):
            for name, run in block.items():
                codec = latents_of(run.data)
                if codec is not None and (role != "runs" or codec not in self.codecs):
                    raise unknown(f"{role}.{name}.data", run.data, self._data_directories(role))
        if "baselines" in self.samples:
            raise ValueError("samples.baselines has the name of the baselines' own metrics; allowed: any other name")
        for name, sample in self.samples.items():
            if sample.run not in {**self.runs, **self.combined}:
                raise unknown(f"samples.{name}.run", sample.run, [*self.runs, *self.combined])
        for role, names in (("bounds", self.bounds), ("depths", self.depths)):
            for name in names:
                if name not in self.runs:
                    raise unknown(f"{role}.{name}", name, list(self.runs))
        for name in self.depths:
            if not self.runs[name].depths:
                raise ValueError(
                    f"depths.{name} studies a run without depths; add runs.{name}.depths, such as [4, 8, 16], or remove it"
                )
        if self.evaluate.extractor not in [*self.extractors, "inception"]:
            raise unknown("evaluate.extractor", self.evaluate.extractor, [*self.extractors, "inception"])
        if self.evaluate.extractor == "inception" and self.evaluate.inception_weights is None:
            raise ValueError(
                "evaluate.inception_weights is null; allowed with evaluate.extractor: inception is the path of a weights "
                "file of torchvision's Inception-v3; set it, or name a trained extractor"
            )
        for role, block in (("runs", self.runs), ("codecs", self.codecs), ("extractors", self.extractors)):
            for name, run in block.items():
                if run.family not in families():
                    raise unknown(f"{role}.{name}.family", run.family, families())
        if self.data.kind not in datasets():
            raise unknown("data.kind", self.data.kind, datasets())
        sizes = {f"samples.{name}.images": sample.images for name, sample in self.samples.items()}
        for key, images in {**sizes, "evaluate.baseline_images": self.evaluate.baseline_images}.items():
            # Intervals are taken from halves of the images, and a neighbour is another image.
            half = images // 2 if self.evaluate.bootstrap else images
            for name, most in (("kid_subset_size", images), ("inception_score_splits", half), ("neighbours", half - 1)):
                value = getattr(self.evaluate, name)
                if value > most:
                    raise ValueError(f"evaluate.{name} is {value}; allowed: up to {most} with {key}, which is {images}")
        return self

    def _data_directories(self, role: str) -> list[str]:
        latents = [f"{LATENTS}{name}" for name in self.codecs] if role == "runs" else []
        return ["data/prepared", *latents]

    def family(self, run: str) -> str:
        """The family of an entry of runs: or combined:."""
        return "daed" if run in self.combined else self.runs[run].family

    def data_of(self, run: str) -> str:
        """The data directory of an entry of runs: or combined:."""
        return self.runs[self._trained_name(run)].data

    def labelled(self, run: str) -> bool:
        """Whether an entry of runs: or combined: is trained on classes. Imports torch."""
        name = self._trained_name(run)
        return read_model(self.runs[name], f"runs.{name}").class_conditional

    def _trained_name(self, run: str) -> str:
        return self.combined[run].generator if run in self.combined else run


LATENTS = "data/latents/"


def latents_of(data: str) -> str | None:
    """The codec whose latents `data` holds, or None for a directory of images."""
    return data.removeprefix(LATENTS).strip("/") if data.startswith(LATENTS) else None


class HasConfig(Protocol):
    """What a module named in params.yaml offers: the pydantic type that reads its block."""

    Config: ClassVar[type[BaseModel]]


def _modules(folder: str) -> list[str]:
    here = Path(__file__).parent / folder
    return sorted(file.stem for file in here.glob("*.py") if not file.stem.startswith("_"))


def families() -> list[str]:
    """Names that `family:` may take: one per file of pipeline/families."""
    return _modules("families")


def datasets() -> list[str]:
    """Names that `data.kind` may take: one per file of pipeline/datasets, with hyphens."""
    return [name.replace("_", "-") for name in _modules("datasets")]


def family_module(run: Run) -> Any:
    """The module pipeline/families/<family>.py: `Config`, `build(cfg, spec)`."""
    return importlib.import_module(f"pipeline.families.{run.family}")


def dataset_module(data: Data) -> Any:
    """The module pipeline/datasets/<kind>.py: `Config`, `load(cfg)`."""
    return importlib.import_module(f"pipeline.datasets.{data.kind.replace('-', '_')}")


def read_block(kind: Any, values: Mapping[str, Any], key: str) -> Any:
    """Reads `values`, found at `key` of params.yaml, as the pydantic type `kind`; raises a one-sentence ValueError."""
    try:
        return TypeAdapter(kind).validate_python(tuples(dict(values)))
    except ValidationError as error:
        raise ValueError(sentence(error, key, kind)) from None


def read_model(run: Run, key: str) -> FamilyConfig:
    """The `model` block of `run`, which stands at `key` of params.yaml, as its family reads it. Imports torch."""
    block: FamilyConfig = read_block(family_module(run).Config, run.model, f"{key}.model")
    return block


def load(path: str | Path = "params.yaml") -> Params:
    """Reads params.yaml. Raises ValueError with one sentence: key, value, what is allowed."""
    file = Path(path)
    if not file.is_file():
        raise ValueError(f"{file} does not exist; run from the top folder of the repository, or name another file by --params")
    values = read(file)
    if not isinstance(values, dict):
        found = "list" if isinstance(values, tuple) else type(values).__name__
        raise ValueError(f"{file} holds {found}; allowed is a mapping with the keys {listed(fields_at(Params, ()))}")
    # `defaults` holds YAML anchors only: merged by YAML itself, read by nobody.
    values.pop("defaults", None)
    try:
        return Params.model_validate(values)
    except ValidationError as error:
        raise ValueError(f"{file}: {sentence(error, '', Params)}") from None
