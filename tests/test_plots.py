"""`dvc plots`: a page that opens without network, in which every plot has the axes that dvc.yaml gives it."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import vl_convert
import yaml

from tests.support import plots_page
from tests.support.web_page import Page

REPOSITORY = Path(__file__).parents[1]
AXES = ("template", "x", "y", "x_label", "y_label", "title")


def declared() -> dict[str, dict[str, Any]]:
    """The plots that stages list, ${key} filled in: path -> properties."""
    params = yaml.safe_load((REPOSITORY / "params.yaml").read_text(encoding="utf-8"))
    stages = yaml.safe_load((REPOSITORY / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    found = {}
    for stage in stages.values():
        keys = list(params[stage["foreach"][2:-1]]) if "foreach" in stage else [""]
        for entry in stage.get("do", stage).get("plots", []):
            for key in keys:
                found |= json.loads(json.dumps(entry).replace("${key}", key))
    return found


class Repository:
    """The repository's plots and the small results they show, in a git repository of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        shutil.copytree(
            REPOSITORY / ".dvc", folder / ".dvc", ignore=shutil.ignore_patterns("tmp", "cache", "remote", "config.local")
        )
        for name in ("dvc.yaml", "params.yaml"):
            shutil.copy(REPOSITORY / name, folder)
        for path in (path for path in declared() if (REPOSITORY / path).is_file()):
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPOSITORY / path, folder / path)
        for name in ("samples.png", "trilemma.svg"):
            shutil.copy(REPOSITORY / "reports" / name, folder / "reports")
        self.call("git", "init", "--quiet")
        self.commit()

    def call(self, *command: str) -> str:
        settings = self.folder.parent / "settings"
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("DVC_", "GIT_"))} | {
            "DVC_NO_ANALYTICS": "1", "DVC_GLOBAL_CONFIG_DIR": str(settings), "DVC_SYSTEM_CONFIG_DIR": str(settings),
            "DVC_SITE_CACHE_DIR": str(settings), "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull,
            **{f"GIT_{who}_{what}": "test@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
        }  # fmt: skip
        done = subprocess.run(
            command, cwd=self.folder, env=environment, text=True, capture_output=True, check=False, timeout=300
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    def commit(self) -> None:
        self.call("git", "add", "--all")
        self.call("git", "commit", "--quiet", "--message", "state")

    def plots(self, *arguments: str, out: Path) -> Page:
        said = self.call(sys.executable, "-m", "dvc", "plots", *arguments, "--out", str(out))
        assert "failed" not in said.lower(), said
        return Page(out / "index.html")

    def rows(self, path: str) -> list[dict[str, str]]:
        with (self.folder / path).open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))


def specifications(page: Page) -> dict[str, dict[str, Any]]:
    """The vega-lite specifications in a page, by title."""
    found = {}
    for script in page.scripts:
        if start := re.match(r"\s*var spec = ", script):
            spec, _ = json.JSONDecoder().raw_decode(script, start.end())
            found[spec["title"]["text"]] = spec
    return found


def encoded(spec: Any, channel: str) -> Iterator[dict[str, Any]]:
    """What a channel is given anywhere in a specification, layers and panels included."""
    if isinstance(spec, dict):
        if channel in spec.get("encoding", {}):
            yield spec["encoding"][channel]
        for inner in spec.values():
            yield from encoded(inner, channel)
    elif isinstance(spec, list):
        for inner in spec:
            yield from encoded(inner, channel)


def marks(scene: Any, kind: str) -> Iterator[list[dict[str, Any]]]:
    """The items of every mark of a kind in what vega draws."""
    if isinstance(scene, dict):
        if scene.get("marktype") == kind and scene.get("role") == "mark":
            yield scene["items"]
        for inner in scene.values():
            yield from marks(inner, kind)
    elif isinstance(scene, list):
        for inner in scene:
            yield from marks(inner, kind)


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    folder = tmp_path_factory.mktemp("plots") / "repository"
    folder.mkdir()
    return Repository(folder)


@pytest.fixture(scope="module")
def shown(repository: Repository) -> Page:
    return repository.plots("show", out=repository.folder.parent / "shown")


def test_every_plot_of_a_stage_declares_its_axes() -> None:
    assert declared(), "no stage lists a plot"
    for path, properties in declared().items():
        assert [name for name in AXES if not properties.get(name)] == [], path
        assert (REPOSITORY / ".dvc" / "plots" / f"{properties['template']}.json").is_file(), path


def test_the_page_loads_nothing_from_elsewhere(shown: Page) -> None:
    assert shown.outside == []
    pictures = [shown.target(address) for address in shown.loads]
    assert sorted(picture.suffix for picture in pictures) == [".png", ".svg"]
    assert all(picture.is_file() for picture in pictures)
    assert "window.vegaEmbed" in shown.scripts[0]


def test_the_page_that_dvc_makes_by_itself_is_not_taken_for_one_without_network(repository: Repository, tmp_path: Path) -> None:
    template = tmp_path / "template.html"
    template.write_text("<html><head>{scripts}</head><body>{plot_divs}</body></html>", encoding="utf-8")
    page = repository.plots("show", "--html-template", str(template), out=tmp_path / "shown")
    assert len(page.outside) == 3


