"""DDPM's simple loss in closed form, and its reverse steps against diffusers."""

from typing import get_args

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler

from pipeline.core.random import KeyedRandom
from pipeline.diffusion.prediction import Prediction
from pipeline.diffusion.schedule import LinearBetaConfig
from pipeline.families.ddpm import model as ddpm
from tests.support.exact import GridRandom, images, squared_error
from tests.support.gaussian_ddpm import (
    MEAN,
    SCHEDULES,
    SIDE,
    SPEC,
    STD,
    STEPS,
    TINY,
    Fixed,
    X,
    betas,
    model,
    predictions,
    schedules,
)


@predictions
@schedules
def test_loss_is_the_mean_squared_error_of_the_prediction(schedule, prediction):
    """Row by row, at t = 1/T .. 1: E (x - x_hat)^2 and what it is for eps and v."""
    b = betas(schedule)
    alpha_bar = np.cumprod(1 - b)
    error = squared_error(alpha_bar, np.mean((X - MEAN) ** 2), STD)
    expected = error * {"x": 1, "eps": alpha_bar / (1 - alpha_bar), "v": 1 / (1 - alpha_bar)}[prediction]
    loss = model(schedule, prediction).loss("model", images(X, STEPS, SIDE), 1, GridRandom(0.5 / STEPS))
    assert loss.total.shape == (STEPS,)
    np.testing.assert_allclose(loss.total, expected, rtol=2e-3, atol=1e-6)


@pytest.mark.parametrize("prediction", ["eps", "v"])
def test_loss_of_an_untrained_network(prediction):
    """It says zero: the loss is the mean square of the target, 1 for eps and sigma^2 E x^2 + alpha^2 for v."""
    config = ddpm.Config(schedule=SCHEDULES["linear"], prediction=prediction, network=TINY)
    loss = ddpm.build(config, SPEC).loss("model", images(X, STEPS, SIDE), 1, GridRandom(0.5 / STEPS))
    alpha_bar = np.cumprod(1 - betas("linear"))
    expected = np.ones(STEPS) if prediction == "eps" else (1 - alpha_bar) * np.mean(X**2) + alpha_bar
    np.testing.assert_allclose(loss.total.detach(), expected, rtol=1e-4)


@predictions
@pytest.mark.parametrize(
    ("variance", "theirs_variance"), [("small", "fixed_small"), ("large", "fixed_large"), ("learned", "learned_range")]
)
@pytest.mark.parametrize("clip", [None, 1.0])
def test_reverse_steps_of_diffusers(prediction, variance, theirs_variance, clip):
    """Mean, standard deviation and x_hat of single steps of 1000 and of jumps between kept ones, down to the data."""
    name = {"eps": "epsilon", "x": "sample", "v": "v_prediction"}[prediction]
    theirs = DDPMScheduler(
        1000, beta_schedule="linear", prediction_type=name, variance_type=theirs_variance, clip_sample=clip is not None
    )
    objective = "vlb" if variance == "learned" else "simple"
    config = ddpm.Config(
        schedule=LinearBetaConfig(kind="linear-beta"),
        prediction=prediction,
        variance=variance,
        objective=objective,
        network=TINY,
    )
    ours = ddpm.build(config, SPEC)
    theirs.alphas_cumprod = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)
    z, output, range_ = torch.randn(3, 3, 1, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    if variance == "learned":
        output = torch.cat([output, range_], 1)
    ours.network = Fixed(output)
    for kept in ([999, 998], [500, 499], [1, 0], [900, 600, 20, 0], [0]):
        theirs.set_timesteps(timesteps=kept)
        for t, s in zip(kept, [*kept[1:], -1], strict=True):
            if s == -1 and t > 0:
                continue  # theirs adds noise there: its variance looks at t alone
            noise = torch.randn(z.shape, generator=torch.Generator().manual_seed(1), dtype=z.dtype)
            step = theirs.step(output, t, z, generator=torch.Generator().manual_seed(1))
            times = (torch.full((3,), (index + 1) / 1000, dtype=torch.float64) for index in (s, t))
            found = ours.reverse(z, *times, None, KeyedRandom(0, 0), clip)
            np.testing.assert_allclose(found.x_hat, step.pred_original_sample, rtol=1e-6, atol=1e-8)
            np.testing.assert_allclose(
                found.mean + found.std * noise, step.prev_sample, rtol=1e-5, atol=1e-6, err_msg=f"{t}, {s}"
            )


def test_all_predictions_step_alike():
    z = torch.randn(2, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    s, t = torch.tensor([0.2, 0.0]), torch.tensor([0.5, 0.025])
    one, *others = (
        model("cosine", prediction).reverse(z, s, t, None, KeyedRandom(0, 0)) for prediction in get_args(Prediction)
    )
    for other in others:
        for name in ("mean", "std", "x_hat", "eps_hat"):
            np.testing.assert_allclose(getattr(other, name), getattr(one, name), atol=2e-4)
    assert float(one.std[1].max()) == 0.0
    assert float(one.std[0].min()) > 0.0


def test_large_variance_is_beta_of_the_jump():
    z = torch.zeros(1, 1, SIDE, SIDE)
    times = torch.tensor([0.25]), torch.tensor([0.5])
    small, large = (
        model("linear", "x", variance).reverse(z, *times, None, KeyedRandom(0, 0)) for variance in ("small", "large")
    )
    alpha_bar = np.cumprod(1 - betas("linear"))[[9, 19]]
    assert float(large.std[0, 0, 0, 0] ** 2) == pytest.approx(1 - alpha_bar[1] / alpha_bar[0], rel=1e-5)
    assert float((small.std / large.std)[0, 0, 0, 0] ** 2) == pytest.approx((1 - alpha_bar[0]) / (1 - alpha_bar[1]), rel=1e-5)
    np.testing.assert_array_equal(small.mean, large.mean)


@pytest.mark.parametrize("time_sampling", ["uniform", "stratified"])
def test_the_first_and_the_last_step_are_trained(time_sampling):
    """Random numbers at both ends of [0, 1) are the losses of the first and of the last level, not of their neighbours."""
    built = model("linear", "eps")
    built.config = built.config.model_copy(update={"time_sampling": time_sampling})
    built.train()
    alpha_bar = np.cumprod(1 - betas("linear"))
    error = squared_error(alpha_bar, np.mean((X - MEAN) ** 2), STD) * alpha_bar / (1 - alpha_bar)
    for offset, step in ((0.0, 0), (1 - 2**-24, STEPS - 1)):
        loss = built.loss("model", images(X, 1, SIDE), 1, GridRandom(offset))
        assert float(loss.total[0]) == pytest.approx(error[step], rel=2e-3)
