"""What every family promises, for every block of params.yaml: a new family is covered by adding its block."""

import copy
import json
from pathlib import Path

import pytest
import torch

from pipeline.config import plugins
from pipeline.config.family import ClassConditional, FamilyConfig
from pipeline.config.load import load_params, read_block, read_model
from pipeline.core import artifacts
from pipeline.core.contracts import (
    Batch,
    Codec,
    DataSpec,
    DiscreteChainModel,
    FeatureExtractor,
    FiniteStepModel,
    Generative,
    LikelihoodModel,
    Pretrained,
    Trainable,
    UsesPerceptualLoss,
)
from pipeline.core.random import KeyedRandom, RowRandom
from pipeline.diffusion.gaussian import alpha_sigma
from pipeline.families.classifier import model as classifier
from pipeline.store import models
from tests.support import blocks

PARAMS = load_params(Path(__file__).parents[2] / "params.yaml")


def distinct(params):
    """role.name -> block, without those that another one's model block repeats: they would be the same model again."""
    blocks = {f"{role}.{name}": run for role in ("extractors", "codecs", "runs") for name, run in getattr(params, role).items()}
    models = {key: (run.family, json.dumps(run.model, sort_keys=True)) for key, run in blocks.items()}
    first = {model: key for key, model in reversed(models.items())}
    return {key: run for key, run in blocks.items() if first[models[key]] == key}


BLOCKS = distinct(PARAMS)
SPEC = DataSpec((1, 16, 16), 256, 10)
COUNT = 3
# Where optimizer_groups share out the rows of a batch, some of them have none of a small one.
MANY = 32
MODELS = {key: plugins.family(run.family).Model for key, run in BLOCKS.items()}
LABELLED = [key for key, run in BLOCKS.items() if "label_dropout" in plugins.family(run.family).Config.model_fields]
every = pytest.mark.parametrize("key", BLOCKS)


def having(role):
    return pytest.mark.parametrize("key", [key for key, model in MODELS.items() if issubclass(model, role)])


def build(key):
    """With weights drawn again and again from one seed, so that two models of a block are the same."""
    torch.manual_seed(0)
    model = models.build(BLOCKS[key], SPEC, key)
    if isinstance(model, UsesPerceptualLoss) and model.perceives:
        model.perceive(classifier.build(classifier.Config(), SPEC).eval())
    return model


def count(model):
    return COUNT if len(model.optimizer_groups()) == 1 else MANY


def stirred(key):
    """In evaluation mode, with random weights everywhere: layers that begin at zero hide what lies before them."""
    model, generator = build(key), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def batch(seed=0, count=COUNT):
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(SPEC.levels, (count, *SPEC.shape), generator=generator)
    return Batch((2 * codes.float() + 1) / SPEC.levels - 1, torch.randint(10, (count,), generator=generator))


def losses(model, data, step=1):
    torch.manual_seed(5)  # dropout draws from the global generator, as in training
    return {group: model.loss(group, data, step, KeyedRandom(0, step)) for group in model.optimizer_groups()}


@pytest.mark.parametrize(
    "family", [name for name in plugins.names("families") if not issubclass(plugins.family(name).Model, Pretrained)]
)
def test_every_family_has_a_block(family):
    assert family in {run.family for run in BLOCKS.values()}, (
        f"no block of params.yaml has family: {family}, so nothing here tests it; add one under runs:, codecs: or extractors:"
    )


@pytest.mark.parametrize(
    ("role", "method"),
    [
        (Generative, "reverse"),
        (LikelihoodModel, "prior_and_reconstruction"),
        (FiniteStepModel, "posterior"),
        (DiscreteChainModel, "chain_network"),
    ],
)
def test_a_family_has_the_role_whose_methods_it_has(role, method):
    """A model that can do what its classes do not say would be passed over by every test of that role, and by stages too."""
    able = {key for key, model in MODELS.items() if hasattr(model, method)}
    assert able == {key for key, model in MODELS.items() if issubclass(model, role)}
    assert able


@every
def test_a_family_is_config_model_and_build(key):
    module = plugins.family(BLOCKS[key].family)
    built = build(key)
    assert isinstance(built, module.Model)
    assert isinstance(built, Trainable)
    assert isinstance(built, Generative | FeatureExtractor | Codec)
    with pytest.raises(ValueError, match="is not a known key"):
        read_block(module.Config, {**BLOCKS[key].model, "no_such_key": 1}, key)


