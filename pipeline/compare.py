"""Stage `compare`: what was measured of every sample, run and baseline of params.yaml, side by side.

Reads   reports/metrics/<sample>.json, reports/metrics/baselines.json, evaluations/{<sample>,baselines}/details.json,
        reports/bounds/<run>.json, bounds/<run>/bits.npy, reports/studies/<study>.json,
        studies/<study>/presentation.json, samples/<sample>/{images.npy, sample.json}
Writes  reports/compare.json, reports/compare.md, reports/trilemma.svg, reports/samples.png
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.config.load import load_params
from pipeline.config.schema import Params
from pipeline.core import command
from pipeline.core.artifacts import atomic, write_json, write_text
from pipeline.core.layout import Layout
from pipeline.reporting import studies
from pipeline.reporting.conclusion import HOW, conclusion
from pipeline.reporting.findings import EXPLANATION, finding_columns, findings
from pipeline.reporting.measures import Measure, described, explanations, for_json, grouped
from pipeline.reporting.rows import baseline_rows, bound_row, sample_row, stand
from pipeline.reporting.table import bound_columns, front_columns, markdown, memorisation_columns, sample_columns
from pipeline.store import fresh
from pipeline.store.results import Source, open_array

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SHOWN = 16  # images of each sample in reports/samples.png

# Numbers compare only where these agree: the metric space, the data version, the images measured against.
SAME = ("extractor", "data", "reference")


def run(cfg: Params, root: Path) -> dict[str, Any]:
    """Compares and writes the four files under `root`/reports; returns what reports/compare.json holds."""
    place = Layout(root)
    if not cfg.samples:
        raise ValueError("samples is empty, and there is nothing to compare; add a sample")
    samples = {name: Source.open(place.report("metrics", name), f"evaluate@{name}") for name in cfg.samples}
    baselines = Source.open(place.report("metrics", "baselines"), "baselines")
    bounds = {name: Source.open(place.report("bounds", name), f"bound@{name}") for name in cfg.bounds}
    studied = {name: studies.opened(place, name) for name in cfg.studies}
    refuse_unlike([*samples.values(), baselines], SAME)
    for source in studied.values():  # a study need not measure in features
        refuse_unlike([baselines, source], ("data", "extractor") if "extractor" in source.get("measured") else ("data",))
    refuse_unlike([baselines, *bounds.values()], ("data",))
    refuse_unlike(list(bounds.values()), ("split",))
    for name in (*cfg.samples, "baselines"):
        fresh.check_evaluation(cfg, name, root)
    for name in cfg.bounds:
        fresh.check_bound(cfg, name, root)
    for name in cfg.studies:
        fresh.check_study(cfg, name, root)
    full = {name: Source.open(place.evaluation(name) / "details.json", source.stage) for name, source in samples.items()}
    ground = Source.open(place.evaluation("baselines") / "details.json", baselines.stage)
    measures, distance = described([ground, *full.values()]), str(ground.get("measured.distance"))
    rows = stand([sample_row(cfg, root, name, source, measures, bounds) for name, source in samples.items()], distance)
    below = baseline_rows(baselines, measures)
    comparison = {
        "conclusion": conclusion(rows, below, distance),
        "samples": rows,
        "baselines": below,
        "bounds": [bound_row(cfg, name, source) for name, source in bounds.items()],
        "findings": findings(
            cfg.runs, bounds, {name: _bits(root, name) for name in bounds}, {name: _block(root, name) for name in bounds}
        ),
        "studies": {name: studies.described(place, name, source) for name, source in studied.items()},
        "metrics": for_json(measures),
        "measured": {
            "distance": distance,
            **{key: baselines.get(f"measured.{key}") for key in SAME},
            "images": _different([source.get("measured.images") for source in samples.values()]),
            "baseline_images": baselines.get("measured.images"),
            "device": _different([source.get("measured.device") for source in samples.values()]),
        },
    }
    _write(cfg, root, comparison, measures)
    return comparison


def refuse_unlike(sources: Sequence[Source], keys: Sequence[str]) -> None:
    """Raises ValueError, naming two files and their values, if `measured.<key>` is not the same in all sources."""
    for key in keys:
        for other in sources[1:]:
            first = sources[0]
            ours, theirs = first.get(f"measured.{key}"), other.get(f"measured.{key}")
            if ours != theirs:
                raise ValueError(
                    f"not comparable: {first.path} was measured with {key} {ours!r}, {other.path} with {theirs!r}; "
                    f"run: dvc repro {first.stage} {other.stage}"
                )


def statement(measured: dict[str, Any], measures: Sequence[Measure]) -> str:
    """What the numbers of the table rest on, and what they are."""
    images, device = (", ".join(str(value) for value in measured[key]) for key in ("images", "device"))
    return (
        f"Measured on {images} images per sample ({measured['baseline_images']} per baseline) against {measured['reference']} "
        f"of data {measured['data']}, in the features of {measured['extractor']}; images/s on {device}. "
        + explanations(grouped(measures, "quality", "diversity"))
    )


def _bits(root: Path, name: str) -> NDArray[np.float64]:
    return open_array(Layout(root).bound(name) / "bits.npy", f"bound@{name}")


def _block(root: Path, name: str) -> dict[str, Any]:
    """The model block of a bounded run, as its family read it."""
    return dict(Source.open(Layout(root).bound(name) / "details.json", f"bound@{name}").get("model"))


def _different(values: Sequence[Any]) -> list[Any]:
    return list(dict.fromkeys(values))


def _write(cfg: Params, root: Path, comparison: dict[str, Any], measures: Sequence[Measure]) -> None:
    from pipeline.reporting.images import png
    from pipeline.reporting.trilemma import trilemma

    reports, distance = Layout(root).reports, comparison["measured"]["distance"]
    picture = _picture(cfg, root)  # before anything is written: a sample may be missing
    text = [
        "# Comparison", "",
        markdown(sample_columns(measures), [*comparison["samples"], *comparison["baselines"]]), "",
        statement(comparison["measured"], measures), "",
        "## Speed, quality and diversity together", "",
        *(line for sentence in comparison["conclusion"] for line in (sentence, "")),
        markdown(front_columns(measures, distance), comparison["samples"]), "",
        HOW.format(distance=distance.upper()), "",
        "## Memorisation", "",
        markdown(memorisation_columns(measures), [*comparison["samples"], *comparison["baselines"]]), "",
        explanations(grouped(measures, "memorisation")), "",
    ]  # fmt: skip
    if comparison["bounds"]:
        text += ["## Bits per dimension", "", markdown(bound_columns(), comparison["bounds"]), ""]
        found = markdown(finding_columns(), comparison["findings"])
        text += ["## The papers' findings on this data", "", found, "", EXPLANATION, ""]
    for study in comparison["studies"].values():
        text += [f"## {study['title']}", "", markdown(studies.columns(study), study["rows"]), "", study["explanation"], ""]
    write_json(reports / "compare.json", comparison)
    write_text(reports / "compare.md", "\n".join(text))
    write_text(reports / "trilemma.svg", trilemma(comparison["samples"], comparison["baselines"], distance))
    with atomic(reports / "samples.png") as file:
        file.write(png(picture))


def _picture(cfg: Params, root: Path) -> NDArray[np.uint8]:
    """The first 16 images of every sample, a row each beside its name, so that models are compared by eye."""
    import numpy as np

    from pipeline.reporting.images import grid, to_bytes

    rows = []
    for name in cfg.samples:
        folder = Layout(root).sample(name)
        levels = Source.open(folder / "sample.json", f"sample@{name}").number("levels")
        images = to_bytes(open_array(folder / "images.npy", f"sample@{name}")[:SHOWN], int(levels))
        rows.append(np.pad(images, ((0, SHOWN - len(images)), (0, 0), (0, 0), (0, 0)), constant_values=255))  # white: none
    return grid(np.concatenate(rows), SHOWN, gap=4, labels=list(cfg.samples))


def main(argv: list[str] | None = None) -> int:
    arguments = command.parser(__doc__).parse_args(argv)
    return command.run_command(lambda: run(load_params(arguments.params), Path(".")))


if __name__ == "__main__":
    sys.exit(main())
