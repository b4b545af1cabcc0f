"""DAED: which network sees which step, what both are trained on together, and its bound and samples in closed form."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from scipy import stats

from pipeline.config.load import read_block
from pipeline.core.contracts import Batch, DataSpec
from pipeline.core.random import KeyedRandom, RowRandom
from pipeline.diffusion.gaussian import diffuse
from pipeline.diffusion.prediction import target
from pipeline.families.daed import model as daed
from pipeline.families.ddpm import model as ddpm
from pipeline.samplers.ancestral import Ancestral
from pipeline.samplers.ddim import DDIM
from pipeline.samplers.trajectory import trajectory
from tests.support.exact import GaussianDenoiser, GridRandom, code_grid, images, noise_grid, squared_error
from tests.support.gaussian_ddpm import LEVELS, MEAN, SIDE, SPEC, STD, Fixed, X, bits, expected_bound

TINY = {"kind": "unet", "widths": [16], "embedding": 8}
LINEAR = {"kind": "linear-beta", "steps": 40}
MERGED = {"kind": "merged", "of": LINEAR, "first": {"beta": 0.1}}
SMALL = DataSpec((1, 8, 8), 256, 10)
PLAYERS = ("denoiser", "generator")


def build(spec=SPEC, **values):
    torch.manual_seed(0)
    block = {"schedule": MERGED, "prediction": "v", "network": TINY, **values}
    return daed.build(read_block(daed.Config, block, "model"), spec)


def exact(spec=SPEC, **values):
    """With the exact denoiser of Gaussian data in both places."""
    built = build(spec, **values).eval()
    for group in PLAYERS:
        setattr(built, group, GaussianDenoiser(built.config.prediction, built.schedule, MEAN, STD))
        # A parameter that says nothing, as a group without one has nothing to train.
        getattr(built, group).nothing = torch.nn.Parameter(torch.zeros(1))
    return built


def stirred(**values):
    """Small networks with random weights everywhere."""
    built, generator = build(SMALL, **values), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return built.eval()


def batch(count=24, seed=0):
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(SMALL.levels, (count, *SMALL.shape), generator=generator)
    return Batch((2 * codes.float() + 1) / SMALL.levels - 1, torch.randint(10, (count,), generator=generator))


def merged_betas():
    """Walked by hand: 1 - beta of the merged steps multiply."""
    b = np.linspace(1e-4 * 25, 0.02 * 25, 40)
    sp = int(np.abs(np.cumprod(1 - b) - 0.9).argmin())
    return np.array([1 - np.prod(1 - b[: sp + 1]), *b[sp + 1 :]])


def watch(built):
    """Levels that each network is told, in the order of calls."""
    seen = {group: [] for group in PLAYERS}
    for group in PLAYERS:
        getattr(built, group).register_forward_pre_hook(
            lambda module, arguments, group=group: seen[group].append(arguments[1].tolist())
        )
    return seen


def flat(levels):
    return [level for call in levels for level in call]


@pytest.mark.parametrize("sampling", ["uniform", "code", "paper"])
@pytest.mark.parametrize("weights", [True, False])
def test_both_losses_are_the_mean_of_every_rows_own(sampling, weights):
    """Row by row through the network of its step; p by hand, weights 1/(T p) or none; two predictions."""
    built = stirred(time_sampling=sampling, importance_weights=weights, prediction="v", denoiser_prediction="eps")
    data, rng = batch(128), KeyedRandom(0, 1)
    b = merged_betas()
    p = {"uniform": np.ones(len(b)), "code": np.array([b[0] * len(b), *np.ones(len(b) - 1)]), "paper": b}[sampling]
    p = p / p.sum()
    uniform = np.remainder(float(rng.uniform((1,), "time")) + np.arange(128) / 128, 1)
    index = np.searchsorted(np.cumsum(p), uniform, side="right")
    assert (index == 0).any()
    noise, expected = rng.normal(tuple(data.x.shape), "noise"), []
    for row, i in enumerate(index):
        one = slice(row, row + 1)
        gamma = built.schedule.gamma(torch.tensor([(i + 1) / len(b)]))
        z = diffuse(data.x[one], gamma, noise[one])
        network, prediction = (built.denoiser, "eps") if i == 0 else (built.generator, "v")
        with torch.no_grad():
            said = network(z, built.schedule.input(gamma))
        error = said - target(prediction, data.x[one], noise[one], gamma)
        expected.append(float((error**2).mean()) * (1 / (len(b) * p[i]) if weights else 1))
    losses = {group: built.loss(group, data, 1, rng) for group in PLAYERS}
    for group, own in (("denoiser", index == 0), ("generator", index > 0)):
        np.testing.assert_allclose(losses[group].total.detach(), np.where(own, expected, 0), rtol=1e-4)
        assert set(losses[group].parts) == {"simple"}
        assert losses[group].parts["simple"].equal(losses[group].total)


@pytest.mark.parametrize("sampling", ["uniform", "code", "paper"])
def test_importance_weights_keep_the_expected_loss(sampling):
    """That of even steps, in closed form; without weights it is another one, but for even steps."""
    b = merged_betas()
    alpha_bar, side, count = np.cumprod(1 - b), 8, 6000
    x = code_grid(side, MEAN, STD, LEVELS)
    losses = squared_error(alpha_bar, np.mean((x - MEAN) ** 2), STD) / (1 - alpha_bar)
    p = {"uniform": np.ones(len(b)), "code": np.array([b[0] * len(b), *np.ones(len(b) - 1)]), "paper": b}[sampling]
    for weights, expected in ((True, losses.mean()), (False, p @ losses / p.sum())):
        built = exact(time_sampling=sampling, importance_weights=weights)
        found = [built.loss(group, images(x, count, side), 1, GridRandom()).total.detach().mean() for group in PLAYERS]
        assert float(sum(found)) == pytest.approx(expected, rel=3e-3)
        assert float(found[0]) == pytest.approx((losses[0] / len(b)) if weights else p[0] * losses[0] / p.sum(), rel=3e-2)
    assert (abs(expected / losses.mean() - 1) > 0.1) == (sampling != "uniform")


@pytest.mark.parametrize("sampling", ["uniform", "code", "paper"])
@pytest.mark.parametrize("training", [True, False])
def test_the_denoiser_sees_the_first_step_alone_and_the_generator_all_others(sampling, training):
    """In training, in the bound and in every sampler, however few steps there are."""
    built = stirred(time_sampling=sampling).train(training)
    seen, count = watch(built), 96
    level_1, others = (built.schedule.input(built.schedule.table[part]) for part in (slice(1, 2), slice(2, None)))
    for group in PLAYERS:
        built.loss(group, batch(count), 1, KeyedRandom(0, 1))
    assert len(flat(seen["denoiser"])) + len(flat(seen["generator"])) == count
    with torch.no_grad():
        built.prior_and_reconstruction(batch(4), RowRandom(0, range(4), 1))
        assert len(seen["denoiser"][-1]) == 4
        built.diffusion_term(batch(4), torch.tensor([0.0, 0.3, 0.7, 0.999]), RowRandom(0, range(4), 1))
        for steps, sampler in ((2, DDIM(kind="ddim")), (5, Ancestral(kind="ancestral", spacing="trailing"))):
            calls = {group: len(seen[group]) for group in PLAYERS}
            list(trajectory(built, sampler, (3, *SMALL.shape), steps, partial(RowRandom, 0, range(3))))
            assert len(seen["denoiser"]) == calls["denoiser"] + 1
            assert len(seen["generator"]) == calls["generator"] + steps - 1
    assert set(flat(seen["denoiser"])) == set(level_1.tolist())
    assert set(flat(seen["generator"])) <= set(others.tolist())


def test_a_batch_without_a_row_of_a_group_has_a_gradient_of_zeros():
    built = stirred(time_sampling="uniform", schedule={"kind": "cosine-beta", "steps": 1000}).train()
    seen = watch(built)
    loss = built.loss("denoiser", batch(4), 1, KeyedRandom(0, 1))
    loss.total.mean().backward()
    assert loss.total.tolist() == loss.parts["simple"].tolist() == [0.0] * 4
    assert seen["denoiser"] == []
    for parameter in built.denoiser.parameters():
        assert parameter.grad is not None
        assert float(parameter.grad.abs().max()) == 0
    assert all(parameter.grad is None for parameter in built.generator.parameters())


@pytest.mark.parametrize("objective", ["simple", "vlb"])
def test_gradients_reach_every_parameter_of_a_group_and_none_of_the_other(objective):
    built = stirred(objective=objective, variance="learned" if objective == "vlb" else "small", labels=True).train()
    for group, other in (PLAYERS, PLAYERS[::-1]):
        built.zero_grad(set_to_none=True)
        built.loss(group, batch(96), 1, KeyedRandom(0, 1)).total.mean().backward()
        assert all(float(parameter.grad.abs().max()) > 0 for parameter in getattr(built, group).parameters())
        assert all(parameter.grad is None for parameter in getattr(built, other).parameters())


@pytest.mark.parametrize("part", PLAYERS)
def test_a_part_alone(part):
    """It is trained on its own steps, evenly weighted among themselves, and samples nothing."""
    built, b, side = stirred(parts=part), merged_betas(), 8
    assert list(built.optimizer_groups()) == [part]
    assert {name.split(".")[0] for name in built.state_dict()} == {part, "schedule"}
    x, alpha_bar = code_grid(side, MEAN, STD, LEVELS), np.cumprod(1 - b)
    setattr(built, part, GaussianDenoiser("v", built.schedule, MEAN, STD))
    getattr(built, part).nothing = torch.nn.Parameter(torch.zeros(1))
    losses = squared_error(alpha_bar, np.mean((x - MEAN) ** 2), STD) / (1 - alpha_bar)
    found = built.loss(part, images(x, 3000, side), 1, GridRandom()).total.detach()
    assert bool((found > 0).all())
    own = losses[:1] if part == "denoiser" else losses[1:]
    assert float(found.mean()) == pytest.approx(own.mean(), rel=3e-3)
    z, time = torch.zeros(1, *SMALL.shape), torch.tensor([0.5])
    other = "generator" if part == "denoiser" else "denoiser"
    message = f"trains a {part} alone; combine it with a {other} under composed:"
    for refused in (
        built.config.check_sampling,
        lambda: built.reverse(z, 0 * time, time.fill_(1.0), None, KeyedRandom(0, 0)),
        lambda: built.prior_and_reconstruction(batch(1), KeyedRandom(0, 0)),
        lambda: built.guide(1.0),
    ):
        with pytest.raises(ValueError, match=message):
            refused()
    build().config.check_sampling()


def test_rows_of_all_levels_in_one_call():
    """Each goes through its own network, as if it were alone, and the first step adds no noise."""
    built = stirred(variance="learned", objective="vlb", denoiser_prediction="x")
    steps = built.schedule.steps
    z = torch.randn(4, *SMALL.shape, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([10.0, 1.0, steps, 1.0], dtype=torch.float64) / steps
    s = torch.tensor([1.0, 0.0, 7.0, 0.0], dtype=torch.float64) / steps
    with torch.no_grad():
        together = built.reverse(z, s, t, None, KeyedRandom(0, 0), 1.0)
        for row in range(4):
            one = slice(row, row + 1)
            alone = built.reverse(z[one], s[one], t[one], None, KeyedRandom(0, 0), 1.0)
            for name in ("mean", "std", "x_hat", "eps_hat"):
                torch.testing.assert_close(getattr(together, name)[one], getattr(alone, name), rtol=1e-4, atol=1e-5)
        said = built.denoiser(z[1:2], built.schedule.input(built.schedule.table[1:2]))
    torch.testing.assert_close(together.mean[1:2], said.clamp(-1, 1), rtol=1e-4, atol=1e-5)
    assert together.std.flatten(1).max(1).values.gt(0).tolist() == [True, False, True, False]


def test_the_denoiser_may_be_told_another_level():
    """In a composed model: that which it was trained at."""
    built = stirred(denoiser_level=0.25)
    seen, z = watch(built), torch.zeros(2, *SMALL.shape)
    t = torch.tensor([1.0, 2.0], dtype=torch.float64) / built.schedule.steps
    built.reverse(z, 0 * t, t, None, KeyedRandom(0, 0))
    assert seen["denoiser"] == [[0.25]]
    assert seen["generator"] == [built.schedule.input(built.schedule.table[2:3]).tolist()]


def decoder_bits(b, x, noise):
    """-log2 P of the codes under N(x_hat, beta_1), x_hat = E[x | z_1]."""
    x, noise, a = x[:, None], noise[None], 1 - b[0]
    z = math.sqrt(a) * x + math.sqrt(b[0]) * noise
    made = stats.norm(MEAN + math.sqrt(a) * STD**2 / (a * STD**2 + b[0]) * (z - math.sqrt(a) * MEAN), math.sqrt(b[0]))
    return -np.mean(np.log2(made.cdf(x + 1 / LEVELS) - made.cdf(x - 1 / LEVELS)))


@pytest.mark.parametrize("variance", ["small", "large"])
def test_the_bound_of_gaussian_data(variance):
    """Prior and KL terms as printed for a chain of these betas; the decoder has variance beta_1."""
    b, side, count = merged_betas(), 8, 3000
    built = exact(variance=variance)
    x, noise = code_grid(side, MEAN, STD, LEVELS), noise_grid(side)
    prior, _, diffusion = expected_bound(b, variance, x, noise)
    ends = built.prior_and_reconstruction(images(X, 2, SIDE), GridRandom())
    assert bits(ends.prior) == pytest.approx(expected_bound(b, variance)[0], rel=1e-4)
    assert bits(ends.reconstruction) == pytest.approx(decoder_bits(b, X, noise_grid(SIDE)), rel=1e-4)
    uniform = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    found = built.diffusion_term(images(x, count, side), uniform, GridRandom()).nats.mean() / (side**2 * math.log(2))
    assert float(found) == pytest.approx(diffusion.sum(), abs=1e-3)
    assert prior < 0.1 < float(found)


def test_above_the_first_step_the_bound_is_ddpms():
    """On the same chain with the same networks: equal but for the decoder."""
    built = exact(schedule=LINEAR)
    theirs = ddpm.build(read_block(ddpm.Config, {"schedule": LINEAR, "prediction": "v", "network": TINY}, "m"), SPEC)
    theirs.network = GaussianDenoiser("v", theirs.schedule, MEAN, STD)
    data, uniform = images(X, 5, SIDE), torch.tensor([0.0, 0.2, 0.5, 0.8, 0.99])
    ours = built.diffusion_term(data, uniform, KeyedRandom(0, 1))
    found = theirs.diffusion_term(data, uniform, KeyedRandom(0, 1))
    assert ours.time.equal(found.time)
    torch.testing.assert_close(ours.nats, found.nats, rtol=1e-6, atol=0)
    ours, found = (model.prior_and_reconstruction(data, KeyedRandom(0, 1)) for model in (built, theirs))
    assert ours.prior.equal(found.prior)
    assert not bool((ours.reconstruction == found.reconstruction).any())


@pytest.mark.parametrize("sampling", ["uniform", "code", "paper"])
def test_the_objective_vlb_is_the_bound_without_its_prior_term(sampling):
    b, side, count = merged_betas(), 8, 6000
    x = code_grid(side, MEAN, STD, LEVELS)
    built = exact(SMALL, objective="vlb", variance="large", time_sampling=sampling)
    losses = {group: built.loss(group, images(x, count, side), 1, GridRandom()) for group in PLAYERS}
    found = {group: float(loss.total.detach().mean()) for group, loss in losses.items()}
    diffusion = expected_bound(b, "large", x, noise_grid(side))[2].sum()
    assert found["denoiser"] == pytest.approx(decoder_bits(b, x, noise_grid(side)), rel=3e-2)
    assert found["generator"] == pytest.approx(diffusion, rel=1e-2)
    assert set(losses["generator"].parts) == {"simple", "vlb"}


def test_the_decoder_is_a_squared_error_up_to_a_factor():
    """Why the paper's code may train it on the squared error of x_hat: nats = that / (2 beta_1) and a constant."""
    b, x = merged_betas(), np.linspace(-0.6, 0.6, SIDE)
    built, nats = exact(schedule=MERGED, prediction="x"), []
    guesses = (0.0, 0.2, 0.5)
    for guess in guesses:
        built.denoiser = Fixed(torch.full((1, 1, SIDE, SIDE), guess))
        nats.append(float(built.prior_and_reconstruction(images(x, 1, SIDE), GridRandom()).reconstruction) / SPEC.dimensions)
    squared = [np.mean((x - guess) ** 2) for guess in guesses]
    assert nats[1] - nats[0] == pytest.approx((squared[1] - squared[0]) / (2 * b[0]), rel=1e-3)
    assert nats[2] - nats[0] == pytest.approx((squared[2] - squared[0]) / (2 * b[0]), rel=1e-3)