@having(DiscreteChainModel)
def test_the_network_of_a_chain_can_be_taken_over(key):
    """Its group trains it, and the configuration says how to build it, to read its output and to walk its chain."""
    model, block = build(key), read_model(BLOCKS[key], key)
    assert model.chain_group in model.optimizer_group_names
    trained = {id(parameter) for parameter in model.optimizer_groups()[model.chain_group].parameters()}
    assert trained == {id(parameter) for parameter in model.chain_network().parameters()}
    outputs = SPEC.shape[0] * (2 if block.variance == "learned" else 1)
    again = block.network.build(SPEC, outputs, block.labels)
    assert {name: value.shape for name, value in again.state_dict().items()} == {
        name: value.shape for name, value in model.chain_network().state_dict().items()
    }
    assert block.schedule.build().table.equal(model.schedule.table)
    assert block.prediction in ("eps", "x", "v")
    assert 0 <= block.label_dropout < 1


@every
def test_a_family_answers_what_stages_ask(key):
    """By a base class, and without keys that the family knows nothing of."""
    kind = plugins.family(BLOCKS[key].family).Config
    assert issubclass(kind, FamilyConfig)
    block = read_model(BLOCKS[key], key)
    assert block.class_conditional == BLOCKS[key].model.get("labels", False)
    assert ("labels" in kind.model_fields) == issubclass(kind, ClassConditional)
    assert (block.unconditional_probability is not None) == ("label_dropout" in kind.model_fields)
    for name in {"labels", "label_dropout"} - set(kind.model_fields):
        with pytest.raises(ValueError, match=f"{name} is not a known key"):
            read_block(kind, {**BLOCKS[key].model, name: 0}, key)


@pytest.mark.parametrize(
    ("family", "model", "sentence"),
    [
        ("ddpm", {"schedule": {"kind": "cosine-beta", "steps": 20}, "objective": "vlb"}, r"objective is 'vlb'; .*'simple'$"),
        (
            "daed",
            {
                "schedule": {"kind": "merged", "of": {"kind": "cosine-beta", "steps": 20}, "first": {"beta": 0.1}},
                "objective": "vlb",
            },
            r"objective is 'vlb'; .*'simple'$",
        ),
        ("vdm", {"schedule": {"kind": "learned-linear"}}, "schedule.kind is 'learned-linear'; .* not learned$"),
        (
            "diffenc",
            {"schedule": {"kind": "monotone"}, "kind": "non-trainable"},
            "schedule.kind is 'monotone'; .* not learned$",
        ),
    ],
)
def test_a_loss_that_needs_levels_is_not_built_on_latents(family, model, sentence):
    block = blocks.run(family, model=model, training={"steps": 1, "learning_rate": 0.1})
    assert isinstance(models.build(block, SPEC, "runs.toy"), Trainable)
    with pytest.raises(ValueError, match=rf"^runs\.toy\.model\.{sentence}"):
        models.build(block, LATENTS, "runs.toy")


@every
def test_every_trained_parameter_has_an_owner(key):
    model = build(key)
    owned = [
        parameter
        for module in model.optimizer_groups().values()
        for parameter in module.parameters()
        if parameter.requires_grad
    ]
    assert owned
    assert len(set(owned)) == len(owned), "two optimizer_groups own the same parameter"
    assert set(owned) == {parameter for parameter in model.parameters() if parameter.requires_grad}
    assert set(model.optimizer_groups()) <= set(type(model).optimizer_group_names)


@every
@pytest.mark.parametrize("training", [True, False])
def test_losses_are_per_example_and_finite(key, training):
    model = build(key).train(training)
    for group, loss in losses(model, batch(count=count(model))).items():
        for name, values in {"total": loss.total, **loss.parts}.items():
            assert values.shape == (count(model),), (group, name)
            assert bool(values.isfinite().all()), (group, name)
            assert bool(values.is_floating_point()), (group, name)
        assert loss.parts, group


