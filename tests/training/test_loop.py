from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pipeline import prepare
from pipeline.config import schema
from pipeline.core.contracts import Batch, Loss, Random, Trainable
from pipeline.store import models
from pipeline.store.data import write_data
from pipeline.store.splits import Split
from pipeline.training import loop
from tests.support.blocks import data as data_block
from tests.support.blocks import run as run_block
from tests.support.blocks import training

CPU = torch.device("cpu")


def settings(**values: object) -> schema.Training:
    base = {"steps": 40, "batch": 8, "learning_rate": 0.01, "warmup": 0, "lr_cooldown_fraction": 0.0, "precision": "float32"}
    return training(**{**base, **values})


class Duel(Trainable):
    """Two optimizer groups with losses of their own: `chaser` wants to stand at the target, `target` at 3 and at the
    data's mean.

    `seen` is where the other one stood when a group moved: what tells the order of the updates.
    """

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.chaser, self.target = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
        nn.init.constant_(self.chaser.weight, 0.0)
        nn.init.constant_(self.target.weight, 1.0)
        self.scale = scale
        self.seen: list[tuple[str, int, float, float]] = []

    def optimizer_groups(self) -> Mapping[str, nn.Module]:
        return {"target": self.target, "chaser": self.chaser}

    def loss(self, group: str, batch: Batch, step: int, rng: Random) -> Loss:
        chaser, target = self.chaser.weight[0, 0], self.target.weight[0, 0]
        if self.training:
            self.seen.append((group, step, chaser.item(), target.item()))
        if group == "target":
            distance = (target - 3.0) ** 2
        else:
            distance = self.scale * (chaser - target) ** 2
        total = distance.expand(len(batch.x))
        return Loss(total, {"distance": total, "noise": rng.normal((len(batch.x),), "noise")})


class Broken(Trainable):
    """Its gradient is finite up to a step and not after it, though its loss always is."""

    def __init__(self, last_good: int) -> None:
        super().__init__()
        self.weight = nn.Linear(1, 1)
        self.last_good = last_good

    def optimizer_groups(self) -> Mapping[str, nn.Module]:
        return {"model": self.weight}

    def loss(self, group: str, batch: Batch, step: int, rng: Random) -> Loss:
        value = self.weight(torch.zeros(len(batch.x), 1))[:, 0] ** 2
        if step > self.last_good:
            value = value + torch.sqrt(self.weight.bias - self.weight.bias)  # 0, with an infinite slope
        return Loss(value, {"value": value})


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Split:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 17, (50, 1, 4, 4), dtype=np.uint8)
    folder = tmp_path_factory.mktemp("data")
    made = write_data(folder, {"train": (images, np.zeros(50, np.int64))}, levels=17, classes=1, extra={})
    return Split(made, "train")


def test_two_groups_move_in_turn_with_their_own_losses(split: Split) -> None:
    model = Duel()
    cfg = settings(learning_rate=0.1, steps=300)
    reports = list(loop.fit(split, loop.State(model, cfg), cfg, seed=0, device=CPU))
    order = [(group, step) for group, step, _, _ in model.seen[:4]]
    assert order == [("target", 1), ("chaser", 1), ("target", 2), ("chaser", 2)]
    first, second = model.seen[:2]
    assert first[2:] == (0.0, 1.0)
    # AdamW's first step is the learning rate in the direction of the gradient; the second group sees it, and has not moved.
    assert second[2] == 0.0
    assert second[3] == pytest.approx(1.1, abs=1e-6)
    # Were the target to follow the chaser, it would not arrive at 3.
    assert model.target.weight.item() == pytest.approx(3.0, abs=0.05)
    assert model.chaser.weight.item() == pytest.approx(3.0, abs=0.05)
    assert set(reports[0].parts) == {"target/distance", "target/noise", "chaser/distance", "chaser/noise"}
    assert reports[0].parts["target/distance"] == pytest.approx(4.0)
    assert reports[0].parts["chaser/distance"] == pytest.approx(1.1**2, rel=1e-5)
    assert reports[0].gradient_norm["target"] == pytest.approx(4.0)
    assert [report.step for report in reports] == list(range(1, 301))


