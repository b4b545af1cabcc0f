"""The documentation: links lead somewhere, what is generated is what would be generated, the first page stays one."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import BaseModel, Field
from ruamel.yaml import YAML

from pipeline.config.base import Name, StrictConfig
from tests.support import first_page, parameter_tables

REPOSITORY = Path(__file__).parents[1]
PAGES = [
    REPOSITORY / "README.md",
    REPOSITORY / "CONTRIBUTING.md",
    REPOSITORY / "CHANGELOG.md",
    *sorted((REPOSITORY / "docs").glob("*.md")),
]
LINK = re.compile(r"\]\(([^()\s]+)\)")


def prose(page: Path) -> str:
    """The page without its blocks of code, in which brackets are no links."""
    return re.sub(r"^( *)```.*?^\1```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#{1,6} (.+)$", prose(page), re.MULTILINE)
    return {parameter_tables.slug(re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)) for heading in headings}


def broken(page: Path) -> list[str]:
    """Relative links of `page` to a file or a heading that there is not."""
    found = []
    for link in LINK.findall(prose(page)):
        if re.match(r"[a-z]+:", link):
            continue
        file, _, anchor = link.partition("#")
        target = page.parent / file if file else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            found.append(link)
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_relative_link_leads_to_a_file_and_heading(page: Path) -> None:
    assert broken(page) == []


def test_broken_links_are_found(tmp_path: Path) -> None:
    (tmp_path / "other.md").write_text("# A `b`: c.d, e\n")
    page = tmp_path / "page.md"
    page.write_text(
        "[1](other.md#a-b-cd-e) [2](other.md#nothing) [3](missing.md) [4](https://a.b/c.md) [5](#here)\n"
        "```\n[6](also-missing.md)\n# not a heading\n```\n## Here\n[7](#not-a-heading)\n"
    )
    assert broken(page) == ["other.md#nothing", "missing.md", "#not-a-heading"]


def test_the_citation_is_of_the_version_that_the_project_has() -> None:
    """What CFF 1.2 requires, and no key that it does not know."""
    citation = YAML(typ="safe").load((REPOSITORY / "CITATION.cff").read_text(encoding="utf-8"))
    known = {"cff-version", "message", "type", "title", "abstract", "authors", "version", "license", "keywords"}
    assert {"cff-version", "message", "title", "authors"} <= set(citation) <= known
    assert citation["cff-version"] == "1.2.0"
    assert citation["authors"] == [{"name": "The trilemma authors"}]
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert (citation["version"], citation["license"]) == (project["version"], project["license"])
    assert f"## [{project['version']}]" in (REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8")


def test_the_first_page_is_one_page() -> None:
    assert len((REPOSITORY / "README.md").read_text(encoding="utf-8").splitlines()) <= 120


def test_the_rows_of_the_first_page_are_those_of_the_comparison() -> None:
    page = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    comparison = json.loads((REPOSITORY / "reports" / "compare.json").read_text(encoding="utf-8"))
    assert first_page.with_rows(page, comparison) == page, "make docs writes them"
    # Read without the module: five samples, each with the numbers of its own row.
    shown = [[cell.strip() for cell in line.strip("| ").split("|")] for line in page.splitlines() if line.startswith("| ")]
    rows = {row["sample"]: row for row in comparison["samples"]}
    found = [cells for cells in shown if cells[0] in rows]
    assert len(found) == 5
    for cells in found:
        row = rows[cells[0]]
        assert int(cells[3]) == row["network_evaluations"]
        assert float(cells[5].split()[0]) == pytest.approx(row["fd"], abs=0.006)
        assert float(cells[6]) == pytest.approx(row["recall"], abs=0.006)


def test_a_row_without_a_bound_or_an_interval_has_a_dash_or_the_value_alone() -> None:
    row = {
        "sample": "b", "family": "ddgan", "sampler": "posterior", "network_evaluations": 4, "images_per_second": 341.6,
        "fd": 14.823, "fd_low": None, "fd_high": None, "recall": 0.8647, "bits_per_dim": None,
    }  # fmt: skip
    other = row | {"sample": "a", "fd_low": 13.067, "fd_high": 16.9, "bits_per_dim": 3.8633}
    page = "before\n<!-- rows: a b -->\nstale\n<!-- end of rows -->\nafter\n"
    lines = first_page.with_rows(page, {"samples": [row, other]}).splitlines()
    assert lines[:2] == ["before", "<!-- rows: a b -->"]
    assert lines[4:] == [
        "| a | ddgan | posterior | 4 | 342 | 14.82 (13.07 to 16.90) | 0.86 | 3.86 |",
        "| b | ddgan | posterior | 4 | 342 | 14.82 | 0.86 | – |",
        "<!-- end of rows -->",
        "after",
    ]
    with pytest.raises(ValueError, match=r"shows the sample 'b'; reports/compare\.json has: a"):
        first_page.with_rows(page, {"samples": [other]})
    with pytest.raises(ValueError, match="put them around the table"):
        first_page.with_rows("no markers", {"samples": [row]})


def test_the_parameters_are_documented_as_their_types_read_them() -> None:
    assert parameter_tables.FILE.read_text(encoding="utf-8") == parameter_tables.generate(), "make docs writes it"


class Inner(StrictConfig):
    kind: Literal["inner-kind"]


class Outer(StrictConfig):
    """`plain`: of the base."""

    plain: Annotated[int, Field(gt=0, lt=2**32)]
    share: Annotated[float, Field(ge=0.25, le=1)] | None = None
    choice: Literal["a", "b"] = "b"
    name: Name
    several: tuple[Annotated[int, Field(ge=16)], ...] = (32, 64)
    inner: Inner | None = Field(alias="inside", default=None)


class Inheriting(Outer):
    """`last`: of the class itself."""

    last: bool


def test_a_key_of_a_base_class_is_explained_with_it() -> None:
    words = parameter_tables.words(Inheriting, "What it is.")
    assert words == ["What it is.", "`last`: of the class itself.", "`plain`: of the base."]


def test_a_key_is_described_by_its_range_and_its_default() -> None:
    heads: dict[type[BaseModel], str] = {Inner: parameter_tables.heading(Inner)}
    assert parameter_tables.table(Outer, heads)[2:] == [
        "| `plain` | integer > 0 and < 4294967296 | required |",
        "| `share` | number ≥ 0.25 and ≤ 1, or null | `null` |",
        '| `choice` | `a`, `b` | `"b"` |',
        "| `name` | name | required |",
        "| `several` | list: integer ≥ 16 | `[32, 64]` |",
        "| `inside` | [inner-kind](#inner-kind-inner-kind), or null | `null` |",
    ]
