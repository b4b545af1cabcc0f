"""Every mistake in params.yaml ends in one sentence that names the key, the value and what is allowed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline import check
from pipeline.config.composed import composed_run
from pipeline.config.load import load_params, read_model
from tests.support.mistakes import ABSENT, PROFILE, REPOSITORY, changed, refusal, tiny_values, write

# Where, what is put there, and what the sentence must say.
MISTAKES: dict[str, tuple[str, Any, list[str]]] = {
    "misspelt family": (
        "runs.vdm.family", "vmd",
        ["runs.vdm.family is 'vmd'", "did you mean 'vdm'?", "allowed: autoencoder, classifier, daed, dd"],
    ),
    "misspelt family of an extractor": (
        "extractors.convnet.family", "clasifier", ["extractors.convnet.family is 'clasifier'", "did you mean 'classifier'?"],
    ),
    "family that cannot be an extractor": (
        "extractors.convnet",
        {
            "family": "vdm", "data": "d", "seed": 0, "model": {"schedule": {"kind": "linear-logsnr"}},
            "training": {"steps": 9, "batch": 2, "learning_rate": 0.1},
        },
        ["extractors.convnet.family is 'vdm'", "allowed: classifier"],
    ),
    "unknown key at the top": ("sampels", {}, ["sampels is not a known key", "did you mean 'samples'?", "validate"]),
    "unknown key of a run": (
        "runs.vdm.famly", "vdm", ["runs.vdm.famly is not a known key", "did you mean 'family'?", "training"],
    ),
    "unknown key of training": (
        "runs.ddpm.training.lerning_rate", 0.1,
        ["runs.ddpm.training.lerning_rate is not a known key", "did you mean 'learning_rate'?", "weight_decay"],
    ),
    "unknown key of a schedule": (
        "runs.ddpm.model.schedule.step", 3,
        ["runs.ddpm.model.schedule.step is not a known key", "did you mean 'steps'?", "allowed here: kind, offset, steps"],
    ),
    "unknown key of a network": (
        "runs.vdm.model.network.width", [32],
        ["runs.vdm.model.network.width is not a known key", "did you mean 'widths'?", "dropout"],
    ),
    "unknown key of a sampler": (
        "samples.vdm-ddim-5.sampler.etta", 0.5,
        ["samples.vdm-ddim-5.sampler.etta is not a known key", "did you mean 'eta'?", "clip"],
    ),
    "unknown key of a data set": ("data.source.fraction", 0.5, ["data.source.fraction is not a known key", "test_fraction"]),
    "unknown key of a limit": (
        "validate.samples.duplicate", 0.5, ["validate.samples.duplicate is not a known key", "did you mean 'duplicates'?"],
    ),
    "text for a number": (
        "runs.ddpm.training.steps", "many", ["runs.ddpm.training.steps is 'many'", "allowed: a valid integer"],
    ),
    "fraction of a step": ("runs.ddpm.training.steps", 12.5, ["runs.ddpm.training.steps is 12.5", "allowed: a valid integer"]),
    "yes for a number": ("data.seed", True, ["data.seed is True", "allowed: a valid integer"]),
    "text for a mapping": (
        "samples.vdm-ddim-5.sampler", "ddim", ["samples.vdm-ddim-5.sampler is 'ddim'", "allowed: a valid dictionary"],
    ),
    "number for a list": (
        "runs.vdm.model.network.widths", 32, ["runs.vdm.model.network.widths is 32", "allowed: a valid tuple"],
    ),
    "nothing for a mapping": ("bounds.vdm", None, ["bounds.vdm is None", "allowed: a valid dictionary"]),
    "no steps": ("runs.ddpm.training.steps", 0, ["runs.ddpm.training.steps is 0", "allowed: greater than 0"]),
    "negative learning rate": (
        "runs.ddpm.training.learning_rate", -0.1, ["runs.ddpm.training.learning_rate is -0.1", "allowed: greater than 0"],
    ),
    "infinite learning rate": (
        "runs.ddpm.training.learning_rate", float("inf"),
        ["runs.ddpm.training.learning_rate is inf", "allowed: a finite number"],
    ),
    "second of two betas": (
        "runs.ddpm.training.betas", [0.9, 1.5], ["runs.ddpm.training.betas.1 is 1.5", "allowed: less than 1"],
    ),
    "channels that make no groups": (
        "runs.vdm.model.network.widths", [16, 30], ["runs.vdm.model.network.widths.1 is 30", "allowed: a multiple of 16"],
    ),
    "share beyond one": (
        "samples.vdm-ddim-5.sampler.eta", 2, ["samples.vdm-ddim-5.sampler.eta is 2", "allowed: less than or equal to 1"],
    ),
    "unknown choice": (
        "runs.ddpm.training.precision", "fp16",
        ["runs.ddpm.training.precision is 'fp16'", "allowed: 'auto', 'bf16' or 'float32'"],
    ),
    "unknown prediction": (
        "runs.ddpm.model.prediction", "w", ["runs.ddpm.model.prediction is 'w'", "allowed: 'eps', 'x' or 'v'"],
    ),
    "unknown schedule": (
        "runs.ddpm.model.schedule.kind", "cosine",
        ["runs.ddpm.model.schedule.kind is 'cosine'", "did you mean 'cosine-beta'?", "allowed: cosine-beta, linear-beta"],
    ),
    "discrete schedule for continuous time": (
        "runs.vdm.model.schedule", {"kind": "cosine-beta"},
        ["runs.vdm.model.schedule.kind is 'cosine-beta'", "allowed: ", "linear-logsnr"],
    ),
    "unknown sampler": (
        "samples.vdm-ddim-5.sampler.kind", "ddmi",
        ["samples.vdm-ddim-5.sampler.kind is 'ddmi'", "did you mean 'ddim'?", "allowed: ancestral, ddim"],
    ),
    "sampler without a kind": (
        "samples.vdm-ddim-5.sampler", {"eta": 0.5}, ["samples.vdm-ddim-5.sampler.kind is missing", "required"],
    ),
    "end points in the wrong order": (
        "runs.vdm.model.schedule.gamma_min", 6.0,
        ["runs.vdm.model.schedule", "gamma_min is 6.0", "allowed: below gamma_max, which is 5.0"],
    ),
    "chain without a step": (
        "runs.ddpm.model.schedule.steps", 0, ["runs.ddpm.model.schedule.steps is 0", "allowed: greater than or equal to "],
    ),
    "betas above one": (
        "runs.ddpm.model.schedule", {"kind": "linear-beta", "steps": 10},
        ["runs.ddpm.model.schedule", "steps is 10", "more than 20 steps"],
    ),
    "sample of an unknown run": (
        "samples.vdm-ddim-5.run", "vdmm",
        ["samples.vdm-ddim-5.run is 'vdmm'", "did you mean 'vdm'?", "allowed: daed, daed-two-stage, "],
    ),
    "bound of an unknown run": (
        "bounds.vmd", {"images": 9, "seed": 0}, ["bounds.vmd", "did you mean 'vdm'?", "allowed: daed, "],
    ),
    "unknown extractor": ("evaluate.extractor", "resnet", ["evaluate.extractor is 'resnet'", "allowed: convnet"]),
    "trained extractor without training": (
        "extractors.convnet.training", None,
        ["extractors.convnet.training is null; allowed for the family classifier, which is trained: how to train it"],
    ),
    "run without training": ("runs.vdm.training", None, ["runs.vdm.training is None", "allowed: "]),
    "Inception that is trained": (
        "extractors.convnet",
        {
            **tiny_values()["extractors"]["convnet"], "family": "inception",
            "model": {"weights": "inception.safetensors", "sha256": "0" * 64},
        },
        ["extractors.convnet.training is given; allowed for the family inception, whose weights come from a file: null"],
    ),
    "hash that is none": (
        "extractors.convnet",
        {
            "family": "inception", "data": "data/prepared", "seed": 0, "training": None,
            "model": {"weights": "inception.safetensors", "sha256": "0123"},
        },
        ["extractors.convnet.model.sha256 is '0123'"],
    ),
    "unknown data set": (
        "data.kind", "mnist", ["data.kind is 'mnist'", "allowed: ", "digits, fashion_mnist, fashion_mnist_mini, gaussian"],
    ),
    "name with a blank": ("bounds.big run", {}, ["bounds.big run", "'big run'", "lower-case letters, digits and hyphens"]),
    "run and extractor of one name": (
        "extractors.vdm",
        {
            "family": "classifier", "data": "data/prepared", "seed": 0, "model": {},
            "training": {"steps": 9, "batch": 2, "learning_rate": 0.1},
        },
        ["runs.vdm has the name of an entry of extractors", "allowed: names that differ"],
    ),
    "name of the baselines": (
        "samples.baselines", {"run": "vdm", "sampler": {"kind": "ddim"}, "steps": 1, "images": 1, "seed": 0},
        ["samples.baselines", "allowed: any other name"],
    ),
    "subset larger than a sample": (
        "evaluate.metrics.kid.subset_size", 61,
        ["evaluate.metrics.kid.subset_size is 61", "allowed: up to 60", ".images"],
    ),
    "subset larger than the baselines": (
        "evaluate.baseline_images", 20,
        ["evaluate.metrics.kid.subset_size is 30", "allowed: up to 20", "evaluate.baseline_images"],
    ),
    "more splits than images": (
        "samples.vdm-ddim-5.images", 1, ["samples.vdm-ddim-5.images is 1; allowed: 4 or more with evaluate.interval_resamples"],
    ),
    "more neighbours than half a sample has": (
        "evaluate.metrics.prdc.nearest_k", 30,
        ["evaluate.metrics.prdc.nearest_k is 30", "allowed: up to 29", ".images, which is 60"],
    ),
    "misspelt metric": (
        "evaluate.metrics.kidd", {},
        ["evaluate.metrics is 'kidd'", "did you mean 'kid'?", "allowed: frechet, inception_score, kid, nearest, prdc, repeats"],
    ),
    "setting of a metric without any": (
        "evaluate.metrics.frechet", {"images": 3}, ["evaluate.metrics.frechet.images is not a known key"],
    ),
    "metric without its settings": ("evaluate.metrics.kid", ABSENT, ["evaluate.metrics.kid.subset", "missing; it is required"]),
    "missing block": ("evaluate", ABSENT, ["evaluate is missing", "required"]),
    "missing family": ("runs.vdm.family", ABSENT, ["runs.vdm.family is missing", "required"]),
    "missing schedule": ("runs.vdm.model.schedule", ABSENT, ["runs.vdm.model.schedule is missing", "required"]),
    "missing kind": ("runs.ddpm.model.schedule.kind", ABSENT, ["runs.ddpm.model.schedule.kind is missing", "required"]),
}  # fmt: skip

TEXTS: dict[str, tuple[str, list[str]]] = {
    "empty": (
        "",
        [
            "holds nothing",
            "allowed is a mapping with the keys bounds, codecs, composed, data, ",
            "samples, studies, validate\n",
        ],
    ),
    "a list": ("- runs\n- samples\n", ["holds list", "allowed is a mapping"]),
    "no YAML": ("data:\nruns: [1, 2\n", ["is not YAML", "expected ',' or ']'", "line 3"]),
    "a tab": ("runs:\n\tvdm: 1\n", ["is not YAML", "line 2"]),
    "a key that stands twice": (
        "data: {kind: digits}\nseed: 1\ndata: {kind: gaussian}\n",
        ['duplicate key "data"', "line 3", "keep one"],
    ),
    "an alias": (
        "data: &all {kind: digits}\nvalidate: *all\n",
        ["has the alias *all in line 2", "allowed: none", "write the values out", "defaults:"],
    ),
    "an inner key that stands twice": (
        "data:\n  kind: digits\n  kind: gaussian\n",
        ['duplicate key "kind"', "line 3", "keep one"],
    ),
}


@pytest.fixture(scope="module")
def tiny() -> dict[str, Any]:
    return tiny_values()


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistake_ends_in_one_sentence(
    mistake: str, tiny: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where, value, expected = MISTAKES[mistake]
    said = refusal(write(tmp_path, changed(tiny, where, value)), tmp_path / "checked", capsys)
    for words in expected:
        assert words in said


@pytest.mark.parametrize("text", TEXTS)
def test_file_that_is_no_mapping(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content, expected = TEXTS[text]
    said = refusal(write(tmp_path, content), tmp_path / "checked", capsys)
    for words in [*expected, "params.yaml"]:
        assert words in said


def test_file_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "params.yaml does not exist" in refusal(tmp_path / "params.yaml", tmp_path / "checked", capsys)


def test_every_further_problem_is_counted(tiny: dict[str, Any], tmp_path: Path) -> None:
    twice = changed(changed(tiny, "runs.ddpm.seed", -1), "runs.vdm.seed", -2)
    with pytest.raises(ValueError, match=r"runs\.ddpm\.seed is -1; allowed: [^()]* \(1 more problem after this one\)$"):
        load_params(write(tmp_path, twice))


@pytest.mark.parametrize("file", [REPOSITORY / "params.yaml", PROFILE])
def test_files_of_the_repository_pass(file: Path, tmp_path: Path) -> None:
    assert check.main(["--params", str(file), "--out", str(tmp_path / "checked")]) == 0


def test_mark_is_the_same_for_every_valid_file(tiny: dict[str, Any], tmp_path: Path) -> None:
    """Were it not, every change of a parameter would run the whole pipeline again."""
    marks = []
    for seed in (0, 1):
        file = write(tmp_path, changed(tiny, "runs.vdm.seed", seed))
        assert check.main(["--params", str(file), "--out", str(tmp_path / "checked")]) == 0
        marks.append((tmp_path / "checked").read_bytes())
    assert marks[0] == marks[1]


@pytest.mark.parametrize("text", ["1e-3", "1E-3", "0.001", "1.0e-3", ".1e-2", "+1e-3"])
def test_number_with_an_exponent_is_a_number(text: str, tmp_path: Path) -> None:
    """YAML 1.1 reads 1e-3 as text; DVC and everybody else read a number."""
    plain = PROFILE.read_text(encoding="utf-8")
    params = load_params(write(tmp_path, plain.replace("learning_rate: 0.002", f"learning_rate: {text}")))
    assert [run.training.learning_rate for run in params.runs.values()] == [1e-3] * len(params.runs)


@pytest.mark.parametrize("text", ["e3", "1e", "2026-11-22", "1e3x"])
def test_what_only_looks_like_one_is_none(text: str, tmp_path: Path) -> None:
    plain = PROFILE.read_text(encoding="utf-8").replace("learning_rate: 0.002", f"learning_rate: {text}")
    with pytest.raises(ValueError, match=r"training\.learning_rate is .*; allowed: a valid number"):
        load_params(write(tmp_path, plain))


def test_values_cannot_be_changed_after_reading() -> None:
    params = load_params(PROFILE)
    with pytest.raises(ValueError, match="frozen"):
        params.runs["vdm"].seed = 3


def test_tiny_profile_mirrors_the_real_parameters() -> None:
    """The same top-level keys, families that the real file has, both samplers: what the tiny profile proves holds there."""
    real, tiny = (yaml.safe_load(file.read_text(encoding="utf-8")) for file in (REPOSITORY / "params.yaml", PROFILE))
    assert tiny.keys() == real.keys()
    families = {run["family"] for run in tiny["runs"].values()}
    assert {"ddpm", "vdm"} <= families <= {run["family"] for run in real["runs"].values()}
    assert {"ancestral", "ddim"} <= {sample["sampler"]["kind"] for sample in tiny["samples"].values()}


def test_labels_are_what_the_family_reads(tiny: dict[str, Any], tmp_path: Path) -> None:
    """Of a run that leaves them out too, and of a composed model, for which both halves must agree."""
    labelled = changed(changed(tiny, "runs.daed.model.labels", True), "runs.ddpm.model.labels", True)
    params = load_params(write(tmp_path, changed(labelled, "runs.vdm.model.labels", ABSENT)))
    composed, _ = composed_run(params.composed["daed-two-stage"], params.runs, "composed.daed-two-stage")
    runs = {**params.runs, **params.extractors, "daed-two-stage": composed}
    assert {name: read_model(run, name).class_conditional for name, run in runs.items()} == {
        "ddpm": True, "latent": True, "daed": True, "vdm": False, "ddgan": False, "convnet": False, "daed-two-stage": True,
    }  # fmt: skip
