"""Improved DDPM with networks of its own: terms of the bound from the printed formulae, who trains what, and the history."""

import math

import numpy as np
import pytest
import torch
from torch.distributions import Normal, kl_divergence

from pipeline.config.load import read_block
from pipeline.core.contracts import Batch, DataSpec
from pipeline.core.random import KeyedRandom
from pipeline.families.ddpm import model as ddpm
from pipeline.networks.unet import UNetConfig
from pipeline.training import loop
from pipeline.training.checkpoint import Checkpoints
from tests.support.blocks import training
from tests.support.encoding import stirred

SPEC, STEPS, COUNT = DataSpec((2, 4, 4), 16, 10), 6, 12
COSINE = {"kind": "cosine-beta", "steps": STEPS}
CPU = torch.device("cpu")


def model(**values):
    torch.manual_seed(0)
    network = {"kind": "unet", "widths": [16], "embedding": 8}
    block = {"schedule": COSINE, "variance": "learned", "objective": "hybrid", "network": network, **values}
    built = ddpm.build(read_block(ddpm.Config, block, "model"), SPEC)
    stirred(built.network, 0.05)
    return built


def batch(count=COUNT, seed=0):
    codes = torch.randint(SPEC.levels, (count, *SPEC.shape), generator=torch.Generator().manual_seed(seed))
    codes[:, :, 0, 0] = SPEC.levels - 1  # the open bins count
    codes[:, :, 0, 1] = 0
    return Batch((2 * codes.float() + 1) / SPEC.levels - 1, torch.zeros(count, dtype=torch.int64))


class Split:
    """What the training loop asks of a split."""

    def __len__(self):
        return 40

    def rows(self, index, device):
        return batch(len(index), int(index.sum()))


def test_terms_of_the_bound_from_the_printed_formulae():
    """log variance = v log beta + (1 - v) log beta tilde with v = (o + 1) / 2, not squashed; KL by torch.distributions, the
    decoder from normal masses; T times each in bits/dim, so that their mean over steps is the sum."""
    built, data = model(objective="vlb", prediction="eps"), batch()
    f = np.cos((np.arange(STEPS + 1) / STEPS + 0.008) / 1.008 * np.pi / 2) ** 2
    beta = torch.tensor(np.minimum(1 - f[1:] / f[:-1], 0.999))
    alpha_bar = torch.cumprod(1 - beta, 0)
    before = torch.cat([torch.ones(1), alpha_bar[:-1]]).double()
    tilde = beta * (1 - before) / (1 - alpha_bar)
    tilde_clipped = torch.cat([tilde[1:2], tilde[1:]])
    # Low-discrepancy steps: 12 images, 6 steps, two images for each.
    rng = KeyedRandom(0, 1)
    with torch.no_grad():
        loss = built.loss("model", data, 1, rng)
    offset = float(rng.uniform((1,), "time"))
    index = np.floor(np.remainder(offset + np.arange(COUNT) / COUNT, 1) * STEPS).astype(int)
    assert sorted(index.tolist()) == sorted([*range(STEPS)] * 2)
    noise = rng.normal(tuple(data.x.shape), "noise").double()
    x, seen = data.x.double(), set()
    for row, i in enumerate(index):
        a, previous, b = alpha_bar[i], before[i], beta[i]
        z = a.sqrt() * x[row] + (1 - a).sqrt() * noise[row]
        level = built.schedule.input(built.schedule.gamma(torch.tensor([(i + 1) / STEPS])))
        with torch.no_grad():
            eps, o = (value.double()[0] for value in built.network(z.float()[None], level).chunk(2, 1))
        x_hat = (z - (1 - a).sqrt() * eps) / a.sqrt()

        def mean(x, z=z, a=a, previous=previous, b=b):
            return b * previous.sqrt() / (1 - a) * x + (1 - previous) * (1 - b).sqrt() / (1 - a) * z

        v = (o + 1) / 2
        std = torch.exp(0.5 * (v * b.log() + (1 - v) * tilde_clipped[i].log()))
        if i:
            nats = kl_divergence(Normal(mean(x[row]), tilde[i].sqrt().expand_as(o)), Normal(mean(x_hat), std)).sum()
        else:
            decoder, half = Normal(mean(x_hat), std), 1 / SPEC.levels
            upper = torch.where(x[row] > 1 - 1.5 * half, 1.0, decoder.cdf(x[row] + half))
            lower = torch.where(x[row] < -1 + 1.5 * half, 0.0, decoder.cdf(x[row] - half))
            nats = -torch.log(upper - lower).sum()
        assert float(loss.total[row]) == pytest.approx(STEPS * float(nats) / (32 * math.log(2)), rel=2e-3), i
        seen.add(i)
    assert seen == set(range(STEPS))
    assert float(o.std()) > 0.02


def gradients(objective, part=None, **values):
    """Of the rows of the last layer: (mean channels, variance channels)."""
    built = model(objective=objective, **values)
    loss = built.loss("model", batch(), 1, KeyedRandom(0, 1))
    chosen = loss.total if part is None else loss.parts[part]
    weight = torch.autograd.grad(chosen.mean(), built.network.head.weight)[0]
    return weight[:2], weight[2:]


