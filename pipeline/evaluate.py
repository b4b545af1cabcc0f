"""Measures one named sample against the reference split of data/prepared.

SAMPLE must first meet the expectations on generated images; if it does not, nothing is measured and the status is 1.

Reads   data/prepared, extractors/<name>/, samples/<sample>/{images.npy, sample.json, timing.json}
Writes  reports/metrics/<sample>.json, evaluations/<sample>/{validation.json, details.json, nearest.png}
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.config import schema
from pipeline.config.load import load_params
from pipeline.core import artifacts, command
from pipeline.core.layout import Layout
from pipeline.core.rounding import to_digits
from pipeline.store import extractors, fresh
from pipeline.store.data import DataDirectory
from pipeline.store.results import Source, open_array

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from pipeline.metrics.features import Extractor
    from pipeline.validation.expectations import Outcome

# images (N, C, H, W); per image, values that were not finite (N,); predicted classes (N,), or None where the extractor does not
# know the classes of the data; reference images (R, C, H, W).
Check = Callable[["NDArray[np.uint8]", "NDArray[np.int64]", "NDArray[np.int64] | None", "NDArray[np.uint8]"], "Outcome"]


def run(cfg: schema.Params, name: str, root: Path, extractor: Extractor | None = None, check: Check | None = None) -> list[str]:
    """Evaluates the sample `name`; returns in words what it failed (nothing: metrics were written).

    extractor, check: instead of those that `cfg` names. Raises ValueError for files that are missing or do not belong together.
    """
    import numpy as np

    from pipeline.metrics import ground, record
    from pipeline.metrics.measurement import images as measured
    from pipeline.metrics.measurement import measure
    from pipeline.metrics.speed import speed
    from pipeline.reporting.nearest import picture

    sample = command.choose(cfg.samples, name, "samples")
    place = Layout(root)
    made, made_by = place.sample(name), f"sample@{name}"
    evaluation = place.evaluation(name)
    metrics = place.report("metrics", name)

    data = DataDirectory.open(Layout(root).prepared)
    described = fresh.check_sample(cfg, name, root)
    images = open_array(made / "images.npy", made_by)
    timing = Source.open(made / "timing.json", made_by)
    rate = speed(timing.values)
    if len(images) != sample.images:
        raise ValueError(f"{made} has {len(images)} images, samples.{name}.images is {sample.images}; run: dvc repro {made_by}")
    if described.get("data") != data.hash:
        raise ValueError(
            f"{made} comes from a model of data {described.get('data')[:8]}, {data.path} is {data.hash[:8]}; "
            f"run: dvc repro {made_by}"
        )

    extractor = extractor or extractors.open_extractor(cfg.evaluate, data, root)
    features, unreadable = None, []
    try:
        features = extractor(images)
    except ValueError as error:  # images that are no codes: one more failure beside those of the expectations
        unreadable = [str(error)]
    outcome = (check or expectations(cfg.validate_.samples, data))(
        images,
        _counts(described.get("nonfinite"), len(images)),
        None if features is None or not extractor.knows_classes else features.probabilities.argmax(axis=1).astype(np.int64),
        data.images(cfg.evaluate.reference),
    )
    failures = [*outcome.failures, *unreadable]
    for stale in (metrics, evaluation / "details.json", evaluation / "neighbours.png"):
        stale.unlink(missing_ok=True)
    artifacts.write_json(
        evaluation / "validation.json", {"success": not failures, "failures": failures, "results": outcome.results}
    )
    if features is None or failures:
        return failures

    against, reference = ground.lay(cfg, data, extractor)
    found = measure(measured(images, features), reference, ground.keyed(cfg.evaluate.seed, name))
    with artifacts.atomic(evaluation / "neighbours.png") as file:
        file.write(picture(images, data.images("train"), found.found["nearest"].results, ground.levels_of(data)))
    artifacts.write_json(
        evaluation / "details.json",
        {
            **record.details(found),
            "speed": dict(timing.values),
            "sample": dict(described.values),
            "measured": {
                **against.provenance(),
                "images": len(images),
                "seed": cfg.evaluate.seed,
                **ground.computed_on(extractor),
            },
            "made_of": fresh.evaluation(cfg, extractor.hash, root, name),
        },
    )
    artifacts.write_json(
        metrics,
        {
            **record.rounded(found),
            "speed": {
                "network_evaluations": rate.network_evaluations,
                "images_per_second": to_digits(rate.images_per_second, 2),
            },
            "measured": {**against.measured(len(images), rate.device), "clip": described.get("sampler.clip")},
        },
    )
    return []


def expectations(limits: schema.SampleLimits, data: DataDirectory) -> Check:
    """The suite on generated samples, with the limits of validate.samples."""
    from pipeline.metrics import ground
    from pipeline.validation import expectations, table

    levels, all_classes = ground.levels_of(data), data.data_spec.classes

    def check(
        images: NDArray[np.uint8], nonfinite: NDArray[np.int64], predicted: NDArray[np.int64] | None, real: NDArray[np.uint8]
    ) -> Outcome:
        # Without predictions all images are of one class, of which no balance is expected.
        classes = 1 if predicted is None else all_classes
        rows = table.sample_table(images, nonfinite, nonfinite * 0 if predicted is None else predicted)
        return expectations.check_samples(rows, limits, table.spread(real), levels=levels, classes=classes)

    return check


def _counts(nonfinite: Mapping[str, int], images: int) -> NDArray[np.int64]:
    """(N,) from {index: count}, as sample.json has it."""
    import numpy as np

    counts = np.zeros(images, dtype=np.int64)
    for index, count in nonfinite.items():
        counts[int(index)] = count
    return counts


def main(argv: list[str] | None = None) -> int:
    parser = command.parser(__doc__)
    parser.add_argument("sample", metavar="SAMPLE", help="a name under samples:")
    args = parser.parse_args(argv)
    failures: list[str] = []

    def work() -> None:
        params = load_params(args.params)
        place = Layout()
        if params.evaluate.extractor in params.extractors:
            fresh.check_model(params, "extractors", params.evaluate.extractor, place.root)
        command.writable(place.evaluation(args.sample), place.report("metrics", args.sample).parent)
        failures.extend(run(params, args.sample, Path(".")))

    status = command.run_command(work)
    for failure in failures:
        print(f"{args.sample}: {failure}", file=sys.stderr)
    return 1 if failures else status


if __name__ == "__main__":
    gc.disable()  # a process of seconds: a sixth of them would go into looking for cycles among what imports leave behind
    sys.exit(main())
