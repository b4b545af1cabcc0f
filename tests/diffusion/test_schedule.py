"""Printed tables of DDPM and improved DDPM, the schedulers of diffusers, and what every schedule must do."""

import math

import mpmath
import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from pydantic import ValidationError

from pipeline.diffusion import learned_schedule, schedule
from pipeline.diffusion.gaussian import alpha_sigma, posterior_coefficients, posterior_std, transition_std
from pipeline.diffusion.schedule import ContinuousSchedule, DiscreteSchedule, cosine_betas, linear_betas, random_walk_betas
from tests.support.blocks import default, kind, members

DISCRETE, CONTINUOUS = members(schedule.Discrete), members(learned_schedule.Continuous)
every = pytest.mark.parametrize("block", DISCRETE + CONTINUOUS, ids=kind)
discrete = pytest.mark.parametrize("block", DISCRETE, ids=kind)
continuous = pytest.mark.parametrize("block", CONTINUOUS, ids=kind)


def alpha_bar(betas):
    """By way of the schedule, with paper index i at [i - 1]."""
    return (alpha_sigma(DiscreteSchedule(betas).table)[0][1:] ** 2).numpy()


def grid(built, count=101):
    """Times that the schedule has."""
    return torch.linspace(0, 1, (built.steps if isinstance(built, DiscreteSchedule) else count - 1) + 1, dtype=torch.float64)


def test_linear_table_as_printed():
    found = alpha_bar(linear_betas(1000))
    np.testing.assert_allclose(found[[0, 500, 999]], [0.9999, 0.07779666, 4.035830e-5], rtol=1e-6)
    assert int(np.argmax(found < 0.5)) == 259  # where the log-SNR turns negative
    thousands = linear_betas(4000)
    np.testing.assert_allclose([thousands[0], thousands[-1]], [2.5e-5, 5e-3], rtol=1e-12)
    assert alpha_bar(thousands)[-1] == pytest.approx(4.2467e-5, rel=1e-4)


def test_cosine_table_as_printed():
    betas = cosine_betas(1000)
    np.testing.assert_allclose(betas[[0, 1, 999]], [4.128422e-5, 4.614175e-5, 0.999], rtol=1e-6)
    found = alpha_bar(betas)
    np.testing.assert_allclose(found[[500, 999]], [0.49228517, 2.428767e-9], rtol=1e-6)
    assert int(np.argmax(found < 0.5)) == 496
    thousands = cosine_betas(4000)
    assert float(thousands[0]) == pytest.approx(9.865819e-6, rel=1e-6)
    found = alpha_bar(thousands)
    assert found[793] == pytest.approx(0.9001, abs=1e-4)
    assert found[3999] == pytest.approx(1.518e-10, rel=1e-3)
    assert int(np.argmax(found < 0.5)) == 1984


def test_posterior_variances_as_printed():
    """beta tilde of the second step, and its logarithm, which stands in for the first in the decoder."""
    gamma = DiscreteSchedule(linear_betas(1000)).table
    variance = float(posterior_std(gamma[1:2], gamma[2:3]) ** 2)
    assert variance == pytest.approx(5.453188e-5, rel=1e-6)
    assert math.log(variance) == pytest.approx(-9.816725, abs=1e-6)
    assert float(posterior_std(gamma[:1], gamma[1:2])) == 0.0


def test_ddim_sigmas_as_printed():
    """From step 500 to 499 and to 400 of the linear chain, counted from 0: eta = 1, and sigma hat = sqrt(1 - A_t / A_s)."""
    gamma = DiscreteSchedule(linear_betas(1000)).table[[501, 500, 401]]
    assert float(posterior_std(gamma[1:2], gamma[:1])) == pytest.approx(0.10025635, rel=1e-6)
    assert float(posterior_std(gamma[2:], gamma[:1])) == pytest.approx(0.72319635, rel=1e-6)
    assert float(transition_std(gamma[2:], gamma[:1])) == pytest.approx(0.77336903, rel=1e-6)


