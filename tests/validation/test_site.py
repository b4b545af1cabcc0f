"""Data Docs from disk: nothing is loaded from elsewhere, every table is listed and linked, a failed rule says so in words."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

import pytest

from pipeline.validation import expectations, site
from pipeline.validation.expectations import Outcome
from tests.support import good
from tests.support.blocks import data_limits
from tests.support.web_page import Page

TABLES = ("images", "classes", "splits")
BROKEN = ("channels", "constant-images", "class-imbalance")


def check(docs: Path, *patches: str) -> Outcome:
    rows, metadata = good.data()
    for name in patches:
        patch = good.patches("data")[name]
        rows, metadata = good.patched(rows, patch), good.patched_metadata(metadata, patch)
    return expectations.check_data(rows, metadata, data_limits(), docs)


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Outcome]:
    docs = tmp_path_factory.mktemp("site") / "docs"
    return docs, check(docs, *BROKEN)


def pages(docs: Path) -> list[Page]:
    return [Page(path) for path in sorted(docs.rglob("*.html"))]


def test_no_page_loads_or_runs_anything(broken: tuple[Path, Outcome]) -> None:
    found = pages(broken[0])
    assert len(found) == 1 + 2 * len(TABLES)
    for page in found:
        assert page.loads == []
        assert page.scripts == []
        assert " onclick=" not in page.path.read_text(encoding="utf-8")


def test_what_great_expectations_writes_by_itself_would_not_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(site, "offline", lambda page: page)
    check(tmp_path / "docs")
    for page in pages(tmp_path / "docs"):
        assert (page.outside == []) == (page.path.name == "index.html")


def test_every_link_leads_to_a_page_and_a_place_in_it(broken: tuple[Path, Outcome]) -> None:
    for page in pages(broken[0]):
        assert page.links
        for address, _ in page.links:
            parts = urlsplit(address)
            assert not parts.netloc, address
            target = page.target(address) if parts.path else page.path
            assert target.is_file(), address
            text = target.read_text(encoding="utf-8")
            assert not parts.fragment or any(f"id={mark}{parts.fragment}" in text for mark in ('"', "")), address


def test_the_index_lists_and_links_every_table(broken: tuple[Path, Outcome]) -> None:
    docs, outcome = broken
    index = Page(docs / "index.html")
    assert [text for _, text in index.links] == [
        f"{what} {table}" for table in TABLES for what in ("what was found in", "what is expected of")
    ]
    for number, (address, _) in enumerate(index.links):
        table = TABLES[number // 2]
        assert Path(address).parts[0] == ("expectations" if number % 2 else "validations")
        # The page is the table's own: its path stands on top of it.
        top = f"Expectations / {table}" if number % 2 else f"Validations / {table} /"
        assert top in Page(index.target(address)).text
    words = " ".join(index.text.split())
    for table in TABLES:
        of = [result["success"] for result in outcome.results if result["table"] == table]
        assert f"{sum(of)} of {len(of)}" in words
    assert f"{len(BROKEN)} of {len(outcome.results)} expectations are not met" in words
    assert len(outcome.failures) == len(BROKEN)
    assert all(" ".join(failure.split()) in words for failure in outcome.failures)


def test_a_rule_says_in_words_whether_it_is_met(broken: tuple[Path, Outcome]) -> None:
    docs, outcome = broken
    for table in TABLES:
        (path,) = (docs / "validations" / table).rglob("*.html")
        text = Page(path).text
        of = [result["success"] for result in outcome.results if result["table"] == table]
        # One sign for a rule, and one for them all together.
        assert text.count("\u2713 met") == sum(of) + all(of)
        assert text.count("\u2717 not met") == len(of) - sum(of) + (not all(of))


def test_the_index_of_good_data_says_so(tmp_path: Path) -> None:
    outcome = check(tmp_path / "docs")
    text = Page(tmp_path / "docs" / "index.html").text
    assert f"All {len(outcome.results)} expectations are met" in text
    assert "\u2717" not in text


def test_the_index_is_of_the_last_call(tmp_path: Path) -> None:
    check(tmp_path / "docs", "channels")
    first = {address for address, _ in Page(tmp_path / "docs" / "index.html").links}
    check(tmp_path / "docs")
    index = Page(tmp_path / "docs" / "index.html")
    second = {address for address, _ in index.links}
    assert {address for address in first & second if address.startswith("validations")} == set()
    assert "\u2717" not in index.text
    assert all("\u2717" not in Page(index.target(address)).text for address in second)


def test_no_failure_can_become_markup() -> None:
    rows = [{"suite": site.Suite("a & b", 3, 2), "result": "validations/a.html", "expectations": "expectations/a.html"}]
    page = site._index(rows, ["<script>alert(1)</script>"])
    assert "&lt;script&gt;" in page
    assert "<script" not in page
    assert "a &amp; b" in page


@pytest.mark.parametrize(
    ("written", "left"),
    [
        ('<p>a<script src="https://e.org/x.js">if (a < b) {}</script>b</p>', "<p>ab</p>"),
        ("<p>a<SCRIPT>$('</p>')</SCRIPT>b</p>", "<p>ab</p>"),
        ('<link rel="stylesheet" href="//e.org/x.css"/><p>&lt;b&gt; &#8805; 1</p>', "<p>&lt;b&gt; &#8805; 1</p>"),
        ('<a href="x"><img src="HTTPS://e.org/x.png" alt="a &quot;logo&quot;"></a>', '<a href="x">a &quot;logo&quot;</a>'),
        ("""<b onclick="go('x')" id="on">a</b>""", '<b id="on">a</b>'),
        ('<i class="fas fa-times text-danger"></i>', '<i class="fas fa-times text-danger">\u2717 not met</i>'),
        ("<footer><p>Subscribe<br></p></footer><p>a</p>", "<p>a</p>"),
        ("<style>b { background: url(https://e.org/x.png) }</style><!-- a --><p>b</p>", "<p>b</p>"),
    ],
)
def test_what_a_page_keeps(written: str, left: str) -> None:
    assert site.offline(written) == left
