"""The rows of reports/compare.json: what was measured of samples, baselines and bounds, gathered from their files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.config.schema import Params
from pipeline.core.layout import Layout, latents_of
from pipeline.core.rounding import to_digits
from pipeline.reporting.measures import Measure, grouped
from pipeline.reporting.pareto import axes, dominators
from pipeline.store.results import Source


def sample_row(
    cfg: Params, root: Path, name: str, source: Source, measures: Sequence[Measure], bounds: dict[str, Source]
) -> dict[str, Any]:
    """One row of reports/compare.json; bits/dim is null for a run without a bound, intervals where none were asked for."""
    from pipeline.metrics.speed import speed

    sample = cfg.samples[name]
    details = Source.open(Layout(root).evaluation(name) / "details.json", source.stage)
    rate, bound = speed(details.get("speed")), bounds.get(sample.run)
    row: dict[str, Any] = {
        "sample": name,
        "run": sample.run,
        "family": family(cfg, sample.run),
        "sampler": details.get("sample.described"),
        "kind": str(sample.sampler.get("kind")),
        "steps": sample.steps,
        "guidance": sample.guidance,
        "network_evaluations": source.number("speed.network_evaluations"),
        "images_per_second": source.number("speed.images_per_second"),
        "images_per_second_low": _rounded(rate.low),
        "images_per_second_high": _rounded(rate.high),
    }
    for measure in grouped(measures, "quality", "diversity"):
        key, resampled = measure.key, measure.intervals and cfg.evaluate.interval_resamples
        low, high = details.interval(f"intervals.{key}") if resampled else (None, None)
        row |= {key: _number(source, measure), f"{key}_low": _rounded(low), f"{key}_high": _rounded(high)}
    return {
        **row,
        "bits_per_dim": bound.number("bits_per_dim.total") if bound else None,
        "bits_per_dim_standard_error": bound.number("bits_per_dim.standard_error") if bound else None,
        "memorisation": _memorisation(source, measures),
        "clip": source.get("measured.clip"),
        "images": source.number("measured.images"),
    }


def family(cfg: Params, run: str) -> str:
    """The family of a run; of one that was trained on latents, with the word before it."""
    return cfg.family(run) if latents_of(cfg.data_of(run)) is None else f"latent {cfg.family(run)}"


def stand(rows: Sequence[dict[str, Any]], distance: str) -> list[dict[str, Any]]:
    """The rows with `front` (nobody dominates the sample) and `dominated_by`."""
    found = dominators(rows, axes(distance))
    return [
        {
            **row,
            "front": not found[row["sample"]],
            "dominated_by": [
                {"sample": other.sample, "clear": other.clear, "within": list(other.within)} for other in found[row["sample"]]
            ],
        }
        for row in rows
    ]


def baseline_rows(source: Source, measures: Sequence[Measure]) -> list[dict[str, Any]]:
    """Rows of the baselines: the same keys as a sample's where they make sense."""
    rows = []
    for name in source.values:
        if name != "measured":
            part = Source(
                source.path,
                source.stage,
                {key: source.get(f"{name}.{key}") for key in ("quality", "diversity", "memorisation")},
            )
            numbers = {measure.key: _number(part, measure) for measure in grouped(measures, "quality", "diversity")}
            rows.append({"sample": name, **numbers, "memorisation": _memorisation(part, measures)})
    return rows


def bound_row(cfg: Params, name: str, source: Source) -> dict[str, Any]:
    """bits/dim of one run by term, and what it was measured on."""
    terms = ("total", "standard_error", "prior", "reconstruction", "diffusion")
    return {
        "run": name,
        "family": family(cfg, name),
        **{term: source.number(f"bits_per_dim.{term}") for term in terms},
        "split": source.get("measured.split"),
        "images": source.get("measured.images"),
    }


def _number(source: Source, measure: Measure) -> float:
    return source.number(f"{measure.group}.{measure.key}")


def _memorisation(source: Source, measures: Sequence[Measure]) -> dict[str, float]:
    return {measure.key: _number(source, measure) for measure in grouped(measures, "memorisation")}


def _rounded(value: float | None) -> float | None:
    return None if value is None else to_digits(value, 4)
