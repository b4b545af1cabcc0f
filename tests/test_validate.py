"""The stage on real files: whole, and broken after they were prepared."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pipeline import prepare, validate
from pipeline.core import artifacts
from pipeline.store.data import DataDirectory
from tests.support import blocks

ROOT = Path(__file__).parents[1]


@pytest.fixture
def prepared(tmp_path: Path) -> DataDirectory:
    return prepare.run(blocks.data("digits"), tmp_path / "prepared")


def main(tmp_path: Path) -> int:
    paths = {"data": "prepared", "report": "validation.json", "docs": "docs"}
    options = [word for name, path in paths.items() for word in (f"--{name}", str(tmp_path / path))]
    return validate.main(["--params", str(ROOT / "params.yaml"), *options])


def rewrite(data: DataDirectory, split: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    artifacts.write_array(data.path / f"{split}.images.npy", change(np.array(data.images(split))))


def sealed(data: DataDirectory) -> None:
    """Writes the hash of the arrays as they now are into spec.json, as if they had been prepared so."""
    arrays = {file.stem: artifacts.read_array(file) for file in data.path.glob("*.npy")}
    artifacts.write_json(data.path / "spec.json", {**data.spec, "hash": artifacts.hash_arrays(arrays)})


def test_prepared_data_pass_and_the_report_is_stable(
    prepared: DataDirectory, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(tmp_path) == 0
    first = (tmp_path / "validation.json").read_bytes()
    report = json.loads(first)
    assert report["success"]
    assert report["data"] == prepared.hash
    assert f"{report['expectations']} of {report['expectations']} expectations met" in capsys.readouterr().out
    assert main(tmp_path) == 0
    assert (tmp_path / "validation.json").read_bytes() == first
    assert (tmp_path / "docs" / "index.html").is_file()


def test_a_leak_stops_with_words_after_the_reports_are_written(
    prepared: DataDirectory, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    leaked = np.array(prepared.images("test")[3])
    rewrite(prepared, "valid", lambda images: np.concatenate([images[:-1], leaked[None]]))
    sealed(prepared)
    assert main(tmp_path) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["not met: leaks: 2 of 1797 images (first: split valid, position 143) lie in 2 splits; at most 1 allowed"]
    report = json.loads((tmp_path / "validation.json").read_text())
    assert [f"not met: {failure}" for failure in report["failures"]] == lines
    assert not report["success"]
    assert (tmp_path / "docs" / "index.html").is_file()


def test_one_changed_bit_is_found(prepared: DataDirectory, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = prepared.path / "train.images.npy"
    content = bytearray(file.read_bytes())
    content[5000] ^= 1
    file.write_bytes(content)
    assert main(tmp_path) == 1
    assert all(line.startswith("not met: content-hash: ") for line in capsys.readouterr().err.splitlines())


def test_model_space_instead_of_codes_is_found(
    prepared: DataDirectory, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rewrite(prepared, "test", lambda images: (images / 8 - 1).astype(np.float32))
    sealed(prepared)
    assert main(tmp_path) == 1
    failed = {line.split(": ")[1] for line in capsys.readouterr().err.splitlines()}
    assert {"image-type", "lowest-pixel", "mean-drift", "std-drift"} <= failed


def test_missing_data_are_a_users_mistake(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(tmp_path) == 2
    assert "run: dvc repro prepare" in capsys.readouterr().err
    assert not (tmp_path / "validation.json").exists()