@every
def test_an_untrained_loss_is_of_a_size_to_train_on(key):
    """Squared errors of about 1, tens of bits/dim at most, ln 10 for ten classes: not thousands, and not solved already.

    OptimizerGroups that share out the rows of a batch have zeros in some, and small weights in what is drawn often.
    """
    model = build(key).eval()
    least = 0.01 if len(model.optimizer_groups()) == 1 else 1e-4
    for group, loss in losses(model, batch(count=count(model))).items():
        assert least < float(loss.total.detach().mean()) < 100, group


@every
def test_gradients_reach_every_parameter_of_a_group(key):
    model = stirred(key).train()
    for group, owned in model.optimizer_groups().items():
        model.zero_grad(set_to_none=True)
        losses(model, batch(count=count(model)))[group].total.mean().backward()
        for name, parameter in owned.named_parameters():
            if parameter.requires_grad:
                assert parameter.grad is not None, (group, name)
                assert bool(parameter.grad.isfinite().all()), (group, name)
                assert float(parameter.grad.abs().max()) > 0, (group, name)


@every
def test_the_same_key_gives_the_same_loss(key):
    """And another step another one, in training, where every loss has something random."""
    data = batch(count=count(build(key)))
    for group in build(key).optimizer_groups():
        first, again, other = (losses(stirred(key).train(), data, step)[group].total.detach() for step in (1, 1, 2))
        assert first.equal(again)
        assert not first.equal(other)


@every
def test_images_of_a_batch_do_not_touch_each_other(key):
    """In evaluation the losses of the first half stay when the others change, and change when it does."""
    model = stirred(key)
    half = (count(model) + 1) // 2
    data, others = batch(count=count(model)), batch(1, count(model))
    x, y = others.x.clone(), others.y.clone()
    x[:half], y[:half] = data.x[:half], data.y[:half]
    for group in model.optimizer_groups():
        with torch.no_grad():
            step = next(step for step in range(1, 50) if bool((losses(model, data, step)[group].total[:half] != 0).any()))
            before, after, changed = (losses(model, b, step)[group].total[:half] for b in (data, Batch(x, y), others))
        torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-5)
        assert bool(((changed - before).abs() > 1e-4 * before.abs()).any())


@every
def test_weights_survive_a_file(key, tmp_path):
    model, fresh = stirred(key), build(key)
    artifacts.write_tensors(tmp_path / "model.safetensors", model.state_dict())
    fresh.load_state_dict(artifacts.read_tensors(tmp_path / "model.safetensors"))
    fresh.eval()
    with torch.no_grad():
        data = batch(count=count(model))
        for group, loss in losses(model, data).items():
            assert losses(fresh, data)[group].total.equal(loss.total)
            assert not losses(build(key).eval(), data)[group].total.equal(loss.total)


def steps_of(model):
    """Pairs s, t of a walk of two steps, or of the shortest that the schedule allows."""
    for steps in (2, 1, 4, 8):
        try:
            times = model.schedule.times(steps, "trailing").tolist()
        except ValueError:
            continue
        return list(zip(times[1:], times[:-1], strict=True))
    raise AssertionError("the schedule allows neither 2, 1, 4 nor 8 steps")


@having(Generative)
def test_generative(key):
    """Shapes, finite numbers, x_hat within the clip, z_t = alpha x_hat + sigma eps_hat, and rows that are on their own."""
    model = stirred(key)
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


@pytest.mark.parametrize("key", [key for key, model in MODELS.items() if issubclass(model, Generative) and key not in LABELLED])
def test_families_without_a_mean_to_guide_refuse_guidance(key):
    with pytest.raises(ValueError, match=r"^guidance is 2\.0; allowed for this family: null"):
        build(key).guide(2.0)


@pytest.mark.parametrize("key", LABELLED)
def test_guidance(key):
    """x_hat moves on the line through what the model says without and with the class."""
    run = BLOCKS[key]
    labelled = run.model_copy(update={"model": {**run.model, "labels": True, "label_dropout": 0.1}})
    torch.manual_seed(0)
    plain = models.build(labelled, SPEC, key).eval()
    with torch.no_grad():
        for parameter in plain.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape))
    z = torch.randn(COUNT, *SPEC.shape, generator=torch.Generator().manual_seed(2))
    y, none = torch.arange(COUNT), torch.full((COUNT,), SPEC.classes)

    def x_hat(model, y):
        s, t = (torch.full((COUNT,), time, dtype=torch.float64) for time in steps_of(model)[0])
        with torch.no_grad():
            return model.reverse(z, s, t, y, RowRandom(0, range(COUNT), 1)).x_hat

    known, unknown = x_hat(plain, y), x_hat(plain, none)
    assert float((known - unknown).abs().max()) > 1e-3
    for strength in (0.0, 1.0, 2.5):
        model = copy.deepcopy(plain)
        model.guide(strength)
        torch.testing.assert_close(x_hat(model, y), unknown + strength * (known - unknown), rtol=1e-3, atol=1e-4)


