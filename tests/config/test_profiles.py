"""Every profile in the repository can be read, and the one for GPUs holds the published models."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from pipeline import check
from pipeline.config.load import load_params
from pipeline.core.contracts import DataSpec
from pipeline.store import models
from pipeline.training import ema

REPOSITORY = Path(__file__).parents[2]
PROFILES = sorted([*REPOSITORY.glob("profiles/*.yaml"), *REPOSITORY.glob("tests/profiles/*.yaml")])
GPU = REPOSITORY / "profiles" / "gpu.yaml"
MNIST = DataSpec((1, 28, 28), 256, 10)


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_there_are_profiles() -> None:
    assert {GPU, REPOSITORY / "tests" / "profiles" / "tiny.yaml"} <= set(PROFILES)


@pytest.mark.parametrize("profile", PROFILES, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_every_block_can_be_read(profile: Path) -> None:
    check.check(load_params(profile))


# DiffEnc's table of models at 28 x 28 x 1: score network, encoder. What is beside them, counted by hand: two end points; the
# monotone network's 1 + 1 + 3 x 1024 numbers besides them; and a second output channel, of 128 x 9 weights and a bias.
@pytest.mark.parametrize(
    ("name", "network", "encoder", "schedule"),
    [
        ("ddpm", 8_891_393, 0, 0),
        ("ddpm-hybrid", 8_891_393 + 128 * 9 + 1, 0, 0),
        ("vdm", 8_891_393, 0, 0),
        ("vdm-learned", 8_891_393, 0, 2),
        ("vdm-monotone", 8_891_393, 0, 2 + 2 + 3 * 1024),
        ("diffenc", 8_891_393, 1_903_937, 0),
        ("diffenc-nt", 8_891_393, 0, 0),
    ],
)
def test_published_parameter_counts(name: str, network: int, encoder: int, schedule: int) -> None:
    run = load_params(GPU).runs[name]
    model = models.build(run, MNIST, f"runs.{name}")
    assert isinstance(model.network, nn.Module)
    assert isinstance(model.schedule, nn.Module)
    assert parameters(model.network) == network
    assert parameters(model.schedule) == schedule
    assert parameters(model) == network + encoder + schedule


def test_published_average() -> None:
    """Whatever share of training it is written as, the variational models' average is 0.9999 from early on."""
    runs = load_params(GPU).runs
    for name in ("ddpm", "ddpm-hybrid", "vdm", "vdm-learned", "vdm-monotone", "diffenc", "diffenc-nt"):
        settings = runs[name].training
        for step in (10_000, 2_000_000):
            assert ema.decay(step, settings.ema_fraction, settings.ema_longest) == pytest.approx(0.9999), name


def test_schedules_start_at_the_published_end_points() -> None:
    times = torch.tensor([0.0, 1.0], dtype=torch.float64)
    for name, run in load_params(GPU).runs.items():
        if run.family in ("vdm", "diffenc"):
            schedule = models.build(run, MNIST, f"runs.{name}").schedule
            with torch.no_grad():
                assert schedule.gamma(times).tolist() == pytest.approx([-13.3, 5.0], abs=1e-5), name


def test_chains_of_the_fast_models() -> None:
    """beta_1 and the signal that is left at the end, as printed of T = 468 and of four large steps."""
    runs = load_params(GPU).runs
    for name, levels, first, left in (("daed", 468, 0.1, 2.1305e-5), ("ddgan", 4, 0.478255303, 4.31904972e-5)):
        table = models.build(runs[name], MNIST, f"runs.{name}").schedule.table
        assert len(table) == levels + 1
        assert float(torch.sigmoid(table[1])) == pytest.approx(first, rel=1e-6)
        assert float(torch.sigmoid(-table[-1])) == pytest.approx(left, rel=1e-4)
