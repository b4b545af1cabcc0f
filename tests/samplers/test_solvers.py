"""Solvers of the probability flow: their order against its exact end, and their steps against those of diffusers."""

import math

import numpy as np
import pytest
import torch
from diffusers import DPMSolverMultistepScheduler
from scipy.integrate import solve_ivp

from pipeline.diffusion.gaussian import alpha_sigma
from pipeline.diffusion.schedule import DiscreteSchedule, LinearLogSNRSchedule, cosine_betas, linear_betas
from pipeline.samplers.base import SamplerContext
from pipeline.samplers.ddim import DDIM
from pipeline.samplers.dpmpp_2m import DPMSolver
from pipeline.samplers.heun import Heun
from pipeline.samplers.trajectory import trajectory
from tests.support.blocks import default
from tests.support.denoisers import gaussian, two

SCHEDULE = LinearLogSNRSchedule(-8.0, 6.0)
LONG = DiscreteSchedule(linear_betas(1000))
START = np.linspace(-2.2, 2.2, 23)
data = pytest.mark.parametrize("data", [gaussian, two], ids=["gaussian", "mixture"])


def no_randomness(step):
    """In the place of a Random: nothing can be drawn from None."""


def walk(model, sampler, steps, start=START):
    z = torch.tensor(start).reshape(-1, 1, 1, 1)
    return list(trajectory(model, sampler, tuple(z.shape), steps, no_randomness, start=z))


def end(model, sampler, steps, start=START):
    return walk(model, sampler, steps, start)[-1][0].flatten().numpy()


def errors(model, sampler, counts):
    exact = model.flow(START)
    return np.array([np.abs(end(model, sampler, count) - exact).mean() for count in counts])


@data
@pytest.mark.parametrize(("sampler", "order"), [(DDIM, 1), (Heun, 2), (DPMSolver, 2)], ids=["ddim", "heun", "dpmpp_2m"])
def test_order_of_convergence(data, sampler, order):
    """The error falls by 2^order when the steps double; the one of second order is far smaller at the same steps."""
    found = errors(data(SCHEDULE), default(sampler, clip=False), (40, 80, 160, 320))
    np.testing.assert_allclose(np.log2(found[:-1] / found[1:]), order, atol=0.1)
    assert found[-1] < {1: 3e-3, 2: 5e-5}[order]


@data
@pytest.mark.parametrize("schedule", [LONG, DiscreteSchedule(cosine_betas(1000))], ids=["linear", "cosine"])
def test_40_steps_do_what_ddim_does_not_in_100(data, schedule):
    """On their log-SNR grids, whose steps of a chain are rounded to its levels."""
    model = data(schedule)
    start = np.linspace(-1.5, 1.5, 11)

    def error(sampler, steps):
        return float(np.abs(end(model, default(sampler, clip=False), steps, start) - model.flow(start)).mean())

    assert max(error(Heun, 40), error(DPMSolver, 40)) < error(DDIM, 100)
    assert error(DPMSolver, 40) < 0.4 * error(DDIM, 40)


def states(schedule, sampler, steps):
    """xbar = z / alpha at every moment of a context, sigma / alpha there, and x_hat of every step."""
    seen = walk(two(schedule), sampler, steps)
    times = schedule.times(steps, sampler.spacing)
    alpha, sigma = (c.numpy() for c in alpha_sigma(schedule.gamma(times)))
    z = np.array([(z * (alpha[-1] if index == len(seen) - 1 else 1)).flatten().numpy() for index, (z, _) in enumerate(seen)])
    return z, alpha, sigma / alpha, [torch.tensor(x_hat.flatten().numpy()) for _, x_hat in seen[1:]]


@pytest.mark.parametrize("schedule", [SCHEDULE, LONG], ids=["continuous", "chain"])
def test_steps_of_the_multistep_scheduler(schedule):
    """diffusers' DPM-Solver++(2M) from our states: first order at both ends, second order between."""
    z, _, noise, x_hat = states(schedule, default(DPMSolver), 12)
    theirs = DPMSolverMultistepScheduler(algorithm_type="dpmsolver++", solver_order=2, solver_type="midpoint")
    theirs.sigmas = torch.tensor(noise)
    count = len(noise) - 1
    assert count > 8
    for index in range(count):
        theirs._step_index = index
        state = torch.tensor(z[index])
        if index in (0, count - 1):
            expected = theirs.dpm_solver_first_order_update(x_hat[index], sample=state)
        else:
            expected = theirs.multistep_dpm_solver_second_order_update(x_hat[index - 1 : index + 1], sample=state)
        np.testing.assert_allclose(z[index + 1], expected, rtol=1e-9, atol=1e-9, err_msg=str(index))