@pytest.mark.parametrize(("name", "betas"), [("linear", linear_betas(1000)), ("squaredcos_cap_v2", cosine_betas(1000))])
def test_tables_of_diffusers(name, betas):
    theirs = DDPMScheduler(1000, beta_schedule=name)
    np.testing.assert_allclose(betas, theirs.betas, rtol=2e-6)
    np.testing.assert_allclose(alpha_bar(betas), theirs.alphas_cumprod, rtol=2e-4)
    theirs.alphas_cumprod = torch.cumprod(1 - betas, 0)  # their float32 has too few digits of 1 - alpha-bar near the data
    gamma = DiscreteSchedule(betas).table
    for t in (1, 2, 50, 500, 998, 999):
        pair = gamma[t : t + 1], gamma[t + 1 : t + 2]
        assert float(posterior_std(*pair) ** 2) == pytest.approx(float(theirs._get_variance(t)), rel=1e-6), t
        large = float(theirs._get_variance(t, variance_type="fixed_large"))
        assert float(transition_std(*pair) ** 2) == pytest.approx(large, rel=1e-6), t


@pytest.mark.parametrize("betas", [linear_betas(1000), cosine_betas(4000)], ids=["linear", "cosine"])
def test_the_table_keeps_its_digits(betas):
    """gamma against 60-digit arithmetic on the same betas."""
    gamma = DiscreteSchedule(betas).table
    with mpmath.workdps(60):
        product = mpmath.mpf(1)
        for index, beta in enumerate(betas.tolist(), 1):
            product *= 1 - mpmath.mpf(beta)
            if index in (1, 2, 10, 500, len(betas)):
                assert float(gamma[index]) == pytest.approx(float(mpmath.log((1 - product) / product)), rel=1e-12)


def test_space_timesteps_as_printed():
    """Improved DDPM's space_timesteps(1000, "50"), which counts from 0, with the data after it."""
    found = (DiscreteSchedule(linear_betas(1000)).times(50, "respaced") * 1000).round().int().tolist()
    counted = [index - 1 for index in reversed(found[:-1])]
    assert counted[:5] == [0, 20, 41, 61, 82]
    assert counted[-3:] == [958, 979, 999]
    assert found[-1] == 0
    assert counted == [round(i * 999 / 49) for i in range(50)]


def counted(spacing, steps):
    """Code indices of a grid on 1000 levels, which count from 0, from the data up and without it."""
    times = DiscreteSchedule(linear_betas(1000)).times(steps, spacing)
    levels = (times * 1000).round().int().tolist()
    assert levels[-1] == 0
    return [level - 1 for level in reversed(levels[:-1])]


@pytest.mark.parametrize(
    ("spacing", "steps", "count", "first", "last"),
    [
        ("uniform", 10, 10, [0, 100, 200], [700, 800, 900]),
        ("uniform", 20, 20, [0, 50, 100], [850, 900, 950]),
        ("uniform", 50, 50, [0, 20, 40], [940, 960, 980]),
        ("uniform", 100, 100, [0, 10, 20], [970, 980, 990]),
        ("quadratic", 10, 10, [0, 9, 39, 88, 158, 246], [632, 800]),
        ("quadratic", 20, 20, [0, 2, 8, 19, 35], [718, 800]),
        ("quadratic", 50, 49, [0, 1, 2, 5, 8], [767, 800]),
        ("quadratic", 100, 96, [0, 1, 2], [783, 800]),
    ],
)
def test_step_tables_of_ddim(spacing, steps, count, first, last):
    """As printed, their duplicates removed."""
    found = counted(spacing, steps)
    assert len(found) == count
    assert (found[: len(first)], found[-len(last) :]) == (first, last)
    if spacing == "quadratic":
        assert found == sorted({int(value) for value in np.linspace(0, math.sqrt(0.8 * 1000), steps) ** 2})


def test_uniform_steps_that_do_not_divide_the_chain():
    """floor(i T / S) of the paper: S of them, where the code's range(0, T, T // S) would give 334 for 300."""
    found = counted("uniform", 300)
    assert len(found) == 300
    assert (found[:4], found[-1]) == ([0, 3, 6, 10], 996)


SPACINGS = ["trailing", "uniform", "quadratic", "respaced", "logsnr"]


@discrete
@pytest.mark.parametrize("spacing", SPACINGS)
def test_discrete_times(block, spacing):
    built = default(block, steps=130).build()
    for steps in range(2, 131):
        times = built.times(steps, spacing)
        assert times.dtype == torch.float64
        if spacing in ("trailing", "uniform", "respaced"):
            assert times.shape == (steps + 1,)
        else:
            assert 2 < len(times) <= steps + 1
        assert float(times[-1]) == 0.0
        if spacing in ("uniform", "quadratic"):
            top = 130 - 130 / steps if spacing == "uniform" else 0.8 * 130
            assert round(float(times[0]) * 130) == math.floor(top + 1e-9) + 1
        else:
            assert float(times[0]) == 1.0
        if spacing != "trailing":
            assert round(float(times[-2]) * 130) == 1
        assert bool((times.diff() < 0).all())
        np.testing.assert_allclose(times * 130, (times * 130).round(), atol=1e-9)
    if spacing in ("trailing", "uniform", "respaced"):
        np.testing.assert_allclose(built.times(130, spacing), np.linspace(1, 0, 131), atol=1e-12)


