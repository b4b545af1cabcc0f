"""What every family promises, for every block of params.yaml: a new family is covered by adding its block."""

from pathlib import Path

import pytest
import torch

from pipeline import artifacts, config
from pipeline.diffusion.gaussian import alpha_sigma
from pipeline.roles import Batch, Bounded, Classifying, Codec, DataSpec, Generative, Stepwise, Trainable
from pipeline.training import saved
from pipeline.training.random import KeyedRandom, RowRandom

PARAMS = config.load(Path(__file__).parents[2] / "params.yaml")
BLOCKS = {f"{role}.{name}": run for role in ("extractors", "codecs", "runs") for name, run in getattr(PARAMS, role, {}).items()}
SPEC = DataSpec((1, 16, 16), 256, 10)
COUNT = 3
every = pytest.mark.parametrize("key", BLOCKS)


def build(key):
    """With weights drawn again and again from one seed, so that two models of a block are the same."""
    torch.manual_seed(0)
    return saved.build(BLOCKS[key], SPEC, key)


def stirred(key):
    """In evaluation mode, with random weights everywhere: layers that begin at zero hide what lies before them."""
    model, generator = build(key), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def batch(seed=0):
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(SPEC.levels, (COUNT, *SPEC.shape), generator=generator)
    return Batch((2 * codes.float() + 1) / SPEC.levels - 1, torch.randint(10, (COUNT,), generator=generator))


def losses(model, data, step=1):
    torch.manual_seed(5)  # dropout draws from the global generator, as in training
    return {player: model.loss(player, data, step, KeyedRandom(0, step)) for player in model.players()}


@pytest.mark.parametrize("family", config.families())
def test_every_family_has_a_block(family):
    assert family in {run.family for run in BLOCKS.values()}, (
        f"no block of params.yaml has family: {family}, so nothing here tests it; add one under runs:, codecs: or extractors:"
    )


@every
def test_a_family_is_config_model_and_build(key):
    module = config.family_module(BLOCKS[key])
    built = build(key)
    assert isinstance(built, module.Model)
    assert isinstance(built, Trainable)
    assert isinstance(built, Generative | Classifying | Codec)
    with pytest.raises(ValueError, match="is not a known key"):
        config.read_block(module.Config, {**BLOCKS[key].model, "no_such_key": 1}, key)


@every
def test_every_trained_parameter_has_an_owner(key):
    model = build(key)
    owned = [parameter for module in model.players().values() for parameter in module.parameters() if parameter.requires_grad]
    assert owned
    assert len(set(owned)) == len(owned), "two players own the same parameter"
    assert set(owned) == {parameter for parameter in model.parameters() if parameter.requires_grad}


@every
@pytest.mark.parametrize("training", [True, False])
def test_losses_are_per_example_and_finite(key, training):
    model = build(key).train(training)
    for player, loss in losses(model, batch()).items():
        for name, values in {"total": loss.total, **loss.parts}.items():
            assert values.shape == (COUNT,), (player, name)
            assert bool(values.isfinite().all()), (player, name)
            assert bool(values.is_floating_point()), (player, name)
        assert loss.parts, player


@every
def test_an_untrained_loss_is_of_a_size_to_train_on(key):
    """Squared errors of about 1, tens of bits/dim at most, ln 10 for ten classes: not thousands, and not solved already."""
    for player, loss in losses(build(key).eval(), batch()).items():
        assert 0.01 < float(loss.total.detach().mean()) < 100, player


@every
def test_gradients_reach_every_parameter_of_a_player(key):
    model = stirred(key).train()
    for player, owned in model.players().items():
        model.zero_grad(set_to_none=True)
        losses(model, batch())[player].total.mean().backward()
        for name, parameter in owned.named_parameters():
            if parameter.requires_grad:
                assert parameter.grad is not None, (player, name)
                assert bool(parameter.grad.isfinite().all()), (player, name)
                assert float(parameter.grad.abs().max()) > 0, (player, name)


@every
def test_the_same_key_gives_the_same_loss(key):
    """And another step another one, in training, where every loss has something random."""
    for player in build(key).players():
        first, again, other = (losses(stirred(key).train(), batch(), step)[player].total.detach() for step in (1, 1, 2))
        assert first.equal(again)
        assert not first.equal(other)


@every
def test_images_of_a_batch_do_not_touch_each_other(key):
    """In evaluation the loss of the first image stays when the others change, and changes when it does."""
    model, data, others = stirred(key), batch(), batch(1)
    x, y = others.x.clone(), others.y.clone()
    x[0], y[0] = data.x[0], data.y[0]
    for player in model.players():
        with torch.no_grad():
            before, after, changed = (losses(model, b)[player].total for b in (data, Batch(x, y), others))
        torch.testing.assert_close(after[0], before[0], rtol=1e-4, atol=1e-5)
        assert abs(float(changed[0] - before[0])) > 1e-4 * abs(float(before[0]))