@pytest.mark.parametrize("schedule", [SCHEDULE, LONG], ids=["continuous", "chain"])
def test_heun_is_the_method_of_textbooks(schedule):
    """On d y / d u = x_hat with y = z / sigma and u = alpha / sigma; the last step, which may be infinite, excepted."""
    model, times = two(schedule), schedule.times(8, "logsnr")
    z, alpha, noise, _ = states(schedule, default(Heun), 8)

    def slope(index, y):
        s, t = (times[i].expand(len(y)) for i in (index + 1, index))
        at = torch.tensor(alpha[index] * noise[index] * y).reshape(-1, 1, 1, 1)
        return model.reverse(at, s, t, None, None, 1.0).x_hat.flatten().numpy()

    for index in range(len(noise) - 2):
        y, length = z[index] / (alpha[index] * noise[index]), 1 / noise[index + 1] - 1 / noise[index]
        here = slope(index, y)
        expected = y + length * (here + slope(index + 1, y + length * here)) / 2
        found = z[index + 1] / (alpha[index + 1] * noise[index + 1])
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9, err_msg=str(index))


@data
def test_one_step_of_heun_against_a_fine_solution(data):
    """scipy's solution of d(z / alpha) = eps_hat d(sigma / alpha), the other form of the flow; the error of a step is cubic."""
    model, long = data(SCHEDULE), []
    for length in (0.02, 0.01):
        times = torch.tensor([0.6, 0.6 - length, 0.0], dtype=torch.float64)

        def eps_hat(noise, xbar):
            t = torch.tensor([(2 * math.log(noise) + 8) / 14], dtype=torch.float64)
            alpha = (1 + noise**2) ** -0.5
            state = torch.tensor(alpha * xbar).reshape(1, 1, 1, -1)
            return model.reverse(state, 0 * t, t, None, None).eps_hat.flatten().numpy()

        (alpha_t, alpha_s, _), (sigma_t, sigma_s, _) = (c.numpy() for c in alpha_sigma(SCHEDULE.gamma(times)))
        ends = (sigma_t / alpha_t, sigma_s / alpha_s)
        exact = solve_ivp(eps_hat, ends, START / alpha_t, rtol=1e-11, atol=1e-12).y[:, -1] * alpha_s
        z = torch.tensor(START).reshape(1, 1, 1, -1)
        found = default(Heun).step(SamplerContext(model, times, no_randomness), 0, z, None)[0].flatten().numpy()
        long.append(np.abs(found - exact).mean())
    assert math.log2(long[0] / long[1]) == pytest.approx(3, abs=0.25)
    assert long[1] < 2e-5


@pytest.mark.parametrize(("sampler", "evaluations"), [(Heun, 19), (DPMSolver, 10)], ids=["heun", "dpmpp_2m"])
@pytest.mark.parametrize("schedule", [SCHEDULE, LONG], ids=["continuous", "chain"])
def test_network_evaluations(schedule, sampler, evaluations):
    model, block = gaussian(schedule), default(sampler)
    walk(model, block, 10)
    assert model.evaluations == block.evaluations(schedule.times(10, "logsnr")) == evaluations


def test_the_step_to_the_data_is_x_hat():
    """gamma(0) = -inf: the step in lambda is infinite, and must leave no NaN."""
    for sampler in (default(Heun), default(DPMSolver)):
        (x, x_hat) = walk(two(LONG), sampler, 10)[-1]
        assert LONG.gamma(torch.zeros(1)).item() == -math.inf
        np.testing.assert_allclose(x, x_hat, rtol=1e-12)


@pytest.mark.parametrize("sampler", [Heun, DPMSolver], ids=["heun", "dpmpp_2m"])
def test_steps_of_unequal_length(sampler):
    """Equal lengths in log-SNR are the default and no condition: here all are twice as long in one half as in the other."""
    assert default(sampler).spacing == "logsnr"
    model = two(SCHEDULE)
    found = []
    for count in (60, 120, 240):
        times = torch.cat([torch.linspace(1, 1 / 3, count // 3 + 1), torch.linspace(1 / 3, 0, 2 * count // 3 + 1)[1:]]).double()
        context, z, before = SamplerContext(model, times, no_randomness), torch.tensor(START).reshape(-1, 1, 1, 1), None
        for index in range(count):
            z, before = default(sampler).step(context, index, z, before)
        x = z.flatten().numpy() * math.sqrt(1 + math.exp(-8))
        found.append(np.abs(x - model.flow(START)).mean())
    np.testing.assert_allclose(np.log2(np.array(found[:-1]) / found[1:]), 2, atol=0.15)
