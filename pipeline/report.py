"""Stage `report`: one HTML page of the comparison, to open offline or to send to somebody.

Reads   reports/compare.json, reports/trilemma.svg, reports/curves/<run>.csv, reports/bounds/<run>.csv,
        runs/<run>/samples/<sample>/{grid.png, trajectory.png}, runs/<run>/evaluations/<sample>/neighbours.png
Writes  reports/index.html
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from pipeline import config, stage
from pipeline.artifacts import write_text
from pipeline.config import Params
from pipeline.reporting import depth, page
from pipeline.reporting.conclusion import HOW
from pipeline.reporting.findings import EXPLANATION, finding_columns
from pipeline.reporting.sources import Source, columns, existing, training_curve
from pipeline.reporting.table import (
    MEMORISATION,
    as_html,
    bound_columns,
    front_columns,
    meaning,
    memorisation_columns,
    sample_columns,
)

REPRODUCE = """\
make demo                  # environment, dvc repro, this page
dvc repro                  # again: only what changed runs
dvc metrics diff HEAD~1    # what a change did to the numbers
"""


def run(cfg: Params, root: Path) -> Path:
    """Writes `root`/reports/index.html and returns its path."""
    comparison = Source.open(root / "reports" / "compare.json", "compare")
    for key, expected in (("samples", list(cfg.samples)), ("bounds", list(cfg.bounds))):
        named = [row["sample" if key == "samples" else "run"] for row in comparison.get(key)]
        if named != expected:
            raise ValueError(
                f"{comparison.path} holds the {key} {', '.join(named) or 'none'}, params.yaml names "
                f"{', '.join(expected) or 'none'}; run: dvc repro compare"
            )
    sections = [*_head(cfg, comparison), _chart(root, comparison), _table(comparison), _samples(cfg, root, comparison)]
    sections += [_memorisation(cfg, root, comparison), _training(cfg, root)]
    if cfg.bounds:
        sections += [_bounds(cfg, root, comparison), _findings(comparison)]
    sections += _depths(comparison)
    sections.append(_provenance(cfg, comparison))
    target = root / "reports" / "index.html"
    write_text(target, page.document("Diffusion models: speed, quality, diversity", sections))
    return target


def _head(cfg: Params, comparison: Source) -> list[str]:
    measured = comparison.get("measured")
    families = list(dict.fromkeys(row["family"] for row in comparison.get("samples")))
    baselines = [row["sample"] for row in comparison.get("baselines")]
    return [
        page.paragraph(
            f"{len(cfg.samples)} sets of samples from models of {len(families)} families ({', '.join(families)}), "
            f"all measured alike, beside the baselines {', '.join(baselines)}."
        ),
        page.facts(
            {
                "data": f"{cfg.data.kind}, version {measured['data']}",
                "reference": measured["reference"],
                "images per sample": _joined(measured["images"]),
                "extractor": measured["extractor"],
                "device": _joined(measured["device"]),
            }
        ),
    ]


def _chart(root: Path, comparison: Source) -> str:
    svg = existing(root / "reports" / "trilemma.svg", "compare").read_text(encoding="utf-8")
    distance = comparison.get("measured.distance")
    caption = (
        "Each point is one set of samples, numbered as in the key; bars are 95 % intervals. Filled points are on the front: no "
        "other sample is as fast, as good and as diverse. Good is at the lower right of the left panel and at the upper right "
        "of the right one."
    )
    return page.section(
        "Speed, quality, diversity",
        *(page.paragraph(sentence) for sentence in comparison.get("conclusion")),
        page.figure(svg, "trilemma", caption),
        as_html(front_columns(distance), [("front", comparison.get("samples"))]),
        page.paragraph(HOW.format(distance=distance.upper()), soft=True),
    )


def _table(comparison: Source) -> str:
    distance = comparison.get("measured.distance")
    groups = [("samples", comparison.get("samples")), ("baselines", comparison.get("baselines"))]
    return page.section(
        "Numbers",
        as_html(sample_columns(distance), groups),
        page.paragraph(meaning(distance), soft=True),
        page.paragraph(
            f"{distance.upper()} and KID say how far the samples lie from the reference as a whole; precision and density, how "
            "many samples look real; recall and coverage, how much of the reference the samples reach; bits/dim is an upper "
            "bound on the code length of real images under the model. A dash means: not measured, or not defined for this row.",
            soft=True,
        ),
    )


def _samples(cfg: Params, root: Path, comparison: Source) -> str:
    rows = {row["sample"]: row for row in comparison.get("samples")}
    cards = []
    for name, sample in cfg.samples.items():
        folder = root / "runs" / sample.run / "samples" / name
        grid, strip = (existing(folder / file, f"sample@{name}").read_bytes() for file in ("grid.png", "trajectory.png"))
        evaluations = rows[name]["network_evaluations"]
        note = f"{sample.run}, {rows[name]['sampler']}, {sample.steps} steps, {evaluations} evaluations, seed {sample.seed}"
        pictures = [page.picture(grid, f"samples of {name}"), page.picture(strip, f"from noise to image, {name}")]
        cards.append(page.card(name, note, pictures))
    return page.section(
        "Samples",
        page.paragraph("Below each grid, the way from noise to image."),
        f'<div class="cards">{"".join(cards)}</div>',
    )


def _memorisation(cfg: Params, root: Path, comparison: Source) -> str:
    groups = [("samples", comparison.get("samples")), ("baselines", comparison.get("baselines"))]
    cards = []
    for row in comparison.get("samples"):
        name = row["sample"]
        path = root / "runs" / cfg.samples[name].run / "evaluations" / name / "neighbours.png"
        picture = page.picture(existing(path, f"evaluate@{name}").read_bytes(), f"nearest training images of {name}")
        note = f"{row['memorisation']['memorised']:.1%} memorised, distance ratio {row['memorisation']['distance_ratio']:.3g}"
        cards.append(page.card(name, note, [picture]))
    return page.section(
        "Memorisation",
        as_html(memorisation_columns(), groups),
        page.paragraph(MEMORISATION, soft=True),
        page.paragraph("The samples that lie closest to a training image, the closest first; below each, that training image."),
        f'<div class="cards">{"".join(cards)}</div>',
    )


def _training(cfg: Params, root: Path) -> str:
    from pipeline.reporting.curves import losses, training_curves

    curves = {}
    for name, stage_name in trained(cfg).items():
        path = root / "reports" / "curves" / f"{name}.csv"
        curves[name] = training_curve(path, stage_name)
        if not losses(curves[name]):
            raise ValueError(f"{path} has no quantity with both splits, train and valid; run: dvc repro -f {stage_name}")
    caption = "Loss by optimiser step. Objectives differ between families: compare the shape, not the height."
    return page.section("Training", page.figure(training_curves(curves), "training", caption))


def trained(cfg: Params) -> dict[str, str]:
    """What the samples rest on that was trained, with the stage that trains it: runs, halves of combined ones, codecs."""
    names: dict[str, str] = {}
    for run in dict.fromkeys(sample.run for sample in cfg.samples.values()):
        codec = config.latents_of(cfg.data_of(run))
        if codec is not None:
            names[codec] = f"codec@{codec}"
        halves = cfg.combined.get(run)
        names |= {name: f"train@{name}" for name in ([run] if halves is None else [halves.denoiser, halves.generator])}
    return names


def _bounds(cfg: Params, root: Path, comparison: Source) -> str:
    from pipeline.reporting.curves import bound_curves

    curves = {
        name: (cfg.family(name), columns(root / "reports" / "bounds" / f"{name}.csv", f"bound@{name}", "time"))
        for name in cfg.bounds
    }
    caption = "Where the bits go: the area under a curve is the diffusion term; bands are one standard error."
    return page.section(
        "Bits per dimension",
        as_html(bound_columns(), [("bounds", comparison.get("bounds"))]),
        page.figure(bound_curves(curves), "bounds", caption),
    )


def _findings(comparison: Source) -> str:
    return page.section(
        "The papers' findings on this data",
        as_html(finding_columns(), [("findings", comparison.get("findings"))]),
        page.paragraph(EXPLANATION, soft=True),
    )


def _depths(comparison: Source) -> list[str]:
    return [
        page.section(
            f"{name} as a chain of T steps",
            as_html(depth.columns(), [("depths", study["rows"])]),
            page.figure(
                depth.figure(study["rows"]),
                f"depth-{name}",
                "The bound loosens as T falls, and far less so with the variance that is optimal for that T.",
            ),
            page.paragraph(depth.meaning(study), soft=True),
        )
        for name, study in comparison.get("depths").items()
    ]


def _provenance(cfg: Params, comparison: Source) -> str:
    import yaml

    measured = comparison.get("measured")
    used = cfg.model_dump(
        mode="json",
        by_alias=True,
        include={"data", "extractors", "codecs", "runs", "combined", "samples", "bounds", "evaluate"},
    )
    origin = {
        "data hash": measured["data"],
        "extractor and weight hash": measured["extractor"],
        "reference": measured["reference"],
    }
    full = (
        "Full hashes stand beside each sample in runs/<run>/evaluations/<sample>/details.json; the whole chain is in dvc.lock."
    )
    return page.section(
        "Where the numbers come from",
        page.facts(origin),
        page.paragraph(full),
        page.paragraph("To make this page again, in a checkout of the same commit:"),
        page.code(REPRODUCE),
        page.folded("Parameters", page.code(yaml.safe_dump(used, sort_keys=False, allow_unicode=True))),
    )


def _joined(values: list[Any]) -> str:
    return ", ".join(str(value) for value in values)


def main(argv: list[str] | None = None) -> int:
    arguments = stage.parser(__doc__).parse_args(argv)
    return stage.guarded(lambda: run(config.load(arguments.params), Path(".")))


if __name__ == "__main__":
    sys.exit(main())