def test_clips_are_counted_per_group(split: Split) -> None:
    """The target's gradient, 2 |w - 3|, starts at 4 and falls below 1 on the way; the chaser's, scaled down, never clips."""
    cfg = settings(learning_rate=0.1, steps=60, clip_norm=1.0)
    state = loop.State(Duel(scale=1e-3), cfg)
    reports = list(loop.fit(split, state, cfg, seed=0, device=CPU))
    above = sum(report.gradient_norm["target"] > 1.0 for report in reports)
    assert 0 < above < 60
    assert state.clipped == {"target": above, "chaser": 0}


def test_clipping_bounds_the_step(split: Split) -> None:
    """AdamW hides the size of a first gradient, but not that of a later one: its moments see what is left after clipping."""
    cfg = settings(steps=1, clip_norm=0.5)
    model = Duel()
    state = loop.State(model, cfg)
    report = next(loop.fit(split, state, cfg, seed=0, device=CPU))
    assert report.gradient_norm["target"] == pytest.approx(4.0), "the norm that is reported is that before clipping"
    moment = state.optimizers["target"].state[model.target.weight]["exp_avg"]
    assert moment.item() == pytest.approx((1 - 0.9) * -0.5, rel=1e-4)


def test_no_clipping_when_none_is_asked_for(split: Split) -> None:
    cfg = settings(steps=1, clip_norm=None)
    model = Duel()
    state = loop.State(model, cfg)
    next(loop.fit(split, state, cfg, seed=0, device=CPU))
    moment = state.optimizers["target"].state[model.target.weight]["exp_avg"]
    assert moment.item() == pytest.approx((1 - 0.9) * -4.0, rel=1e-4)
    assert state.clipped == {"target": 0, "chaser": 0}


def test_gradient_that_is_not_finite_ends_training(split: Split) -> None:
    cfg = settings()
    model = Broken(last_good=3)
    state = loop.State(model, cfg)
    steps = loop.fit(split, state, cfg, seed=0, device=CPU)
    assert [next(steps).step for _ in range(3)] == [1, 2, 3]
    with pytest.raises(loop.TrainingFailed, match=r"^the gradient of model is not finite at step 4; [^\n]*learning_rate$"):
        next(steps)
    assert state.step == 3
    assert all(bool(torch.isfinite(value).all()) for value in state.tensors().values()), "the bad step left no trace"


def test_learning_rate_warms_up_stays_and_falls() -> None:
    cfg = settings(steps=100, learning_rate=2.0, warmup=10, lr_cooldown_fraction=0.25)
    rates = [2.0 * loop.rate_factor(step, cfg) for step in range(1, 101)]
    assert rates[:10] == pytest.approx([0.2 * step for step in range(1, 11)])
    assert rates[10:75] == pytest.approx([2.0] * 65)
    # 25 steps down, of which the first is still whole and the last one is not nothing.
    assert rates[75:] == pytest.approx([2.0 * (25 - i) / 25 for i in range(25)])


def test_learning_rate_without_warmup_and_decay_is_constant() -> None:
    cfg = settings(steps=20, learning_rate=0.5, warmup=0, lr_cooldown_fraction=0.0)
    assert {loop.rate_factor(step, cfg) for step in range(1, 21)} == {1.0}


def test_weight_decay_is_for_matrices_and_kernels() -> None:
    network = nn.Sequential(nn.Conv2d(1, 16, 3), nn.GroupNorm(1, 16), nn.Flatten(), nn.Linear(16, 2))
    frozen = nn.Linear(2, 2)
    for parameter in frozen.parameters():
        parameter.requires_grad_(False)
    network.append(frozen)
    decayed, plain = loop.parameter_groups(network, 0.1)

    def shapes(group: dict[str, object]) -> list[tuple[int, ...]]:
        held = group["params"]
        assert isinstance(held, list)
        return sorted(tuple(parameter.shape) for parameter in held)

    assert decayed["weight_decay"] == 0.1
    assert shapes(decayed) == [(2, 16), (16, 1, 3, 3)]
    assert plain["weight_decay"] == 0.0
    assert shapes(plain) == [(2,), (16,), (16,), (16,)]


def test_validation_uses_averaged_weights_and_leaves_the_model(split: Split) -> None:
    """The average of a target on its way from 1 to 3 lags behind it, so its distance is greater; both can be computed."""
    cfg = settings(steps=10, learning_rate=0.1, ema_fraction=1.0, valid_images=20)
    model = Duel()
    state = loop.State(model, cfg)
    list(loop.fit(split, state, cfg, seed=0, device=CPU))
    held = {name: value.clone() for name, value in model.state_dict().items()}
    averaged = state.average.state()["target.weight"].item()
    measured = loop.validate(split, state, cfg, seed=0, device=CPU)
    assert measured["target/distance"] == pytest.approx((averaged - 3) ** 2, rel=1e-5)
    assert measured["target/distance"] > (model.target.weight.item() - 3) ** 2
    assert all(torch.equal(value, held[name]) for name, value in model.state_dict().items())
    assert model.training
    assert loop.validate(split, state, cfg, seed=0, device=CPU) == measured, "the same noise each time"


