"""The sections of the HTML report: what each shows, read from what the stages before wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.config.schema import Params
from pipeline.config.text import written
from pipeline.core.layout import Layout, latents_of
from pipeline.reporting import studies as studied
from pipeline.reporting.conclusion import HOW
from pipeline.reporting.findings import EXPLANATION, finding_columns
from pipeline.reporting.measures import explanations, grouped, stored
from pipeline.reporting.page import Card, Cards, Code, Facts, Figure, Folded, Paragraph, Part, Picture, Section, Table
from pipeline.reporting.table import bound_columns, front_columns, memorisation_columns, sample_columns
from pipeline.store.results import Source, columns, existing, training_curve

REPRODUCE = """\
make demo                  # environment, dvc repro, this page
dvc repro                  # again: only what changed runs
dvc metrics diff HEAD~1    # what a change did to the numbers
"""


def head(cfg: Params, comparison: Source) -> list[Part]:
    """What was measured of what, before the first heading."""
    measured = comparison.get("measured")
    families = list(dict.fromkeys(row["family"] for row in comparison.get("samples")))
    baselines = [row["sample"] for row in comparison.get("baselines")]
    return [
        Paragraph(
            f"{len(cfg.samples)} sets of samples from models of {len(families)} families ({', '.join(families)}), "
            f"all measured alike, beside the baselines {', '.join(baselines)}."
        ),
        Facts(
            {
                "data": f"{cfg.data.kind}, version {measured['data']}",
                "reference": measured["reference"],
                "images per sample": _joined(measured["images"]),
                "extractor": measured["extractor"],
                "device": _joined(measured["device"]),
            }
        ),
    ]


def trilemma(root: Path, comparison: Source) -> Section:
    title = "Speed, quality, diversity"
    svg = existing(Layout(root).reports / "trilemma.svg", "compare").read_text(encoding="utf-8")
    distance = comparison.get("measured.distance")
    caption = (
        "Each point is one set of samples, numbered as in the legend; bars are 95 % intervals. Filled points are on the front: "
        "no other sample is as fast, as good and as diverse. Good is at the lower right of the left panel and at the upper "
        "right of the right one."
    )
    return Section(
        title,
        [
            *(Paragraph(sentence) for sentence in comparison.get("conclusion")),
            Figure("trilemma", svg, caption),
            Table(title, front_columns(stored(comparison), distance), {"front": comparison.get("samples")}),
            Paragraph(HOW.format(distance=distance.upper()), soft=True),
        ],
    )


def numbers(comparison: Source) -> Section:
    title, measures = "Numbers", stored(comparison)
    return Section(
        title,
        [
            Table(title, sample_columns(measures), _beside_baselines(comparison)),
            Paragraph(explanations(grouped(measures, "quality", "diversity")), soft=True),
            Paragraph(
                "Bits/dim is an upper bound on the code length of real images under the model. A dash means: not measured, or "
                "not defined for this row.",
                soft=True,
            ),
        ],
    )


def samples(cfg: Params, root: Path, comparison: Source) -> Section:
    rows = {row["sample"]: row for row in comparison.get("samples")}
    cards = []
    for name, sample in cfg.samples.items():
        folder = Layout(root).sample(name)
        grid, strip = (existing(folder / file, f"sample@{name}").read_bytes() for file in ("grid.png", "trajectory.png"))
        evaluations = rows[name]["network_evaluations"]
        note = f"{sample.run}, {rows[name]['sampler']}, {sample.steps} steps, {evaluations} evaluations, seed {sample.seed}"
        cards.append(Card(name, note, [Picture(grid, f"samples of {name}"), Picture(strip, f"from noise to image, {name}")]))
    return Section("Samples", [Paragraph("Below each grid, the way from noise to image."), Cards(cards)])


def memorisation(cfg: Params, root: Path, comparison: Source) -> Section:
    title, cards, measures = "Memorisation", [], stored(comparison)
    for row in comparison.get("samples"):
        name = row["sample"]
        path = Layout(root).evaluation(name) / "neighbours.png"
        picture = Picture(existing(path, f"evaluate@{name}").read_bytes(), f"nearest training images of {name}")
        note = f"{row['memorisation']['memorised']:.1%} memorised, distance ratio {row['memorisation']['distance_ratio']:.3g}"
        cards.append(Card(name, note, [picture]))
    return Section(
        title,
        [
            Table(title, memorisation_columns(measures), _beside_baselines(comparison)),
            Paragraph(explanations(grouped(measures, "memorisation")), soft=True),
            Paragraph("The samples that lie closest to a training image, the closest first; below each, that training image."),
            Cards(cards),
        ],
    )


def training(cfg: Params, root: Path) -> Section:
    from pipeline.reporting.curves import losses, training_curves

    curves = {}
    for name, stage_name in trained(cfg).items():
        path = Layout(root).curve(name)
        curves[name] = training_curve(path, stage_name)
        if not losses(curves[name]):
            raise ValueError(f"{path} has no quantity with both splits, train and valid; run: dvc repro -f {stage_name}")
    caption = "Loss by optimizer step. Objectives differ between families: compare the shape, not the height."
    return Section("Training", [Figure("training", training_curves(curves), caption)])


def trained(cfg: Params) -> dict[str, str]:
    """What the samples rest on that was trained, with the stage that trains it: runs, parts of composed ones, codecs."""
    names: dict[str, str] = {}
    for run in dict.fromkeys(sample.run for sample in cfg.samples.values()):
        codec = latents_of(cfg.data_of(run))
        if codec is not None:
            names[codec] = f"codec@{codec}"
        names |= {name: f"train@{name}" for name in cfg.trained(run)}
    return names


def bounds(cfg: Params, root: Path, comparison: Source) -> Section:
    from pipeline.reporting.curves import bound_curves

    curves = {
        name: (cfg.family(name), columns(Layout(root).report("bounds", name, ".csv"), f"bound@{name}", "time"))
        for name in cfg.bounds
    }
    title = "Bits per dimension"
    caption = "Where the bits go: the area under a curve is the diffusion term; bands are one standard error."
    table = Table(title, bound_columns(), {"bounds": comparison.get("bounds")})
    return Section(title, [table, Figure("bounds", bound_curves(curves), caption)])


def findings(comparison: Source) -> Section:
    title = "The papers' findings on this data"
    table = Table(title, finding_columns(), {"findings": comparison.get("findings")})
    return Section(title, [table, Paragraph(EXPLANATION, soft=True)])


def studies(root: Path, comparison: Source) -> list[Section]:
    found = []
    for name, study in comparison.get("studies").items():
        title, svg = study["title"], studied.figure(Layout(root), name, study)
        parts: list[Part] = [Table(title, studied.columns(study), {"studies": study["rows"]})]
        if svg is not None:
            parts.append(Figure(f"study-{name}", svg, study["caption"]))
        found.append(Section(title, [*parts, Paragraph(study["explanation"], soft=True)]))
    return found


def provenance(cfg: Params, comparison: Source) -> Section:
    measured = comparison.get("measured")
    used = cfg.model_dump(
        mode="json",
        by_alias=True,
        include={"data", "extractors", "codecs", "runs", "composed", "samples", "bounds", "studies", "evaluate"},
    )
    origin = {
        "data hash": measured["data"],
        "extractor and weight hash": measured["extractor"],
        "reference": measured["reference"],
    }
    full = "Full hashes stand beside each sample in evaluations/<sample>/details.json; the whole chain is in dvc.lock."
    return Section(
        "Where the numbers come from",
        [
            Facts(origin),
            Paragraph(full),
            Paragraph("To make this page again, in a checkout of the same commit:"),
            Code(REPRODUCE),
            Folded("Parameters", Code(written(used))),
        ],
    )


def _beside_baselines(comparison: Source) -> dict[str, Any]:
    return {group: comparison.get(group) for group in ("samples", "baselines")}


def _joined(values: list[Any]) -> str:
    return ", ".join(str(value) for value in values)
