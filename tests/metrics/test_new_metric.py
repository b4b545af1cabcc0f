"""A metric is one new file and, if it has settings, one block: everything that lists metrics finds it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.support.mistakes import REPOSITORY, tiny_values, write

METRIC = '''
"""How far the mean image lies from that of the reference, by a norm of one's choice."""

import numpy as np

from pipeline.config.base import Positive
from pipeline.metrics import base
from pipeline.metrics.base import Column, Found, MetricConfig


class Config(MetricConfig):
    order: Positive

    def largest(self, images, half):
        return {"order": half}


class Metric(base.Metric):
    reads = "pixels"
    columns = (Column("brightness", "brightness gap", "diversity", "lower", decimals=4, on_front=True),)
    explanation = "Brightness gap: a norm of the difference of two mean images."

    def describe(self, real):
        return real.reference.codes.mean(axis=0)

    def measure(self, generated, known, rng):
        gap = np.linalg.norm((generated.codes.mean(axis=0) - known).ravel(), self.config.order)
        return Found({"brightness": float(gap)}, {"brightest": int(generated.codes.max())})
'''

# Both stages, as a process of the copied package: an extractor that needs no training, and no limits on the samples.
STAGES = """
import sys
from pathlib import Path

import numpy as np
import torch

import pipeline
from pipeline import baselines, check, compare, evaluate
from pipeline.config.load import load_params
from pipeline.metrics.features import Features

assert Path(pipeline.__file__).is_relative_to(Path.cwd()), pipeline.__file__


class Extractor:
    name, hash, feature_dim, device, distance, knows_classes = "means", "ab" * 32, 16, torch.device("cpu"), "fd", False

    def __call__(self, codes):
        means = codes.reshape(len(codes), 16, 4).mean(axis=2)
        return Features(means.astype("f4"), np.full((len(codes), 2), 0.5, "f4"))


class Outcome:
    failures, results = [], []


params, root = load_params("params.yaml"), Path(".")
check.check(params)
assert evaluate.run(params, "small", root, Extractor(), lambda *found: Outcome()) == []
baselines.run(params, root, Extractor())
compare.run(params, root)
"""


def codes(seed: int, count: int, most: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, most, (count, 1, 8, 8), dtype=np.uint8)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of the package beside a prepared data set and one sample of 64 images."""
    from pipeline.core import artifacts
    from pipeline.store.data import write_data

    shutil.copytree(REPOSITORY / "pipeline", tmp_path / "pipeline", ignore=shutil.ignore_patterns("__pycache__"))
    values = tiny_values()
    for block in ("codecs", "composed", "bounds", "studies"):
        values[block] = {}
    values["runs"] = {"vdm": values["runs"]["vdm"]}
    values["samples"] = {"small": {**values["samples"]["vdm-ddim-5"], "images": 64}}
    write(tmp_path, values)
    splits = {name: (codes(seed, 80, 16), np.arange(80) % 2) for seed, name in enumerate(("train", "valid", "test"))}
    data = write_data(tmp_path / "data/prepared", splits, levels=17, classes=2, extra={})
    made = tmp_path / "samples/small"
    artifacts.write_array(made / "images.npy", codes(9, 64, 11))
    sample = {"data": data.hash, "nonfinite": {}, "sampler": {"clip": True}, "described": "ddim", "levels": 17}
    from pipeline.config import schema
    from pipeline.config.load import read_block

    block = read_block(schema.Sample, values["samples"]["small"], "samples.small").model_dump(mode="json")
    of = {"block": block, "weights": "ab" * 32, "code": "cd" * 32, "sha256": artifacts.hash_file(made / "images.npy")}
    artifacts.write_json(made / "sample.json", {**sample, **of})
    artifacts.write_json(made / "timing.json", {"images_per_second": 3.0, "network_evaluations": 5, "device": "cpu"})
    return tmp_path


def stages(project: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(project)}
    return subprocess.run(
        [sys.executable, "-c", STAGES], cwd=project, env=environment, capture_output=True, text=True, check=False
    )


def read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def with_settings(project: Path, order: int) -> None:
    """One more block in params.yaml."""
    text = (project / "params.yaml").read_text(encoding="utf-8")
    assert text.count("    prdc:\n") == 1
    (project / "params.yaml").write_text(text.replace("    prdc:\n", f"    brightness: {{order: {order}}}\n    prdc:\n"))


def test_one_file_and_one_block_are_a_metric(project: Path) -> None:
    before = stages(project)
    assert before.returncode == 0, before.stderr
    without = read(project / "reports/metrics/small.json")
    (project / "pipeline/metrics/brightness.py").write_text(METRIC)
    with_settings(project, 3)
    after = stages(project)
    assert after.returncode == 0, after.stderr

    expected = (np.abs(codes(9, 64, 11).mean(axis=0) - codes(2, 80, 16).mean(axis=0)) ** 3).sum() ** (1 / 3)
    rounded = float(f"{expected:.4g}")
    metrics, details = read(project / "reports/metrics/small.json"), read(project / "evaluations/small/details.json")
    assert metrics["diversity"].pop("brightness") == rounded
    assert metrics == without  # no other number has moved
    assert details["values"]["brightness"] == pytest.approx(expected, rel=1e-12)
    low, high = details["intervals"]["brightness"]
    assert low < expected < high
    assert details["brightest"] == 10
    assert details["measured"]["settings"]["metrics"]["brightness"] == {"order": 3}
    assert read(project / "reports/metrics/baselines.json")["noise"]["diversity"]["brightness"] > 0

    row = read(project / "reports/compare.json")["samples"][0]
    assert row["brightness"] == rounded
    assert [row[f"brightness_{end}"] for end in ("low", "high")] == pytest.approx([low, high], rel=1e-3)
    text = (project / "reports/compare.md").read_text(encoding="utf-8")
    tables = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    headings = [line for line in tables if line[0] == "sample"]
    assert headings[0][-2:] == ["brightness gap ↓", "bits/dim ↓"]
    assert headings[1][-2:] == ["brightness gap (95 %) ↓", "bits/dim ↓"]
    assert next(line for line in tables if line[0] == "small")[-2] == f"{rounded:.4f}"
    assert "a norm of the difference of two mean images" in text


def test_its_settings_are_checked_like_all_others(project: Path) -> None:
    (project / "pipeline/metrics/brightness.py").write_text(METRIC)
    missing = stages(project)
    assert "evaluate.metrics.brightness.order is missing; it is required" in missing.stderr
    with_settings(project, 40)
    large = stages(project)
    assert "evaluate.metrics.brightness.order is 40; allowed: up to 32 with samples.small.images, which is 64" in large.stderr
