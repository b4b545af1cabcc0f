"""What the HTML report is made of, as data, and how it becomes a page: one file that opens offline, in light and dark.

Markup lies in templates/ alone, a file for each class of parts. There every value is escaped, and one that is missing is an
error (jinja2.UndefinedError).
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import ClassVar
from xml.etree import ElementTree

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from pipeline.reporting.table import Column, Row

TEMPLATES = Path(__file__).parent / "templates"
# Names that the standard library would otherwise replace by ns0 and ns1.
for _prefix, _namespace in (("", "http://www.w3.org/2000/svg"), ("xlink", "http://www.w3.org/1999/xlink")):
    ElementTree.register_namespace(_prefix, _namespace)


@dataclass(frozen=True)
class Part:
    """A part of the page; its template sees it as `part`."""

    template: ClassVar[str]


@dataclass(frozen=True)
class Paragraph(Part):
    """`soft`: of less weight, an explanation."""

    template = "paragraph.html.jinja"
    words: str
    soft: bool = False


@dataclass(frozen=True)
class Facts(Part):
    """Names and values."""

    template = "facts.html.jinja"
    values: Mapping[str, object]


@dataclass(frozen=True)
class Table(Part):
    """`name` is read aloud; `groups`: a class of the style sheet -> the rows that have it."""

    template = "table.html.jinja"
    name: str
    columns: Sequence[Column]
    groups: Mapping[str, Sequence[Row]]


@dataclass(frozen=True)
class Figure(Part):
    """An SVG of ours; `name` is one of its own on the page."""

    template = "figure.html.jinja"
    name: str
    svg: str
    caption: str


@dataclass(frozen=True)
class Picture:
    png: bytes
    description: str


@dataclass(frozen=True)
class Card:
    title: str
    note: str
    pictures: Sequence[Picture]


@dataclass(frozen=True)
class Cards(Part):
    template = "cards.html.jinja"
    cards: Sequence[Card]


@dataclass(frozen=True)
class Code(Part):
    template = "code.html.jinja"
    words: str


@dataclass(frozen=True)
class Folded(Part):
    """Shown at a click on `title`."""

    template = "folded.html.jinja"
    title: str
    content: Part


@dataclass(frozen=True)
class Section(Part):
    template = "section.html.jinja"
    title: str
    parts: Sequence[Part]


def inline(svg: str, name: str, description: str) -> Markup:
    """An SVG file as an element of the page. Its ids get the prefix `name`: two charts of one page must not share them."""
    root = ElementTree.fromstring(svg)
    root.attrib |= {"role": "img", "aria-label": description}
    for element in root.iter():
        for key, value in element.attrib.items():
            if key == "id":
                element.set(key, f"{name}-{value}")
            elif key.endswith("href") and value.startswith("#"):
                element.set(key, f"#{name}-{value[1:]}")
            else:
                element.set(key, value.replace("url(#", f"url(#{name}-"))
    # The one thing that is not escaped: matplotlib's own drawing, in which ElementTree has just escaped every text anew.
    return Markup(ElementTree.tostring(root, encoding="unicode"))


@cache
def environment() -> Environment:
    found = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    found.filters |= {"inline": inline, "base64": lambda data: base64.b64encode(data).decode()}
    return found


def document(title: str, parts: Sequence[Part]) -> str:
    """The whole file, with a final newline."""
    return environment().get_template("page.html.jinja").render(title=title, parts=parts) + "\n"
