"""The stage on small arrays: what it writes, what it refuses, what it says."""

import io
import json
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from scipy.spatial.distance import cdist

from pipeline import baselines, evaluate
from pipeline.config import schema
from pipeline.config.load import load_params
from pipeline.core import artifacts
from pipeline.metrics.features import Features
from pipeline.metrics.nearest import memorisation, nearest
from pipeline.reporting.nearest import picture as nearest_picture
from pipeline.store import models
from pipeline.store.data import DataDirectory, write_data
from pipeline.store.results import Source
from tests.support.blocks import filled

PARAMS = filled(
    yaml.safe_load("""
data: {kind: digits}
extractors:
  convnet:
    family: classifier
    data: data/prepared
    model: {network: {kind: convnet, widths: [16], features: 8}, shift: 0, flip: false}
    training: {steps: 1, learning_rate: 0.001}
runs:
  ddpm: {family: ddpm, data: data/prepared, training: {steps: 1, learning_rate: 0.001}}
samples:
  small: {run: ddpm, sampler: {kind: ancestral}, steps: 7, images: 40}
evaluate:
  extractor: convnet
  metrics: {prdc: {nearest_k: 3}, kid: {subsets: 5, subset_size: 20}, inception_score: {splits: 2}}
  interval_resamples: 10
  baseline_images: 50
""")
)


class Rows:
    """A made-up extractor: the four row means and their squares; classes by which row is the brightest."""

    hash, feature_dim, device = "ab" * 32, 8, torch.device("cpu")

    def __init__(self, name: str = "rows", distance: str = "fd", knows_classes: bool = True) -> None:
        self.name, self.distance, self.knows_classes = name, distance, knows_classes

    def __call__(self, codes: np.ndarray) -> Features:
        if codes.max() > 15:
            raise ValueError("images have a code beyond 15")
        rows = codes.mean(axis=(1, 3), dtype=np.float64) / 15
        powers = np.exp(8 * rows)
        return Features(np.concatenate([rows, rows**2], 1).astype("f4"), (powers / powers.sum(1, keepdims=True)).astype("f4"))


@dataclass
class Check:
    """Stands for the expectations; keeps what it was asked."""

    failures: list[str] = field(default_factory=list)
    asked: list[Any] = field(default_factory=list)

    def __call__(self, *arguments: Any) -> "Check":
        self.asked = list(arguments)
        return self

    @property
    def success(self) -> bool:
        return not self.failures

    @property
    def results(self) -> list[Any]:
        return [{"rule": "made up"}]


def pictures(seed: int, count: int) -> np.ndarray:
    """Codes of 4 levels of brightness by row, in an order that differs from image to image."""
    rng = np.random.default_rng(seed)
    rows = rng.permuted(np.tile([1.0, 4.0, 8.0, 13.0], (count, 1)), axis=1)
    return np.clip(rows[:, None, :, None] + rng.normal(size=(count, 1, 4, 4)), 0, 15).astype(np.uint8)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(PARAMS))
    splits = {
        name: (pictures(seed, count), np.arange(count) % 4)
        for seed, (name, count) in enumerate({"train": 120, "valid": 20, "test": 80}.items())
    }
    data = write_data(tmp_path / "data/prepared", splits, levels=16, classes=4, extra={})
    made = tmp_path / "samples/small"
    artifacts.write_array(made / "images.npy", pictures(9, 40))
    artifacts.write_json(
        made / "sample.json",
        {"run": "ddpm", "sampler": {"kind": "ancestral", "clip": True}, "steps": 7, "seed": 0, "weights": "cd" * 32,
         "data": data.hash, "nonfinite": {"3": 2}},
    )  # fmt: skip
    artifacts.write_json(
        made / "timing.json",
        {"images_per_second": 123.4567, "network_evaluations": 7, "images": 40, "device": "cpu (test)", "threads": 1,
         "precision": "float32"},
    )  # fmt: skip
    seal(tmp_path)
    return tmp_path


def seal(project: Path) -> None:
    """sample.json as the stage `sample` would leave it beside the images that are there."""
    made = project / "samples/small"
    described = artifacts.read_json(made / "sample.json")
    block = params(project).samples["small"].model_dump(mode="json")
    sealed = {"block": block, "code": "ef" * 32, "sha256": artifacts.hash_file(made / "images.npy")}
    artifacts.write_json(made / "sample.json", {**described, **sealed})


