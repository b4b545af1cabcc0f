"""compare: every number in its column, and no comparison of what does not compare."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline import compare
from pipeline.config.load import read_plugin
from pipeline.config.text import tuples
from pipeline.reporting import sections
from pipeline.reporting.labels import Box, place
from pipeline.reporting.rows import family
from pipeline.reporting.table import significant
from pipeline.sample import described
from tests.support.blocks import filled
from tests.support.comparison_files import (
    BASELINES,
    BOUND,
    SAMPLES,
    SPREADS,
    memorisation,
    params,
    seal,
    write_inputs,
    write_json,
)

OUTPUTS = ("compare.json", "compare.md", "trilemma.svg", "samples.png")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_inputs(tmp_path)
    return tmp_path


def change(path: Path, group: str, **values: object) -> None:
    content = json.loads(path.read_text())
    write_json(path, content | {group: content[group] | values})


def cells(markdown: str, first: str) -> dict[str, str]:
    """The row of a Markdown table that begins with `first`, as heading -> cell."""
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in markdown.splitlines() if line.startswith("|")]
    row = next(line for line in lines if line[0] == first)
    return dict(zip(lines[0], row, strict=True))


def test_every_value_stands_in_its_column(root: Path) -> None:
    compare.run(params(), root)
    rows = json.loads((root / "reports" / "compare.json").read_text())["samples"]
    assert [row["sample"] for row in rows] == list(SAMPLES)
    for row in rows:
        run, sampler, steps, speed, fd, (low, high), kid, score, precision, density, recall, coverage = SAMPLES[row["sample"]]
        bound = BOUND if run == "vdm-wide" else {"total": None, "standard_error": None}
        del row["front"], row["dominated_by"]  # below
        values = {
            "kid": kid, "inception_score": score, "precision": precision, "density": density, "recall": recall,
            "coverage": coverage,
        }  # fmt: skip
        intervals = {
            f"{key}_{end}": pytest.approx(value + sign * SPREADS[key], rel=1e-3)
            for key, value in values.items()
            for end, sign in (("low", -1), ("high", 1))
        }
        assert row == {
            "sample": row["sample"], "run": run, "family": {"ddpm": "ddpm", "vdm-wide": "vdm"}[run], "sampler": sampler,
            "kind": sampler, "steps": steps, "guidance": None, "network_evaluations": steps, "images_per_second": speed,
            "images_per_second_low": pytest.approx(speed * 2 / 2.2, rel=2e-3),
            "images_per_second_high": pytest.approx(speed * 2 / 1.9, rel=2e-3), "fd": fd, "fd_low": low, "fd_high": high,
            **values, **intervals, "bits_per_dim": bound["total"], "bits_per_dim_standard_error": bound["standard_error"],
            "memorisation": memorisation(row["sample"]), "clip": True, "images": 1000,
        }  # fmt: skip


def test_who_dominates_whom_and_how_surely(root: Path) -> None:
    """vdm-ddim beats ddpm-ddim in all three, in speed within its noise; vdm-ancestral beats ddpm-ancestral beyond every
    interval, and vdm-ddim, as fast as it is, recalls more than ddpm-ancestral too."""
    rows = {row["sample"]: row for row in compare.run(params(), root)["samples"]}
    assert {name for name, row in rows.items() if row["front"]} == {"vdm-ancestral", "vdm-ddim"}
    assert rows["ddpm-ddim"]["dominated_by"] == [{"sample": "vdm-ddim", "clear": False, "within": ["images/s"]}]
    assert rows["ddpm-ancestral"]["dominated_by"] == [
        {"sample": "vdm-ancestral", "clear": True, "within": []},
        {"sample": "vdm-ddim", "clear": True, "within": []},
    ]
    assert rows["vdm-ddim"]["dominated_by"] == []


def test_the_conclusion_names_the_best_the_front_and_the_ratios(root: Path) -> None:
    found = "\n".join(compare.run(params(), root)["conclusion"])
    assert found in (root / "reports" / "compare.md").read_text().replace("\n\n", "\n")
    for part in (
        "Fastest: vdm-ddim, 26.1 images/s with 25 network evaluations per image.",
        "Best quality: vdm-ancestral, FD 4.33 (3.94 to 4.85).",
        "Most diverse: vdm-ancestral, recall 0.726 (0.702 to 0.750).",
        "vdm-ancestral and vdm-ddim (2 of 4)",
        "Clearly dominated: ddpm-ancestral.",
        "Dominated within the intervals: ddpm-ddim.",
        "Against the slowest sample, ddpm-ancestral with 200 network evaluations per image",
        f"ddpm-ddim (ddpm) is {25.4 / 3.21:.2f} times as fast, at {8.42 / 7.51:.2f} times its FD",
        f"vdm-ddim (vdm) is {26.1 / 3.21:.2f} times as fast, at {4.94 / 7.51:.3f} times its FD",
        f"against ddpm-ancestral, ddpm-ddim has {8.42 / 7.51:.2f} times the FD at {25.4 / 3.21:.2f} times the speed.",
        f"against vdm-ancestral, vdm-ddim has {4.94 / 4.33:.2f} times the FD at {26.1 / 6.43:.2f} times the speed.",
        f"of ddpm-ddim; the baseline mean-image has 103, {103.2 / 8.42:.1f} times that",
    ):
        assert part in found, part


def test_without_intervals_nothing_is_clear(root: Path) -> None:
    cfg = params()
    cfg = cfg.model_copy(update={"evaluate": cfg.evaluate.model_copy(update={"interval_resamples": 0})})
    seal(root, cfg)
    rows = compare.run(cfg, root)["samples"]
    assert rows[0]["fd_low"] is None
    assert [other["within"] for other in rows[0]["dominated_by"]] == [["FD", "recall"]] * 2


@pytest.mark.parametrize(
    ("sampler", "guidance", "words"),
    [
        ({"kind": "ddim"}, None, "ddim"), ({"kind": "ddim", "eta": 0.5}, None, "ddim eta 0.5"),
        ({"kind": "ancestral", "variance": "small", "clip": False}, None, {"ancestral", "small", "clip off"}),
        ({"kind": "ddim", "spacing": "quadratic"}, 2.5, {"ddim", "quadratic", "guidance 2.5"}),
        ({"kind": "ancestral"}, 0.0, {"ancestral", "guidance 0"}),
    ],
)  # fmt: skip
def test_a_sampler_is_named_with_its_options(sampler: dict[str, object], guidance: float | None, words: str | set[str]) -> None:
    block = read_plugin("samplers", sampler, "samples.a.sampler")
    found = described(block, guidance, False)
    by_class = described(block, guidance, True)
    assert by_class == (f"{found}, by class" if guidance is None else found)
    if isinstance(words, str):
        assert found == words
    else:
        assert all(word in found for word in words)
        assert "eta" not in found


def test_combined_runs_and_latents_have_their_family(root: Path) -> None:
    """A run put together of two others, and one on latents, beside their sources."""
    cfg = params()
    training = {"steps": 10, "learning_rate": 1e-3}
    raw = cfg.model_dump(mode="json", by_alias=True) | {
        "codecs": {"kl": {"family": "autoencoder", "data": "data/prepared", "training": training}},
        "composed": {"both": {"family": "daed", "parts": {"denoiser": "vdm-wide", "generator": "ddpm"}}},
    }
    raw["runs"]["latent"] = raw["runs"]["ddpm"] | {"data": "data/latents/kl"}
    read = type(cfg).model_validate(tuples(filled(raw)))
    assert [family(read, run) for run in ("ddpm", "vdm-wide", "both", "latent")] == ["ddpm", "vdm", "daed", "latent ddpm"]
    named = {**read.samples, "a": read.samples["ddpm-ddim"].model_copy(update={"run": "both"})}
    named["b"] = read.samples["ddpm-ddim"].model_copy(update={"run": "latent"})
    alone = sections.trained(read.model_copy(update={"samples": {"a": named["a"]}}))
    assert alone == {"vdm-wide": "train@vdm-wide", "ddpm": "train@ddpm"}
    found = sections.trained(read.model_copy(update={"samples": named}))
    assert found == {"ddpm": "train@ddpm", "vdm-wide": "train@vdm-wide", "kl": "codec@kl", "latent": "train@latent"}


def test_markdown_row(root: Path) -> None:
    compare.run(params(), root)
    text = (root / "reports" / "compare.md").read_text()
    assert cells(text, "vdm-ancestral") == {
        "sample": "vdm-ancestral", "model": "vdm-wide (vdm)", "sampler": "ancestral", "steps": "100", "evaluations ↓": "100",
        "images/s ↑": "6.43", "FD (95 %) ↓": "4.33 (3.94 to 4.85)", "KID ↓": "0.00670", "inception score ↑": "7.53",
        "precision ↑": "0.854", "density ↑": "0.965", "recall ↑": "0.726", "coverage ↑": "0.787", "bits/dim ↓": "3.012 ± 0.017",
    }  # fmt: skip
    text = text[text.index("## Speed, quality") :] + text
    assert cells(text, "ddpm-ddim") | {"KID (95 %) ↓": "", "coverage (95 %) ↑": ""} == {
        "sample": "ddpm-ddim", "dominated by": "within intervals: vdm-ddim (images/s)",
        "images/s (95 %) ↑": "25.4 (23.1 to 26.7)", "evaluations ↓": "25",
        "FD (95 %) ↓": "8.42 (7.93 to 9.04)", "KID (95 %) ↓": "", "precision (95 %) ↑": "0.832 (0.820 to 0.844)",
        "recall (95 %) ↑": "0.554 (0.530 to 0.578)", "coverage (95 %) ↑": "", "bits/dim ↓": "–",
    }  # fmt: skip
    text = text[text.index("## Memorisation") :] + text
    assert cells(text, "noise") == {
        "sample": "noise", "memorised ↓": "0.0700", "closer than test": "0.140", "distance ratio": "1.70",
        "copies of training images ↓": "7", "equal pairs ↓": "17", "nearly equal pairs ↓": "27",
    }  # fmt: skip
    for fact in ("convnet@1a2b3c4d", "1000 images", "test (2000)", "not FID", "9f8e7d6c", "cpu"):
        assert fact in text


def test_a_run_without_a_bound_shows_a_dash(root: Path) -> None:
    compare.run(params(), root)
    assert cells((root / "reports" / "compare.md").read_text(), "ddpm-ddim")["bits/dim ↓"] == "–"


def test_baselines_are_rows_and_lines(root: Path) -> None:
    found = compare.run(params(), root)["baselines"]
    assert {row["sample"]: (row["fd"], row["recall"], row["coverage"]) for row in found} == BASELINES
    svg = (root / "reports" / "trilemma.svg").read_text()
    assert all(name in svg for name in [*BASELINES, *SAMPLES])


@pytest.mark.parametrize(
    ("key", "value"), [("extractor", "convnet@ffffffff"), ("data", "00000000"), ("reference", "train (8000)")]
)
@pytest.mark.parametrize("name", ["vdm-ddim", "baselines"])
def test_unlike_measurements_are_refused(root: Path, key: str, value: str, name: str) -> None:
    change(root / "reports" / "metrics" / f"{name}.json", "measured", **{key: value})
    with pytest.raises(ValueError, match="not comparable") as error:
        compare.run(params(), root)
    message = str(error.value)
    assert all(part in message for part in ("ddpm-ancestral.json", f"{name}.json", key, value))
    assert "\n" not in message
    assert not any((root / "reports" / output).exists() for output in OUTPUTS)


def test_a_bound_on_other_data_is_refused(root: Path) -> None:
    change(root / "reports" / "bounds" / "vdm-wide.json", "measured", data="00000000")
    with pytest.raises(ValueError, match=r"not comparable.*vdm-wide\.json.*00000000"):
        compare.run(params(), root)


@pytest.mark.parametrize(
    ("path", "stage"),
    [
        ("reports/metrics/vdm-ddim.json", "evaluate@vdm-ddim"),
        ("reports/metrics/baselines.json", "baselines"),
        ("reports/bounds/vdm-wide.json", "bound@vdm-wide"),
        ("evaluations/ddpm-ddim/details.json", "evaluate@ddpm-ddim"),
        ("samples/ddpm-ddim/images.npy", "sample@ddpm-ddim"),
        ("samples/vdm-ddim/sample.json", "sample@vdm-ddim"),
    ],
)
def test_a_missing_file_names_the_stage(root: Path, path: str, stage: str) -> None:
    (root / path).unlink()
    with pytest.raises(ValueError, match=f"{path} does not exist; run: dvc repro {stage}$"):
        compare.run(params(), root)


@pytest.mark.parametrize("value", [None, "12", True, float("nan"), float("inf")])
def test_a_value_that_is_no_number_is_refused(root: Path, value: object) -> None:
    change(root / "reports" / "metrics" / "vdm-ddim.json", "quality", kid=value)
    with pytest.raises(ValueError, match=r"vdm-ddim\.json has quality\.kid.*not a finite number"):
        compare.run(params(), root)


def test_a_damaged_file_is_refused(root: Path) -> None:
    (root / "reports" / "metrics" / "vdm-ddim.json").write_text('{"quality": {')
    with pytest.raises(ValueError, match=r"vdm-ddim\.json is not JSON"):
        compare.run(params(), root)


def test_the_inception_distance_is_called_fid(root: Path) -> None:
    for path in (root / "reports" / "metrics").glob("*.json"):
        content = json.loads(path.read_text().replace('"fd"', '"fid"').replace("convnet@", "inception@"))
        write_json(path, content)
    for path in root.glob("evaluations/*/details.json"):
        path.write_text(path.read_text().replace('"fd"', '"fid"').replace('"FD"', '"FID"'))
    rows = compare.run(params(), root)["samples"]
    assert rows[0]["fid"] == SAMPLES["ddpm-ancestral"][4]
    assert "fd" not in rows[0]
    assert "FID (95 %) ↓" in (root / "reports" / "compare.md").read_text()


def test_evaluations_of_other_metrics_are_refused(root: Path) -> None:
    path = root / "evaluations" / "vdm-ddim" / "details.json"
    content = json.loads(path.read_text())
    content["measured"]["metrics"] = [metric for metric in content["measured"]["metrics"] if metric["name"] != "kid"]
    write_json(path, content)
    with pytest.raises(ValueError, match=r"not comparable.*baselines.*fd, kid, .*vdm-ddim.*dvc repro baselines evaluate@vdm"):
        compare.run(params(), root)


def test_outputs_are_the_same_bytes_again(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("again")
    write_inputs(other)
    for folder in (root, other):
        compare.run(params(), folder)
    for name in OUTPUTS:
        assert (root / "reports" / name).read_bytes() == (other / "reports" / name).read_bytes()


def test_the_chart_puts_points_where_the_numbers_say(root: Path) -> None:
    """Read back from the SVG, whose y runs downwards: a larger value lies higher, a faster sample further right."""
    compare.run(params(), root)
    svg = ElementTree.parse(root / "reports" / "trilemma.svg").getroot()
    space = "{http://www.w3.org/2000/svg}"
    for axes, column in (("axes_1", 4), ("axes_2", 10)):
        group = next(element for element in svg.iter(f"{space}g") if element.get("id") == axes)
        points = []
        for line in group:
            uses = list(line.iter(f"{space}use"))
            if str(line.get("id")).startswith("line2d") and len(uses) == 1:
                points.append((float(uses[0].attrib["x"]), float(uses[0].attrib["y"])))
        assert len(points) == len(SAMPLES)
        speeds, values = ([row[index] for row in SAMPLES.values()] for index in (3, column))
        assert np.array_equal(np.argsort([x for x, _ in points]), np.argsort(speeds))
        assert np.array_equal(np.argsort([-y for _, y in points]), np.argsort(values))


@pytest.mark.parametrize("levels", [17, 256])
def test_the_picture_shows_the_first_images_row_by_row(root: Path, levels: int) -> None:
    """Codes of any number of levels run from black to white; a sample of 3 images has an empty rest of its row."""
    rng, shown = np.random.default_rng(1), {}
    for name in SAMPLES:
        folder = root / "samples" / name
        shown[name] = rng.integers(0, levels, (3 if name == "vdm-ancestral" else 20, 1, 8, 8), dtype=np.uint8)
        np.save(folder / "images.npy", shown[name])
        (folder / "sample.json").write_text(json.dumps({"levels": levels}), encoding="utf-8")
    seal(root, params())
    compare.run(params(), root)
    picture = np.asarray(Image.open(root / "reports" / "samples.png").convert("L"))
    left = picture.shape[1] - 16 * (16 + 4)
    for row, (name, images) in enumerate(shown.items()):
        top = 4 + row * (16 + 4)
        for column in (0, 2, 3, 15):
            tile = picture[top : top + 16 : 2, left + column * 20 : left + column * 20 + 16 : 2]
            expected = images[column, 0] * (255 / (levels - 1)) if column < len(images) else 255
            assert np.abs(tile - expected).max() <= 0.5, (name, column)


def test_labels_do_not_cover_each_other() -> None:
    points = [(100.0 + 14 * index, 100.0 + 3 * (index % 2)) for index in range(8)]
    markers = [Box(x - 5, y - 5, x + 5, y + 5) for x, y in points]
    boxes = place(points, [(60.0, 11.0)] * 8, markers, Box(0, 0, 400, 300))
    for index, box in enumerate(boxes):
        assert all(box.overlap(other) == 0 for other in [*markers, *boxes[:index]])
        assert box.outside(Box(0, 0, 400, 300)) == 0


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"), (0, "0"), (0.0, "0.0"), (25, "25"), (1234.5, "1234"), (12.34, "12.3"), (0.00678, "0.00678"),
        (-0.0012, "-0.00120"), (3.2e-9, "3.20e-09"),
    ],
)  # fmt: skip
def test_significant(value: float | None, text: str) -> None:
    assert significant(value) == text
