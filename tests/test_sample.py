"""Sampling: image i depends on (seed, i) only, what is written can be trusted, and nothing broken is hidden."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from pipeline import sample
from pipeline.config import schema
from pipeline.core import artifacts
from pipeline.core.contracts import Batch, DataSpec, Generative, Loss, Random, Trainable
from pipeline.core.pixels import quantize
from pipeline.core.random import RowRandom
from pipeline.diffusion.gaussian import Reverse
from pipeline.diffusion.schedule import LinearLogSNRConfig
from pipeline.families.vdm import model as vdm
from pipeline.reporting.images import to_bytes
from pipeline.samplers.ancestral import Ancestral
from pipeline.samplers.ddim import DDIM
from pipeline.store import models
from tests.support import blocks

CPU = torch.device("cpu")
SPEC = DataSpec((1, 8, 8), 17, 10)
NETWORK = {"kind": "unet", "widths": [16, 32], "embedding": 8}
# v: where little signal is left, x_hat from eps divides by alpha, and roundings grow with it.
MODELS: dict[str, dict[str, Any]] = {
    "ddpm": {
        "family": "ddpm",
        "model": {"schedule": {"kind": "cosine-beta", "steps": 20}, "prediction": "v", "network": NETWORK},
    },
    "vdm": {"family": "vdm", "model": {"schedule": {"kind": "linear-logsnr"}, "network": NETWORK}},
    "with labels": {"family": "vdm", "model": {"schedule": {"kind": "linear-logsnr"}, "network": NETWORK, "labels": True}},
    "classifier": {"family": "classifier", "model": {}},
}
SAMPLERS = {"ancestral": Ancestral(kind="ancestral"), "ddim": DDIM(kind="ddim"), "ddim, eta 0.5": DDIM(kind="ddim", eta=0.5)}


def write_model(folder: Path, which: str) -> Path:
    """A model as `train` leaves it, with weights that are not those of initialisation: there the output is zero."""
    training = {"steps": 1, "learning_rate": 0.1, "precision": "float32"}
    run = blocks.run(**MODELS[which], training=training)
    model = models.build(run, SPEC, "runs.toy")
    weights = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=weights))
    artifacts.write_tensors(folder / "model.safetensors", model.state_dict())
    artifacts.write_json(
        folder / "config.json",
        {
            "run": run.model_dump(mode="json"),
            "data": {"shape": SPEC.shape, "levels": SPEC.levels, "classes": 10, "hash": "d" * 64},
            "code": "e" * 64,
        },
    )
    return folder


def generate(model: models.Saved, sampler: Ancestral | DDIM, images: int, batch: int = sample.BATCH, seed: int = 3) -> Tensor:
    return sample.generate(model, sampler, 5, images, seed, CPU, "float32", batch=batch).images


@pytest.mark.parametrize("which", ["ddpm", "vdm", "with labels"])
@pytest.mark.parametrize("how", SAMPLERS)
def test_image_depends_on_seed_and_number_only(which: str, how: str, tmp_path: Path) -> None:
    model, sampler = models.load(write_model(tmp_path, which)), SAMPLERS[how]
    whole = generate(model, sampler, 30)
    codes = quantize(whole, 17)
    assert whole.shape == (30, *SPEC.shape)
    assert len(torch.unique(whole.flatten(1), dim=0)) == 30, "images differ from each other"
    assert torch.equal(generate(model, sampler, 7), whole[:7]), "the network sees the same batches: not a bit differs"
    for batch in (1, 7, 64):
        other = generate(model, sampler, 30, batch=batch)
        assert torch.allclose(other, whole, atol=1e-4)
        assert torch.equal(quantize(other, 17), codes)
    assert not torch.isclose(generate(model, sampler, 30, seed=4), whole, atol=1e-3).all(dim=(1, 2, 3)).any()


def test_labels_are_asked_for_in_turn(tmp_path: Path) -> None:
    """Image i of a conditional model is of class i mod 10, also in later batches; the same start, another class differs."""
    model = models.load(write_model(tmp_path, "with labels"))
    asked: list[Tensor] = []
    embedding = model.model.get_submodule("network.labels")
    embedding.register_forward_hook(lambda module, inputs, output: asked.append(inputs[0]))
    generate(model, SAMPLERS["ddim"], 24, batch=12)
    assert asked[-1].tolist() == [i % 10 for i in range(12, 24)]
    assert asked[1].tolist() == [i % 10 for i in range(12)]


def test_labels_may_be_a_familys_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The block as the family reads it decides, not whether the word stands in config.json."""

    class ByDefault(vdm.Config):
        labels: bool = True

    monkeypatch.setattr(vdm, "Config", ByDefault)
    model = models.load(write_model(tmp_path, "vdm"))
    assert "labels" not in model.config["run"]["model"]
    asked: list[Tensor] = []
    embedding = model.model.get_submodule("network.labels")
    embedding.register_forward_hook(lambda module, inputs, output: asked.append(inputs[0]))
    generate(model, SAMPLERS["ddim"], 12, batch=12)
    assert asked[-1].tolist() == [i % 10 for i in range(12)]


def configured(steps: int, images: int, sampler: Mapping[str, Any] | None = None) -> schema.Sample:
    return blocks.sample("toy", sampler or "ancestral", steps=steps, images=images, seed=3)


def picture(file: Path) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.asarray(Image.open(io.BytesIO(file.read_bytes())))


