"""Stale, damaged and half-written outputs are refused by the command that would read them, with the one that mends them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from pipeline import baselines, bound, compare, evaluate, interpolate, sample
from pipeline.store.fresh import mend
from tests.support.project import STEPS, Project, values

MAINS: dict[str, tuple[Callable[[list[str]], int], list[str]]] = {
    "sample": (sample.main, ["vdm-ddim-5"]),
    "bound": (bound.main, ["vdm"]),
    "evaluate": (evaluate.main, ["vdm-ddim-5"]),
    "baselines": (baselines.main, []),
    "interpolate": (interpolate.main, ["vdm", "--steps", "2"]),
    "compare": (compare.main, []),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return Project.make(tmp_path_factory.mktemp("fresh") / "project")


@pytest.fixture
def project(made: Project, tmp_path: Path) -> Project:
    shutil.copytree(made.folder, tmp_path / "project")
    return Project(tmp_path / "project")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def refusal(project: Project, command: str, capsys: pytest.CaptureFixture[str]) -> str:
    """What `command` says on stderr: one line, status 2, and no file is written or changed."""
    before = contents(project.folder)
    capsys.readouterr()
    main, arguments = MAINS[command]
    assert project.run(main, *arguments) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert said.count("\n") == 1, said
    assert contents(project.folder) == before
    return said.removeprefix("error: ").rstrip("\n")


def changed(*way: str | float) -> Callable[[Project], None]:
    """params.yaml with the last of `way` at the keys before it."""

    def change(project: Project) -> None:
        content = values()
        node: dict[str, Any] = content
        *keys, last, value = way
        for key in keys:
            node = node[str(key)]
        node[str(last)] = value
        project.write(content)

    return change


def described(name: str, **changes: Any) -> Callable[[Project], None]:
    """A JSON file with other values."""

    def change(project: Project) -> None:
        file = project.file(name)
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))

    return change


def written(name: str, content: bytes) -> Callable[[Project], None]:
    return lambda project: (project.file(name).write_bytes(content), None)[1]


def cut(name: str) -> Callable[[Project], None]:
    return lambda project: (project.file(name).write_bytes(project.file(name).read_bytes()[:-50]), None)[1]


def weights(name: str, change: Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]) -> Callable[[Project], None]:
    """model.safetensors with its first matrix changed."""

    def edit(project: Project) -> None:
        tensors = load_file(project.file(name))
        first = next(key for key in sorted(tensors) if tensors[key].ndim > 1)
        tensors[first] = change(tensors[first])
        save_file(tensors, project.file(name))

    return edit


def with_nan(tensor: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    tensor = tensor.copy()
    tensor.flat[3] = np.nan
    return tensor


def retrained(project: Project) -> None:
    weights("runs/vdm/model.safetensors", lambda tensor: tensor + 1)(project)


def widened(project: Project) -> None:
    """The weights of one network beside the description of another."""
    file = project.file("runs/vdm/config.json")
    config = json.loads(file.read_text())
    config["run"]["model"]["network"]["widths"] = [16, 48]
    file.write_text(json.dumps(config))
    content = values()
    content["runs"]["vdm"]["model"]["network"]["widths"] = [16, 48]
    project.write(content)


def other_images(project: Project) -> None:
    file = project.file("samples/vdm-ddim-5/images.npy")
    images = np.load(file)
    images[0, 0, 0, 0] ^= 1
    np.save(file, images)


HEAD = "samples/vdm-ddim-5 was made with samples.vdm-ddim-5."
STALE: dict[str, tuple[Callable[[Project], None], str, str, str]] = {
    # What happened: (change, command, how the sentence begins, the stage that mends it)
    "the sample's block": (
        changed("samples", "vdm-ddim-5", "steps", 7), "evaluate",
        f"{HEAD}steps 5, params.yaml says samples.vdm-ddim-5.steps 7; ", "sample@vdm-ddim-5",
    ),
    "the sample's sampler, before a comparison": (
        changed("samples", "vdm-ddim-5", "sampler", "eta", 0.5), "compare",
        f"{HEAD}sampler.eta 0.0, params.yaml says samples.vdm-ddim-5.sampler.eta 0.5; ", "sample@vdm-ddim-5",
    ),
    "the run was trained again": (
        retrained, "evaluate", "samples/vdm-ddim-5 was made with the weights ", "sample@vdm-ddim-5",
    ),
    "the run's code": (
        described("runs/vdm/config.json", code="0" * 64), "evaluate",
        "samples/vdm-ddim-5 was made before the code of runs/vdm changed; ", "sample@vdm-ddim-5",
    ),
    "sampling broke off after the images": (
        other_images, "evaluate", "samples/vdm-ddim-5/images.npy is not what samples/vdm-ddim-5/sample.json describes",
        "sample@vdm-ddim-5",
    ),
    "the run's block, before sampling": (
        changed("runs", "vdm", "training", "steps", 60), "sample",
        f"runs/vdm was made with runs.vdm.training.steps {STEPS}, params.yaml says runs.vdm.training.steps 60; ", "train@vdm",
    ),
    "the run's block, before a bound": (
        changed("runs", "vdm", "model", "schedule", "gamma_min", -9.0), "bound",
        "runs/vdm was made with runs.vdm.model.schedule.gamma_min -8.0, params.yaml says ", "train@vdm",
    ),
    "the run's block, before interpolating": (
        changed("runs", "vdm", "seed", 5), "interpolate", "runs/vdm was made with runs.vdm.seed 0, params.yaml says ",
        "train@vdm",
    ),
    "what all runs share": (
        changed("defaults", "training", "weight_decay", 0.1), "sample",
        "runs/vdm was made with runs.vdm.training.weight_decay ", "train@vdm",
    ),
    "the extractor's block": (
        changed("extractors", "convnet", "seed", 3), "baselines",
        "extractors/convnet was made with extractors.convnet.seed 0, ", "extractor@convnet",
    ),
    "the settings of a measurement": (
        changed("evaluate", "metrics", "prdc", "nearest_k", 5), "compare",
        "evaluations/vdm-ddim-5 was measured with evaluate.metrics.prdc.nearest_k 3, params.yaml says ", "evaluate@vdm-ddim-5",
    ),
    "the extractor of a measurement": (
        weights("extractors/convnet/model.safetensors", lambda tensor: tensor + 1), "compare",
        "evaluations/vdm-ddim-5 was measured with the weights ", "evaluate@vdm-ddim-5",
    ),
    "a sample made anew, not measured": (
        described("samples/vdm-ddim-5/sample.json", share_of_pixels_beyond_range=0.5), "compare",
        "evaluations/vdm-ddim-5 was measured on another sample than samples/vdm-ddim-5 is now; ", "evaluate@vdm-ddim-5",
    ),
    "the baselines' settings": (
        described("evaluations/baselines/details.json", made_of={
            "evaluate": {}, "near_duplicate_grey_levels": 1.5, "extractor": "",
        }), "compare", "evaluations/baselines was measured with evaluate.", "baselines",
    ),
    "a bound's block": (
        changed("bounds", "vdm", "images", 8), "compare",
        "bounds/vdm was measured with bounds.vdm.images 6, params.yaml says bounds.vdm.images 8; ", "bound@vdm",
    ),
    "a bound's weights": (
        described("bounds/vdm/details.json", weights="0" * 64), "compare",
        "bounds/vdm was measured with the weights 00000000 of runs/vdm, which has ", "bound@vdm",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", STALE)
def test_the_stale_is_refused(what: str, project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    change, command, begins, stage = STALE[what]
    change(project)
    said = refusal(project, command, capsys)
    assert said.startswith(begins), said
    assert said.endswith(f"run: dvc repro {stage}"), said


MODEL, CONFIG, SPEC = "runs/vdm/model.safetensors", "runs/vdm/config.json", "data/prepared/spec.json"
IMAGES, RECORD = "samples/vdm-ddim-5/images.npy", "samples/vdm-ddim-5/sample.json"
TEST_IMAGES, TEST_LABELS = "data/prepared/test.images.npy", "data/prepared/test.labels.npy"
DAMAGED: dict[str, tuple[Callable[[Project], None], str, str, str]] = {
    "weights cut off": (cut(MODEL), "bound", f"{MODEL} is damaged (", "train@vdm"),
    "no weights in the file": (written(MODEL, b""), "sample", f"{MODEL} is damaged (", "train@vdm"),
    "weights of another network": (widened, "sample", f"{MODEL} does not fit the model that config.json", "train@vdm"),
    "an empty configuration": (written(CONFIG, b""), "sample", f"{CONFIG} is not JSON (", "train@vdm"),
    "a configuration of nothing": (written(CONFIG, b"{}"), "sample", f"{CONFIG} has no run; ", "train@vdm"),
    "a configuration without data": (described(CONFIG, data={}), "bound", f"{CONFIG} has no data.shape; ", "train@vdm"),
    "bytes for a configuration": (written(CONFIG, b"\xff\xfe\x00"), "bound", f"{CONFIG} is not JSON (", "train@vdm"),
    "no data in spec.json": (written(SPEC, b"{}"), "bound", f"{SPEC} has no shape; ", "prepare"),
    "an empty spec.json": (written(SPEC, b""), "bound", f"{SPEC} is not JSON (", "prepare"),
    "test images cut off": (cut(TEST_IMAGES), "bound", f"{TEST_IMAGES} is damaged (", "prepare"),
    "no test labels": (written(TEST_LABELS, b""), "bound", f"{TEST_LABELS} is damaged (", "prepare"),
    "a sample cut off": (cut(IMAGES), "evaluate", f"{IMAGES} is not what {RECORD} describes", "sample@vdm-ddim-5"),
    "an empty sample": (written(IMAGES, b""), "evaluate", f"{IMAGES} is not what {RECORD} describes", "sample@vdm-ddim-5"),
    "a sample without a record": (written(RECORD, b"{}"), "evaluate", f"{RECORD} has no block; ", "sample@vdm-ddim-5"),
    "bits cut off": (cut("bounds/vdm/bits.npy"), "compare", "bounds/vdm/bits.npy is not what ", "bound@vdm"),
}  # fmt: skip


@pytest.mark.parametrize("what", DAMAGED)
def test_the_damaged_is_refused(what: str, project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    change, command, begins, stage = DAMAGED[what]
    change(project)
    said = refusal(project, command, capsys)
    assert said.startswith(begins), said
    assert said.endswith((f"run: dvc repro {stage}", f"run: dvc repro -f {stage}")), said


@pytest.mark.parametrize("command", ["sample", "bound", "interpolate"])
def test_weights_that_are_not_finite_end_before_anything_is_written(
    command: str, project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    weights(MODEL, with_nan)(project)
    said = refusal(project, command, capsys)
    assert said.startswith(f"{MODEL} has values in ")
    assert said.endswith(" that are not finite; train anew with a lower learning_rate")


def test_what_is_fresh_is_taken(project: Project) -> None:
    for command in ("evaluate", "baselines", "bound", "interpolate", "compare"):
        main, arguments = MAINS[command]
        assert project.run(main, *arguments) == 0, command


def test_a_new_sample_makes_the_old_measurement_stale_and_measuring_mends_it(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    changed("samples", "vdm-ddim-5", "seed", 9)(project)
    assert project.run(sample.main, "vdm-ddim-5") == 0
    assert refusal(project, "compare", capsys).startswith("evaluations/vdm-ddim-5 was measured on another sample")
    assert project.run(evaluate.main, "vdm-ddim-5") == 0
    assert project.run(compare.main) == 0


def test_outputs_that_were_not_pulled_are_nothing_to_hold_against(project: Project) -> None:
    shutil.rmtree(project.file("runs"))
    assert project.run(evaluate.main, "vdm-ddim-5") == 0
    assert project.run(compare.main) == 0


def test_a_model_of_other_data_is_refused(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    """By every command in the same words."""
    file = project.file(SPEC)
    spec = json.loads(file.read_text())
    file.write_text(json.dumps({**spec, "hash": "0" * 64}))
    expected = f"runs/vdm was trained on data {spec['hash'][:8]}, data/prepared is 00000000; run: dvc repro train@vdm"
    assert {refusal(project, command, capsys) for command in ("bound", "interpolate")} == {expected}


def test_the_stage_of_a_folder(tmp_path: Path) -> None:
    for folder, command in {
        "runs/vdm": "dvc repro train@vdm", "codecs/kl": "dvc repro codec@kl", "extractors/c": "dvc repro extractor@c",
        "data/latents/kl/codec": "dvc repro encode@kl", "elsewhere": "dvc repro",
    }.items():  # fmt: skip
        assert mend(tmp_path / folder) == command
    (tmp_path / "runs/both").mkdir(parents=True)
    (tmp_path / "runs/both/config.json").write_text(json.dumps({"run": {}, "one": {"run": "a", "weights": "b"}}))
    assert mend(tmp_path / "runs/both") == "dvc repro compose@both"
