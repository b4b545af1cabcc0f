"""report: one page that needs nothing else, in which no value can become markup. See test_page.py for its parts."""

from __future__ import annotations

import base64
import json
from html.parser import HTMLParser
from pathlib import Path

import pytest

from pipeline import compare, report
from pipeline.config.schema import Params
from pipeline.reporting.page import TEMPLATES, environment
from tests.support.comparison_files import BASELINES, SAMPLES, params, seal, write_inputs, write_json


class Page(HTMLParser):
    """Collects tags, what they refer to, ids, alternative texts, other texts, and table cells row by row."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.references: list[str] = []
        self.ids: list[str] = []
        self.alts: list[str] = []
        self.handlers: list[str] = []
        self.texts: list[tuple[str, str]] = []
        self.rows: list[list[str]] = []
        self.cell = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.cell = tag in ("td", "th")
        if tag == "tr":
            self.rows.append([])
        if self.cell:
            self.rows[-1].append("")
        for name, value in attrs:
            if name in ("src", "href", "xlink:href", "srcset", "data", "action"):
                self.references.append(value or "")
            if name == "id":
                self.ids.append(value or "")
            if name == "alt":
                self.alts.append(value or "")
            if name.startswith("on"):
                self.handlers.append(name)

    def handle_endtag(self, tag: str) -> None:
        self.cell = self.cell and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        self.texts.append((self.tags[-1] if self.tags else "", data))
        if self.cell:
            self.rows[-1][-1] += data


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_inputs(tmp_path)
    compare.run(params(), tmp_path)
    return tmp_path


def page(root: Path) -> Page:
    return Page(report.run(params(), root).read_text(encoding="utf-8"))


def test_nothing_comes_from_outside(root: Path) -> None:
    found = page(root)
    assert found.references
    assert all(value.startswith(("data:image/png;base64,", "#")) for value in found.references)
    assert not {"script", "link", "iframe", "object"} & set(found.tags)
    text = (root / "reports" / "index.html").read_text(encoding="utf-8")
    assert "@import" not in text
    assert "url(http" not in text


def test_pictures_of_every_sample_are_inside(root: Path) -> None:
    embedded = {base64.b64decode(value.split(",", 1)[1]) for value in page(root).references if value.startswith("data:")}
    files = [root / "samples" / name / file for name in SAMPLES for file in ("grid.png", "trajectory.png")]
    files += [root / "evaluations" / name / "neighbours.png" for name in SAMPLES]
    assert embedded == {file.read_bytes() for file in files}


def test_charts_share_no_ids(root: Path) -> None:
    found = page(root)
    assert len(found.ids) == len(set(found.ids))
    assert found.tags.count("svg") == 3
    targets = {value[1:] for value in found.references if value.startswith("#")}
    assert targets <= set(found.ids)


def test_table_rows(root: Path) -> None:
    found = page(root)
    rows: dict[str, list[str]] = {}
    for row in found.rows:
        rows.setdefault(row[0], row)  # the first table with this name is that of the front
    assert rows["vdm-ddim"][:3] == ["vdm-ddim", "nobody: on the front", "26.1 (23.7 to 27.5)"]
    assert rows["ddpm-ddim"][1] == "within intervals: vdm-ddim (images/s)"
    rows = {row[0]: row for row in found.rows if len(row) == 14}
    assert rows["vdm-ddim"][1:7] == ["vdm-wide (vdm)", "ddim", "25", "25", "26.1", "4.94 (4.45 to 5.56)"]
    assert rows["vdm-ddim"][9:] == ["0.876", "0.987", "0.668", "0.769", "3.012 ± 0.017"]
    assert rows["ddpm-ddim"][-1] == "–"
    assert set(BASELINES) <= set(rows)


def test_values_are_escaped(root: Path) -> None:
    evil = '<img src=x onerror="alert(1)">&'
    path = root / "reports" / "compare.json"
    content = json.loads(path.read_text())
    content["measured"] |= {"device": [evil], "extractor": evil}
    content["samples"][0]["sampler"] = evil
    content["baselines"][0]["sample"] = evil
    write_json(path, content)
    found = page(root)
    assert found.tags.count("img") == 3 * len(SAMPLES)
    # The sampler in the table of numbers, the baseline there and in that of memorisation.
    assert [evil in row for row in found.rows].count(True) == 3


EVIL = """<script>"'&"""


