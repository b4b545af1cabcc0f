"""Learned schedules: end points, monotony, and gradients against finite differences."""

import numpy as np
import pytest
import torch

from pipeline.diffusion.learned_schedule import LearnedLinearConfig, MonotoneConfig
from tests.support.blocks import default

T = (torch.arange(16, dtype=torch.float64) + 0.5) / 16
COSTS = torch.linspace(0.5, 3.0, 16, dtype=torch.float64) ** 2


def monotone(ends="learned"):
    """Far from the line it begins as, with every parameter at a value of its own."""
    built = default(MonotoneConfig, hidden=6, ends=ends).build()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in built.named_parameters():
            if "outer" not in name:
                parameter.add_(0.7 * torch.randn(parameter.shape, generator=generator))
        built.l3_weight.mul_(10)
    return built


def losses(built):
    """Something of each example's own gamma and slope, as a diffusion loss is."""
    gamma, slope = built.gamma_and_slope(T)
    return COSTS * slope * torch.sigmoid(gamma / 4) / 20


@pytest.mark.parametrize("sign", [1, -1])
def test_learned_ends(sign):
    """Non-decreasing whatever the sign of the width; the network's input stays tied to the configured ends."""
    built = default(LearnedLinearConfig, gamma_min=-8.0, gamma_max=4.0).build()
    with torch.no_grad():
        built.gamma_0 += 1
        built.width.copy_(sign * torch.tensor(5.0))
        assert built.gamma(torch.tensor([0.0, 0.5, 1.0])).tolist() == pytest.approx([-7.0, -4.5, -2.0])
        assert built.input(torch.tensor([-8.0, 4.0]).double()).tolist() == pytest.approx([0.0, 1.0])
        low, high = built.ends(3, torch.device("cpu"))
    assert (low.tolist(), high.tolist()) == ([-7.0] * 3, [-2.0] * 3)
    assert built.learned


@pytest.mark.parametrize("ends", ["fixed", "learned"])
def test_the_monotone_schedule_begins_near_the_line_and_keeps_its_ends(ends):
    start = default(MonotoneConfig, ends=ends).build()
    grid = torch.linspace(0, 1, 201, dtype=torch.float64)
    with torch.no_grad():
        np.testing.assert_allclose(start.gamma(grid), -13.3 + 18.3 * grid, atol=0.5)
        moved = monotone(ends).gamma(grid)
    assert bool((moved.diff() > 0).all())
    assert float((moved - (-13.3 + 18.3 * grid)).abs().max()) > 1
    np.testing.assert_allclose(moved[[0, -1]], [-13.3, 5.0], atol=1e-5)


def test_fixed_ends_are_not_trained():
    names = {name for name, parameter in monotone("fixed").named_parameters() if parameter.requires_grad}
    assert names == {"l1_weight", "l1_bias", "l2_weight", "l2_bias", "l3_weight"}


def test_the_interior_is_trained_on_the_variance_and_the_ends_on_the_loss():
    """Kingma et al. 2021, eq. 60-62: finite differences of E[L^2] for the interior, of E[L] for the end points."""
    built = monotone().double()
    found = losses(built)
    built.minimise_variance(found)
    found.mean().backward()
    for name, parameter in built.named_parameters():
        power = 1 if name.startswith("outer") else 2
        flat, gradient = parameter.data.view(-1), parameter.grad.view(-1)
        for index in range(len(flat)):
            kept, values = float(flat[index]), []
            for nudge in (1e-5, -1e-5):
                flat[index] = kept + nudge
                with torch.no_grad():
                    values.append(float((losses(built) ** power).mean()))
            flat[index] = kept
            assert float(gradient[index]) == pytest.approx((values[0] - values[1]) / 2e-5, rel=1e-4, abs=1e-7), (name, index)
    assert float(found.detach().std()) > 0.1  # or L and L^2 would have the same gradients, up to a factor


def test_a_backward_pass_without_the_losses_is_our_mistake():
    with pytest.raises(AssertionError):
        losses(monotone()).mean().backward()


def test_descending_on_it_lowers_the_variance_and_not_the_mean():
    """The mean of slope * f(gamma) over t is an integral over gamma: the same for every interior."""
    built = monotone("fixed")

    def draw(t):
        gamma, slope = built.gamma_and_slope(t)
        return slope * torch.sigmoid(-gamma)

    fine = (torch.arange(2000, dtype=torch.float64) + 0.5) / 2000
    with torch.no_grad():
        before = draw(fine)
    optimizer = torch.optim.Adam([parameter for parameter in built.parameters() if parameter.requires_grad], lr=0.02)
    for step in range(150):
        values = draw(torch.remainder(T + 0.618 * step, 1))
        built.minimise_variance(values)
        optimizer.zero_grad()
        values.mean().backward()
        optimizer.step()
    with torch.no_grad():
        after = draw(fine)
    assert float(after.mean()) == pytest.approx(float(before.mean()), rel=1e-3)
    assert float(after.var()) < 0.5 * float(before.var())
