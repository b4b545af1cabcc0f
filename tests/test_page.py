"""The parts of the report's page: no word becomes markup, nothing that is missing goes unnoticed."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jinja2 import UndefinedError

from pipeline.reporting import figure, page
from pipeline.reporting.page import Card, Cards, Code, Facts, Figure, Folded, Paragraph, Part, Picture, Section, Table
from pipeline.reporting.table import Column

REPOSITORY = Path(__file__).parents[1]
PLAIN = "plain-words"
HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror="alert(1)">',
    "' onmouseover='alert(1)",
    "</style></title></svg></code><!--",
    "&lt;b&gt; &amp;lt; &#60;",
    "{{ 7 * 7 }}{% include 'x' %}{# none #}",
    "]]><![CDATA[",
]


@pytest.fixture(scope="module")
def svg() -> str:
    """A chart with a clip path and markers, so that it refers to its own ids in both ways."""
    with figure.style():
        drawn = figure.new(2, 2)
        axes = drawn.subplots()
        axes.plot([1, 2, 3], [1, 3, 2], "o-")
        axes.set_title("<&>")
        return figure.svg(drawn)


def parts(words: str, svg: str) -> list[Part]:
    """One of every part, with `words` in every place that takes a text."""
    columns = [Column(words, lambda row: row[words], numeric=False), Column("n", lambda row: words, better=words)]
    return [
        Paragraph(words),
        Paragraph(words, soft=True),
        Facts({words: words}),
        Section(words, [Table(words, columns, {words: [{words: words}] * 2}), Figure(words, svg, words)]),
        Cards([Card(words, words, [Picture(b"\x89PNG", words)])]),
        Code(words),
        Folded(words, Code(words)),
    ]


class Strings(HTMLParser):
    """Tags with the names of their attributes; values of attributes and texts, unescaped, in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, ...]] = []
        self.strings: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, *(name for name, _ in attrs)))
        self.strings += [value or "" for _, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        self.tags.append((f"/{tag}",))

    def handle_comment(self, data: str) -> None:
        self.tags.append(("comment", data))

    def handle_data(self, data: str) -> None:
        self.strings.append(data)


def check_is_text_alone(words: str, svg: str) -> None:
    """A page with `words` has the tags of one with plain words, and its strings with those words in their places."""
    plain, found = (Strings(page.document(text, parts(text, svg))) for text in (PLAIN, words))
    assert found.tags == plain.tags
    assert found.strings == [string.replace(PLAIN, words) for string in plain.strings]
    assert sum(PLAIN in string for string in plain.strings) > 20


@pytest.mark.parametrize("words", HOSTILE)
def test_hostile_words_stay_words(words: str, svg: str) -> None:
    check_is_text_alone(words, svg)


@given(st.text(st.characters(exclude_categories=["Cc", "Cs"])).map(str.strip).filter(bool))
@settings(deadline=None)
def test_any_words_stay_words(words: str) -> None:
    check_is_text_alone(words, "<svg xmlns='http://www.w3.org/2000/svg'><g id='a'/><use href='#a'/></svg>")


def test_an_svg_is_the_same_drawing_with_ids_of_its_own(svg: str) -> None:
    """Apart from the prefix of ids, and of what refers to them, nothing changes; every reference meets an id."""
    found = ElementTree.fromstring(page.inline(svg, "one", 'a "chart" <of> & two'))
    drawn = ElementTree.fromstring(svg)
    assert found.attrib.pop("aria-label") == 'a "chart" <of> & two'
    assert found.attrib.pop("role") == "img"
    ids = [element.get("id") for element in drawn.iter() if element.get("id")]
    assert [element.get("id") for element in found.iter() if element.get("id")] == [f"one-{name}" for name in ids]
    referred = re.findall(r'(?:href="#|url\(#)([^")]+)', page.inline(svg, "one", ""))
    assert referred
    assert set(referred) <= {f"one-{name}" for name in ids}
    for ours, theirs in zip(found.iter(), drawn.iter(), strict=True):
        assert (ours.tag, ours.text) == (theirs.tag, theirs.text)
        assert {key: re.sub(r"\bone-", "", value) for key, value in ours.attrib.items()} == theirs.attrib
    assert "<&>" in [element.text for element in found.iter()]


@pytest.mark.parametrize("template", sorted(path.name for path in page.TEMPLATES.glob("*.jinja")))
def test_a_template_without_its_values_is_an_error(template: str) -> None:
    with pytest.raises(UndefinedError):
        page.environment().get_template(template).render()


def test_a_missing_field_is_an_error() -> None:
    card = SimpleNamespace(title="without a note", pictures=[])
    with pytest.raises(UndefinedError, match="note"):
        page.document("title", [Cards([card])])  # type: ignore[list-item]


MARKUP = re.compile(
    r"</?(?:!doctype|html|head|body|main|meta|style|section|h[1-6]|p|dl|d[dt]|div|span|a|b|i|ul|ol|li|br|table|thead|tbody|t[rdh]"
    r"|figure|figcaption|svg|img|pre|code|details|summary|script)\b[^>]*",
    re.IGNORECASE,
)


def markup(source: str) -> Iterator[str]:
    """Tags in the texts of a Python module."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield from MARKUP.findall(node.value)


def test_markup_lies_in_the_templates_alone() -> None:
    files = [REPOSITORY / "pipeline" / "report.py", *(REPOSITORY / "pipeline" / "reporting").glob("*.py")]
    assert len(files) > 10
    found = {file.name: [*markup(file.read_text(encoding="utf-8"))] for file in files}
    assert {name: tags for name, tags in found.items() if tags} == {}


@pytest.mark.parametrize("line", ['f"<p>{words}</p>"', "'<td class=number>'", '"</svg>"', "f'<div class=\"{name}\">'"])
def test_markup_in_python_is_found(line: str) -> None:
    assert list(markup(f"x = {line}"))
    assert not list(markup('"""Reads samples/<sample>/images.npy, where a < b."""'))
