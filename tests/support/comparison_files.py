"""What the stages before `compare` and `report` write, in miniature and with a different number in every place."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pipeline.config.schema import Params
from pipeline.core.artifacts import hash_file
from pipeline.store import fresh
from tests.support.blocks import filled

MEASURED = {"extractor": "convnet@1a2b3c4d", "data": "9f8e7d6c", "images": 1000, "reference": "test (2000)", "device": "cpu"}

# sample -> run, sampler, steps, images/s, fd (low, high), kid, inception score, precision, density, recall, coverage
SAMPLES: dict[str, tuple[Any, ...]] = {
    "ddpm-ancestral": ("ddpm", "ancestral", 200, 3.21, 7.51, (7.02, 8.13), 0.0123, 7.11, 0.811, 0.921, 0.612, 0.713),
    "ddpm-ddim": ("ddpm", "ddim", 25, 25.4, 8.42, (7.93, 9.04), 0.0145, 6.92, 0.832, 0.943, 0.554, 0.695),
    "vdm-ancestral": ("vdm-wide", "ancestral", 100, 6.43, 4.33, (3.94, 4.85), 0.0067, 7.53, 0.854, 0.965, 0.726, 0.787),
    "vdm-ddim": ("vdm-wide", "ddim", 25, 26.1, 4.94, (4.45, 5.56), 0.0078, 7.34, 0.876, 0.987, 0.668, 0.769),
}
BASELINES = {"training-images": (0.97, 0.872, 0.881), "mean-image": (103.2, 0.213, 0.014), "noise": (310.5, 0.105, 0.006)}
# metric -> half the width of its interval: of a different size for each, so that none can be taken for another.
SPREADS = {"kid": 0.0005, "inception_score": 0.21, "precision": 0.012, "density": 0.033, "recall": 0.024, "coverage": 0.015}
# metric -> its columns: key, title, group, better, decimals, whether its interval is in the table, whether it is on the front.
COLUMNS: dict[str, list[tuple[Any, ...]]] = {
    "frechet": [("fd", "FD", "quality", "lower", None, True, True)],
    "kid": [("kid", "KID", "quality", "lower", None, False, True)],
    "inception_score": [("inception_score", "inception score", "quality", "higher", 2, False, False)],
    "prdc": [
        ("precision", "precision", "quality", "higher", 3, False, True),
        ("density", "density", "quality", "higher", 3, False, False),
        ("recall", "recall", "diversity", "higher", 3, False, True),
        ("coverage", "coverage", "diversity", "higher", 3, False, True),
    ],
    "nearest": [
        ("memorised", "memorised", "memorisation", "lower", None, False, False),
        ("closer_than_test", "closer than test", "memorisation", None, None, False, False),
        ("distance_ratio", "distance ratio", "memorisation", None, None, False, False),
        ("training_copies", "copies of training images", "memorisation", "lower", None, False, False),
    ],
    "repeats": [
        ("duplicates", "equal pairs", "memorisation", "lower", None, False, False),
        ("near_duplicates", "nearly equal pairs", "memorisation", "lower", None, False, False),
    ],
}
EXPLAINED = {name: f"What {name} is, in words." for name in COLUMNS} | {"frechet": "FD is not FID."}
SECONDS = [2.0, 1.9, 2.2, 2.05]  # of repeats of a batch that is 2 s at the rate of the table
BOUND = {"total": 3.012, "prior": 0.001, "reconstruction": 0.121, "diffusion": 2.89, "standard_error": 0.017}


def params() -> Params:
    """Two families, four samples, a bound for vdm-wide only."""
    training = {"steps": 10, "learning_rate": 1e-3}
    values = {
        "data": {"kind": "digits"},
        "extractors": {"convnet": {"family": "classifier", "data": "data/prepared", "training": training}},
        "runs": {
            name: {"family": family, "data": "data/prepared", "model": {"schedule": {"kind": kind}}, "training": training}
            for name, family, kind in (("ddpm", "ddpm", "linear-beta"), ("vdm-wide", "vdm", "linear-logsnr"))
        },
        "samples": {
            name: {"run": row[0], "sampler": {"kind": row[1]}, "steps": row[2], "images": 1000, "seed": 3}
            for name, row in SAMPLES.items()
        },
        "bounds": {"vdm-wide": {}},
        "evaluate": {"extractor": "convnet"},
    }
    return Params.model_validate(filled(values))


def memorisation(name: str) -> dict[str, float]:
    """A number of its own in every place."""
    first = 1 + [*SAMPLES, *BASELINES].index(name)
    return {
        "memorised": first / 100, "closer_than_test": first / 50, "distance_ratio": 1 + first / 10,
        "training_copies": first, "duplicates": 10 + first, "near_duplicates": 20 + first,
    }  # fmt: skip


def metrics(distance: str = "fd") -> list[dict[str, Any]]:
    """How an evaluation describes its metrics."""
    fields = ("key", "title", "group", "better", "decimals", "interval_in_table", "on_front")
    return [
        {
            "name": name,
            "explanation": EXPLAINED[name],
            "intervals": name not in ("nearest", "repeats"),
            "columns": [
                dict(zip(fields, (distance, distance.upper(), *row[2:]) if name == "frechet" else row, strict=True))
                for row in rows
            ],
        }
        for name, rows in COLUMNS.items()
    ]


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def write_inputs(root: Path) -> None:
    """Everything that both stages read, under `root`."""
    rng = np.random.default_rng(0)
    for name, row in SAMPLES.items():
        _, kind, steps, speed, fd, ends, kid, score, precision, density, recall, coverage = row
        quality = {"fd": fd, "kid": kid, "precision": precision, "density": density, "inception_score": score}
        diversity = {"recall": recall, "coverage": coverage}
        write_json(
            root / "reports" / "metrics" / f"{name}.json",
            {
                "quality": quality,
                "diversity": diversity,
                "memorisation": memorisation(name),
                "speed": {"network_evaluations": steps, "images_per_second": speed},
                "measured": {**MEASURED, "clip": True},
            },
        )
        intervals = {
            key: [value - SPREADS[key], value + SPREADS[key]] for key, value in {**quality, **diversity}.items() if key != "fd"
        }
        timing = {"network_evaluations": steps, "images_per_second": speed, "device": "cpu", "batch": round(2 * speed * 100)}
        write_json(
            root / "evaluations" / name / "details.json",
            {
                "intervals": {"fd": list(ends), **intervals},
                "sample": {"described": kind},
                "measured": {"distance": "fd", "metrics": metrics()},
                "speed": {**timing, "seconds_per_repeat": [100 * seconds for seconds in SECONDS]},
            },
        )
        folder = root / "samples" / name
        folder.mkdir(parents=True)
        images = rng.integers(0, 256, (20, 1, 8, 8), dtype=np.uint8)
        np.save(folder / "images.npy", images)
        write_json(folder / "sample.json", {"levels": 256})
        Image.fromarray(images[:16, 0].reshape(-1, 8)).save(folder / "grid.png")
        Image.fromarray(images[:4, 0].reshape(-1, 8).T).save(folder / "trajectory.png")
        Image.fromarray(images[4:8, 0].reshape(-1, 8).T).save(root / "evaluations" / name / "neighbours.png")
    quality = {"kid": 0.5, "precision": 0.4, "density": 0.3, "inception_score": 1.5}
    write_json(
        root / "reports" / "metrics" / "baselines.json",
        {
            name: {
                "quality": {"fd": fd, **quality},
                "diversity": {"recall": recall, "coverage": coverage},
                "memorisation": memorisation(name),
            }
            for name, (fd, recall, coverage) in BASELINES.items()
        }
        | {"measured": MEASURED},
    )
    write_json(root / "evaluations" / "baselines" / "details.json", {"measured": {"distance": "fd", "metrics": metrics()}})
    write_json(
        root / "reports" / "bounds" / "vdm-wide.json",
        {"bits_per_dim": BOUND, "measured": {"split": "test", "images": 1999, "data": "9f8e7d6c"}},
    )
    (root / "bounds" / "vdm-wide").mkdir(parents=True)
    np.save(root / "bounds" / "vdm-wide" / "bits.npy", np.zeros((1999, 4)))
    schedule = {"kind": "linear-logsnr", "gamma_min": -13.3, "gamma_max": 5.0}
    write_json(root / "bounds" / "vdm-wide" / "details.json", {"model": {"schedule": schedule, "steps": None}})
    seal(root, params())
    curve = [(t / 20, 10 - t, 4 * t / 20, 0.1) for t in range(1, 20)]
    _write_csv(root / "reports" / "bounds" / "vdm-wide.csv", "time,logsnr,bits_per_dim,standard_error", curve)
    for run in ("ddpm", "vdm-wide"):
        steps: list[tuple[Any, ...]] = []
        for step in range(10, 200, 10):
            steps += [(step, "train", "denoiser/simple", 1 / step), (step, "train", "denoiser/gradient_norm", 0.5)]
            steps += [(step, "valid", "denoiser/simple", 1.1 / step)] if step % 20 == 0 else []
        _write_csv(root / "reports" / "curves" / f"{run}.csv", "step,split,quantity,value", steps)


def seal(root: Path, cfg: Params) -> None:
    """What each output says that it was made of: the blocks of `cfg` and the files that lie under `root`."""
    for name, sample in cfg.samples.items():
        folder = root / "samples" / name
        described = json.loads((folder / "sample.json").read_text(encoding="utf-8"))
        of = {"block": sample.model_dump(mode="json"), "weights": "ab" * 32, "code": "cd" * 32}
        write_json(folder / "sample.json", described | of | {"sha256": hash_file(folder / "images.npy")})
    for name in (*cfg.samples, "baselines"):
        file = root / "evaluations" / name / "details.json"
        details = json.loads(file.read_text(encoding="utf-8"))
        made_of = fresh.evaluation(cfg, "ef" * 32, root, None if name == "baselines" else name)
        write_json(file, details | {"made_of": made_of})
    for name, bound in cfg.bounds.items():
        folder = root / "bounds" / name
        details = json.loads((folder / "details.json").read_text(encoding="utf-8"))
        of = {"block": bound.model_dump(mode="json"), "weights": "ab" * 32, "sha256": hash_file(folder / "bits.npy")}
        write_json(folder / "details.json", details | of)


def _write_csv(path: Path, header: str, rows: list[tuple[Any, ...]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([header, *(",".join(str(cell) for cell in row) for row in rows)]) + "\n", encoding="utf-8")
