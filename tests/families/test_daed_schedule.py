"""DAED's printed tables, exact merging against a walk by hand, the time samplers, and grids that hold level 1."""

import math

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from pipeline.diffusion.schedule import CosineBetaConfig, DiscreteSchedule, LinearBetaConfig, cosine_betas, linear_betas
from pipeline.families.daed import schedule as split
from pipeline.families.daed.schedule import (
    FirstStepConfig,
    LinearCombineConfig,
    MergedConfig,
    Split,
    TwoPartSchedule,
    merge_at,
    step_probabilities,
)


def read(**block):
    return TypeAdapter(Split).validate_python(block)


def combine(steps, beta):
    return LinearCombineConfig(kind="linear-combine", steps=steps, first=FirstStepConfig(beta=beta)).build()


def alpha_bar(schedule):
    return torch.sigmoid(-schedule.table[1:]).numpy()


# b[0], b[1], b[T-1], ab[0], ab[T-1], the first t of negative log-SNR
TABLE = {
    (500, None): (0.002, 0.00207615, 0.04, 0.998, 2.3859e-5, 111),
    (1000, None): (0.001, 0.00101902, 0.02, 0.999, 2.5652e-5, 222),
    (468, 0.1): (0.1, 0.00222369, 0.042735, 0.9, 2.1305e-5, 94),
    (489, 0.025): (0.025, 0.00212461, 0.0408998, 0.975, 2.3234e-5, 106),
    (445, 0.2): (0.2, 0.0023434, 0.044944, 0.8, None, None),
    (426, 0.3): (0.3, 0.0024524, 0.046948, 0.7, None, None),
    (900, 0.1): (0.1, 0.00113459, 0.0222222, 0.9, 2.2929e-5, 181),
    (979, 0.025): (0.025, 0.00104130, 0.0204290, 0.975, 2.4997e-5, 213),
    (891, 0.2): (0.2, 0.0011463, 0.022447, 0.8, None, None),
}


@pytest.mark.parametrize(("steps", "beta"), TABLE)
def test_schedules_as_printed(steps, beta):
    schedule = read(kind="linear-beta", steps=steps, first=1e-3).build() if beta is None else combine(steps, beta)
    first, second, last, level_1, level_t, turns = TABLE[steps, beta]
    assert isinstance(schedule, TwoPartSchedule)
    assert schedule.steps == steps
    np.testing.assert_allclose(schedule.betas()[[0, 1, -1]], [first, second, last], rtol=3e-5)
    found = alpha_bar(schedule)
    assert found[0] == pytest.approx(level_1, rel=1e-9)
    if level_t is not None:
        assert found[-1] == pytest.approx(level_t, rel=3e-5)
        assert int(np.argmax(found < 0.5)) == turns
    assert schedule.beta_1 == pytest.approx(first, rel=1e-12)


def test_below_ten_steps():
    """0.01 * 100/T to 0.02 * 100/T, the first replaced."""
    np.testing.assert_allclose(combine(5, 0.1).betas(), [0.1, 0.25, 0.3, 0.35, 0.4], rtol=1e-12)
    for steps in (2, 10, 20):
        with pytest.raises(ValidationError, match=f"steps is {steps}|greater than or equal to 3"):
            combine(steps, 0.1)
    assert float(combine(21, 0.1).betas()[-1]) == pytest.approx(20 / 21)


@pytest.mark.parametrize(
    ("steps", "beta", "sp", "remaining"),
    [(500, 0.025, 10, 490), (500, 0.1, 32, 468), (500, 0.2, 54, 446), (500, 0.3, 73, 427), (1000, 0.025, 20, 980),
     (1000, 0.1, 64, 936), (1000, 0.2, 109, 891)],
)  # fmt: skip
def test_merged_steps_as_printed(steps, beta, sp, remaining):
    of = LinearBetaConfig(kind="linear-beta", steps=steps, first=1e-3)
    assert merge_at(of.build(), beta) == sp
    assert MergedConfig(kind="merged", of=of, first=FirstStepConfig(beta=beta)).build().steps == remaining


def test_793_steps_of_the_cosine_chain():
    """Where the paper starts a DDGM of 4000 steps for beta_1 = 0.1."""
    assert merge_at(DiscreteSchedule(cosine_betas(4000)), 0.1) == 793


@pytest.mark.parametrize(("beta", "logsnr"), [(0.025, 3.66), (0.1, 2.197), (0.2, 1.386), (0.3, 0.847)])
def test_first_steps_as_log_snr(beta, logsnr):
    assert -float(combine(100, beta).table[1]) == pytest.approx(logsnr, abs=5e-3)
    assert FirstStepConfig(logsnr=math.log(1 / beta - 1)).beta_1 == pytest.approx(beta, rel=1e-12)
    assert FirstStepConfig(beta=beta).beta_1 == beta


@pytest.mark.parametrize("first", [{}, {"beta": 0.1, "logsnr": 2.197}])
def test_noise_is_given_once(first):
    with pytest.raises(ValidationError, match=r"beta is .* and logsnr is .*; allowed: exactly one of both"):
        FirstStepConfig(**first)


