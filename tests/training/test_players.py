"""OptimizerGroups of one training: what is whose, and how a training ends that has gone wrong."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.config import schema
from pipeline.core.contracts import Batch, Loss, Random, Trainable
from pipeline.store.data import write_data
from pipeline.store.splits import Split
from pipeline.training import loop
from tests.support.blocks import training

CPU = torch.device("cpu")


class Scalar(nn.Module):
    """One weight."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([[value]]))


class Game(Trainable):
    """`push` walks away from `pull` as `pull` follows; a frozen weight takes part in both losses."""

    optimizer_group_names = ("push", "pull")

    def __init__(self, sick: tuple[range, str] = (range(0), "")) -> None:
        super().__init__()
        self.push, self.pull, self.sick = Scalar(1.0), Scalar(-1.0), sick
        self.frozen = nn.Parameter(torch.ones(1, 1), requires_grad=False)
        self.step = 0
        self.required: list[tuple[str, bool, bool, bool]] = []

    def optimizer_groups(self) -> Mapping[str, nn.Module]:
        return {"push": self.push, "pull": self.pull}

    def loss(self, group: str, batch: Batch, step: int, rng: Random) -> Loss:
        weights = self.push.weight, self.pull.weight, self.frozen
        self.required.append((group, *(weight.requires_grad for weight in weights)))  # type: ignore[arg-type]
        distance = self.frozen * (self.push.weight - self.pull.weight)
        value = (-distance if group == "push" else distance**2).expand(len(batch.x), 1)[:, 0]
        self.step = step
        return Loss(value, {"value": value})

    def failure_symptom(self, parts: Mapping[str, float]) -> str | None:
        assert set(parts) == {"push/value", "pull/value"}
        steps, symptom = self.sick
        return symptom if self.step in steps else None


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Split:
    images = np.zeros((20, 1, 2, 2), np.uint8)
    folder = tmp_path_factory.mktemp("data")
    made = write_data(folder, {"train": (images, np.zeros(20, np.int64))}, levels=17, classes=1, extra={})
    return Split(made, "train")


def settings(**values: object) -> schema.Training:
    plain = {"steps": 10, "batch": 4, "learning_rate": 0.1, "warmup": 0, "lr_cooldown_fraction": 0.0, "clip_norm": None}
    return training(**{**plain, **values})


def test_a_groups_loss_costs_nobody_else_a_gradient(split: Split) -> None:
    """While one moves, the weights of the other take no gradient; afterwards all is as it was, the frozen weight too."""
    model, cfg = Game(), settings(steps=2)
    list(loop.fit(split, loop.State(model, cfg), cfg, seed=0, device=CPU))
    assert model.required == [("push", True, False, False), ("pull", False, True, False)] * 2
    assert [parameter.requires_grad for parameter in (model.push.weight, model.pull.weight, model.frozen)] == [
        True,
        True,
        False,
    ]


def test_each_group_has_its_own_rate(split: Split) -> None:
    """AdamW's first step is the learning rate, whatever the gradient."""
    model, cfg = Game(), settings(steps=1, optimizer_groups={"pull": {"learning_rate": 0.4}})
    report = next(loop.fit(split, loop.State(model, cfg), cfg, seed=0, device=CPU))
    assert model.push.weight.item() == pytest.approx(1.1, abs=1e-6)
    assert model.pull.weight.item() == pytest.approx(-0.6, abs=1e-6)
    assert report.learning_rate == pytest.approx({"push": 0.1, "pull": 0.4})


def test_each_group_has_its_own_clipping(split: Split) -> None:
    """The gradient of push is 1 and that of pull -4.2 in size; only pull is clipped, to half."""
    model, cfg = Game(), settings(steps=1, clip_norm=2.0, optimizer_groups={"pull": {"clip_norm": 0.5}})
    state = loop.State(model, cfg)
    next(loop.fit(split, state, cfg, seed=0, device=CPU))
    first = {name: state.optimizers[name].state[getattr(model, name).weight]["exp_avg"].item() for name in ("push", "pull")}
    assert first["push"] == pytest.approx(0.1 * -1.0, rel=1e-4)
    assert first["pull"] == pytest.approx(0.1 * -0.5, rel=1e-4)
    assert state.clipped == {"push": 0, "pull": 1}


def test_a_lasting_symptom_ends_training(split: Split) -> None:
    model, cfg = Game((range(3, 100), "pull has lost")), settings(patience=4)
    state = loop.State(model, cfg)
    steps = loop.fit(split, state, cfg, seed=0, device=CPU)
    assert [next(steps).step for _ in range(5)] == [1, 2, 3, 4, 5]
    assert state.symptom == ("pull has lost", 3)
    with pytest.raises(loop.TrainingFailed, match=r"^at step 6, for 4 steps on end: pull has lost$"):
        next(steps)


def test_a_symptom_that_passes_ends_nothing(split: Split) -> None:
    class Moody(Game):
        def failure_symptom(self, parts: Mapping[str, float]) -> str | None:
            return None if self.step % 4 == 0 else "poor" if self.step % 4 == 1 else "worse"

    cfg = settings(patience=3)
    assert len(list(loop.fit(split, loop.State(Moody(), cfg), cfg, seed=0, device=CPU))) == 10


def test_a_symptom_is_remembered_across_a_checkpoint(split: Split) -> None:
    """Or a training that is killed often enough would never end."""
    cfg = settings(patience=4)
    first = loop.State(Game((range(3, 100), "pull has lost")), cfg)
    for report in loop.fit(split, first, cfg, seed=0, device=CPU):
        if report.step == 4:
            break
    second = loop.State(Game((range(3, 100), "pull has lost")), cfg)
    second.load({name: value.clone() for name, value in first.tensors().items()}, first.record())
    with pytest.raises(loop.TrainingFailed, match="at step 6, for 4 steps on end"):
        list(loop.fit(split, second, cfg, seed=0, device=CPU))