def params(project: Path) -> schema.Params:
    return load_params(project / "params.yaml")


def outputs(project: Path) -> tuple[Path, Path, Path]:
    evaluation = project / "evaluations/small"
    return project / "reports/metrics/small.json", evaluation / "details.json", evaluation / "validation.json"


def test_writes_rounded_numbers_with_their_provenance_and_details_in_full(project: Path):
    check = Check()
    assert evaluate.run(params(project), "small", project, Rows(), check) == []
    metrics, details, validation = (artifacts.read_json(file) for file in outputs(project))
    data = DataDirectory.open(project / "data/prepared")
    assert {key: list(values) for key, values in metrics.items()} == {
        "quality": ["fd", "kid", "inception_score", "precision", "density"],
        "diversity": ["recall", "coverage"],
        "memorisation": [
            "memorised",
            "closer_than_test",
            "distance_ratio",
            "training_copies",
            "duplicates",
            "near_duplicates",
        ],
        "speed": ["network_evaluations", "images_per_second"],
        "measured": ["extractor", "data", "images", "reference", "device", "clip"],
    }
    assert metrics["speed"] == {"network_evaluations": 7, "images_per_second": 120}
    assert metrics["measured"] == {
        "extractor": "rows@abababab", "data": data.hash[:8], "images": 40, "reference": "test (80)", "device": "cpu (test)",
        "clip": True,
    }  # fmt: skip
    for group in ("quality", "diversity"):
        for name, value in metrics[group].items():
            assert value == float(f"{details['values'][name]:.4g}")
            low, high = Source(Path("details.json"), "evaluate", details).interval(f"intervals.{name}")
            assert low <= details["values"][name] <= high
            assert details["standard_errors"][name] >= 0
    assert details["sample"]["weights"] == "cd" * 32
    assert details["measured"]["data"] == data.hash
    assert details["measured"]["extractor"] == {"name": "rows", "hash": "ab" * 32, "feature_dim": 8}
    assert details["measured"]["settings"] == {
        "metrics": {"kid": {"subsets": 5, "subset_size": 20}, "inception_score": {"splits": 2}, "prdc": {"nearest_k": 3}},
        "interval_resamples": 10,
    }
    assert validation == {"success": True, "failures": [], "results": [{"rule": "made up"}]}

    images, nonfinite, predicted, real = check.asked
    np.testing.assert_array_equal(images, pictures(9, 40))
    assert (nonfinite.sum(), nonfinite[3]) == (2, 2)
    np.testing.assert_array_equal(predicted, pictures(9, 40).mean(axis=(1, 3)).argmax(1))
    np.testing.assert_array_equal(real, pictures(2, 80))


def with_copies(project: Path) -> np.ndarray:
    """A sample of 40 images of which 5 are training images, two of them the same one, and 2 more are equal."""
    images, training = pictures(9, 40), pictures(0, 120)
    images[[3, 8, 20, 31]], images[12] = training[[50, 60, 70, 80]], training[50]
    images[39] = images[38]
    artifacts.write_array(project / "samples/small/images.npy", images)
    seal(project)
    return images


def test_copies_are_counted_and_their_originals_named(project: Path):
    images, training = with_copies(project), pictures(0, 120)
    equal = [sum(np.array_equal(image, other) for other in training) for image in images]
    pairs = sum(np.array_equal(images[i], images[j]) for i in range(40) for j in range(i))
    apart = [abs(images[i].astype(int) - images[j]).mean() for i in range(40) for j in range(i)]
    near = sum(0 < one <= 1.5 * 15 / 255 for one in apart)
    assert evaluate.run(params(project), "small", project, Rows(), Check()) == []
    metrics, details = (artifacts.read_json(file) for file in outputs(project)[:2])
    assert sum(equal) == metrics["memorisation"]["training_copies"] == 5
    assert metrics["memorisation"]["memorised"] >= 5 / 40
    assert (metrics["memorisation"]["duplicates"], metrics["memorisation"]["near_duplicates"]) == (pairs, near) == (2, 0)
    found = details["memorisation"]
    assert [found["nearest"][index] for index in (3, 8, 12, 20, 31)] == [50, 60, 50, 70, 80]
    flat, others = (array.reshape(len(array), -1).astype(float) for array in (images, training))
    np.testing.assert_allclose(found["distances"], cdist(flat, others).min(axis=1), rtol=1e-5)