@every
def test_weights_survive_a_file(key, tmp_path):
    model, fresh = stirred(key), build(key)
    artifacts.write_tensors(tmp_path / "model.safetensors", model.state_dict())
    fresh.load_state_dict(artifacts.read_tensors(tmp_path / "model.safetensors"))
    fresh.eval()
    with torch.no_grad():
        for player, loss in losses(model, batch()).items():
            assert losses(fresh, batch())[player].total.equal(loss.total)
            assert not losses(build(key).eval(), batch())[player].total.equal(loss.total)


def steps_of(model):
    """Pairs s, t of the shortest walk from noise to data, and the first step of a longer one."""
    return (
        [(0.0, 1.0), (0.5, 1.0), (0.0, 0.5)] if model.schedule.times(2, "uniform").tolist() == [1.0, 0.5, 0.0] else [(0.0, 1.0)]
    )


@every
def test_generative(key):
    """Shapes, finite numbers, x_hat within the clip, z_t = alpha x_hat + sigma eps_hat, and rows that are on their own."""
    model = stirred(key)
    if not isinstance(model, Generative):
        assert not hasattr(model, "reverse")
        return
    z = torch.randn(COUNT, *SPEC.shape, generator=torch.Generator().manual_seed(2))
    y = torch.arange(COUNT)
    for pair in steps_of(model):
        s, t = (torch.full((COUNT,), time, dtype=torch.float64) for time in pair)
        with torch.no_grad():
            for clip in (None, 1.0):
                found = model.reverse(z, s, t, y, RowRandom(0, range(COUNT), 1), clip)
                for name in ("mean", "std", "x_hat", "eps_hat"):
                    assert getattr(found, name).shape == z.shape, name
                    assert bool(getattr(found, name).isfinite().all()), name
                    assert getattr(found, name).dtype == torch.float32, name
                assert bool((found.std >= 0).all())
                alpha, sigma = (float(value[0]) for value in alpha_sigma(model.schedule.gamma(t)))
                torch.testing.assert_close(alpha * found.x_hat + sigma * found.eps_hat, z, rtol=1e-3, atol=1e-4)
            assert float(found.x_hat.abs().max()) <= 1.0
            for row in range(COUNT):
                one = slice(row, row + 1)
                alone = model.reverse(z[one], s[one], t[one], y[one], RowRandom(0, range(row, row + 1), 1), 1.0)
                torch.testing.assert_close(alone.mean, found.mean[one], rtol=1e-4, atol=1e-4)


@every
def test_bounded(key):
    """Terms per image, finite and not negative, keyed by their rows; times within (0, 1]."""
    model = stirred(key)
    if not isinstance(model, Bounded):
        assert not hasattr(model, "ends")
        return
    data, uniform = batch(), torch.tensor([0.0, 0.4, 1 - 1e-9], dtype=torch.float64)
    with torch.no_grad():
        ends, again, other = (model.ends(data, RowRandom(0, range(COUNT), step)) for step in (1, 1, 2))
        draw = model.diffusion(data, uniform, RowRandom(0, range(COUNT), 1))
        first = model.diffusion(Batch(data.x[:1], data.y[:1]), uniform[:1], RowRandom(0, range(1), 1))
    for values in (ends.prior, ends.reconstruction, draw.nats, draw.time):
        assert values.shape == (COUNT,)
        assert bool(values.isfinite().all())
        assert bool((values >= 0).all())
    assert ends.prior.equal(other.prior), "the prior term is exact"
    assert ends.reconstruction.equal(again.reconstruction)
    assert not ends.reconstruction.equal(other.reconstruction)
    assert bool((draw.time <= 1).all())
    assert bool((draw.time.diff() > 0).all())
    torch.testing.assert_close(first.nats, draw.nats[:1], rtol=1e-3, atol=1e-3)


@every
def test_stepwise(key):
    """A draw of z_t with the true posterior there, which is narrower than the prior and finite for any step."""
    model = stirred(key)
    if not isinstance(model, Stepwise):
        assert not hasattr(model, "posterior")
        return
    s, t = (torch.full((COUNT,), time, dtype=torch.float64) for time in (0.3, 0.4))
    with torch.no_grad():
        found = model.posterior(batch(), s, t, RowRandom(0, range(COUNT), 1))
    for values in (found.z_t, found.mean, found.std):
        assert values.shape == (COUNT, *SPEC.shape)
        assert bool(values.isfinite().all())
    assert 0 < float(found.std.min()) <= float(found.std.max()) < 1


@every
def test_classifying_and_codec(key):
    model, x = stirred(key), batch().x
    with torch.no_grad():
        if isinstance(model, Classifying):
            features = model.features(x)
            assert features.dim() == 2
            assert model.logits(features).shape == (COUNT, SPEC.classes)
            torch.testing.assert_close(model.features(x[1:2]), features[1:2], rtol=1e-4, atol=1e-5)
        if isinstance(model, Codec):
            latent = model.encode(x)
            assert latent.numel() < x.numel()
            assert model.decode(latent).shape == x.shape
            torch.testing.assert_close(model.encode(x[1:2]), latent[1:2], rtol=1e-4, atol=1e-5)
