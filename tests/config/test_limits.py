"""Values at the edge of what can be: refused by the stage check, before anything is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline import check
from tests.support.mistakes import changed, refusal, tiny_values, write

BEYOND: dict[str, tuple[str, Any, str]] = {
    "seed of 33 bits": ("data.seed", 2**32, "data.seed is 4294967296; allowed: less than 4294967296"),
    "warm-up as long as the run": ("runs.vdm.training.warmup", 40, "warmup is 40; allowed: fewer than steps, which is 40"),
    "one image": ("samples.vdm-ddim-5.images", 1, "samples.vdm-ddim-5.images is 1; allowed: 4 or more"),
    "no samples": ("samples", {}, "samples is empty; the pipeline ends in a comparison of samples"),
    "two channels": (
        "data", {**tiny_values()["data"], "kind": "gaussian", "source": {
            "shape": [2, 8, 8], "mean": 0.1, "std": 0.25, "train": 200, "test": 50, "levels": 256, "seed": 0,
        }}, "data.source.shape is [2, 8, 8]; allowed: 1 (grey) or 3 (red, green, blue) channels",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", BEYOND)
def test_refused(what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where, value, sentence = BEYOND[what]
    said = refusal(write(tmp_path, changed(tiny_values(), where, value)), tmp_path / "checked", capsys)
    assert sentence in said, said


@pytest.mark.parametrize(("letters", "status"), [(100, 0), (101, 2), (260, 2)])
def test_a_name_fits_into_a_file_name(letters: int, status: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = tiny_values()
    values["samples"]["a" * letters] = values["samples"]["vdm-ddim-5"]
    file = write(tmp_path, changed(values, "data.seed", 0))
    assert check.main(["--params", str(file), "--out", str(tmp_path / "checked")]) == status
    if status:
        assert f"has {letters} characters; allowed: 100 at most" in capsys.readouterr().err
