from __future__ import annotations

import math

import pytest
import torch
from scipy import stats

from pipeline.core.random import KeyedRandom, RowRandom, derive_seed, generator


def test_same_key_same_numbers_whatever_was_drawn_before() -> None:
    first = KeyedRandom(3, 5).normal((4, 2), "noise")
    torch.manual_seed(99)
    rng = KeyedRandom(3, 5)
    rng.normal((7,), "other")
    rng.uniform((3,), "noise")
    assert torch.equal(rng.normal((4, 2), "noise"), first)


@pytest.mark.parametrize("other", [(4, 5, "noise"), (3, 6, "noise"), (3, 5, "time"), (5, 3, "noise")])
def test_other_seed_step_or_purpose_is_independent(other: tuple[int, int, str]) -> None:
    seed, step, purpose = other
    a = KeyedRandom(3, 5).normal((4000,), "noise")
    b = KeyedRandom(seed, step).normal((4000,), purpose)
    assert abs(float(torch.corrcoef(torch.stack([a, b]))[0, 1])) < 5 / math.sqrt(4000)


def test_key_separates_its_parts() -> None:
    parts = [(1, 23), (12, 3), (123,), ("1", "2", 3), (3, "noise"), (3, "nois", "e")]
    seeds = [derive_seed(*part) for part in parts]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= value < 2**63 for value in seeds)
    assert derive_seed(1, "noise") == derive_seed("1", "noise"), "parts are told apart by their text"


def test_draws_follow_their_distributions() -> None:
    rng = KeyedRandom(0, 0)
    normal, uniform = rng.normal((200, 50), "noise"), rng.uniform((200, 50), "time")
    assert stats.kstest(normal.flatten().numpy(), "norm").pvalue > 1e-3
    assert stats.kstest(uniform.flatten().numpy(), "uniform").pvalue > 1e-3
    assert uniform.min() >= 0
    assert uniform.max() < 1


def test_neighbouring_steps_are_a_sample_of_the_distribution() -> None:
    """One number from each of many keys: counter-like seeds must not show in the numbers."""
    numbers = torch.stack([KeyedRandom(0, step).normal((1,), "noise")[0] for step in range(3000)])
    assert stats.kstest(numbers.numpy(), "norm").pvalue > 1e-3
    assert abs(float(torch.corrcoef(torch.stack([numbers[1:], numbers[:-1]]))[0, 1])) < 5 / math.sqrt(3000)


@pytest.mark.parametrize("draw", ["normal", "uniform"])
@pytest.mark.parametrize("sizes", [[10], [1] * 10, [7, 3]])
def test_rows_do_not_depend_on_how_they_are_batched(draw: str, sizes: list[int]) -> None:
    whole = getattr(RowRandom(2, range(5, 15), 4), draw)((10, 3, 2), "noise")
    parts, first = [], 5
    for size in sizes:
        parts.append(getattr(RowRandom(2, range(first, first + size), 4), draw)((size, 3, 2), "noise"))
        first += size
    assert torch.equal(torch.cat(parts), whole)
    assert len(torch.unique(whole)) == whole.numel(), "rows differ from each other"


def test_rows_differ_by_seed_and_step() -> None:
    base = RowRandom(2, range(4), 1).normal((4, 3), "noise")
    for other in (RowRandom(3, range(4), 1), RowRandom(2, range(4), 2), RowRandom(2, range(4, 8), 1)):
        assert not torch.isclose(other.normal((4, 3), "noise"), base).any()


def test_row_count_must_agree() -> None:
    with pytest.raises(AssertionError):
        RowRandom(0, range(3), 0).normal((4, 2), "noise")


def test_generators_do_not_touch_the_global_one() -> None:
    before = torch.random.get_rng_state()
    KeyedRandom(0, 0).normal((3,), "noise")
    torch.rand(3, generator=generator(1))
    assert torch.equal(torch.random.get_rng_state(), before)
