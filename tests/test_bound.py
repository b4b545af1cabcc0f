"""The stage `bound`: what is averaged, how its errors are told apart, and what the curve shows."""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline import bound, prepare
from pipeline.config import schema
from pipeline.core import artifacts
from pipeline.core.contracts import Batch, DiffusionTerm, LikelihoodModel, PriorAndReconstruction, Random
from pipeline.core.likelihood_terms import TERMS
from pipeline.diffusion.schedule import CosineBetaConfig
from pipeline.store import models
from pipeline.store.data import DataDirectory, write_data
from pipeline.store.splits import Split
from tests.support import blocks

CPU = torch.device("cpu")


class Known(LikelihoodModel):
    """diffusion = 3 t^2 + label, whose mean over times is 1 + label; the prior is noise, the reconstruction a constant."""

    def prior_and_reconstruction(self, batch: Batch, rng: Random) -> PriorAndReconstruction:
        noise = rng.normal((len(batch.x),), "prior").double()
        return PriorAndReconstruction(noise, torch.full_like(noise, 5.0))

    def diffusion_term(self, batch: Batch, uniform: Tensor, rng: Random) -> DiffusionTerm:
        return DiffusionTerm(3 * uniform.double() ** 2 + batch.y, uniform)


@pytest.fixture
def split(tmp_path: Path) -> Split:
    images = np.random.default_rng(0).integers(0, 17, (30, 1, 4, 4), dtype=np.uint8)
    made = write_data(tmp_path, {"test": (images, np.arange(30) % 3)}, levels=17, classes=3, extra={})
    return Split(made, "test")


def test_terms_are_averages_over_times_per_image(split: Split) -> None:
    found = bound.estimate(Known(), split, 30, blocks.bound(times=400), CPU, "bounds.toy")
    assert found.nats["diffusion"].shape == (30, 2)
    # Low-discrepancy times: the mean of 3 t^2 is off by the order of 1/200, not of 1/sqrt(200).
    assert found.nats["diffusion"].mean(1) == pytest.approx(1 + np.arange(30) % 3, abs=0.02)
    assert found.nats["reconstruction"] == pytest.approx(5.0)
    assert found.time.shape == found.diffusion.shape == (30, 400)
    assert found.diffusion == pytest.approx(3 * found.time**2 + (np.arange(30) % 3)[:, None], abs=1e-6)


def test_halves_are_independent_and_each_covers_all_times(split: Split) -> None:
    found = bound.estimate(Known(), split, 30, blocks.bound(times=8), CPU, "bounds.toy")
    for half in (found.time[:, :4], found.time[:, 4:]):
        assert all(sorted(row) == [0, 1, 2, 3] for row in (half * 4).astype(int).tolist()), "one time in each quarter"
    offsets = np.sort(found.time[:, :4])[:, 0], np.sort(found.time[:, 4:])[:, 0]
    assert not np.isclose(*offsets).any()
    assert len(np.unique(found.nats["prior"])) == 60


@pytest.mark.parametrize("batch", [1, 7, 100])
def test_image_does_not_depend_on_its_batch_or_on_the_others(batch: int, split: Split) -> None:
    whole = bound.estimate(Known(), split, 30, blocks.bound(times=6, batch=30), CPU, "bounds.toy")
    other = bound.estimate(Known(), split, 11, blocks.bound(times=6, batch=batch), CPU, "bounds.toy")
    for name in TERMS:
        assert np.array_equal(other.nats[name], whole.nats[name][:11])
    assert np.array_equal(other.time, whole.time[:11])


def test_standard_errors_tell_noise_from_differences() -> None:
    """Images differ by 2, a half draw by 0.6: the mean of two halves has the variance 4 + 0.36 / 2."""
    rng = np.random.default_rng(0)
    images = 20_000
    values = rng.normal(0, 2, (images, 1)) + rng.normal(0, 0.6, (images, 2))
    found = bound.standard_errors(values)
    assert found["total"] == pytest.approx(math.sqrt((4 + 0.18) / images), rel=0.03)
    assert found["monte_carlo"] == pytest.approx(math.sqrt(0.18 / images), rel=0.03)
    assert found["data"] == pytest.approx(2 / math.sqrt(images), rel=0.03)


def test_equal_images_have_no_error_but_noise() -> None:
    values = np.random.default_rng(1).normal(0, 1, (5000, 2))
    found = bound.standard_errors(values)
    assert found["monte_carlo"] == pytest.approx(math.sqrt(0.5 / 5000), rel=0.05)
    assert found["data"] < 0.3 * found["total"]