@pytest.mark.parametrize(
    "sampler", [Ancestral(kind="ancestral", clip=False), DDIM(kind="ddim", clip=False), DDIM(kind="ddim", eta=1.0, clip=False)]
)
@pytest.mark.parametrize("prediction", ["v", "eps"])
def test_samples_of_gaussian_data(sampler, prediction):
    """The generator brings N(alpha_1 mean, alpha_1^2 s^2 + beta_1) to level 1, the denoiser makes E[x | z_1] of it."""
    schedule = {"kind": "merged", "of": {"kind": "cosine-beta", "steps": 300}, "first": {"beta": 0.1}}
    built = exact(schedule=schedule, prediction=prediction)
    random = partial(RowRandom, 0, range(24))
    context = [z for z, _ in trajectory(built, sampler, (24, *SPEC.shape), built.schedule.steps, random)]
    a = 1 - built.schedule.beta_1
    at_level_1 = math.sqrt(a * STD**2 + 1 - a)
    tolerance = {"rel": 0.03}
    assert len(context) == built.schedule.steps + 1
    assert float(context[-2].mean()) == pytest.approx(math.sqrt(a) * MEAN, abs=0.01)
    assert float(context[-2].std()) == pytest.approx(at_level_1, **tolerance)
    assert float(context[-1].mean()) == pytest.approx(MEAN, abs=0.005)
    assert float(context[-1].std()) == pytest.approx(math.sqrt(a) * STD**2 / at_level_1, **tolerance)


