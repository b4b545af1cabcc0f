from __future__ import annotations

import pytest
import torch
from torch import nn

from pipeline.training import ema


@pytest.mark.parametrize(
    ("step", "horizon"), [(1, 1.0), (9, 1.0), (10, 1.0), (20, 2.0), (500, 50.0), (4000, 400.0), (40_000, 400.0)]
)
def test_decay_is_one_minus_one_over_the_horizon(step: int, horizon: float) -> None:
    assert ema.decay(step, fraction=0.1, longest=400.0) == pytest.approx(1 - 1 / horizon, abs=1e-15)


def test_whole_run_as_horizon_is_the_running_mean() -> None:
    """With fraction 1 the decay at step n is 1 - 1/n, which makes the average the plain mean of all weights so far."""
    model = nn.Linear(3, 2)
    average = ema.Average(model)
    seen = []
    for step in range(1, 30):
        with torch.no_grad():
            model.weight.copy_(torch.randn(2, 3, generator=torch.Generator().manual_seed(step)))
        seen.append(model.weight.detach().clone())
        average.update(model, ema.decay(step, 1.0, 1e9))
    assert torch.allclose(average.state()["weight"], torch.stack(seen).mean(0), atol=1e-6)


def test_constant_decay_has_geometric_weights() -> None:
    """Closed form: d^n w_0 + (1 - d) sum d^(n - i) w_i; the newest weight counts most, which a swapped lerp would not give."""
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 5.0)
    average = ema.Average(model)
    values = [1.0, -2.0, 7.0]
    for value in values:
        nn.init.constant_(model.weight, value)
        average.update(model, 0.75)
    expected = 0.75**3 * 5.0 + 0.25 * (0.75**2 * values[0] + 0.75 * values[1] + values[2])
    assert average.state()["weight"].item() == pytest.approx(expected, rel=1e-6)


def test_buffers_are_copied_not_averaged() -> None:
    model = nn.BatchNorm1d(2)
    average = ema.Average(model)
    assert model.running_mean is not None
    model.running_mean.fill_(4.0)
    average.update(model, 0.9)
    assert average.state()["running_mean"].tolist() == [4.0, 4.0]


def test_swap_twice_changes_nothing() -> None:
    model = nn.Linear(2, 2)
    average = ema.Average(model)
    own = torch.full((2, 2), 3.0)
    with torch.no_grad():
        held = model.weight.clone()
        model.weight.copy_(own)
    average.swap(model)
    assert torch.equal(model.weight, held)
    assert torch.equal(average.state()["weight"], own)
    average.swap(model)
    assert torch.equal(model.weight, own)
    assert torch.equal(average.state()["weight"], held)


def test_average_does_not_follow_the_model_by_itself() -> None:
    model = nn.Linear(2, 2)
    average = ema.Average(model)
    before = average.state()["weight"].clone()
    nn.init.constant_(model.weight, 9.0)
    assert torch.equal(average.state()["weight"], before)
