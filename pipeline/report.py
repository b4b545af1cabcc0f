"""Stage `report`: one HTML page of the comparison, to open offline or to send to somebody.

Reads   reports/compare.json, reports/trilemma.svg, reports/curves/<run>.csv, reports/bounds/<run>.csv,
        samples/<sample>/{grid.png, trajectory.png}, evaluations/<sample>/neighbours.png,
        studies/<study>/figure.svg
Writes  reports/index.html
"""

from __future__ import annotations

import sys
from pathlib import Path

from pipeline.config.load import load_params
from pipeline.config.schema import Params
from pipeline.core import command
from pipeline.core.artifacts import write_text
from pipeline.core.layout import Layout
from pipeline.reporting import page, sections
from pipeline.store.results import Source


def run(cfg: Params, root: Path) -> Path:
    """Writes `root`/reports/index.html and returns its path."""
    comparison = Source.open(Layout(root).reports / "compare.json", "compare")
    named_by = {"samples": list(cfg.samples), "bounds": list(cfg.bounds), "studies": list(cfg.studies)}
    for key, expected in named_by.items():
        found = comparison.get(key)
        named = list(found) if key == "studies" else [row["sample" if key == "samples" else "run"] for row in found]
        if named != expected:
            raise ValueError(
                f"{comparison.path} holds the {key} {', '.join(named) or 'none'}, params.yaml names "
                f"{', '.join(expected) or 'none'}; run: dvc repro compare"
            )
    parts = [*sections.head(cfg, comparison), sections.trilemma(root, comparison), sections.numbers(comparison)]
    parts += [sections.samples(cfg, root, comparison), sections.memorisation(cfg, root, comparison)]
    parts.append(sections.training(cfg, root))
    if cfg.bounds:
        parts += [sections.bounds(cfg, root, comparison), sections.findings(comparison)]
    parts += [*sections.studies(root, comparison), sections.provenance(cfg, comparison)]
    target = Layout(root).reports / "index.html"
    write_text(target, page.document("Diffusion models: speed, quality, diversity", parts))
    return target


def main(argv: list[str] | None = None) -> int:
    arguments = command.parser(__doc__).parse_args(argv)
    return command.run_command(lambda: run(load_params(arguments.params), Path(".")))


if __name__ == "__main__":
    sys.exit(main())