def test_the_picture_shows_each_image_above_its_nearest_training_image(project: Path):
    images, training = with_copies(project), pictures(0, 120)
    evaluate.run(params(project), "small", project, Rows(), Check())
    memory = artifacts.read_json(outputs(project)[1])["memorisation"]
    picture = np.asarray(Image.open(project / "evaluations/small/neighbours.png"))[..., 0]
    order = np.argsort(memory["distances"], kind="stable")[:20]
    assert picture.shape == (4 * 9 + 1, 10 * 9 + 1)
    for place, index in enumerate(order):
        row, column = divmod(place, 10)
        for below, image in enumerate((images[index], training[memory["nearest"][index]])):
            top, left = 1 + 9 * (2 * row + below), 1 + 9 * column
            np.testing.assert_array_equal(picture[top : top + 8 : 2, left : left + 8 : 2], image[0] * 17)


@pytest.mark.parametrize(("count", "rows"), [(4, 1), (10, 1), (15, 1), (25, 2)])
def test_the_picture_has_full_rows(count: int, rows: int):
    images, training = pictures(9, count), pictures(0, 30)
    memory = memorisation(images, training, nearest(pictures(2, 30), training))
    shown = np.asarray(Image.open(io.BytesIO(nearest_picture(images, training, memory, 16))))
    assert shown.shape[:2] == (2 * rows * 9 + 1, min(count, 10) * 9 + 1)


def test_the_same_files_twice(project: Path):
    evaluate.run(params(project), "small", project, Rows(), Check())
    first = [file.read_bytes() for file in outputs(project)]
    evaluate.run(params(project), "small", project, Rows(), Check())
    assert first == [file.read_bytes() for file in outputs(project)]


def test_failed_expectations_leave_the_verdict_and_no_metrics_of_before(project: Path):
    evaluate.run(params(project), "small", project, Rows(), Check())
    metrics, details, validation = outputs(project)
    assert metrics.exists()
    assert evaluate.run(params(project), "small", project, Rows(), Check(["all images are alike"])) == ["all images are alike"]
    assert not metrics.exists()
    assert not details.exists()
    assert artifacts.read_json(validation)["failures"] == ["all images are alike"]


def test_images_that_the_extractor_cannot_take_fail_too(project: Path):
    artifacts.write_array(project / "samples/small/images.npy", pictures(9, 40) + np.uint8(10))
    seal(project)
    check = Check(["highest-pixel"])
    assert evaluate.run(params(project), "small", project, Rows(), check) == ["highest-pixel", "images have a code beyond 15"]
    assert check.asked[2] is None
    assert not outputs(project)[0].exists()


def test_the_extractor_says_what_the_distance_is_called_and_whether_it_knows_the_classes(project: Path):
    check = Check()
    evaluate.run(params(project), "small", project, Rows("elsewhere", distance="fid", knows_classes=False), check)
    metrics, details = (artifacts.read_json(file) for file in outputs(project)[:2])
    assert next(iter(metrics["quality"])) == "fid"
    assert "fd" not in metrics["quality"]
    assert set(details["intervals"]) == set(details["values"]) == {*metrics["quality"], *metrics["diversity"]}
    assert details["measured"]["distance"] == "fid"
    assert check.asked[2] is None  # its classes are not those of the data


def test_baselines_are_ordered_and_need_no_gate(project: Path):
    baselines.run(params(project), project, Rows())
    metrics = artifacts.read_json(project / "reports/metrics/baselines.json")
    details = artifacts.read_json(project / "evaluations/baselines/details.json")
    assert list(metrics) == ["training-images", "mean-image", "noise", "measured"]
    assert metrics["measured"]["images"] == 50
    fd = {name: metrics[name]["quality"]["fd"] for name in ("training-images", "mean-image", "noise")}
    assert fd["noise"] > 3 * fd["training-images"]
    assert fd["mean-image"] > 3 * fd["training-images"]
    assert metrics["training-images"]["diversity"]["coverage"] > 3 * metrics["noise"]["diversity"]["coverage"]
    assert 0 < details["mean-image"]["clipped"] < 0.5
    memory = {name: metrics[name]["memorisation"] for name in ("training-images", "noise")}
    assert memory["training-images"] | {"duplicates": 0, "near_duplicates": 0} == {
        "memorised": 1, "closer_than_test": 1, "distance_ratio": 0, "training_copies": 50, "duplicates": 0, "near_duplicates": 0
    }  # fmt: skip
    assert memory["noise"] | {"distance_ratio": 2} == {
        "memorised": 0, "closer_than_test": 0, "distance_ratio": 2, "training_copies": 0, "duplicates": 0, "near_duplicates": 0
    }  # fmt: skip
    assert memory["noise"]["distance_ratio"] > 1.2
    assert len(details["noise"]["intervals"]["fd"]) == 2


