"""The examples of docs/extending.md: written into a copy of the project, each is found by its name and runs."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from ruamel.yaml import YAML

REPOSITORY = Path(__file__).parents[1]
PAGE = (REPOSITORY / "docs" / "extending.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"```python\n# (pipeline/\S+\.py)\n(.*?)```", PAGE, re.DOTALL))
BLOCKS = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)


def merged(base: dict[str, Any], added: dict[str, Any]) -> dict[str, Any]:
    """`added` within `base`; of a data set the whole block `source` is another."""
    both = dict(base)
    for key, value in added.items():
        inside = isinstance(value, dict) and isinstance(base.get(key), dict) and key != "source"
        both[key] = merged(base[key], value) if inside else value
    return both


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("extended")
    shutil.copytree(REPOSITORY / "pipeline", folder / "pipeline", ignore=shutil.ignore_patterns("__pycache__"))
    for name, text in FILES.items():
        file = folder / name
        assert not file.exists(), f"{name} is there already: the example must add a file, not replace one"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    yaml = YAML(typ="safe")
    values = yaml.load((REPOSITORY / "tests" / "profiles" / "tiny.yaml").read_text(encoding="utf-8"))
    for block in BLOCKS:
        values = merged(values, yaml.load(block))
    with (folder / "params.yaml").open("w", encoding="utf-8") as file:
        yaml.dump(values, file)
    return folder


def run(folder: Path, *command: str) -> str:
    done = subprocess.run([sys.executable, "-m", *command], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_examples_are_found_and_run(project: Path) -> None:
    """Seven files were added to the copy and none was changed."""
    assert len(FILES) == 7
    run(project, "pipeline.check")
    run(project, "pipeline.prepare")
    images = np.load(project / "data/prepared/test.images.npy")
    labels = np.load(project / "data/prepared/test.labels.npy")
    # Upright stripes are alike from row to row, level ones from column to column.
    assert (np.ptp(images[labels == 0], axis=2) == 0).all()
    assert (np.ptp(images[labels == 1], axis=3) == 0).all()
    assert np.ptp(images, axis=(1, 2, 3)).min() > 8
    run(project, "pipeline.train", "convnet", "--extractor")
    for name in ("vdm", "plain"):
        run(project, "pipeline.train", name)
    for name in ("vdm-early-noise", "plain-ddim"):
        run(project, "pipeline.sample", name)
        assert np.load(project / f"samples/{name}/images.npy").shape == (100, 1, 8, 8)
        assert Image.open(project / f"samples/{name}/grid.png").size > (80, 80)
    run(project, "pipeline.study", "vdm-denoising")
    rows = json.loads((project / "reports/studies/vdm-denoising.json").read_text())["rows"]
    errors = [rows[time]["rmse"] for time in ("0.25", "0.5", "0.75")]
    assert 0 < errors[0] < errors[1] < errors[2], "more noise, larger errors"
    run(project, "pipeline.evaluate", "plain-ddim")
    found = json.loads((project / "reports/metrics/plain-ddim.json").read_text())["quality"]["brightness"]
    codes = np.load(project / "samples/plain-ddim/images.npy")
    assert found == pytest.approx((codes.mean() - images.mean()) * 255 / 15, rel=1e-3)