@pytest.mark.parametrize(("steps", "images", "moments"), [(4, 23, 5), (20, 5, 12)])
def test_what_is_written(steps: int, images: int, moments: int, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model", "ddpm")
    out = tmp_path / "out"
    sample.run(configured(steps, images), sample.Paths(folder, out), "samples.toy")
    assert {file.name for file in out.iterdir()} == {"images.npy", "grid.png", "trajectory.png", "sample.json", "timing.json"}
    codes = artifacts.read_array(out / "images.npy")
    assert codes.shape == (images, 1, 8, 8)
    assert codes.dtype == np.uint8
    assert codes.max() <= 16

    # Each image is enlarged by two and followed by one white pixel: 17 pixels, and one more at the edge.
    grid = picture(out / "grid.png")
    assert grid.shape == (17 * -(-images // 10) + 1, 171, 3)
    shown = to_bytes(np.asarray(codes), 17)
    for index in range(images):
        top, left = 1 + 17 * (index // 10), 1 + 17 * (index % 10)
        assert np.array_equal(grid[top : top + 16 : 2, left : left + 16 : 2, 0], shown[index, 0])

    # Six images, z above x_hat, from noise at the left to the sample at the right.
    strip = picture(out / "trajectory.png")
    assert strip.shape == (17 * 12 + 1, 17 * moments + 1, 3)
    left = 1 + 17 * (moments - 1)
    for index in range(min(images, 6)):
        top = 1 + 17 * (2 * index)
        assert np.array_equal(strip[top : top + 16 : 2, left : left + 16 : 2, 0], shown[index, 0])
    start = quantize(RowRandom(3, range(6), 0).normal((6, 1, 8, 8), "start"), 17).numpy()
    assert np.array_equal(strip[1:17:2, 1:17:2, 0], to_bytes(start, 17)[0, 0])

    described = artifacts.read_json(out / "sample.json")
    assert described["weights"] == artifacts.hash_file(folder / "model.safetensors")
    assert described["data"] == "d" * 64
    assert (described["run"], described["steps"], described["images"], described["seed"]) == ("toy", steps, images, 3)
    assert {"kind": "ancestral", "clip": True, "spacing": "trailing"}.items() <= described["sampler"].items()
    assert described["nonfinite"] == {}
    timing = artifacts.read_json(out / "timing.json")
    assert timing["network_evaluations"] == steps
    assert timing["images_per_second"] > 0
    assert timing["precision"] == "float32"


def test_same_bytes_again(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model", "vdm")
    for name in ("one", "two"):
        sample.run(configured(3, 12), sample.Paths(folder, tmp_path / name), "samples.toy")
    for file in ("images.npy", "grid.png", "trajectory.png", "sample.json"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


class Broken(Trainable, Generative):
    """x_hat is NaN in three pixels of images that start bright, infinite in one of those that start dark, 2 in the last."""

    def __init__(self) -> None:
        super().__init__()
        self.schedule = LinearLogSNRConfig(kind="linear-logsnr").build()
        self.bright = nn.Parameter(torch.tensor(2.0))

    def optimizer_groups(self) -> Mapping[str, nn.Module]:
        return {}

    def loss(self, group: str, batch: Batch, step: int, rng: Random) -> Loss:
        raise NotImplementedError

    def reverse(self, z_t: Tensor, s: Tensor, t: Tensor, y: Tensor | None, rng: Random, clip: float | None = None) -> Reverse:
        first = z_t[:, 0, 0, 0]
        x_hat = torch.zeros_like(z_t)
        x_hat[first > 0.5, 0, 0, :3] = torch.nan
        x_hat[first < -1, 0, 4, 4] = torch.inf
        x_hat[:, 0, 7, 7] = self.bright
        return Reverse(x_hat, torch.zeros_like(z_t), x_hat, torch.zeros_like(z_t))


def test_values_that_are_not_finite_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """How many images are hit follows from their starting noise, which anybody can draw again."""
    write_model(tmp_path, "vdm")
    artifacts.write_tensors(tmp_path / "model.safetensors", Broken().state_dict())
    monkeypatch.setattr(models, "build", lambda run, spec, key: Broken())
    sample.run(configured(1, 40), sample.Paths(tmp_path, tmp_path / "out"), "samples.toy")
    first = RowRandom(3, range(40), 0).normal((40, 1, 8, 8), "start")[:, 0, 0, 0]
    expected = {str(i): 3 if value > 0.5 else 1 for i, value in enumerate(first.tolist()) if value > 0.5 or value < -1}
    assert {1, 3} == set(expected.values())
    found = artifacts.read_json(tmp_path / "out" / "sample.json")
    assert found["nonfinite"] == expected
    # Infinity is counted there, and not once more here.
    assert found["share_of_pixels_beyond_range"] == pytest.approx(1 / 64, abs=1e-6)
    codes = artifacts.read_array(tmp_path / "out" / "images.npy")
    assert set(np.unique(codes)) == {8, 16}, "broken pixels are grey, those beyond the range at its end"


def test_model_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"model\.safetensors does not exist; train it first: dvc repro$"):
        sample.run(configured(3, 2), sample.Paths(tmp_path, tmp_path / "out"), "samples.toy")


def test_model_that_generates_nothing(tmp_path: Path) -> None:
    folder = write_model(tmp_path, "classifier")
    with pytest.raises(ValueError, match=r"^samples\.toy\.run is 'toy', which generates nothing; name a generative run$"):
        sample.run(configured(3, 2), sample.Paths(folder, tmp_path / "out"), "samples.toy")


def test_unknown_sample_names_those_that_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    profile = Path(__file__).parent / "profiles" / "tiny.yaml"
    assert sample.main(["--params", str(profile), "vdm-ddim-6"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: samples has no 'vdm-ddim-6'; allowed: ddpm-ancestral-10, vdm-ddim-5, ")
    assert said.count("\n") == 1
