"""Building blocks of the HTML report: one file that opens offline, in light and dark. Every value is escaped here."""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Mapping, Sequence

CSS = """
:root { color-scheme: light dark; --ink: #1d2126; --soft: #5d6570; --line: #d9dde2; --paper: #ffffff; --tint: #f5f6f8; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e7eb; --soft: #9aa3ae; --line: #383e46; --paper: #16191d; --tint: #1e2227; }
}
body { margin: 0 auto; padding: 2.5rem 1.25rem 4rem; max-width: 80rem; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, "Segoe UI", Roboto, "Liberation Sans", sans-serif; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .5rem; }
h2 { font-size: 1.25rem; margin: 2.75rem 0 .5rem; }
h3 { font-size: 1rem; margin: 0; }
p { max-width: 46rem; margin: .5rem 0; }
.soft, figcaption, dd { color: var(--soft); }
dl.facts { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1.25rem; margin: 1rem 0; }
dl.facts dt { font-weight: 600; } dl.facts dd { margin: 0; overflow-wrap: anywhere; }
.scroll { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-size: .8rem; white-space: nowrap; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .45rem; border-bottom: 1px solid var(--line); text-align: left; }
th { font-weight: 600; white-space: normal; vertical-align: bottom; } .number { text-align: right; }
tbody.baselines { color: var(--soft); font-style: italic; }
tbody.findings td { white-space: normal; } tbody.findings .number { white-space: nowrap; }
tbody.front td:nth-child(2) { white-space: normal; min-width: 17rem; }
figure { margin: 1rem 0; }
figure svg { display: block; max-width: 100%; height: auto; }
figure svg text { fill: var(--ink) !important; }
figure svg [style*="fill: #ffffff; stroke"], figure svg [style="fill: #ffffff"] { fill: transparent !important; }
figure svg [style*="stroke: #333333"] { stroke: var(--soft) !important; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(20rem, 1fr)); gap: 1.25rem; }
.card { background: var(--tint); border: 1px solid var(--line); border-radius: .5rem; padding: .9rem 1rem 1rem; }
.card img { display: block; width: 100%; image-rendering: pixelated; margin-top: .6rem; border-radius: .2rem; }
.card p { margin: 0; font-size: .84rem; }
pre { background: var(--tint); border: 1px solid var(--line); border-radius: .5rem; padding: .8rem 1rem;
  overflow-x: auto; font-size: .84rem; }
summary { cursor: pointer; }
"""


def text(value: object) -> str:
    """`value` as HTML text, also safe inside a quoted attribute."""
    return html.escape(str(value), quote=True)


def section(title: str, *parts: str) -> str:
    return f"<section><h2>{text(title)}</h2>\n" + "\n".join(parts) + "</section>"


def paragraph(words: str, soft: bool = False) -> str:
    return f"<p{' class=soft' if soft else ''}>{text(words)}</p>"


def facts(values: Mapping[str, object]) -> str:
    """A list of names and values."""
    return (
        '<dl class="facts">'
        + "".join(f"<dt>{text(name)}</dt><dd>{text(value)}</dd>" for name, value in values.items())
        + "</dl>"
    )


def code(words: str) -> str:
    return f"<pre><code>{text(words)}</code></pre>"


def folded(title: str, content: str) -> str:
    return f"<details><summary>{text(title)}</summary>{content}</details>"


def figure(svg: str, name: str, description: str) -> str:
    """An SVG of ours inside the page. Its ids get the prefix `name`: two charts of one page must not share them."""
    start = svg.index("<svg")
    inner = re.sub(r'(\bid="|href="#|url\(#)', lambda match: f"{match[0]}{name}-", svg[start:])
    opened = inner.replace("<svg", f'<svg role="img" aria-label="{text(description)}"', 1)
    return f"<figure>{opened}<figcaption>{text(description)}</figcaption></figure>"


def picture(png: bytes, description: str) -> str:
    """A PNG as a data URI."""
    return f'<img alt="{text(description)}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'


def card(title: str, note: str, pictures: Sequence[str]) -> str:
    return f'<div class="card"><h3>{text(title)}</h3><p class="soft">{text(note)}</p>' + "\n".join(pictures) + "</div>"


def document(title: str, sections: Sequence[str]) -> str:
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{text(title)}</title>\n<style>{CSS}</style>\n</head>\n<body>\n<h1>{text(title)}</h1>\n"
        + "\n".join(sections)
        + "\n</body>\n</html>\n"
    )
