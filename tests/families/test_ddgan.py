from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.config.load import read_block
from pipeline.core.contracts import Batch, DataSpec
from pipeline.core.random import KeyedRandom, RowRandom
from pipeline.families.ddgan import model as ddgan
from pipeline.families.ddgan.schedule import VPBetaConfig
from pipeline.samplers.ancestral import Ancestral
from pipeline.samplers.trajectory import trajectory
from pipeline.training import ema

SPEC = DataSpec((1, 8, 8), 256, 3)
TINY = {
    "generator": {"widths": (16, 16), "latent": 4, "style": 8, "embedding": 8},
    "discriminator": {"widths": (8, 16), "embedding": 8},
}


def model(spec=SPEC, steps=4, size=0.1, **values):
    """With random weights everywhere: layers that begin at zero hide what lies before them."""
    torch.manual_seed(0)
    built = ddgan.build(ddgan.Config(**{"schedule": VPBetaConfig(kind="vp-beta", steps=steps), **TINY, **values}), spec)
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.add_(size * torch.randn(parameter.shape))
    return built


def batch(count=8, spec=SPEC, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return Batch(torch.rand(count, *spec.shape, generator=generator) * 2 - 1, torch.arange(count) % spec.classes)


def softplus(values):
    return np.log1p(np.exp(values))


class Recorded(nn.Module):
    """Stands in for a discriminator: keeps what it is shown, says a linear function of z_s."""

    def __init__(self, slope, offset=0.0):
        super().__init__()
        self.slope, self.offset = nn.Parameter(torch.tensor(slope)), offset
        self.shown = []

    def forward(self, z_s, z_t, time, y=None):
        self.shown.append((z_s, z_t, time))
        return self.slope * z_s.sum((1, 2, 3)) + self.offset


@pytest.mark.parametrize("steps", [1, 2, 4, 8])
def test_losses_are_those_of_the_logits(steps):
    """Non-saturating: softplus(-D(real)) + softplus(D(fake)) against softplus(-D(fake)), by numpy."""
    made = model(steps=steps)
    made.discriminator = critic = Recorded(0.1)
    loss = made.loss("discriminator", batch(), 1, KeyedRandom(0, 1))
    real, fake = (z_s.sum((1, 2, 3)).detach().double().numpy() * 0.1 for z_s, _, _ in critic.shown)
    np.testing.assert_allclose(loss.total.detach(), softplus(-real) + softplus(fake), rtol=1e-5)
    critic.shown.clear()
    loss = made.loss("generator", batch(), 1, KeyedRandom(0, 1))
    (fake,) = (z_s.sum((1, 2, 3)).detach().double().numpy() * 0.1 for z_s, _, _ in critic.shown)
    np.testing.assert_allclose(loss.total.detach(), softplus(-fake), rtol=1e-5)


def test_the_squared_error_of_the_generator():
    """x_hat = 0.6 everywhere; the weight is alpha-bar / (1 - alpha-bar) of the printed products, at most 1."""
    made, data = model(reconstruction=3.0), batch(64)
    made.generator.forward = lambda z_t, level, latent, y: torch.full_like(z_t, 0.6)
    made.discriminator = critic = Recorded(0.1)
    loss = made.loss("generator", data, 1, KeyedRandom(0, 1))
    ((_, _, time),) = critic.shown
    index = (made.schedule.input(made.schedule.table[1:])[None] - time[:, None]).abs().argmin(1)
    alpha_bar = np.array([0.521744692, 0.0786759668, 0.00342887887, 4.31904972e-5])[index]
    squared = ((data.x.double().numpy() - 0.6) ** 2).mean((1, 2, 3))
    np.testing.assert_allclose(loss.parts["error"], np.minimum(alpha_bar / (1 - alpha_bar), 1) * squared, rtol=1e-4)
    torch.testing.assert_close(loss.total, loss.parts["loss"] + 3 * loss.parts["error"])
    assert set(index.tolist()) == {0, 1, 2, 3}


def test_what_the_discriminator_is_shown():
    """Real and fake z_s beside one z_t; the fakes without a gradient, and the last step's real z_s is the data itself."""
    made, data = model(), batch(64)
    made.discriminator = critic = Recorded(0.1)
    made.loss("discriminator", data, 1, KeyedRandom(0, 1))
    (real, z_t, time), (fake, same_z_t, same_time) = critic.shown
    assert z_t.equal(same_z_t) and time.equal(same_time)
    assert not fake.requires_grad
    clean = (real == data.x).flatten(1).all(1)
    assert clean.tolist() == (time == 0).tolist()
    assert 0 < int(clean.sum()) < 64
    assert sorted(set(time.tolist())) == pytest.approx(sorted(made.schedule.input(made.schedule.table[1:]).tolist()))


def test_fakes_come_from_the_posterior():
    """z_s of a fake has the posterior's moments given x_hat and z_t: checked at T = 2, where x_hat is made constant."""
    spec = DataSpec((1, 2, 2), None, 3)
    made = model(spec, steps=2, generator={"widths": (16, 16), "latent": 4})
    made.generator.forward = lambda z_t, level, latent, y: torch.full_like(z_t, 0.6)
    made.discriminator = critic = Recorded(0.1)
    made.loss("discriminator", batch(20_000, spec), 1, KeyedRandom(0, 1))
    _, (fake, z_t, time) = critic.shown
    assert bool((fake[time == 0] - 0.6).abs().max() < 1e-6)
    beta, before, now = 0.999451033, 0.0786760, 4.319e-5
    mean = beta * np.sqrt(before) / (1 - now) * 0.6 + (1 - before) * np.sqrt(1 - beta) / (1 - now) * z_t[time == 1]
    residual = (fake[time == 1] - mean).numpy()
    assert residual.mean() == pytest.approx(0, abs=0.02)
    assert residual.std() == pytest.approx(np.sqrt(beta * (1 - before) / (1 - now)), rel=0.01)
    assert np.corrcoef(residual.flatten(), z_t[time == 1].flatten())[0, 1] == pytest.approx(0, abs=0.02)


def test_groups_draw_their_own_numbers():
    made = model()
    made.discriminator = critic = Recorded(0.1)
    for group in made.optimizer_groups():
        made.loss(group, batch(), 1, KeyedRandom(0, 1))
    (_, z_t, time), _, (_, other_z_t, other_time) = critic.shown
    assert not z_t.equal(other_z_t)
    assert not time.equal(other_time)


@pytest.mark.parametrize(("scale", "factor"), [("published", 1), ("unbiased", 5)])
def test_r1_of_a_known_gradient(scale, factor):
    """D = 0.3 sum z_s has the gradient 0.3 in 64 pixels: (gamma/2) 64 * 0.09, and gamma 64 * 0.3 to train its slope."""
    made = model(r1_gamma=0.7, r1_every=5, r1_scale=scale)
    made.discriminator = critic = Recorded(0.3)
    found = {step: made.loss("discriminator", batch(), step, KeyedRandom(0, 3)) for step in (4, 5)}
    assert set(found[4].parts) == set(found[5].parts)
    assert found[4].parts["r1"].tolist() == [0.0] * 8
    penalty = factor * 0.35 * 64 * 0.09
    assert found[5].parts["r1"].tolist() == pytest.approx([penalty] * 8, rel=1e-5)
    torch.testing.assert_close(found[5].total, found[4].total + penalty)
    (gradient,) = torch.autograd.grad((found[5].total - found[5].parts["loss"]).mean(), critic.slope)
    assert float(gradient) == pytest.approx(factor * 0.7 * 64 * 0.3, rel=1e-4)
    with torch.no_grad():
        assert made.loss("discriminator", batch(), 5, KeyedRandom(0, 3)).parts["r1"].tolist() == [0.0] * 8


def test_r1_is_the_gradient_by_differences_and_knows_no_autocast():
    made, data = model(r1_gamma=2.0, r1_every=1, size=0.2).eval(), batch(2)
    shown = []
    made.discriminator.register_forward_pre_hook(lambda module, given: shown.append(given[:3]))
    plain = made.loss("discriminator", data, 1, KeyedRandom(0, 1)).parts["r1"]
    with torch.autocast("cpu", torch.bfloat16):
        cast = made.loss("discriminator", data, 1, KeyedRandom(0, 1)).parts["r1"]
    assert plain.dtype == cast.dtype == torch.float32
    torch.testing.assert_close(cast, plain.detach(), rtol=1e-4, atol=0)
    z_s, z_t, time = (value.detach() for value in shown[0])
    nudge = 1e-2 * torch.eye(64).reshape(64, 1, 8, 8)
    with torch.no_grad():
        up, down = (
            made.discriminator(z_s[:1] + side * nudge, z_t[:1].expand(64, -1, -1, -1), time[:1].expand(64)) for side in (1, -1)
        )
    slope = (up.double() - down.double()) / 2e-2
    assert float(plain[0].detach()) == pytest.approx(float((slope**2).sum()), rel=0.05)


def test_a_step_of_the_reverse_chain():
    """The posterior at the generator's x_hat, whose latent is a draw per image: other randomness, other images."""
    made = model(size=0.3).eval().requires_grad_(False)
    z_t, s, t = torch.randn(3, 1, 8, 8), torch.full((3,), 0.25), torch.full((3,), 0.5)
    first, other = (made.reverse(z_t, s, t, None, RowRandom(seed, range(3), 1)) for seed in (0, 1))
    assert float((first.x_hat - other.x_hat).abs().max()) > 1e-3
    assert float(first.x_hat.abs().max()) < 1
    expected = 0.849206004 * np.sqrt(0.521744692) * first.x_hat + (1 - 0.521744692) * np.sqrt(1 - 0.849206004) * z_t
    torch.testing.assert_close(first.mean, (expected / (1 - 0.0786759668)).float(), rtol=1e-4, atol=1e-5)
    last = made.reverse(z_t, 0 * s, 0 * t + 0.25, None, RowRandom(0, range(3), 1))
    assert last.mean.equal(last.x_hat) and bool((last.std == 0).all())
    for steps in (1, 2, 8):
        few = model(steps=steps).eval()
        with torch.no_grad():
            *_, (z, _) = trajectory(few, Ancestral(kind="ancestral"), (2, 1, 8, 8), steps, lambda i: RowRandom(0, range(2), i))
        assert float(z.abs().max()) <= 1


def test_x_hat_is_a_draw_of_which_nothing_can_be_solved():
    assert ddgan.Model.samples_x
    assert not ddgan.Model.has_probability_flow


def test_labels_reach_both_networks():
    made = model(labels=True, size=0.05).eval().requires_grad_(False)
    data = batch()
    swapped = Batch(data.x, (data.y + 1) % 3)
    for group in made.optimizer_groups():
        one, other = (made.loss(group, b, 1, KeyedRandom(0, 1)).total for b in (data, swapped))
        assert float((one - other).abs().max()) > 1e-3
    z_t, s, t = torch.randn(3, 1, 8, 8), torch.zeros(3), torch.full((3,), 0.25)
    first, other = (
        made.reverse(z_t, s, t, y, RowRandom(0, range(3), 1)) for y in (torch.tensor([0, 1, 2]), torch.tensor([0, 0, 0]))
    )
    assert float((first.x_hat[1:] - other.x_hat[1:]).abs().amax((1, 2, 3)).min()) > 1e-4
    torch.testing.assert_close(first.x_hat[0], other.x_hat[0])


@pytest.mark.parametrize("count", [1, 3, 6, 8])
def test_validation_takes_batches_of_any_size(count):
    made = model().eval()
    with torch.no_grad():
        for group in made.optimizer_groups():
            loss = made.loss(group, batch(count), 15, KeyedRandom(0, 15))
            for values in (loss.total, *loss.parts.values()):
                assert values.shape == (count,)
                assert bool(values.isfinite().all())


def test_deviation():
    x = torch.tensor([1.0, -1.0, 0.5, -0.5])[:, None, None, None].expand(4, 1, 8, 8)
    assert float(ddgan.relative_deviation(x, x)) == pytest.approx(1)
    assert float(ddgan.relative_deviation(0.1 * x + 0.5, x)) == pytest.approx(0.1, rel=1e-5)
    assert float(ddgan.relative_deviation(x[:1].expand(4, 1, 8, 8), x)) == 0
    assert float(ddgan.relative_deviation(x[:1], x[:1])) == 1
    # Along the pixels of one image there is no variety: the same stripes in every image are a collapse.
    stripes = torch.linspace(-1, 1, 8).expand(4, 1, 8, 8)
    assert float(ddgan.relative_deviation(stripes, x)) == 0


def test_symptoms_of_failure():
    made = model()
    well = {"discriminator/loss": 1.2, "discriminator/r1": 0.0, "generator/loss": 0.9}
    well |= {"generator/error": 0.1, "generator/deviation": 0.9}
    assert made.failure_symptom(well) is None
    won, lost = (made.failure_symptom({**well, "discriminator/loss": value}) for value in (0.003, 0.002))
    assert won.startswith("the discriminator's loss is below 0.01")
    assert won == lost, "the loop counts steps that say the same"
    collapsed = made.failure_symptom({**well, "generator/deviation": 0.02})
    assert collapsed.startswith("the generator has collapsed, as its images differ by less than 5%")
    assert set(well) == {
        f"{group}/{name}" for group in made.optimizer_groups() for name in made.loss(group, batch(), 1, KeyedRandom(0, 1)).parts
    }


def test_batches_that_its_groups_divide():
    """Both ways: what check_training lets through trains, and what it refuses would not."""
    settings = ddgan.Config(**TINY)
    for count in (1, 3, 4, 8, 64):
        settings.check_training(SimpleNamespace(batch=count))
        model().train().loss("discriminator", batch(count), 1, KeyedRandom(0, 1))
    for count in (5, 6, 30):
        with pytest.raises(
            ValueError, match=rf"training\.batch is {count}; allowed with model\.discriminator\.group: 4.* multiples of 4"
        ):
            settings.check_training(SimpleNamespace(batch=count))
        with pytest.raises(AssertionError):
            model().train().loss("discriminator", batch(count), 1, KeyedRandom(0, 1))


def test_refused_settings():
    for values, message in (
        ({"r1_scale": "lazy"}, r"model\.r1_scale is 'lazy'; allowed: 'published' or 'unbiased'"),
        ({"r1_every": 0}, r"model\.r1_every is 0; allowed"),
        ({"generator": {"widths": (24,)}}, r"model\.generator\.widths\.0 is 24; allowed"),
    ):
        with pytest.raises(ValueError, match=message):
            read_block(ddgan.Config, values, "model")


@pytest.mark.slow
def test_a_toy_shows_both_modes_in_their_proportion():
    """Images all of -0.6, three in four, or all of 0.5: as rows of noise they come out near one or the other, three to one.

    The two networks circle around that: the last weights are anywhere on the way, the averaged ones near.
    """
    made = model(
        steps=2,
        size=0.0,
        r1_gamma=0.02,
        r1_every=2,
        r1_scale="unbiased",
        generator={"widths": (16,), "latent": 4, "style": 16, "embedding": 8},
        discriminator={"widths": (16, 32), "embedding": 8},
    )
    rates = {"discriminator": 5e-4, "generator": 5e-4}
    optimizers = {
        group: torch.optim.Adam(owned.parameters(), rates[group], (0.5, 0.9))
        for group, owned in made.optimizer_groups().items()
    }
    average = ema.Average(made)
    for step in range(1, 251):
        darker = torch.rand(64, 1, 1, 1, generator=torch.Generator().manual_seed(step)) < 0.75
        data = Batch(torch.where(darker, -0.6, 0.5).expand(64, 1, 8, 8), torch.zeros(64, dtype=torch.int64))
        for group, optimizer in optimizers.items():
            loss = made.loss(group, data, step, KeyedRandom(0, step))
            optimizer.zero_grad()
            loss.total.mean().backward()
            optimizer.step()
        average.update(made, ema.decay(step, 0.2, 1e4))
    average.swap(made)
    made.eval()
    with torch.no_grad():
        *_, (z, _) = trajectory(made, Ancestral(kind="ancestral"), (400, 1, 8, 8), 2, lambda i: RowRandom(0, range(400), i))
    mean = z.mean((1, 2, 3))
    assert float(((mean + 0.6).abs() < 0.2).float().mean()) == pytest.approx(0.75, abs=0.15)
    assert float(((mean - 0.5).abs() < 0.2).float().mean()) == pytest.approx(0.25, abs=0.15)