@pytest.mark.parametrize("steps", [5, 50, 1000])
def test_curve_of_a_discrete_chain_stands_on_its_times(steps: int) -> None:
    """A chain has no noise level between two times; with few steps, bins stay empty and are left out."""
    schedule = CosineBetaConfig(kind="cosine-beta", steps=steps).build()
    time = np.random.default_rng(0).integers(2, steps + 1, (200, 10)) / steps
    found = bound.Estimates({}, time, 16 * math.log(2) * 2 * time)

    def gamma(t: float) -> float:
        return float(schedule.gamma(torch.tensor([t], dtype=torch.float64))[0])

    rows = list(csv.DictReader(io.StringIO(bound.curve(found, gamma, dimensions=16))))
    own = np.array([math.ceil(t * 40 - 1e-9) - 1 for t in time.ravel()])
    assert [float(row["time"]) for row in rows] == pytest.approx([(index + 0.5) / 40 for index in np.unique(own)], abs=1e-4)
    expected = [40 * (2 * time.ravel()[own == index]).sum() / 2000 for index in np.unique(own)]
    assert [float(row["bits_per_dim"]) for row in rows] == pytest.approx(expected, rel=1e-3)
    allowed = [-gamma(index / steps) for index in range(1, steps + 1)]
    signal = [float(row["logsnr"]) for row in rows]
    assert all(min(abs(found - value) for value in allowed) < 1e-3 for found in signal)
    assert signal == sorted(signal, reverse=True)


def test_curve_adds_up_to_the_term_however_times_are_drawn() -> None:
    """The area under the curve is the mean diffusion term, also where a model draws some times more often and weighs them."""
    uniform = np.random.default_rng(0).uniform(0, 1, (1000, 40))
    warped = np.sqrt(uniform)  # of density 2 t, so that each draw weighs 1 / (2 t)
    curves = {}
    for name, time, weight in (("uniform", uniform, 1.0), ("warped", warped, 1 / (2 * warped))):
        found = bound.Estimates({}, time, 50 * time**3 * weight)
        rows = list(csv.DictReader(io.StringIO(bound.curve(found, lambda t: t, dimensions=10))))
        assert len(rows) == 40
        curves[name] = np.array([float(row["bits_per_dim"]) for row in rows])
        assert curves[name].mean() == pytest.approx(found.diffusion.mean() / (10 * math.log(2)), rel=1e-4)
        # The integrand itself: 50 t^3 at the middle of a bin.
        middle = (np.arange(40) + 0.5) / 40
        errors = np.array([float(row["standard_error"]) for row in rows])
        assert (abs(curves[name] - 50 * middle**3 / (10 * math.log(2))) < 5 * errors + 0.02).all()


def model_of(folder: Path, family: str, data: DataDirectory) -> None:
    model = (
        {"schedule": {"kind": "linear-logsnr"}, "network": {"kind": "unet", "widths": [16], "embedding": 8}}
        if family == "vdm"
        else {}
    )
    run = blocks.run(family, model=model, training={"steps": 1, "learning_rate": 0.1})
    built = models.build(run, data.data_spec, "runs.toy")
    artifacts.write_tensors(folder / "model.safetensors", built.state_dict())
    described = {name: data.spec[name] for name in ("shape", "levels", "classes", "hash")}
    artifacts.write_json(folder / "config.json", {"run": run.model_dump(mode="json"), "data": described})


def test_what_is_written_adds_up(tmp_path: Path) -> None:
    data = prepare.run(blocks.data("digits"), tmp_path / "data")
    model_of(tmp_path / "model", "vdm", data)
    paths = bound.Paths(tmp_path / "model", tmp_path / "data", tmp_path / "b.json", tmp_path / "b.csv")
    bound.run(blocks.bound(images=20, times=5), paths, "bounds.toy")
    found = artifacts.read_json(tmp_path / "b.json")
    bits = found["bits_per_dim"]
    assert bits["total"] == pytest.approx(bits["prior"] + bits["reconstruction"] + bits["diffusion"], rel=1e-3)
    assert bits["standard_error"] == found["standard_errors"]["total"]["total"]
    assert found["measured"]["images"] == 20
    assert found["measured"]["times_per_image"] == 4, "two halves of two"
    assert found["measured"]["data"] == data.hash[:8]


def test_refusals(tmp_path: Path) -> None:
    data = prepare.run(blocks.data("gaussian", source={"train": 60, "test": 10}), tmp_path / "data")
    other = prepare.run(blocks.data("gaussian", source={"train": 60, "test": 10, "seed": 1}), tmp_path / "other")
    for name, family, trained_on in (("classifier", "classifier", data), ("vdm", "vdm", data), ("elsewhere", "vdm", other)):
        model_of(tmp_path / name, family, trained_on)

    def refused(name: str, cfg: schema.Bound) -> str:
        with pytest.raises(ValueError) as error:
            bound.run(
                cfg, bound.Paths(tmp_path / name, tmp_path / "data", tmp_path / "b.json", tmp_path / "b.csv"), "bounds.toy"
            )
        assert not (tmp_path / "b.json").exists()
        return str(error.value)

    assert "bounds.toy asks for bits/dim of the family classifier, which has no bound" in refused("classifier", blocks.bound())
    assert "bounds.toy.images is 11; allowed: up to 10" in refused("vdm", blocks.bound(images=11))
    assert f"was trained on data {other.hash[:8]}" in refused("elsewhere", blocks.bound())
