"""Blocks of params.yaml for tests: partial ones completed with plain values, and the members of a union told apart by `kind`.

The types have no defaults, so that every number stands in params.yaml; a test names the values that it is about.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, TypeVar, get_args, get_origin

from pipeline.config import schema
from pipeline.config.load import read_block

T = TypeVar("T")

DATA = {"source": {}, "valid_fraction": 0.1, "near_duplicate_grey_levels": 1.5, "seed": 0}
DATA_LIMITS = {"class_imbalance": 1.5, "drift": 0.25, "constant_images": 0.001, "duplicates": 0.01}
SAMPLE_LIMITS = {"duplicates": 0.02, "smallest_class": 0.005, "largest_class": 0.4, "diversity": 0.25}
# No warm-up: it must be shorter than the training, which is of a few steps in most tests.
TRAINING = {
    "batch": 64, "weight_decay": 0.0, "betas": (0.9, 0.99), "warmup": 0, "lr_cooldown_fraction": 0.3, "clip_norm": 1.0,
    "ema_fraction": 0.1, "ema_longest": 10_000.0, "log_every": 10, "valid_every": 100, "valid_images": 512,
    "checkpoint_every": 200, "precision": "auto", "patience": 100,
}  # fmt: skip
RUN = {"seed": 0, "model": {}}
SAMPLE = {"seed": 0}
BOUND = {"split": "test", "images": None, "times": 8, "batch": 100, "seed": 0}
EVALUATE = {"reference": "test", "interval_resamples": 100, "baseline_images": 1000, "seed": 0}
METRICS = {"prdc": {"nearest_k": 5}, "kid": {"subsets": 50, "subset_size": 200}, "inception_score": {"splits": 5}}


def filled(values: Mapping[str, Any]) -> dict[str, Any]:
    """A deep copy of a partial parameter file with every value that may be left out of it here, and none of its own changed.

    A codec's perceptual loss looks through the first of extractors:.
    """
    whole: dict[str, Any] = _copy({"extractors": {}, "runs": {}, "samples": {}, **values})
    whole["data"] = _under(DATA, whole.get("data", {}))
    limits = whole.get("validate", {})
    whole["validate"] = {
        "data": _under(DATA_LIMITS, limits.get("data", {})),
        "samples": _under(SAMPLE_LIMITS, limits.get("samples", {})),
    }
    looks_through = {"encode": "sample", "extractor": next(iter(whole["extractors"]), None)}
    for role, own in (("extractors", RUN), ("codecs", {**RUN, **looks_through}), ("runs", RUN)):
        for name, block in whole.get(role, {}).items():
            whole[role][name] = _run(_under(own, block))
    for role, standard in (("samples", SAMPLE), ("bounds", BOUND)):
        for name, block in whole.get(role, {}).items():
            whole[role][name] = _under(standard, block)
    whole["evaluate"] = _evaluate(whole.get("evaluate", {}))
    return whole


def data(kind: str, **changes: Any) -> schema.Data:
    return _read(schema.Data, {"kind": kind, **DATA}, changes)


def data_limits(**changes: Any) -> schema.DataLimits:
    return _read(schema.DataLimits, DATA_LIMITS, changes)


def sample_limits(**changes: Any) -> schema.SampleLimits:
    return _read(schema.SampleLimits, SAMPLE_LIMITS, changes)


def training(**changes: Any) -> schema.Training:
    """`steps` and `learning_rate` must be among `changes`."""
    return _read(schema.Training, TRAINING, changes)


def run(family: str, **changes: Any) -> schema.Run:
    """Of data that nothing opens. `training` must be among `changes`, as a block or as a mapping, which is completed."""
    block = {"family": family, "data": "unused", **changes}
    if isinstance(block["training"], schema.Training):
        block["training"] = block["training"].model_dump()
    return _read(schema.Run, {}, _run(block))


def codec(family: str, **changes: Any) -> schema.Codec:
    """As `run`, that draws and whose perceptual loss looks through the extractor convnet."""
    own = {name: changes.pop(name) for name in ("encode", "extractor") if name in changes}
    return schema.Codec(**{**dict(run(family, **changes)), "encode": "sample", "extractor": "convnet", **own})


def sample(run: str, sampler: str | Mapping[str, Any], **changes: Any) -> schema.Sample:
    """`sampler`: a block, or the kind of one."""
    block = {"kind": sampler} if isinstance(sampler, str) else dict(sampler)
    return _read(schema.Sample, {"run": run, "sampler": block, **SAMPLE}, changes)


def bound(**changes: Any) -> schema.Bound:
    return _read(schema.Bound, BOUND, changes)


def evaluate(extractor: str = "convnet", **changes: Any) -> schema.Evaluate:
    return _read(schema.Evaluate, {}, _evaluate({"extractor": extractor, **changes}))


def members(union: Any) -> list[Any]:
    """The classes of `Annotated[A | B, ...]`, of `A | B`, or of a lone `A`, so that tests cover a new one without an edit."""
    inner = get_args(union)[0] if get_origin(union) is Annotated else union
    return list(get_args(inner)) or [inner]


def kind(block: Any) -> str:
    """What `kind` must be for this class."""
    return str(get_args(block.model_fields["kind"].annotation)[0])


def default(block: Any, **values: Any) -> Any:
    """The block with its defaults but for `values`."""
    return block(kind=kind(block), **values)


def _run(block: Mapping[str, Any]) -> dict[str, Any]:
    made: dict[str, Any] = _under(RUN, block)
    return {**made, "training": _under(TRAINING, made["training"])} if "training" in made else made


def _evaluate(block: Mapping[str, Any]) -> dict[str, Any]:
    """Metrics that `block` does not set have plain settings."""
    made: dict[str, Any] = _under(EVALUATE, block)
    return {**made, "metrics": _under(METRICS, made.get("metrics", {}))}


def _read(kind: type[T], standard: Mapping[str, Any], changes: Mapping[str, Any]) -> T:
    block: T = read_block(kind, _under(standard, changes), kind.__name__.lower())
    return block


def _under(standard: Mapping[str, Any], block: Any) -> Any:
    """What is no mapping is a test's mistake for the types to refuse."""
    return {**_copy(standard), **block} if isinstance(block, Mapping) else block


def _copy(values: Any) -> Any:
    """Without anything shared, which YAML would write as an alias."""
    if isinstance(values, Mapping):
        return {key: _copy(value) for key, value in values.items()}
    return type(values)(_copy(value) for value in values) if isinstance(values, list | tuple) else values


def another_key(name: str) -> str:
    """A key that no block has, near to `name`."""
    return f"{name}-x"
