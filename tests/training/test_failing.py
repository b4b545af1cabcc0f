"""A training that goes wrong ends in one sentence, keeps its last good checkpoint and overwrites nothing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.config import schema
from pipeline.core import artifacts
from pipeline.core.contracts import Batch, Loss, Random, Trainable
from pipeline.store import models
from pipeline.store.data import write_data
from pipeline.training import job
from pipeline.training.result import Paths
from tests.support import blocks


class Spoils(Trainable):
    """Its gradient is not finite after `last_good`, or it says that it ails from then on."""

    def __init__(self, last_good: int, ails: bool) -> None:
        super().__init__()
        self.weight, self.last_good, self.ails, self.step = nn.Linear(1, 1), last_good, ails, 0

    def optimizer_groups(self) -> Mapping[str, nn.Module]:
        return {"model": self.weight}

    def loss(self, group: str, batch: Batch, step: int, rng: Random) -> Loss:
        value = self.weight(torch.zeros(len(batch.x), 1))[:, 0] ** 2
        if step > self.last_good and not self.ails:
            value = value * torch.nan
        self.step = step
        return Loss(value, {"value": value})

    def failure_symptom(self, parts: Mapping[str, float]) -> str | None:
        return "the other side has won; try a lower rate" if self.ails and self.step > self.last_good else None


@pytest.fixture
def paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Paths:
    images = np.zeros((20, 1, 2, 2), np.uint8)
    splits = {split: (images, np.zeros(20, np.int64)) for split in ("train", "valid")}
    write_data(tmp_path / "data", splits, levels=17, classes=1, extra={})
    monkeypatch.setenv("TRILEMMA_CHECKPOINTS", str(tmp_path / "checkpoints"))
    return Paths(tmp_path / "data", tmp_path / "out", tmp_path / "curve.csv")


def run(monkeypatch: Any, last_good: int, ails: bool) -> schema.Run:
    monkeypatch.setattr(models, "build", lambda cfg, spec, key: Spoils(last_good, ails))
    training = {"steps": 30, "batch": 4, "learning_rate": 0.1, "checkpoint_every": 3, "patience": 5, "precision": "float32"}
    return blocks.run("vdm", training=training)


@pytest.mark.parametrize(
    ("ails", "sentence"),
    [
        (False, "runs.toy: the gradient of model is not finite at step 9; try a lower training.learning_rate"),
        (True, "runs.toy: at step 13, for 5 steps on end: the other side has won; try a lower rate"),
    ],
)
def test_last_good_checkpoint_is_named_and_stays(
    ails: bool, sentence: str, paths: Paths, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Good up to step 8, checkpoints every third step: that of step 6 is what is left. Going on ends in the same way."""
    paths.out.mkdir()
    (paths.out / "model.safetensors").write_bytes(b"of an earlier run")
    cfg = run(monkeypatch, 8, ails)
    for again in (False, True):
        with pytest.raises(ValueError, match="is kept in") as error:
            job.run(cfg, paths, "runs.toy")
        said = str(error.value)
        assert said.startswith(f"{sentence}; the last good checkpoint, of step 6, is kept in ")
        (file,) = (paths.out.parent / "checkpoints").glob("*/newest.safetensors")
        assert str(file.parent) in said
        assert bool(all(value.isfinite().all() for value in artifacts.read_tensors(file).values()))
        assert ("continuing from step 6" in capsys.readouterr().out) is again
    assert (paths.out / "model.safetensors").read_bytes() == b"of an earlier run"
    assert not paths.curve.exists()


def test_end_before_the_first_checkpoint_is_said(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"not finite at step 2; .*; no checkpoint was due yet$"):
        job.run(run(monkeypatch, 1, ails=False), paths, "runs.toy")