def test_guidance_guides_both():
    """Strength 0 is both networks without a class."""
    built, plain = (stirred(labels=True) for _ in range(2))
    built.guide(0.0)
    z = torch.randn(2, *SMALL.shape, generator=torch.Generator().manual_seed(0))
    y, none = torch.tensor([3, 4]), torch.full((2,), SMALL.classes)
    for time in (1 / built.schedule.steps, 1.0):
        t = torch.full((2,), time, dtype=torch.float64)
        with torch.no_grad():
            found, without, with_class = (
                model.reverse(z, 0 * t, t, labels, KeyedRandom(0, 0)).x_hat
                for model, labels in ((built, y), (plain, none), (plain, y))
            )
        torch.testing.assert_close(found, without, rtol=1e-4, atol=1e-5)
        assert float((with_class - without).abs().max()) > 1e-3


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"variance": "learned"}, "variance is 'learned'; allowed with objective: simple"),
        ({"parts": "generator", "denoiser_level": 0.5}, "denoiser_level is given; allowed with parts: generator"),
        ({"schedule": {"kind": "linear-combine", "steps": 100}}, "first is missing; it is required"),
        ({"time_sampling": "code-uniform"}, "time_sampling is 'code-uniform'"),
    ],
)
def test_settings_that_make_no_sense_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        build(**values)