def test_files_that_do_not_belong_together_are_refused(project: Path):
    made = project / "samples/small"
    described = artifacts.read_json(made / "sample.json")
    artifacts.write_json(made / "sample.json", {**described, "data": "0123456789"})
    with pytest.raises(ValueError, match=r"comes from a model of data 01234567, .* run: dvc repro sample@small"):
        evaluate.run(params(project), "small", project, Rows(), Check())
    artifacts.write_json(made / "sample.json", described)
    artifacts.write_array(made / "images.npy", pictures(9, 39))
    seal(project)
    with pytest.raises(ValueError, match=r"has 39 images, samples.small.images is 40"):
        evaluate.run(params(project), "small", project, Rows(), Check())
    (made / "timing.json").unlink()
    with pytest.raises(ValueError, match=r"timing.json does not exist; run: dvc repro sample@small"):
        evaluate.run(params(project), "small", project, Rows(), Check())
    with pytest.raises(ValueError, match="samples has no 'big'; allowed: small"):
        evaluate.run(params(project), "big", project, Rows(), Check())
    assert not outputs(project)[0].exists()


def train_extractor(project: Path, data_hash: str) -> None:
    """The untrained classifier of params.yaml, as the train stage would leave it."""
    run = params(project).extractors["convnet"]
    data = DataDirectory.open(project / "data/prepared")
    torch.manual_seed(0)
    model = models.build(run, data.data_spec, "extractors.convnet")
    artifacts.write_tensors(project / "extractors/convnet/model.safetensors", model.state_dict())
    spec = {name: data.spec[name] for name in ("shape", "levels", "classes")}
    artifacts.write_json(
        project / "extractors/convnet/config.json", {"run": run.model_dump(mode="json"), "data": {**spec, "hash": data_hash}}
    )


def test_an_extractor_of_other_data_is_refused(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    train_extractor(project, "9" * 64)
    monkeypatch.chdir(project)
    assert baselines.main([]) == 2
    assert "extractors/convnet was trained on data 99999999" in capsys.readouterr().err


def test_with_the_real_extractor_and_the_real_expectations(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    train_extractor(project, DataDirectory.open(project / "data/prepared").hash)
    monkeypatch.chdir(project)
    assert evaluate.main(["small"]) == 1
    errors = capsys.readouterr().err.splitlines()
    assert all(line.startswith("small: ") for line in errors)
    assert any("1 of 40" in line and "finite" in line for line in errors)

    made = project / "samples/small/sample.json"
    artifacts.write_json(made, {**artifacts.read_json(made), "nonfinite": {}})
    limits = {"samples": {"smallest_class": 0, "largest_class": 1}}  # the classifier has learnt nothing
    (project / "params.yaml").write_text(yaml.safe_dump(filled({**PARAMS, "validate": limits})))
    assert evaluate.main(["small"]) == 0, capsys.readouterr().err
    metrics, _, validation = (artifacts.read_json(file) for file in outputs(project))
    weights = artifacts.hash_file(project / "extractors/convnet/model.safetensors")
    assert metrics["measured"]["extractor"] == f"convnet@{weights[:8]}"
    assert validation["success"]


def test_a_sample_must_be_named(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit, match="2"):
        evaluate.main([])
    assert "SAMPLE" in capsys.readouterr().err


def test_help_imports_nothing_heavy():
    code = (
        "import json, sys\nfrom pipeline import evaluate\n"
        "try:\n    evaluate.main(['--help'])\nexcept SystemExit:\n    pass\n"
        "print(json.dumps([name for name in ('torch', 'sklearn', 'pandas', 'great_expectations') if name in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "SAMPLE" in done.stdout
    assert json.loads(done.stdout.splitlines()[-1]) == []