@pytest.mark.parametrize("spacing", ["trailing", "respaced", "logsnr"])
def test_one_step_goes_all_the_way(spacing):
    assert DiscreteSchedule(linear_betas(1000)).times(1, spacing).tolist() == [1.0, 0.0]


def test_the_spacings_differ_where_it_matters():
    """Trailing keeps equal steps down from T; uniform keeps them up from the data; respaced has both ends."""
    built = DiscreteSchedule(linear_betas(1000))
    levels = {spacing: (built.times(4, spacing) * 1000).round().int().tolist() for spacing in SPACINGS}
    assert levels == {
        "trailing": [1000, 750, 500, 250, 0],
        "uniform": [751, 501, 251, 1, 0],
        "quadratic": [801, 356, 89, 1, 0],
        "respaced": [1000, 667, 334, 1, 0],
        "logsnr": [1000, 604, 74, 1, 0],
    }


@discrete
@pytest.mark.parametrize("steps", [2, 7, 20, 60])
def test_log_snr_levels_are_the_nearest(block, steps):
    """By brute force, in the other direction: every level of the grid is the nearest to a value, and the other way round."""
    built = default(block, steps=130).build()
    gamma = built.table[1:].numpy()
    nearest = {1 + int(np.argmin(np.abs(gamma - value))) for value in np.linspace(gamma[0], gamma[-1], steps)}
    assert (built.times(steps, "logsnr") * 130).round().int().tolist() == [*sorted(nearest, reverse=True), 0]


def test_log_snr_duplicates_are_removed():
    """Near the data the log-SNR of a linear chain moves by more than a fine grid's step from level to level."""
    assert len(DiscreteSchedule(linear_betas(1000)).times(200, "logsnr")) < 180


@pytest.mark.parametrize("steps", [0, -1, 131])
def test_discrete_grids_that_do_not_exist(steps):
    """One rule for every kind of chain, before the spacing is looked at."""
    built = DiscreteSchedule(cosine_betas(130))
    for spacing in SPACINGS:
        with pytest.raises(ValueError, match=rf"steps is {steps}; allowed: 1 to 130"):
            built.times(steps, spacing)


@pytest.mark.parametrize("spacing", ["uniform", "quadratic"])
def test_one_step_from_next_to_the_data_makes_no_image(spacing):
    with pytest.raises(ValueError, match=f"steps is 1; allowed with sampler.spacing '{spacing}'.*: 2 or more"):
        DiscreteSchedule(linear_betas(1000)).times(1, spacing)


@continuous
def test_continuous_times(block):
    built = default(block).build()
    for steps in (1, 2, 7, 1000):
        np.testing.assert_allclose(built.times(steps, "trailing"), np.linspace(1, 0, steps + 1), atol=1e-15)
    with pytest.raises(ValueError, match="steps is 0; allowed: 1 or more"):
        built.times(0, "trailing")
    for spacing in ("uniform", "quadratic", "respaced"):
        message = rf"sampler\.spacing is '{spacing}'; allowed for a continuous schedule: 'logsnr', 'trailing'"
        with pytest.raises(ValueError, match=message):
            built.times(5, spacing)


@continuous
@pytest.mark.parametrize("steps", [1, 2, 7, 100])
def test_log_snr_times_of_continuous_schedules(block, steps):
    """gamma of the times is a straight line between its ends, whatever the schedule's shape, and costs no gradient."""
    built = default(block).build()
    with torch.no_grad():
        for number, parameter in enumerate(built.parameters()):
            if parameter.dim():
                parameter.mul_(
                    torch.linspace(0.1, 6, parameter.numel()) ** (1 + number)
                )  # away from the near line it begins as
    times = built.times(steps, "logsnr")
    assert times.shape == (steps + 1,)
    assert not times.requires_grad
    assert (float(times[0]), float(times[-1])) == (1.0, 0.0)
    with torch.no_grad():
        gamma = built.gamma(times)
    np.testing.assert_allclose(gamma, np.linspace(float(gamma[0]), float(gamma[-1]), steps + 1), atol=1e-9)
    if block is learned_schedule.MonotoneConfig and steps > 2:
        assert float((times - torch.linspace(1, 0, steps + 1)).abs().max()) > 0.02


