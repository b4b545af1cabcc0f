"""What blocks of params.yaml say of each other: every name meets an entry, and numbers of images fit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.config import plugins
from pipeline.config.errors import listed, unknown
from pipeline.core.layout import LATENTS, PREPARED, latents_of

if TYPE_CHECKING:
    from pipeline.config.schema import Params


def check_references(params: Params) -> None:
    """Raises ValueError with one sentence for the first name that meets nothing, or number that does not fit another."""
    taken: dict[str, str] = {}
    for role in ("extractors", "codecs", "runs", "composed"):
        for name in getattr(params, role):
            if name in taken:
                raise ValueError(
                    f"{role}.{name} has the name of an entry of {taken[name]}; allowed: names that differ, as results are "
                    "filed under them"
                )
            taken[name] = role
    for name, composed in params.composed.items():
        if composed.family not in plugins.names("families"):
            raise unknown(f"composed.{name}.family", composed.family, plugins.composable())
        if composed.family not in plugins.composable():
            raise ValueError(
                f"composed.{name}.family is {composed.family!r}, whose models are not put together from trained runs; allowed: "
                f"{listed(plugins.composable())}"
            )
        for part, run_name in composed.parts.items():
            if run_name not in params.runs:
                raise unknown(f"composed.{name}.parts.{part}", run_name, list(params.runs))
        first, *others = params.trained(name)
        for other in others:
            ours, theirs = params.runs[first].data, params.runs[other].data
            if ours != theirs:
                raise ValueError(
                    f"composed.{name} joins runs.{first} of {ours} and runs.{other} of {theirs}; allowed: runs of the same data"
                )
    for role, block in (("runs", params.runs), ("codecs", params.codecs), ("extractors", params.extractors)):
        for name, run in block.items():
            codec = latents_of(run.data)
            if codec is not None and (role != "runs" or codec not in params.codecs):
                raise unknown(f"{role}.{name}.data", run.data, _data_directories(params, role))
    for name, codec_block in params.codecs.items():
        if codec_block.extractor not in params.extractors:
            raise unknown(f"codecs.{name}.extractor", codec_block.extractor, list(params.extractors))
    if "baselines" in params.samples:
        raise ValueError("samples.baselines has the name of the baselines' own metrics; allowed: any other name")
    for name, sample in params.samples.items():
        if sample.run not in {**params.runs, **params.composed}:
            raise unknown(f"samples.{name}.run", sample.run, [*params.runs, *params.composed])
    for name in params.bounds:
        if name not in params.runs:
            raise unknown(f"bounds.{name}", name, list(params.runs))
    for name, study in params.studies.items():
        if study.kind not in plugins.names("studies"):
            raise unknown(f"studies.{name}.kind", study.kind, plugins.names("studies"))
        if study.run not in {**params.runs, **params.composed}:
            raise unknown(f"studies.{name}.run", study.run, [*params.runs, *params.composed])
    if params.evaluate.extractor not in params.extractors:
        raise unknown("evaluate.extractor", params.evaluate.extractor, list(params.extractors))
    for role, block in (("runs", params.runs), ("codecs", params.codecs), ("extractors", params.extractors)):
        for name, run in block.items():
            if run.family not in plugins.names("families"):
                raise unknown(f"{role}.{name}.family", run.family, plugins.names("families"))
    if params.data.kind not in plugins.names("datasets"):
        raise unknown("data.kind", params.data.kind, plugins.names("datasets"))
    for name in params.evaluate.metrics:
        if name not in plugins.names("metrics"):
            raise unknown("evaluate.metrics", name, plugins.names("metrics"))


def _data_directories(params: Params, role: str) -> list[str]:
    latents = [f"{LATENTS}{name}" for name in params.codecs] if role == "runs" else []
    return [PREPARED, *latents]
