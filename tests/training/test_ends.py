"""A training that cannot end well ends before it begins, or before it writes."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline import train
from pipeline.core import artifacts
from pipeline.store import models
from pipeline.training import job, loop, reverse_variance
from pipeline.training.checkpoint import Checkpoints
from tests.support.project import Project, values
from tests.support.scratch import DEADLINE, Scratch, wait


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """Data, nothing trained."""
    from pipeline import prepare

    (tmp_path / "project").mkdir()
    made = Project(tmp_path / "project")
    made.write(values())
    assert made.run(prepare.main) == 0
    return made


def refusal(project: Project, capsys: pytest.CaptureFixture[str], status: int, *arguments: str) -> str:
    capsys.readouterr()
    assert project.run(train.main, *arguments) == status
    said = capsys.readouterr()
    assert said.err.startswith("error: ")
    assert said.err.count("\n") == 1, said.err
    assert not project.file("runs/vdm/model.safetensors").exists()
    return said.err.removeprefix("error: ").rstrip("\n")


def test_an_output_folder_that_is_a_file_is_found_before_the_training(
    project: Project, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job, "run", lambda *_: pytest.fail("training began"))
    for name in ("runs", "reports"):
        project.file(name).write_text("mine")
        said = refusal(project, capsys, 1, "vdm")
        assert said == f"{name}: file exists; it is a file where a folder is needed; move it away"
        assert project.file(name).read_text() == "mine"
        project.file(name).unlink()
    assert {entry.name for entry in project.folder.iterdir()} == {"params.yaml", "data"}


def test_two_channels_are_refused_by_hand_too(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    file = project.file("data/prepared/spec.json")
    spec = json.loads(file.read_text())
    file.write_text(json.dumps({**spec, "shape": [2, 8, 8]}))
    said = refusal(project, capsys, 2, "vdm")
    assert said == "data/prepared has images of 2 channels; allowed: 1 (grey) or 3 (red, green, blue)"


@pytest.mark.parametrize("spoilt", ["weights", "losses"])
def test_what_is_not_finite_in_the_end_is_not_written(
    spoilt: str, project: Project, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = loop.validate

    def validate(data: Any, state: Any, *others: Any) -> dict[str, float]:
        found = whole(data, state, *others)
        if spoilt == "losses":
            return {**found, "model/diffusion": float("inf")}
        for name, tensor in state.average.state().items():
            if name == "network.head.weight" or tensor.ndim > 1:
                tensor.view(-1)[0] = torch.nan
                break
        return found

    monkeypatch.setattr(loop, "validate", validate)
    said = refusal(project, capsys, 2, "vdm")
    assert said.startswith(
        {"weights": "runs.vdm has values in ", "losses": "runs.vdm: valid/model/diffusion is inf after "}[spoilt]
    )
    assert said.endswith("; train anew with a lower learning_rate")
    assert not project.file("runs").exists()


def test_a_training_that_ends_after_its_last_step_leaves_nothing_half_written_and_is_continued(
    project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """While the optimal variances are estimated, which may take long."""
    estimate: Callable[..., Any] = reverse_variance.estimate

    def ended(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(reverse_variance, "estimate", ended)
    assert project.run(train.main, "vdm") == 130
    assert capsys.readouterr().err == "interrupted\n"
    assert not project.file("runs").exists()
    monkeypatch.setattr(reverse_variance, "estimate", estimate)
    assert project.run(train.main, "vdm") == 0
    assert "runs.vdm: continuing from step 4\n" in capsys.readouterr().out
    assert set(models.load(project.file("runs/vdm")).variances) == {3, 5}


def test_the_variances_are_those_of_the_averaged_weights_and_the_weights_too(project: Project) -> None:
    """What is written first and estimated later before is now estimated first: neither may see the other's weights."""
    assert project.run(train.main, "vdm") == 0
    found = models.load(project.file("runs/vdm"))
    from pipeline.core.contracts import Generative
    from pipeline.store.data import DataDirectory
    from pipeline.store.splits import Split

    assert isinstance(found.model, Generative)
    again = reverse_variance.estimate(
        found.model, Split(DataDirectory.open(project.file("data/prepared")), "train"), (3, 5), 0, torch.device("cpu")
    )
    assert artifacts.read_json(project.file("runs/vdm/variance.json")) == json.loads(json.dumps(again))


def test_only_checkpoints_of_the_same_output_are_named(tmp_path: Path) -> None:
    made = {"seed": 1, "training": {"steps": 5, "batch": 2}, "threads": 2}

    def saved(made_of: dict[str, Any], output: str, step: int) -> None:
        held = Checkpoints(made_of, tmp_path / output, tmp_path / "checkpoints")
        held.save({"weights": torch.ones(2)}, {"step": step})
        held.close()

    saved({**made, "training": {"steps": 9, "batch": 2}, "threads": 1}, "runs/vdm", 3)
    saved({**made, "seed": 2}, "replicates/vdm-seed-2", 4)
    now = Checkpoints(made, tmp_path / "runs/vdm", tmp_path / "checkpoints")
    now.save({"weights": torch.ones(2)}, {"step": 1})
    assert [(other.step, other.differs) for other in now.others()] == [(3, ("training.steps", "threads"))]
    torn = now.others()[0].folder
    (torn / "newest.safetensors").write_bytes(b"torn")
    assert now.others() == []
    now.clear()
    assert {file.name for file in now.folder.iterdir()} == {"lock"}
    now.close()


def test_a_second_ctrl_c_does_not_wait(tmp_path: Path) -> None:
    """The first one is seen after the step; a step that takes long can be left."""
    scratch = Scratch.make(tmp_path / "fresh", "ddpm")
    loop_file = scratch.code / "pipeline" / "training" / "loop.py"
    text = loop_file.read_text(encoding="utf-8")
    slow = "    while state.step < settings.steps:\n"
    assert slow in text
    loop_file.write_text(
        text.replace(slow, f"{slow}        print('step', flush=True)\n        __import__('time').sleep(60)\n"), encoding="utf-8"
    )
    process = scratch.start()
    assert process.stdout is not None
    wait(process, lambda: process.stdout is not None and "step" in process.stdout.readline())
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert process.poll() is None, "the first waits for the step"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=DEADLINE)
    assert (process.returncode, err) == (130, "interrupted\n")