def test_every_file_is_drawn_with_its_axes_and_all_its_rows(repository: Repository, shown: Page) -> None:
    specs = specifications(shown)
    there = {path: properties for path, properties in declared().items() if (repository.folder / path).is_file()}
    assert set(specs) == {properties["title"] for properties in there.values()}
    assert len(specs) == len(there) > 3
    for path, properties in there.items():
        spec, rows = specs[properties["title"]], repository.rows(path)
        x, y = properties["x"], properties["y"]
        assert {x, y} <= set(rows[0]), path
        assert [{name: row[name] for name in rows[0]} for row in spec["data"]["values"]] == rows
        assert {channel["field"] for channel in encoded(spec, "x")} == {x}
        assert {channel["title"] for channel in encoded(spec, "x") if "title" in channel} == {properties["x_label"]}
        assert y in {channel["field"] for channel in encoded(spec, "y")}
        assert properties["y_label"] in {channel.get("title") for channel in encoded(spec, "y")}
        assert "<DVC_METRIC" not in json.dumps(spec), "a place of the template that DVC did not fill"


def test_what_is_validated_rarely_is_drawn_where_it_was_measured(repository: Repository, shown: Page) -> None:
    """As drawn: a dot per validation, at its step, and a line through all that was trained and one through the dots."""
    specs = specifications(shown)
    for path, properties in declared().items():
        if properties["template"] != "curve" or not (repository.folder / path).is_file():
            continue
        rows = repository.rows(path)
        valid = [row for row in rows if row["split"] == "valid"]
        assert 0 < len(valid) < len(rows) / 5, "rare"
        scene = vl_convert.vegalite_to_scenegraph(specs[properties["title"]], vl_version=plots_page.VEGA_LITE)
        dots = [item for items in marks(scene, "symbol") for item in items]
        assert len(dots) == len(valid), path
        assert sum(len(items) for items in marks(scene, "line")) == len(rows), "a line for each split"
        # Panels are alike in width and share the scale of steps: a dot's x is one linear function of its step.
        steps, places = sorted({int(row["step"]) for row in valid}), sorted({round(dot["x"], 3) for dot in dots})
        assert len(steps) == len(places)
        ends = [item["x"] for items in marks(scene, "line") for item in items]
        all_steps = [int(row["step"]) for row in rows]
        slope = (max(ends) - min(ends)) / (max(all_steps) - min(all_steps))
        for step, place in zip(steps, places, strict=True):
            assert place == pytest.approx(min(ends) + slope * (step - min(all_steps)), abs=0.01)


def test_bands_are_one_standard_error(repository: Repository, shown: Page) -> None:
    path = next(path for path, properties in declared().items() if properties["template"] == "bound")
    rows, spec = repository.rows(path), specifications(shown)[declared()[path]["title"]]
    scene = vl_convert.vegalite_to_scenegraph(spec, vl_version=plots_page.VEGA_LITE)
    (band,) = marks(scene, "area")
    (line,) = marks(scene, "line")
    assert len(band) == len(line) == len(rows)
    # Two rows fix the scale of y in pixels; every other one must lie where it puts it.
    values, errors = ([float(row[name]) for row in rows] for name in ("bits_per_dim", "standard_error"))
    high, low = values.index(max(values)), values.index(min(values))
    scale = (line[low]["y"] - line[high]["y"]) / (values[high] - values[low])
    for value, error, drawn, point in zip(values, errors, band, line, strict=True):
        assert line[high]["y"] + scale * (values[high] - value) == pytest.approx(point["y"], abs=0.01)
        assert abs(drawn["height"]) == pytest.approx(2 * error * scale, abs=0.01)


def test_diff_draws_both_sides(tmp_path: Path) -> None:
    folder = tmp_path / "repository"
    folder.mkdir()
    repository = Repository(folder)
    path = next(path for path in declared() if (folder / path).is_file() and declared()[path]["template"] == "curve")
    before = repository.rows(path)
    changed = (folder / path).read_text(encoding="utf-8").splitlines()[:-1]
    (folder / path).write_text("\n".join(changed) + "\n", encoding="utf-8")
    repository.commit()
    page = repository.plots("diff", "HEAD~1", "--targets", path, out=tmp_path / "elsewhere")
    assert page.outside == []
    (spec,) = specifications(page).values()
    counts = {rev: sum(row["rev"] == rev for row in spec["data"]["values"]) for rev in ("HEAD~1", "workspace")}
    assert counts == {"HEAD~1": len(before), "workspace": len(before) - 1}
    domains = [channel["scale"]["domain"] for channel in encoded(spec, "color")]
    assert domains
    assert all(set(domain) == {"HEAD~1", "workspace"} for domain in domains)


def test_the_committed_page_is_the_one_that_is_made() -> None:
    assert plots_page.PAGE.read_text(encoding="utf-8") == plots_page.render(), "run: make plots-page"
