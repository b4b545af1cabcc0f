"""Improved DDPM: learned variance, L_vlb, L_hybrid, importance-sampled steps."""

import math

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn

from pipeline.core.contracts import Batch, DataSpec
from pipeline.core.random import KeyedRandom
from pipeline.diffusion.schedule import CosineBetaConfig
from pipeline.families.ddpm import model as ddpm
from tests.support.exact import GaussianDenoiser, GridRandom, images
from tests.support.gaussian_ddpm import MEAN, SCHEDULES, SIDE, SPEC, STD, STEPS, TINY, X, betas, expected_bound, model


class WithVariance(nn.Module):
    """A denoiser and a learned variance, the same for every pixel and step."""

    def __init__(self, denoiser, said):
        super().__init__()
        self.denoiser, self.said = denoiser, nn.Parameter(torch.tensor(float(said)))

    def forward(self, z, level, y=None):
        mean = self.denoiser(z, level)
        return torch.cat([mean, self.said.expand_as(mean)], 1)


def learned(said, objective="vlb", prediction="v", **more):
    config = ddpm.Config(
        schedule=SCHEDULES["linear"], prediction=prediction, variance="learned", objective=objective, network=TINY, **more
    )
    built = ddpm.build(config, SPEC)
    built.network = WithVariance(GaussianDenoiser(prediction, built.schedule, MEAN, STD), said)
    return built


@pytest.mark.parametrize(("said", "variance"), [(-1, "small"), (1, "large")])
def test_the_vlb_loss_is_the_bound_but_for_its_prior(said, variance):
    """Row t is T times L_t in bits/dim. A learned variance of -1 and 1 is the small and the large one (eq. 15)."""
    b = betas("linear")
    _, reconstruction, diffusion = expected_bound(b, variance)
    loss = learned(said).loss("model", images(X, STEPS, SIDE), 1, GridRandom(0.5 / STEPS))
    np.testing.assert_allclose(loss.total[1:].detach(), STEPS * diffusion, rtol=1e-3, atol=1e-5)
    assert float(loss.parts["vlb"].detach().mean()) == pytest.approx(float(loss.total.detach().mean()))
    if variance == "small":
        assert float(loss.total[0].detach()) == pytest.approx(STEPS * reconstruction, rel=1e-4)
    simple = model("linear", "v").loss("model", images(X, STEPS, SIDE), 1, GridRandom(0.5 / STEPS)).total
    np.testing.assert_allclose(loss.parts["simple"].detach(), simple, rtol=1e-4)


def test_a_variance_between_the_two_is_between_their_logarithms():
    z, s, t = torch.zeros(1, 1, SIDE, SIDE), torch.tensor([0.25]), torch.tensor([0.5])
    with torch.no_grad():
        log = [float(learned(said).reverse(z, s, t, None, KeyedRandom(0, 0)).std[0, 0, 0, 0].log()) for said in (-1, 0.5, 1, 3)]
    assert log[1] == pytest.approx(log[0] + 0.75 * (log[2] - log[0]), rel=1e-5)
    assert log[3] == pytest.approx(log[0] + 2 * (log[2] - log[0]), rel=1e-5)
    assert log[0] < log[2]


def test_hybrid_trains_the_mean_by_simple_and_the_variance_by_the_bound():
    """Gradients of L_simple + 0.01 L_vlb (eq. 16), against those of each loss alone."""
    gradients = {}
    for objective in ("simple", "vlb", "hybrid"):
        more = {"vlb_weight": 0.01} if objective == "hybrid" else {}
        built = learned(0.3, objective="hybrid" if objective == "hybrid" else "vlb", **more)
        shift = nn.Parameter(torch.tensor(0.0))
        built.network.denoiser.register_forward_hook(lambda module, asked, said, shift=shift: said + shift)
        loss = built.loss("model", images(X, STEPS, SIDE), 1, GridRandom(0.5 / STEPS))
        chosen = loss.parts["simple"] if objective == "simple" else loss.total
        gradients[objective] = torch.autograd.grad(chosen.mean(), [shift, built.network.said], allow_unused=True)
    assert float(gradients["hybrid"][0]) == pytest.approx(float(gradients["simple"][0]), rel=1e-6)
    assert float(gradients["hybrid"][1]) == pytest.approx(0.01 * float(gradients["vlb"][1]), rel=1e-5)
    assert float(gradients["simple"][1]) == 0
    assert abs(float(gradients["vlb"][0])) > 0


def test_importance_sampled_steps_leave_the_loss_unbiased():
    """After its history is full, a stratified walk over the numbers gives the same mean loss as all steps once."""
    built = learned(0.0, time_sampling="loss-second-moment").train()
    plain = learned(0.0).loss("model", images(X, STEPS, SIDE), 1, GridRandom(0.5 / STEPS)).total.detach()

    class Spread(GridRandom):
        def uniform(self, shape, purpose):
            return (torch.arange(shape[0]) + 0.5) / shape[0]

    with torch.no_grad():
        for _ in range(10):
            built.loss("model", images(X, STEPS, SIDE), 1, Spread())
        draws = built.loss("model", images(X, 2000, SIDE), 1, Spread()).total
    assert float(draws.mean()) == pytest.approx(float(plain.mean()), rel=2e-3)
    assert float(draws.std()) < 0.1 * float(plain.std())


@pytest.mark.parametrize("objective", ["vlb", "hybrid"])
def test_importance_sampled_steps_lower_the_variance_of_what_is_minimised(objective):
    """By half at least, with 200 steps, other data and other noise in every image, and 10 losses a step in the history."""
    steps, side, draws = 200, 8, 20_000
    spec, schedule = DataSpec((1, side, side), 256, 10), CosineBetaConfig(kind="cosine-beta", steps=steps)

    class Spread(KeyedRandom):
        """Every step once."""

        def uniform(self, shape, purpose):
            return (torch.arange(shape[0]) + 0.5) / shape[0] if purpose == "time" else super().uniform(shape, purpose)

    def data(count, seed):
        pixels = MEAN + STD * torch.randn(count, *spec.shape, generator=torch.Generator().manual_seed(seed))
        return Batch((2 * ((pixels + 1) * 128).floor().clamp(0, 255) + 1) / 256 - 1, torch.zeros(count, dtype=torch.int64))

    found = {}
    for sampling in ("uniform", "loss-second-moment"):
        config = ddpm.Config(
            schedule=schedule, prediction="v", variance="learned", objective=objective, time_sampling=sampling, network=TINY
        )
        built = ddpm.build(config, spec).train()
        built.network = WithVariance(GaussianDenoiser("v", built.schedule, MEAN, STD), -1)
        with torch.no_grad():
            for step in range(10):
                built.loss("model", data(steps, step), step, Spread(0, step))
            found[sampling] = built.loss("model", data(draws, 99), 99, KeyedRandom(1, 99)).total
    uniform, importance = found["uniform"], found["loss-second-moment"]
    assert float(importance.var()) < 0.5 * float(uniform.var())
    error = math.sqrt(float(importance.var() + uniform.var()) / draws)
    assert abs(float(importance.mean() - uniform.mean())) < 4 * error


@pytest.mark.parametrize(("variance", "objective"), [("learned", "simple"), ("small", "hybrid"), ("large", "hybrid")])
def test_a_variance_that_nothing_would_train_is_refused(variance, objective):
    with pytest.raises(ValidationError, match=f"variance is '{variance}'; allowed with objective: {objective}"):
        ddpm.Config(schedule=SCHEDULES["linear"], variance=variance, objective=objective)
