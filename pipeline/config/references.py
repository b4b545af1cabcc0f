"""What blocks of params.yaml say of each other: every name meets an entry, and numbers of images fit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.config import plugins
from pipeline.config.errors import unknown
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
    for name, parts in params.composed.items():
        for part, run_name in (("denoiser", parts.denoiser), ("generator", parts.generator)):
            if run_name not in params.runs:
                raise unknown(f"composed.{name}.{part}", run_name, list(params.runs))
        ours, theirs = params.runs[parts.denoiser].data, params.runs[parts.generator].data
        if ours != theirs:
            raise ValueError(
                f"composed.{name} joins runs.{parts.denoiser} of {ours} and runs.{parts.generator} of {theirs}; allowed: "
                "two runs of the same data"
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
    for role, names in (("bounds", params.bounds), ("depths", params.depths)):
        for name in names:
            if name not in params.runs:
                raise unknown(f"{role}.{name}", name, list(params.runs))
    for name in params.depths:
        if not params.runs[name].depths:
            raise ValueError(
                f"depths.{name} studies a run without depths; add runs.{name}.depths, such as [4, 8, 16], or remove it"
            )
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