@every
def test_gamma_never_falls(block):
    built = default(block).build()
    with torch.no_grad():
        gamma = built.gamma(grid(built))
    assert gamma.dtype == torch.float64
    assert bool((gamma[1:] > gamma[:-1]).all())
    assert bool(gamma[1:].isfinite().all())
    if isinstance(built, DiscreteSchedule):
        assert float(gamma[0]) == -math.inf


@every
def test_gamma_is_a_function_of_each_time_alone(block):
    built = default(block).build()
    t = grid(built)[[70, 3, 70, 100]]
    with torch.no_grad():
        together = built.gamma(t)
        alone = torch.cat([built.gamma(one[None]) for one in t])
    np.testing.assert_allclose(together, alone, rtol=1e-12)
    assert together.shape == (4,)


@every
def test_the_network_sees_the_ends_at_0_and_1(block):
    built = default(block).build()
    with torch.no_grad():
        gamma = built.gamma(grid(built))
        level = built.input(gamma)
    assert level.dtype == torch.float32
    seen = level[1:] if isinstance(built, DiscreteSchedule) else level
    assert (float(seen[0]), float(seen[-1])) == pytest.approx((0.0, 1.0), abs=1e-6)
    assert bool((seen.diff() > 0).all())


@continuous
def test_slope_by_differences(block):
    built = default(block).build()
    t = torch.linspace(0.01, 0.99, 13, dtype=torch.float64)
    gamma, slope = built.gamma_and_slope(t)
    with torch.no_grad():
        np.testing.assert_allclose(gamma.detach(), built.gamma(t), rtol=1e-12)
        difference = (built.gamma(t + 1e-5) - built.gamma(t - 1e-5)) / 2e-5
    np.testing.assert_allclose(slope.detach(), difference, rtol=1e-6)
    assert isinstance(built, ContinuousSchedule)


def test_the_random_walk_is_one_after_rescaling():
    """x_t = x_0 + t unit noises: SNR 1/t; the posterior of x_{t-1} has mean (1 - 1/t) x_t + x_0 / t and variance 1 - 1/t."""
    gamma = DiscreteSchedule(random_walk_betas(50)).table
    t = np.arange(1, 51)
    np.testing.assert_allclose(gamma[1:].exp(), t, rtol=1e-12)
    of_z, of_x = (c.numpy() for c in posterior_coefficients(gamma[:-1], gamma[1:]))
    before, after = np.sqrt(t), np.sqrt(1 + t)  # x_t = sqrt(1 + t) z_t
    np.testing.assert_allclose(before * of_z / after, 1 - 1 / t, atol=1e-12)
    np.testing.assert_allclose(before * of_x, 1 / t, rtol=1e-12)
    np.testing.assert_allclose((before * posterior_std(gamma[:-1], gamma[1:]).numpy()) ** 2, 1 - 1 / t, atol=1e-12)


def test_linear_log_snr_ends():
    built = schedule.LinearLogSNRConfig(kind="linear-logsnr").build()
    assert built.gamma(torch.tensor([0.0, 0.25, 1.0])).tolist() == pytest.approx([-13.3, -13.3 + 18.3 / 4, 5.0], rel=1e-12)


def test_times_off_the_grid_of_a_chain_are_our_mistake():
    with pytest.raises(AssertionError):
        DiscreteSchedule(linear_betas(10)).gamma(torch.tensor([0.123], dtype=torch.float64))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: schedule.LinearBetaConfig(kind="linear-beta", steps=15), "steps is 15"),
        (
            lambda: schedule.LinearLogSNRConfig(kind="linear-logsnr", gamma_min=5.0, gamma_max=5.0),
            "gamma_min is 5.0; allowed: below",
        ),
        (lambda: schedule.CosineBetaConfig(kind="cosine-beta", steps=1), "greater than or equal to 2"),
        (lambda: schedule.RandomWalkConfig(kind="random-walk", steps=1), "greater than or equal to 2"),
    ],
)
def test_schedules_that_do_not_exist(build, message):
    with pytest.raises(ValidationError, match=message):
        build()
