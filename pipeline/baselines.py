"""Measures the baselines as samples are measured: training images, the mean image plus noise, and noise.

Reads   data/prepared, extractors/<name>/
Writes  reports/metrics/baselines.json, evaluations/baselines/details.json
"""

from __future__ import annotations

import gc
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.config import schema
from pipeline.config.load import load_params
from pipeline.core import artifacts, command
from pipeline.core.layout import Layout
from pipeline.store import extractors, fresh
from pipeline.store.data import DataDirectory

if TYPE_CHECKING:
    from pipeline.metrics.features import Extractor


def run(cfg: schema.Params, root: Path, extractor: Extractor | None = None) -> None:
    """Measures the baselines, `evaluate.baseline_images` of each, in the way that samples are."""
    from pipeline.metrics import baselines, ground, record
    from pipeline.metrics.measurement import images as measured
    from pipeline.metrics.measurement import measure

    data = DataDirectory.open(Layout(root).prepared)
    extractor = extractor or extractors.open_extractor(cfg.evaluate, data, root)
    against, reference = ground.lay(cfg, data, extractor)
    train, count, levels = data.images("train"), cfg.evaluate.baseline_images, ground.levels_of(data)
    draw = ground.keyed(cfg.evaluate.seed, "baselines")
    mean_image = baselines.mean_image(train, count, levels, draw("mean image"))
    sets = {
        "training-images": baselines.training_images(train, count, draw("training images")),
        "mean-image": mean_image.images,
        "noise": baselines.noise(data.data_spec.shape, count, levels, draw("noise")),
    }
    details: dict[str, Any] = {}
    rounded: dict[str, Any] = {}
    for name, images in sets.items():
        found = measure(measured(images, extractor(images)), reference, ground.keyed(cfg.evaluate.seed, name))
        details[name], rounded[name] = record.details(found), record.rounded(found)
    details["mean-image"]["clipped"] = mean_image.clipped
    computed_on = ground.computed_on(extractor)
    artifacts.write_json(
        Layout(root).evaluation("baselines") / "details.json",
        {
            **details,
            "measured": {**against.provenance(), "images": count, "seed": cfg.evaluate.seed, **computed_on},
            "made_of": fresh.evaluation(cfg, extractor.hash, root),
        },
    )
    artifacts.write_json(
        Layout(root).report("metrics", "baselines"),
        {
            **rounded,
            "measured": against.measured(count, computed_on["device"]),
        },
    )


def main(argv: list[str] | None = None) -> int:
    args = command.parser(__doc__).parse_args(argv)

    def work() -> None:
        params = load_params(args.params)
        place = Layout()
        if params.evaluate.extractor in params.extractors:
            fresh.check_model(params, "extractors", params.evaluate.extractor, place.root)
        command.writable(place.evaluation("baselines"), place.report("metrics", "baselines").parent)
        run(params, Path("."))

    return command.run_command(work)


if __name__ == "__main__":
    gc.disable()  # a process of seconds, see pipeline.evaluate
    sys.exit(main())
