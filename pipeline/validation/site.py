"""Data Docs that open from disk without network: Great Expectations' pages without what they load from elsewhere.

Great Expectations fills its index by scripts from CDNs and shows whether a rule is met by an icon font from another, so
without network the index lists nothing (great_expectations#8734) and a failed rule looks like one that is met. Here the
pages keep their text and tables; scripts, outside styles and pictures go, and the index is plain HTML.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from pipeline.core import artifacts

HERE = Path(__file__).parent
# The icons by which Great Expectations tells of a rule: met, not met, could not be judged.
SIGNS = {"fa-check-circle": "\u2713 met", "fa-times": "\u2717 not met", "fa-exclamation-triangle": "! not judged"}


@dataclass(frozen=True)
class Suite:
    """The rules of one table and how many of them are met; `name` is that of Great Expectations' suite."""

    name: str
    rules: int
    met: int


def write(context: Any, folder: Path, suites: Sequence[Suite], failures: Sequence[str]) -> None:
    """Puts the pages of a Great Expectations context and an index.html of `suites` and `failures` into `folder`.

    The index comes last, so that one that is there lists pages that are. Pages of an earlier call stay, unlinked.
    """
    with tempfile.TemporaryDirectory() as made:
        built = Path(made).resolve()
        store = {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(built)}
        index = {"class_name": "DefaultSiteIndexBuilder"}
        context.add_data_docs_site(
            site_name="docs", site_config={"class_name": "SiteBuilder", "site_index_builder": index, "store_backend": store}
        )
        context.build_data_docs(site_names=["docs"])
        shutil.rmtree(built / "static")  # fonts, logos and walkthrough pictures; no page that is kept shows one
        (built / "index.html").unlink()
        pages = sorted(page.relative_to(built) for page in built.rglob("*.html"))
        for page in pages:
            artifacts.write_text(folder / page, offline((built / page).read_text(encoding="utf-8")))
    rows = []
    for suite in suites:
        (result,) = (page for page in pages if page.parts[:2] == ("validations", suite.name))
        expectations = Path("expectations") / f"{suite.name}.html"
        assert expectations in pages, pages
        rows.append({"suite": suite, "result": result.as_posix(), "expectations": expectations.as_posix()})
    artifacts.write_text(folder / "index.html", _index(rows, failures))


def offline(page: str) -> str:
    """A page of Great Expectations with nothing in it that a browser would load, and signs in words for its icons."""
    return _Offline(page).text


def _index(rows: Sequence[dict[str, Any]], failures: Sequence[str]) -> str:
    import jinja2

    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string((HERE / "site_index.html").read_text(encoding="utf-8"))
    return template.render(rows=rows, failures=failures, style=_style()) + "\n"


def _style() -> str:
    return (HERE / "site.css").read_text(encoding="utf-8")


class _Offline(HTMLParser):
    """Copies a page as it stands, but for what loads or runs; `text` is the copy."""

    GONE = ("script", "style", "footer")  # with all that is in them; the footer asks for a newsletter subscription
    OUTSIDE = re.compile(r"\s*(?:[a-z][a-z0-9+.-]*:)?//", re.IGNORECASE)
    HANDLER = re.compile(r"""\son\w+\s*=\s*("[^"]*"|'[^']*')""", re.IGNORECASE)

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=False)
        self.text = ""
        self._within: list[str] = []  # elements that are left out, the innermost last
        self.feed(page)
        self.close()
        assert not self._within, self._within

    def _add(self, text: str) -> None:
        if not self._within:
            self.text += text

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in self.GONE:
            self._within.append(tag)
        if tag == "link":
            return
        values = {name: value or "" for name, value in attrs}
        if tag == "img" and self.OUTSIDE.match(values.get("src", "")):
            self._add(escape(values.get("alt", "")))
            return
        written = self.get_starttag_text() or ""
        self._add(self.HANDLER.sub("", written))
        if tag == "i":
            self._add("".join(sign for icon, sign in SIGNS.items() if icon in values.get("class", "").split()))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        if self._within:
            if self._within[-1] == tag:
                self._within.pop()
            return
        if tag == "head":
            self._add(f"<style>\n{_style()}</style>\n")
        self._add(f"</{tag}>")

    def handle_data(self, data: str) -> None:
        self._add(data)

    def handle_entityref(self, name: str) -> None:
        self._add(f"&{name};")

    def handle_charref(self, name: str) -> None:
        self._add(f"&#{name};")

    def handle_decl(self, decl: str) -> None:
        self._add(f"<!{decl}>")
