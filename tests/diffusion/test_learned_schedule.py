"""Learned schedules inside a model: eq. 59-62 through the images they noise, and training that moves them."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.core.contracts import Batch
from pipeline.core.random import KeyedRandom
from pipeline.diffusion.learned_schedule import LearnedLinearConfig, MonotoneConfig
from pipeline.diffusion.times import stratified
from tests.support.blocks import default
from tests.support.encoding import KINDS, SPEC, Standard, images, smooth
from tests.support.exact import GaussianDenoiser, code_grid

GRID = torch.linspace(0, 1, 401, dtype=torch.float64)


def bent(built, size=0.7):
    """Far from the line it begins as."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in built.named_parameters():
            if "outer" not in name:
                parameter.add_(size * torch.randn(parameter.shape, generator=generator).to(parameter.dtype))
        built.l3_weight.mul_(5)
    return built


@pytest.mark.parametrize("seed", range(8))
def test_any_parameters_make_a_monotone_schedule_with_exact_ends(seed):
    """Weights of either sign: their absolute values count. gamma(0) and gamma(1) are the end points to the last digits."""
    built = default(MonotoneConfig, gamma_min=-7.0, gamma_max=3.0, hidden=16).build()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.copy_(2 * torch.randn(parameter.shape, generator=generator))
        gamma = built.gamma(GRID)
        ends = float(built.outer.gamma_0), float(built.outer.gamma_0) + abs(float(built.outer.width))
        nudged = (built.gamma(GRID[1:-1] + 1e-6) - built.gamma(GRID[1:-1] - 1e-6)) / 2e-6
    _, slope = built.gamma_and_slope(GRID)
    assert bool((gamma.diff() > 0).all())
    np.testing.assert_allclose(gamma[[0, -1]], ends, rtol=1e-13, atol=1e-13)
    np.testing.assert_allclose(slope.detach()[1:-1], nudged, rtol=1e-5, atol=1e-7)


def learning(kind, **values):
    """A smooth model with a bent schedule, in float64."""
    model = smooth(kind, schedule=default(MonotoneConfig, hidden=3), **values)
    bent(model.schedule)
    return model


def bits(model, uniform):
    return model.diffusion_term(images(len(uniform)), uniform, Standard()).nats / (SPEC.dimensions * math.log(2))


def by_differences(parameter, index, value):
    flat, found = parameter.data.view(-1), []
    kept = float(flat[index])
    for nudge in (1e-5, -1e-5):
        flat[index] = kept + nudge
        with torch.no_grad():
            found.append(float(value()))
    flat[index] = kept
    return (found[0] - found[1]) / 2e-5


@pytest.mark.parametrize("kind", KINDS)
def test_one_backward_pass_of_a_whole_model(kind):
    """gamma reaches the loss through its weight, z, the network's input and the encoder with its derivative: the interior
    gets the gradient of the mean of L^2, the end points that of L with prior and reconstruction, the network its own."""
    model = learning(kind)
    model.network.gain = nn.Parameter(torch.tensor(1.0).double())
    plain = model.network.forward
    model.network.forward = lambda z, level, y=None: model.network.gain * plain(z, level)
    data, rng = images(6), Standard()

    def squared():
        return (bits(model, stratified(6, rng)) ** 2).mean()

    def total():
        ends = model.prior_and_reconstruction(data, rng)
        return (bits(model, stratified(6, rng)) + (ends.prior + ends.reconstruction) / (SPEC.dimensions * math.log(2))).mean()

    model.loss("model", data, 1, rng).total.mean().backward()
    for name, parameter in model.named_parameters():
        interior = name.startswith("schedule") and "outer" not in name
        for index in range(parameter.numel()):
            expected = by_differences(parameter, index, squared if interior else total)
            assert float(parameter.grad.view(-1)[index]) == pytest.approx(expected, rel=1e-4, abs=1e-7), (name, index)
    losses = bits(model, stratified(6, rng)).detach()
    assert float(losses.std()) > 0.1  # or the gradients of L and of L^2 would be alike


def test_in_finitely_many_steps_the_interior_is_trained_on_the_loss_itself():
    """There the expected loss depends on the whole schedule, not on its ends alone."""
    model, uniform = learning("vdm", steps=5), (torch.arange(5).double() + 0.5) / 5
    bits(model, uniform).mean().backward()
    for name, parameter in model.schedule.named_parameters():
        expected = by_differences(parameter, 0, lambda: bits(model, uniform).mean())
        assert float(parameter.grad.view(-1)[0]) == pytest.approx(expected, rel=1e-5, abs=1e-9), name
        assert abs(expected) > 1e-6, name


@pytest.mark.parametrize("schedule", [LearnedLinearConfig, MonotoneConfig])
def test_training_moves_the_end_points_to_a_better_bound(schedule):
    """From a z_0 as noisy as the data and a z_1 that still shows the image; the network's input stays where it was."""
    model = smooth("vdm", schedule=default(schedule, gamma_min=-2.0, gamma_max=1.0))
    model.network = GaussianDenoiser("v", model.schedule, 0.1, 0.2)
    x = torch.tensor(code_grid(32, 0.1, 0.2, 256)).reshape(1, 1, 4, 8).expand(8, 1, 4, 8)
    batch = Batch(x.contiguous(), torch.zeros(8, dtype=torch.int64))
    probe = model.schedule.input(torch.tensor([-5.0, 1.0]).double())
    optimizer = torch.optim.Adam([value for value in model.parameters() if value.requires_grad], lr=0.1)
    totals = []
    for step in range(80):
        loss = model.loss("model", batch, step, KeyedRandom(0, step)).total.mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        totals.append(float(loss.detach()))
    low, high = (float(end[0].detach()) for end in model.schedule.ends(1, torch.device("cpu")))
    assert low < -3
    assert high > 2
    assert np.mean(totals[-10:]) < np.mean(totals[:3]) - 0.1
    assert model.schedule.input(torch.tensor([-5.0, 1.0]).double()).equal(probe)
