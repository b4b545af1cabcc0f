"""`defaults:` stands under every block of its role: key by key, the block's own values above."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.config.load import load_params, with_defaults
from tests.support.mistakes import ABSENT, changed, tiny_values, write


def test_a_block_has_what_it_leaves_out_and_keeps_what_it_says(tmp_path: Path) -> None:
    values = changed(tiny_values(), "defaults.training.warmup", 7)
    values = changed(values, "runs.vdm.training.warmup", 3)
    values = changed(values, "defaults.bound.times", 6)
    params = load_params(write(tmp_path, changed(values, "bounds.daed.times", 2)))
    warmups = {name: run.training.warmup for name, run in {**params.runs, **params.codecs, **params.extractors}.items()}
    assert warmups == {**dict.fromkeys(warmups, 7), "vdm": 3}
    assert {name: bound.times for name, bound in params.bounds.items()} == {"ddpm": 6, "daed": 2, "vdm": 6}


def test_mappings_are_merged_and_lists_are_not() -> None:
    shared = {"betas": [0.9, 0.99], "optimizer_groups": {"generator": {"clip_norm": 1.0, "learning_rate": 0.1}, "other": {}}}
    own = {"betas": [0.5], "optimizer_groups": {"generator": {"clip_norm": None}, "discriminator": {}}}
    merged = with_defaults({"defaults": {"training": shared}, "runs": {"a": {"training": own}, "b": {"training": {}}}})
    assert merged == {
        "runs": {
            "a": {
                "training": {
                    "betas": [0.5],
                    "optimizer_groups": {
                        "generator": {"clip_norm": None, "learning_rate": 0.1}, "other": {}, "discriminator": {},
                    },
                }
            },
            "b": {"training": shared},
        }
    }  # fmt: skip


@pytest.mark.parametrize(
    ("defaults", "said"),
    [
        (
            {"trainning": {}},
            r"^defaults\.trainning is not a known key \(did you mean 'training'\?\); allowed here: bound, training$",
        ),
        ([1], r"defaults is \(1,\); allowed: a mapping with the keys bound, training"),
        ({"training": {"warmupp": 3}}, r"training\.warmupp is not a known key \(did you mean 'warmup'\?\)"),
    ],
)
def test_what_cannot_stand_under_a_block_is_refused(defaults: Any, said: str, tmp_path: Path) -> None:
    whole = with_defaults(tiny_values())
    with pytest.raises(ValueError, match=said):
        load_params(write(tmp_path, {**whole, "defaults": defaults}))


def test_a_bad_default_is_told_at_the_blocks_that_leave_it_out(tmp_path: Path) -> None:
    values = changed(tiny_values(), "defaults.bound.times", 1)
    with pytest.raises(ValueError, match=r"bounds\.daed\.times is 1; .* \(1 more problem after this one\)"):
        load_params(write(tmp_path, changed(values, "bounds.ddpm.times", 2)))


def test_without_defaults_every_block_says_all(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"extractors\.convnet\.training\.weight_decay is missing; it is required"):
        load_params(write(tmp_path, changed(tiny_values(), "defaults", ABSENT)))