def test_checkpointed_state_goes_on_as_if_nothing_had_happened(split: Split) -> None:
    cfg = settings(steps=12, learning_rate=0.1)
    whole, first, second = (loop.State(Duel(), cfg) for _ in range(3))
    list(loop.fit(split, whole, cfg, seed=0, device=CPU))
    for report in loop.fit(split, first, cfg, seed=0, device=CPU):
        if report.step == 5:
            break
    tensors = {name: value.clone() for name, value in first.tensors().items()}
    second.load(tensors, first.record())
    list(loop.fit(split, second, cfg, seed=0, device=CPU))
    expected, found = whole.tensors(), second.tensors()
    assert expected.keys() == found.keys()
    assert all(torch.equal(value, found[name]) for name, value in expected.items())
    assert second.clipped == whole.clipped


def test_loaded_moments_lie_in_memory_as_the_weights_do() -> None:
    """A checkpoint has no strides. The fused AdamW walks weights and moments side by side: other strides pair them wrongly."""
    made = run_block(
        "vdm",
        model={"schedule": {"kind": "linear-logsnr"}, "network": {"kind": "unet", "widths": [16], "embedding": 8}},
        training=settings(),
    )
    from pipeline.core.contracts import DataSpec

    def state() -> loop.State:
        return loop.State(models.build(made, DataSpec((1, 8, 8), 17, 10), "runs.toy"), settings())

    old, new = state(), state()
    for optimizer in old.optimizers.values():
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = torch.ones_like(parameter)
        optimizer.step()
    new.load({name: value.contiguous() for name, value in old.tensors().items()}, old.record())
    channels_last = 0
    for optimizer in new.optimizers.values():
        assert len(optimizer.state) == sum(len(group["params"]) for group in optimizer.param_groups)
        for parameter, moments in optimizer.state.items():
            channels_last += not parameter.is_contiguous()
            for name in ("exp_avg", "exp_avg_sq"):
                assert moments[name].stride() == parameter.stride()
    assert channels_last > 0


FAMILIES: dict[str, tuple[dict[str, object], str, float]] = {
    # The part that is watched, and the share of its first value that must not be reached any more.
    "ddpm": ({"schedule": {"kind": "cosine-beta", "steps": 50}, "prediction": "v"}, "model/simple", 0.7),
    "vdm": ({"schedule": {"kind": "linear-logsnr", "gamma_min": -6.0}}, "model/diffusion", 0.7),
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", ["digits", "gaussian"])
def test_loss_falls(family: str, kind: str, tmp_path: Path) -> None:
    model, part, share = FAMILIES[family]
    data = prepare.run(data_block(kind, source={"train": 300, "test": 20} if kind == "gaussian" else {}), tmp_path)
    cfg = settings(steps=80, batch=32, learning_rate=0.003, warmup=5, valid_images=100)
    network = {"kind": "unet", "widths": [16, 32], "embedding": 16}
    run = run_block(family, model={**model, "network": network}, training=cfg)
    torch.manual_seed(0)
    state = loop.State(models.build(run, data.data_spec, "runs.toy"), cfg)
    valid = Split(data, "valid")
    before = loop.validate(valid, state, cfg, seed=1, device=CPU)[part]
    reports = list(loop.fit(Split(data, "train"), state, cfg, seed=0, device=CPU))
    after = loop.validate(valid, state, cfg, seed=1, device=CPU)[part]
    assert all(math.isfinite(report.parts[part]) for report in reports)
    assert after < share * before


def test_part_is_the_mean_over_the_batch(split: Split) -> None:
    """An independent account of what is logged: the mean of the keyed noise that the loss reports as a part."""
    from pipeline.core.random import KeyedRandom

    cfg = settings(steps=2)
    reports = list(loop.fit(split, loop.State(Duel(), cfg), cfg, seed=7, device=CPU))
    expected: Tensor = KeyedRandom(7, 2).normal((8,), "noise").mean()
    assert reports[1].parts["chaser/noise"] == pytest.approx(float(expected), rel=1e-5)
