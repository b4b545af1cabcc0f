"""The stage `encode`: what is drawn, what the scale is, what is refused, and that files can be trusted."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from pipeline import encode
from pipeline.core import artifacts
from pipeline.core.progress import Progress
from pipeline.core.random import RowRandom
from pipeline.families.autoencoder.model import Model
from pipeline.store import latents, models
from pipeline.store.data import DataDirectory
from pipeline.store.splits import Split
from tests.support.blocks import filled
from tests.support.latent_files import (
    CLASSES,
    COUNTS,
    LEVELS,
    SEED,
    block,
    paths,
    write_codec,
    write_images,
    write_latents,
)

CPU = torch.device("cpu")


def codec(root: Path) -> Model:
    found = models.load(root / "codecs/kl").model
    assert isinstance(found, Model)
    return found


def x(root: Path, split: str) -> torch.Tensor:
    codes = np.load(root / "data/prepared" / f"{split}.images.npy", allow_pickle=False)
    return torch.from_numpy((2 * codes.astype(np.float32) + 1) / LEVELS - 1)


def test_a_latent_data_directory_is_a_data_directory(tmp_path: Path) -> None:
    made = write_latents(tmp_path)
    assert made.data_spec.shape == (2, 4, 4)
    assert made.data_spec.levels is None
    assert made.data_spec.classes == CLASSES
    for split, count in COUNTS.items():
        assert made.images(split).shape == (count, 2, 4, 4)
        assert made.images(split).dtype == np.float32
        assert made.labels(split).tolist() == (np.arange(count) % CLASSES).tolist()
        read = Split(made, split).rows(np.arange(count), CPU)
        assert read.x.equal(torch.from_numpy(np.array(made.images(split))))
    images = DataDirectory.open(tmp_path / "data/prepared")
    assert made.spec["encoded"] == {
        "path": str(tmp_path / "data/prepared"), "hash": images.hash, "shape": [1, 8, 8], "levels": LEVELS,
    }  # fmt: skip
    for file in encode.FILES:
        assert (made.path / "codec" / file).read_bytes() == (tmp_path / "codecs/kl" / file).read_bytes()


def test_every_latent_is_the_draw_of_its_seed_split_and_row(tmp_path: Path) -> None:
    made = write_latents(tmp_path)
    for step, split in enumerate(("train", "valid", "test")):
        for row in (0, 7, COUNTS[split] - 1):
            with torch.no_grad():
                alone = codec(tmp_path).encode(x(tmp_path, split)[row : row + 1], RowRandom(SEED, range(row, row + 1), step))
            expected = alone[0].numpy() * made.spec["codec"]["scale"]
            assert made.images(split)[row] == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_the_mean_is_written_when_asked_for(tmp_path: Path) -> None:
    made = write_latents(tmp_path, "mean")
    with torch.no_grad():
        mean = codec(tmp_path).encode(x(tmp_path, "valid")).numpy()
    assert np.array(made.images("valid")) == pytest.approx(mean * made.spec["codec"]["scale"], rel=1e-4, abs=1e-5)
    assert made.spec["codec"]["encode"] == "mean"
    assert made.spec["codec"]["seed"] is None


def test_the_scale_gives_the_training_split_unit_deviation(tmp_path: Path) -> None:
    made = write_latents(tmp_path)
    assert float(np.std(made.images("train"), dtype=np.float64)) == pytest.approx(1, rel=1e-6)
    assert abs(float(np.std(made.images("valid"), dtype=np.float64)) - 1) > 1e-6
    scale = made.spec["codec"]["scale"]
    assert abs(scale - 1) > 0.1, "or nothing is tested"
    assert artifacts.read_json(paths(tmp_path).json)["scale"] == pytest.approx(scale, rel=1e-5)


def test_only_the_training_split_decides_the_scale(tmp_path: Path) -> None:
    first = write_latents(tmp_path)
    scale, train, test = first.spec["codec"]["scale"], np.array(first.images("train")), np.array(first.images("test"))
    dark = write_images(tmp_path / "data/prepared", brightest_test=2)
    write_codec(tmp_path / "codecs/kl", dark)
    encode.run(block(), paths(tmp_path), "kl")
    again = DataDirectory.open(first.path)
    assert again.spec["codec"]["scale"] == scale
    assert np.array_equal(again.images("train"), train)
    assert not np.array_equal(again.images("test"), test)
    assert again.hash != first.hash


@pytest.mark.parametrize("batch", [1, 7, 130])
def test_latents_do_not_depend_on_the_batch(batch: int, tmp_path: Path) -> None:
    made = write_latents(tmp_path)
    split = Split(DataDirectory.open(tmp_path / "data/prepared"), "train")
    found = encode.encode_split(codec(tmp_path), split, 0, SEED, CPU, Progress(len(split), "images", "toy"), batch)
    assert found * made.spec["codec"]["scale"] == pytest.approx(np.array(made.images("train")), rel=1e-4, abs=1e-5)


def test_the_same_bytes_twice_and_none_of_them_a_pickle(tmp_path: Path) -> None:
    def contents() -> dict[str, bytes]:
        files = [*(tmp_path / "data/latents").rglob("*.*"), paths(tmp_path).json]
        return {str(file): file.read_bytes() for file in files}

    write_latents(tmp_path)
    first = contents()
    encode.run(block(), paths(tmp_path), "kl")
    assert contents() == first
    assert {Path(file).suffix for file in first} == {".npy", ".json", ".safetensors"}
    for file in first:
        if file.endswith(".npy"):
            np.load(file, allow_pickle=False)


def test_an_interrupted_encoding_leaves_an_unfinished_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = write_latents(tmp_path)

    def fails(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(artifacts, "write_array", fails)
    with pytest.raises(OSError, match="disk full"):
        encode.run(block(), paths(tmp_path), "kl")
    with pytest.raises(ValueError, match="holds no prepared data"):
        DataDirectory.open(made.path)


def test_fidelity_is_measured_on_decoded_validation_latents(tmp_path: Path) -> None:
    made = write_latents(tmp_path)
    with torch.no_grad():
        z = torch.from_numpy(np.array(made.images("valid"))) / made.spec["codec"]["scale"]
        x_hat = codec(tmp_path).decode(z).clamp(-1, 1).numpy().astype(np.float64)
    codes = np.load(tmp_path / "data/prepared/valid.images.npy").astype(np.float64)
    grey, grey_hat = codes * 255 / 16, ((x_hat + 1) * 17 / 2 - 0.5) * 255 / 16
    written = artifacts.read_json(paths(tmp_path).json)
    assert written["mean_absolute_error_grey_levels"] == pytest.approx(np.abs(grey - grey_hat).mean(), abs=1e-3)
    assert written["psnr_db"] == pytest.approx(10 * np.log10(255**2 / ((grey - grey_hat) ** 2).mean()), abs=2e-3)
    assert written["measured"]["latent_shape"] == [2, 4, 4]


def test_round_trip_is_decoding_what_was_stored_over_the_scale(tmp_path: Path) -> None:
    made = write_latents(tmp_path, "mean")
    opened = latents.open_codec(made.path)
    with torch.no_grad():
        stored = opened.decode(torch.from_numpy(np.array(made.images("test"))))
        direct = codec(tmp_path).decode(codec(tmp_path).encode(x(tmp_path, "test")))
    torch.testing.assert_close(stored, direct, rtol=1e-3, atol=1e-4)


def test_a_codec_trained_on_other_data_is_refused(tmp_path: Path) -> None:
    old = write_images(tmp_path / "data/prepared")
    write_codec(tmp_path / "codecs/kl", old)
    new = write_images(tmp_path / "data/prepared", seed=1)
    with pytest.raises(ValueError, match=f"trained on data {old.hash[:8]}, .* is {new.hash[:8]}; run: dvc repro codec@kl$"):
        encode.run(block(), paths(tmp_path), "kl")
    assert not paths(tmp_path).out.exists()


def test_a_missing_codec_is_refused(tmp_path: Path) -> None:
    write_images(tmp_path / "data/prepared")
    with pytest.raises(ValueError, match=r"codecs/kl holds no trained codec; run: python -m pipeline\.train --codec kl$"):
        encode.run(block(), paths(tmp_path), "kl")


def test_what_encodes_nothing_is_refused(tmp_path: Path) -> None:
    write_codec(tmp_path / "codecs/kl", write_images(tmp_path / "data/prepared"), family="classifier")
    with pytest.raises(ValueError, match=r"^codecs\.kl\.family is 'classifier', which encodes nothing"):
        encode.run(block(family="classifier"), paths(tmp_path), "kl")


@pytest.mark.parametrize("value", [0.0, math.nan, math.inf])
def test_latents_without_spread_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match=r"^codecs\.kl has latents of standard deviation"), np.errstate(invalid="ignore"):
        encode.scale_of(np.full((3, 1, 2, 2), value, dtype=np.float32), "codecs.kl")


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    write_codec(tmp_path / "codecs/kl", write_images(tmp_path / "data/prepared"))
    training = {"steps": 1, "learning_rate": 0.1}
    values = {
        "data": {"kind": "digits"},
        "extractors": {"convnet": {"family": "classifier", "data": "data/prepared", "training": training}},
        "codecs": {"kl": block().model_dump(mode="json")},
        "runs": {},
        "samples": {},
        "evaluate": {"extractor": "convnet", "interval_resamples": 0},
    }
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(filled(values)), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert encode.main(["kl"]) == 0
    said = capsys.readouterr().out.strip().splitlines()[-1]
    assert said.startswith("codecs.kl: latents of 2x4x4, scale ") and said.endswith(" dB")
    assert latents.open_codec("data/latents/kl").name == "kl"
    assert encode.main(["vq"]) == 2
    assert capsys.readouterr().err == "error: codecs has no 'vq'; allowed: kl\n"