LATENTS = DataSpec((4, 8, 8), None, 10)


SIMPLE = [
    key
    for key, model in MODELS.items()
    if issubclass(model, Generative) and BLOCKS[key].model.get("objective", "simple") == "simple"
]


@pytest.mark.parametrize("key", SIMPLE)
def test_generative_on_latents(key):
    """Real values beyond [-1, 1] and no levels: what does not need likelihoods of pixels trains and goes back all the same."""
    run = BLOCKS[key]
    torch.manual_seed(0)
    block = {name: value for name, value in run.model.items() if name not in ("encoder", "kind")}
    if run.family == "diffenc":
        block["kind"] = "non-trainable"
    model = models.build(run.model_copy(update={"model": block}), LATENTS, key).train()
    x = 2 * torch.randn(MANY, *LATENTS.shape, generator=torch.Generator().manual_seed(1))
    for group, owned in model.optimizer_groups().items():
        loss = losses(model, Batch(x, torch.arange(MANY) % 10))[group].total
        loss.mean().backward()
        gradients = [parameter.grad for parameter in owned.parameters() if parameter.grad is not None]
        assert gradients
        assert all(bool(gradient.isfinite().all()) for gradient in gradients)
        assert bool(loss.isfinite().all())
    s, t = (torch.full((MANY,), time, dtype=torch.float64) for time in steps_of(model)[0])
    with torch.no_grad():
        found = model.eval().reverse(x, s, t, torch.arange(MANY) % 10, RowRandom(0, range(MANY), 1))
    assert found.x_hat.shape == x.shape
    assert bool(found.mean.isfinite().all())


@having(LikelihoodModel)
def test_bounded(key):
    """Terms per image, finite and not negative, keyed by their rows; times within (0, 1]."""
    model = stirred(key)
    data, uniform = batch(), torch.tensor([0.0, 0.4, 1 - 1e-9], dtype=torch.float64)
    with torch.no_grad():
        ends, again, other = (model.prior_and_reconstruction(data, RowRandom(0, range(COUNT), step)) for step in (1, 1, 2))
        draw = model.diffusion_term(data, uniform, RowRandom(0, range(COUNT), 1))
        first = model.diffusion_term(Batch(data.x[:1], data.y[:1]), uniform[:1], RowRandom(0, range(1), 1))
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


@having(FiniteStepModel)
def test_stepwise(key):
    """A draw of z_t with the true posterior there, which is narrower than the prior and finite for any step."""
    model = stirred(key)
    s, t = (torch.full((COUNT,), time, dtype=torch.float64) for time in (0.3, 0.4))
    with torch.no_grad():
        found = model.posterior(batch(), s, t, RowRandom(0, range(COUNT), 1))
    for values in (found.z_t, found.mean, found.std):
        assert values.shape == (COUNT, *SPEC.shape)
        assert bool(values.isfinite().all())
    assert 0 < float(found.std.min()) <= float(found.std.max()) < 1


@having(FeatureExtractor)
def test_classifying(key):
    model, x = stirred(key), batch().x
    with torch.no_grad():
        features = model.features(x)
        assert features.dim() == 2
        assert model.logits(features).shape == (COUNT, SPEC.classes)
        torch.testing.assert_close(model.features(x[1:2]), features[1:2], rtol=1e-4, atol=1e-5)


@having(Codec)
def test_codec(key):
    model, x = stirred(key), batch().x
    with torch.no_grad():
        latent = model.encode(x)
        assert latent.numel() < x.numel()
        assert model.decode(latent).shape == x.shape
        torch.testing.assert_close(model.encode(x[1:2]), latent[1:2], rtol=1e-4, atol=1e-5)