def test_hybrid_gradients_at_the_last_layer_of_a_network():
    """Eq. 16: the mean's channels as with L_simple alone, the variance's as with vlb_weight L_vlb alone."""
    simple, bound, hybrid = gradients("hybrid", "simple"), gradients("vlb"), gradients("hybrid", vlb_weight=0.02)
    torch.testing.assert_close(hybrid[0], simple[0], rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(hybrid[1], 0.02 * bound[1], rtol=1e-4, atol=1e-8)
    assert float(simple[1].abs().max()) == 0
    assert min(float(part.abs().max()) for part in (*bound, *hybrid)) > 1e-6


def settings(steps):
    return training(steps=steps, batch=16, learning_rate=1e-3, warmup=0, lr_cooldown_fraction=0.0, precision="float32")


def test_the_history_of_losses_travels_in_a_checkpoint(tmp_path):
    """A resumed run draws the same steps as one that was not stopped, and does not warm up again."""

    def state():
        return loop.State(model(time_sampling="loss-second-moment", schedule={"kind": "cosine-beta", "steps": 3}), settings(8))

    whole, stopped, resumed = state(), state(), state()
    reports = list(loop.fit(Split(), whole, settings(8), 0, CPU))
    for _, _ in zip(range(5), loop.fit(Split(), stopped, settings(8), 0, CPU), strict=False):
        pass
    checkpoints = Checkpoints({"seed": 1}, tmp_path / "out", tmp_path)
    checkpoints.save(stopped.tensors(), stopped.record())
    tensors, record = checkpoints.load()
    resumed.load(tensors, record)
    checkpoints.close()
    assert bool((resumed.model.sampled.count == 10).all()), "warm after 80 losses of 3 steps"
    probabilities = resumed.model.sampled.probabilities()
    assert probabilities.equal(stopped.model.sampled.probabilities())
    assert float(probabilities.max() - probabilities.min()) > 0.05
    uniform = torch.rand(64, generator=torch.Generator().manual_seed(0))
    for one, other in zip(resumed.model.sampled.draw(uniform), stopped.model.sampled.draw(uniform), strict=True):
        assert one.equal(other)
    assert [report.parts for report in loop.fit(Split(), resumed, settings(8), 0, CPU)] == [
        report.parts for report in reports[-3:]
    ]
    assert resumed.model.sampled.history.equal(whole.model.sampled.history)
    # The model that is saved in the end has the history too, not an average of histories.
    assert resumed.average.state()["sampled.history"].equal(whole.model.sampled.history)


@pytest.mark.parametrize("objective", ["vlb", "hybrid"])
def test_the_history_holds_unweighted_losses_of_training_only(objective):
    built = model(time_sampling="loss-second-moment", objective=objective).train()
    for step in range(20):
        built.loss("model", batch(), step, KeyedRandom(0, step))
    before = built.sampled.history.clone()
    assert bool((built.sampled.count == 10).all())
    built.eval().loss("model", batch(), 1, KeyedRandom(0, 1))
    assert built.sampled.history.equal(before)
    index, weight = built.sampled.draw(KeyedRandom(0, 99).uniform((5,), "time"))
    loss = built.train().loss("model", batch(5), 99, KeyedRandom(0, 99))
    assert float((weight.log()).abs().min()) > 0.1
    for step in set(index.tolist()):
        rows = index == step
        unweighted = (loss.total.detach() / weight)[rows]
        torch.testing.assert_close(built.sampled.history[step, -int(rows.sum()) :], unweighted, rtol=1e-6, atol=0)
        torch.testing.assert_close(built.sampled.history[step, : -int(rows.sum())], before[step, int(rows.sum()) :])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"objective": "simple"}, "model: variance is 'learned'; allowed with objective: simple"),
        ({"variance": "large"}, "model: variance is 'large'; allowed with objective: hybrid"),
        ({"vlb_weight": 0.0}, "model.vlb_weight is 0.0; allowed: greater than 0"),
        ({"objective": "hybird"}, "model.objective is 'hybird' (did you mean 'hybrid'?)"),
        ({"time_sampling": "importance"}, "model.time_sampling is 'importance'"),
        ({"schedule": {"kind": "linear-logsnr"}}, "model.schedule.kind is 'linear-logsnr'; allowed: "),
    ],
)
def test_refusals(values, message):
    with pytest.raises(ValueError) as refusal:
        model(**values)
    assert str(refusal.value).startswith(message)
    assert "\n" not in str(refusal.value)


def test_a_network_without_room_for_the_variance_is_not_built():
    """Twice the channels where the variance is learned, and only there."""
    assert model().network.head.weight.shape[0] == 4
    assert model(variance="small", objective="vlb").network.head.weight.shape[0] == 2
    assert UNetConfig(widths=(16,), embedding=8).build(SPEC, 2, False).head.weight.shape[0] == 2
