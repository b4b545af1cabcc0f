"""Stage `study`: asks a trained model what a block under studies: wants to know, by the module that its `kind` names.

Reads   runs/<run>/, data/prepared, extractors/<name>/ where the study measures with it
Writes  studies/<study>/{details.json, presentation.json, figure.svg}: unrounded rows with what made them; how they are shown
        reports/studies/<study>.json, .csv: the same rounded, for git and for `dvc plots`
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.config import plugins, schema
from pipeline.config.load import load_params, read_plugin
from pipeline.core import artifacts, command
from pipeline.core.layout import Layout
from pipeline.core.rounding import to_digits
from pipeline.store.data import DataDirectory
from pipeline.store.fresh import check_model, check_trained_on, role_of

if TYPE_CHECKING:
    from pipeline.metrics.features import Extractor
    from pipeline.studies.base import Quantity, Rows

DIGITS, ERROR_DIGITS = 5, 2


def run(params: schema.Params, name: str, root: Path) -> None:
    """Runs the study `name` and writes its files under `root`. Raises ValueError as the study refuses, or for other data."""
    import torch

    from pipeline.core.code import code_hash
    from pipeline.core.device import describe_device, pick_device
    from pipeline.store import extractors, models
    from pipeline.studies.base import Context, StudyConfig

    key, block = f"studies.{name}", command.choose(params.studies, name, "studies")
    cfg: StudyConfig = read_plugin("studies", block.values, key)
    cfg.check(params, key)
    place = Layout(root)
    device = pick_device()
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    check_model(params, role_of(params, cfg.run), cfg.run, root)
    command.writable(place.study(name), place.report("studies", name).parent)
    model = models.load(place.run(cfg.run), device)
    data = DataDirectory.open(place.data(params.data_of(cfg.run)))
    check_trained_on(model.config, place.run(cfg.run), data.hash, data.path)
    opened: list[Extractor] = []

    def extractor() -> Extractor:
        if not opened:
            opened.append(extractors.open_extractor(params.evaluate, data, root))
        return opened[0]

    result = cfg.measure(Context(key, model, data, device, extractor))
    shown = cfg.present(result)
    used = opened[0] if opened else None
    measured = {
        **result.measured,
        "data": data.hash[:8],
        **({} if used is None else {"extractor": f"{used.name}@{used.hash[:8]}"}),
        "device": describe_device(device)["device"],
    }
    provenance = {
        "study": cfg.model_dump(mode="json"),
        "weights": model.hash,
        "data": data.hash,
        **({} if used is None else {"extractor": {"name": used.name, "hash": used.hash}}),
        "code": code_hash("pipeline.study", plugins.module_name("studies", block.kind)),
    }
    folder, rows = place.study(name), rounded(result.rows, shown.quantities)
    artifacts.write_json(folder / "details.json", {"rows": result.rows, "measured": {**measured, **provenance}})
    figure = cfg.figure(result)
    if figure is None:
        (folder / "figure.svg").unlink(missing_ok=True)
    else:
        artifacts.write_text(folder / "figure.svg", figure)
    artifacts.write_json(folder / "presentation.json", {**asdict(shown), "figure": figure is not None})
    artifacts.write_json(place.report("studies", name), {"rows": rows, "measured": measured})
    artifacts.write_text(place.report("studies", name, ".csv"), points(rows, shown.quantities, shown.rows, shown.labels))


def rounded(rows: Rows, quantities: Sequence[Quantity]) -> dict[str, Any]:
    """Numbers to the digits of their quantity, standard errors to 2, others to 5; texts and whole numbers as they are."""
    digits = {quantity.key: quantity.digits for quantity in quantities}
    digits |= {quantity.error: ERROR_DIGITS for quantity in quantities if quantity.error is not None}

    def walk(found: Any, key: str) -> Any:
        if isinstance(found, Mapping):
            return {name: walk(inner, f"{key}.{name}" if key else name) for name, inner in found.items()}
        return to_digits(found, digits.get(key, DIGITS)) if isinstance(found, float) else found

    return {name: walk(row, "") for name, row in rows.items()}


def points(rows: Rows, quantities: Sequence[Quantity], what: str, labels: Mapping[str, str]) -> str:
    """CSV: a line for each number of each row, as .dvc/plots/study.json shows it: a panel per quantity, a line per series."""
    import csv
    import io

    from pipeline.studies.base import value

    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["panel", "series", "row", "value", "standard_error"])
    for quantity in quantities:
        for name, row in rows.items():
            found = value(row, quantity.key)
            if isinstance(found, int | float):
                error = None if quantity.error is None else value(row, quantity.error)
                panel = f"{quantity.name} by {what}"
                writer.writerow([panel, quantity.series or quantity.name, labels.get(name, name), found, error])
    return file.getvalue()


def main(argv: list[str] | None = None) -> int:
    parser = command.parser(__doc__)
    parser.add_argument("study", help="a name under studies:")
    args = parser.parse_args(argv)
    return command.run_command(lambda: run(load_params(args.params), args.study, Path(".")))


if __name__ == "__main__":
    sys.exit(main())