def test_merging_is_exact():
    """The merged step makes alpha-bar what it was, the steps above keep their betas, and the network keeps its input."""
    betas = linear_betas(60).numpy()
    whole = LinearBetaConfig(kind="linear-beta", steps=60)
    sp = int(np.abs(np.cumprod(1 - betas) - 0.8).argmin())
    assert 5 < sp < 30
    merged = MergedConfig(kind="merged", of=whole, first=FirstStepConfig(beta=0.2)).build()
    np.testing.assert_allclose(merged.betas(), [1 - np.prod(1 - betas[: sp + 1]), *betas[sp + 1 :]], rtol=1e-10)
    chain = whole.build()
    assert merged.table[1:].equal(chain.table[sp + 1 :])
    assert merged.input(merged.table[1:]).equal(chain.input(chain.table[sp + 1 :]))
    assert float(merged.input(merged.table[1:2])) > 0.1, "not zero, as it would be for a chain of its own"


def test_merging_of_a_combined_chain():
    of = LinearCombineConfig(kind="linear-combine", steps=200, first=FirstStepConfig(beta=0.05))
    merged = MergedConfig(kind="merged", of=of, first=FirstStepConfig(logsnr=1.0)).build()
    sp = merge_at(of.build(), 1 / (1 + math.e))
    assert merged.table[1:].equal(of.build().table[sp + 1 :])
    assert -float(merged.table[1]) == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize("logsnr", [15.0, -19.0])
def test_first_steps_outside_of_the_chain_are_refused(logsnr):
    with pytest.raises(ValidationError, match=f"first has a log-SNR of {logsnr:.4g}; allowed: "):
        MergedConfig(kind="merged", of=CosineBetaConfig(kind="cosine-beta", steps=100), first=FirstStepConfig(logsnr=logsnr))


def test_a_level_may_be_named_by_its_own_log_snr():
    """To the last digit, the first and the last but one included: composed models write them down so."""
    of = CosineBetaConfig(kind="cosine-beta", steps=100)
    table = of.build().table
    for level in (1, 2, 40, 99):
        merged = MergedConfig(kind="merged", of=of, first=FirstStepConfig(logsnr=-float(table[level])))
        assert merged.build().table[1:].equal(table[level:])


@pytest.mark.parametrize(
    ("steps", "beta", "printed"),
    [(468, 0.1, 0.09109), (489, 0.025, 0.02444), (900, 0.1, 0.09100), (979, 0.025, 0.02441), (891, 0.2, 0.16682)],
)
def test_probability_of_the_first_step_as_printed(steps, beta, printed):
    p = step_probabilities("code", combine(steps, beta))
    assert float(p[0]) == pytest.approx(printed, abs=6e-6)
    np.testing.assert_allclose(p[1:], (1 - float(p[0])) / (steps - 1), rtol=1e-12)


def test_the_three_samplers():
    schedule = combine(50, 0.1)
    b = np.linspace(0.02, 0.4, 50)
    b[0] = 0.1
    np.testing.assert_allclose(step_probabilities("paper", schedule), b / b.sum(), rtol=1e-10)
    np.testing.assert_allclose(step_probabilities("uniform", schedule), np.full(50, 0.02), rtol=1e-12)
    assert float(step_probabilities("code", schedule)[0]) == pytest.approx(5 / 54)


SPACINGS = ("trailing", "uniform", "quadratic", "respaced", "logsnr")


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("steps", [2, 3, 7, 63, 64])
def test_every_grid_ends_with_the_first_step(spacing, steps):
    schedule = combine(64, 0.1)
    levels = schedule.times(steps, spacing) * 64
    assert levels[-2:].tolist() == [1.0, 0.0]
    assert bool((levels.diff() < 0).all())
    assert len(levels) <= steps + 1
    if spacing == "trailing":
        assert len(levels) == steps + 1
        assert float(levels[0]) == 64
        assert float((-levels.diff()[:-1] - 63 / (steps - 1)).abs().max()) < 1.0
    if steps == 64 and spacing != "quadratic" and spacing != "logsnr":
        assert levels.tolist() == list(range(64, -1, -1))
    assert bool(schedule.gamma(levels / 64)[:-1].isfinite().all())


@pytest.mark.parametrize("steps", [0, 1, 65])
def test_numbers_of_steps_that_there_are_not(steps):
    for spacing in SPACINGS:
        with pytest.raises(ValueError, match=f"steps is {steps}; allowed: 2 to 64"):
            combine(64, 0.1).times(steps, spacing)


def test_plain_chains_are_split_too():
    for kind in ("linear-beta", "cosine-beta", "random-walk"):
        block = read(kind=kind, steps=40)
        plain = next(base for base in type(block).__mro__[1:] if base.__module__ != split.__name__)
        built, whole = block.build(), plain(kind=kind, steps=40).build()
        assert built.table.equal(whole.table)
        assert built.input(built.table[1:]).equal(whole.input(whole.table[1:]))
        assert (built.times(4, "trailing") * 40).tolist() == [40, 27, 14, 1, 0]
