"""Raw images to a fixed train/valid/test split with no image, exact or near, on two sides of it: data/prepared.

The test split stays as the makers of the data set drew it. Training images that are duplicates of a test image are removed; the
rest is split, stratified by class, with groups of duplicates kept together.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.config import plugins, schema
from pipeline.config.load import load_params, read_block
from pipeline.core import command
from pipeline.core.layout import Layout
from pipeline.store.data import DataDirectory, check_drawable, write_data

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from pipeline.metrics.duplicates import Pairs


def run(data: schema.Data, out: Path) -> DataDirectory:
    """Writes `out`; spec.json also says source, kind, class_names, duplicates and, for synthetic data, density.

    Raises ValueError for a bad `data.source`, damaged files, or a split that cannot be made.
    """
    import numpy as np

    from pipeline.metrics import duplicates

    module = plugins.dataset(data.kind)
    raw = module.load(read_block(module.Config, data.source, "data.source"))
    check_drawable(raw.train_images.shape[1:], "data.source")
    count = len(raw.train_images)
    images = np.concatenate([raw.train_images, raw.test_images])
    pairs = duplicates.find(images, raw.levels, data.near_duplicate_grey_levels)

    leaks = pairs.where((pairs.first < count) & (pairs.second >= count))
    kept = np.setdiff1d(np.arange(count), leaks.first)
    if len(kept) == 0:
        near = data.near_duplicate_grey_levels
        raise ValueError(
            f"data.near_duplicate_grey_levels is {near}, at which every training image is a duplicate of a test image; "
            f"{'use a lower value' if near else 'even equal ones alone are all of them, so use other data'}"
        )
    inside = pairs.where(np.isin(pairs.first, kept) & np.isin(pairs.second, kept))
    group = duplicates.groups(inside, count)[kept]
    valid = _valid(raw.train_labels[kept], group, data.valid_fraction, data.seed)

    exact = np.unique(leaks.first[leaks.exact])
    splits = {
        "train": (raw.train_images[kept[~valid]], raw.train_labels[kept[~valid]]),
        "valid": (raw.train_images[kept[valid]], raw.train_labels[kept[valid]]),
        "test": (raw.test_images, raw.test_labels),
    }
    side = np.full(len(images), "test ")
    side[:count] = "none"
    side[kept] = np.where(valid, "valid", "train")
    extra: dict[str, Any] = {
        "source": raw.source,
        "kind": data.kind,
        "class_names": list(raw.class_names),
        "duplicates": {
            "near_grey_levels": data.near_duplicate_grey_levels,
            "pairs_found": {
                "within_training": pairs.where(pairs.second < count).count(),
                "within_test": pairs.where(pairs.first >= count).count(),
                "between_training_and_test": leaks.count(),
            },
            "training_images_removed": {"exact": len(exact), "near": count - len(kept) - len(exact)},
            "groups_kept_on_one_side": int((np.bincount(group) > 1).sum()),
            "pairs_between_splits": pairs.where(_crosses(side, pairs)).count(),
        },
    }
    assert not any(extra["duplicates"]["pairs_between_splits"].values()), extra
    if raw.density is not None:
        extra["density"] = dict(raw.density)
    # A spec.json of an earlier run must not stand beside arrays of this one if we are stopped between the two.
    (out / "spec.json").unlink(missing_ok=True)
    return write_data(out, splits, levels=raw.levels, classes=raw.classes, extra=extra)


def _valid(labels: NDArray[np.int64], group: NDArray[np.int64], fraction: float, seed: int) -> NDArray[np.bool_]:
    """(N,) which images go to valid: whole groups, stratified by the class of a group's first image."""
    import numpy as np
    from sklearn.model_selection import train_test_split

    numbers, first = np.unique(group, return_index=True)
    try:
        _, chosen = train_test_split(numbers, test_size=fraction, stratify=labels[first], random_state=seed)
    except ValueError as error:
        raise ValueError(
            f"data.valid_fraction is {fraction}, by which {len(numbers)} distinct training images of {len(np.unique(labels))} "
            f"classes cannot be split ({error}); use more images or another fraction"
        ) from None
    return np.isin(group, chosen)


def _crosses(side: NDArray[np.str_], pairs: Pairs) -> NDArray[np.bool_]:
    """(P,) which pairs have their two images in two different splits."""
    import numpy as np

    first, second = side[pairs.first], side[pairs.second]
    return np.asarray((first != "none") & (second != "none") & (first != second))


def main(argv: list[str] | None = None) -> int:
    parser = command.parser(__doc__)
    parser.add_argument(
        "--out", type=command.path, default=Layout().prepared, help="the folder to write (default: %(default)s)"
    )
    arguments = parser.parse_args(argv)

    def work() -> None:
        params = load_params(arguments.params)
        command.writable(arguments.out)
        made = run(params.data, arguments.out)
        counts = ", ".join(f"{count} {split}" for split, count in made.spec["counts"].items())
        removed = made.spec["duplicates"]["training_images_removed"]
        print(
            f"{arguments.out}: {counts} images; removed from training as duplicates of test images: "
            f"{removed['exact']} exact, {removed['near']} near"
        )

    return command.run_command(work)


if __name__ == "__main__":
    raise SystemExit(main())
