"""From image to latent to image, with a model whose flow is known, and what cannot be followed back."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from pipeline import interpolate
from pipeline.config.family import ClassConditional
from pipeline.core.contracts import Batch, Generative, Loss, Random, Trainable
from pipeline.diffusion.gaussian import Reverse, alpha_sigma, per_image, posterior
from pipeline.diffusion.schedule import LinearLogSNRSchedule
from pipeline.store import models
from pipeline.store.data import DataDirectory, write_data

LEVELS = 17


class Exact(Trainable, Generative):
    """The best denoiser of pixels from N(0, 0.5^2): its flow scales every pixel, so what is bright stays bright."""

    def __init__(self) -> None:
        super().__init__()
        self.schedule = LinearLogSNRSchedule(-10.0, 5.0)

    def optimizer_groups(self) -> Mapping[str, nn.Module]:
        return {}

    def loss(self, group: str, batch: Batch, step: int, rng: Random) -> Loss:
        raise NotImplementedError

    def reverse(self, z_t: Tensor, s: Tensor, t: Tensor, y: Tensor | None, rng: Random, clip: float | None = None) -> Reverse:
        assert clip is None, "clipping cannot be undone"
        gamma_s, gamma_t = self.schedule.gamma(s), self.schedule.gamma(t)
        alpha, sigma = (per_image(value, z_t) for value in alpha_sigma(gamma_t))
        return posterior(0.25 * alpha / (0.25 * alpha**2 + sigma**2) * z_t, z_t, gamma_s, gamma_t)


class Drawing(Exact):
    has_probability_flow: ClassVar[bool] = False


@pytest.fixture
def data(tmp_path: Path) -> DataDirectory:
    images = np.random.default_rng(0).integers(0, LEVELS, (6, 1, 4, 4), dtype=np.uint8)
    labels = np.zeros(6, np.int64)
    return write_data(tmp_path / "data", {"test": (images, labels)}, levels=LEVELS, classes=1, extra={})


def arranged(
    data: DataDirectory, monkeypatch: Any, model: Trainable, version: str | None = None, labels: bool = False
) -> interpolate.Paths:
    config = {"data": {"hash": version or data.hash}, "run": {"family": "toy", "model": {}}}
    block = ClassConditional(labels=labels)
    monkeypatch.setattr(models, "load", lambda folder, where: models.Saved(model, config, "0" * 64, {}, block))
    return interpolate.Paths(data.path / "model", data.path, data.path / "way.png")


def cells(file: Path, rows: int, columns: int) -> NDArray[np.uint8]:
    """(rows, columns, 4, 4) grey levels; every image is enlarged by two, with one white pixel around it."""
    picture = np.asarray(Image.open(io.BytesIO(file.read_bytes())))[..., 0]
    assert picture.shape == (9 * rows + 1, 9 * columns + 1)
    return np.stack(
        [[picture[1 + 9 * r : 9 + 9 * r : 2, 1 + 9 * c : 9 + 9 * c : 2] for c in range(columns)] for r in range(rows)]
    )


def test_rows_lead_from_one_image_to_the_other(data: DataDirectory, monkeypatch: Any) -> None:
    paths = arranged(data, monkeypatch, Exact())
    error = interpolate.run([(0, 3), (5, 1)], 200, 5, paths, "toy")
    found = cells(paths.out, 2, 7).astype(float)
    real = np.round(data.images("test")[:, 0].astype(float) * 255 / 16)
    for row, (first, second) in enumerate([(0, 3), (5, 1)]):
        assert np.array_equal(found[row, 0], real[first])
        assert np.array_equal(found[row, -1], real[second])
        # 200 steps of first order leave a few grey levels of the 16 between two codes.
        assert np.abs(found[row, 1] - real[first]).max() <= 16
        assert np.abs(found[row, -2] - real[second]).max() <= 16
        middle = np.corrcoef(np.stack([found[row, 3].ravel(), real[first].ravel() + real[second].ravel()]))[0, 1]
        assert middle > 0.95, "halfway on the arc every pixel is in proportion to the sum of both"
    assert error == pytest.approx(np.abs(found[:, [1, -2]] - found[:, [0, -1]]).mean(), abs=0.3)


@pytest.mark.parametrize("labels", [True, False])
def test_a_conditional_model_is_asked_for_no_class(labels: bool, data: DataDirectory, monkeypatch: Any) -> None:
    """The number of classes, here 1, stands for none; a model without labels is not asked."""

    class Asked(Exact):
        def reverse(self, z_t: Tensor, s: Tensor, t: Tensor, y: Tensor | None, *rest: Any, **more: Any) -> Reverse:
            asked.add(None if y is None else (len(y) == len(z_t), *y.unique().tolist()))
            return super().reverse(z_t, s, t, y, *rest, **more)

    asked: set[Any] = set()
    interpolate.run([(0, 1)], 3, 3, arranged(data, monkeypatch, Asked(), labels=labels), "toy")
    assert asked == ({(True, 1)} if labels else {None})


def test_more_steps_come_back_nearer(data: DataDirectory, monkeypatch: Any) -> None:
    paths = arranged(data, monkeypatch, Exact())
    errors = [interpolate.run([(0, 1), (2, 3), (4, 5)], steps, 2, paths, "toy") for steps in (5, 200)]
    assert errors[1] < 0.5 * errors[0]


def test_what_has_no_flow_is_refused(data: DataDirectory, monkeypatch: Any) -> None:
    with pytest.raises(ValueError, match=r"^toy is of the family toy, which has no flow to follow back; name another run$"):
        interpolate.run([(0, 1)], 5, 3, arranged(data, monkeypatch, Drawing()), "toy")


def test_images_that_are_not_there_and_other_data_are_refused(data: DataDirectory, monkeypatch: Any) -> None:
    with pytest.raises(ValueError, match=r"^--images names 6; allowed: 0 to 5"):
        interpolate.run([(0, 6)], 5, 3, arranged(data, monkeypatch, Exact()), "toy")
    with pytest.raises(ValueError, match="was trained on data eeeeeeee"):
        interpolate.run([(0, 1)], 5, 3, arranged(data, monkeypatch, Exact(), "e" * 64), "toy")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["vdmm"], "runs has no 'vdmm'; allowed: "),
        (["vdm", "--images", "1"], "--images names 1 images; allowed: an even number"),
        (["vdm", "--points", "1"], "--points is 1; allowed: 2 or more"),
    ],
)
def test_arguments(arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    profile = Path(__file__).parent / "profiles" / "tiny.yaml"
    assert interpolate.main(["--params", str(profile), *arguments]) == 2
    assert sentence in capsys.readouterr().err
    assert torch.is_grad_enabled()