def renamed(root: Path, names: dict[str, str]) -> Params:
    """The parameters with other names of samples and runs, which no parameter file may have, and the files likewise."""
    for path in sorted(root.rglob("*"), reverse=True):  # what lies in a folder before the folder itself
        if path.stem in names:
            path.rename(path.with_name(names[path.stem] + path.suffix))
    cfg = params()
    samples = {
        names.get(name, name): sample.model_copy(update={"run": names.get(sample.run, sample.run)})
        for name, sample in cfg.samples.items()
    }
    others = {key: {names.get(name, name): value for name, value in getattr(cfg, key).items()} for key in ("runs", "bounds")}
    cfg = cfg.model_copy(update={"samples": samples, **others})
    seal(root, cfg)
    return cfg


def test_names_of_runs_and_samples_are_escaped(tmp_path: Path) -> None:
    """In tables, headings, alternative texts and charts, though the parameter file would refuse such names."""
    run, sample = f"run{EVIL}", f"sample{EVIL}"
    write_inputs(tmp_path)
    cfg = renamed(tmp_path, {"vdm-wide": run, "vdm-ddim": sample})
    compare.run(cfg, tmp_path)
    found = Page(report.run(cfg, tmp_path).read_text(encoding="utf-8"))
    assert "script" not in found.tags
    assert found.handlers == []
    assert found.tags.count("img") == 3 * len(SAMPLES)
    assert found.alts.count(f"samples of {sample}") == found.alts.count(f"nearest training images of {sample}") == 1
    assert found.texts.count(("h3", sample)) == 2  # its cards of samples and of memorisation
    assert [row[0] for row in found.rows].count(sample) == 3  # the front, numbers, memorisation
    assert {f"{run} (vdm)", f"within intervals: {sample} (images/s)"} <= {cell for row in found.rows for cell in row}
    # The key of the trilemma, the title of a training curve, the legend of the bound.
    assert [words for tag, words in found.texts if tag == "text" and EVIL in words] == [sample, run, f"{run} (vdm)"]


def test_every_template_is_used(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: set[str] = set()
    loader = environment().loader
    assert loader is not None
    read = loader.get_source
    monkeypatch.setattr(loader, "get_source", lambda found, name: (loaded.add(name), read(found, name))[1])
    assert environment().cache is not None
    environment().cache.clear()
    report.run(params(), root)
    assert loaded == {path.name for path in TEMPLATES.iterdir()}


@pytest.mark.parametrize(
    ("path", "stage"),
    [
        ("reports/compare.json", "compare"),
        ("reports/trilemma.svg", "compare"),
        ("reports/curves/ddpm.csv", "train@ddpm"),
        ("reports/bounds/vdm-wide.csv", "bound@vdm-wide"),
        ("samples/ddpm-ddim/grid.png", "sample@ddpm-ddim"),
        ("samples/vdm-ddim/trajectory.png", "sample@vdm-ddim"),
        ("evaluations/vdm-ddim/neighbours.png", "evaluate@vdm-ddim"),
    ],
)
def test_a_missing_file_names_the_stage(root: Path, path: str, stage: str) -> None:
    (root / path).unlink()
    with pytest.raises(ValueError, match=f"{path} does not exist; run: dvc repro {stage}$"):
        page(root)


def test_a_comparison_of_other_samples_is_refused(root: Path) -> None:
    path = root / "reports" / "compare.json"
    content = json.loads(path.read_text())
    write_json(path, content | {"samples": content["samples"][:-1]})
    with pytest.raises(ValueError, match="run: dvc repro compare"):
        page(root)


def test_a_curve_without_a_loss_is_refused(root: Path) -> None:
    (root / "reports" / "curves" / "ddpm.csv").write_text("step,split,quantity,value\n10,train,learning_rate,0.1\n")
    with pytest.raises(ValueError, match=r"ddpm\.csv has no quantity with both splits.*run: dvc repro -f train@ddpm"):
        page(root)


def test_the_page_is_the_same_bytes_again(root: Path) -> None:
    first = report.run(params(), root).read_bytes()
    assert report.run(params(), root).read_bytes() == first
