"""What a browser would do with a page on disk: which files it loads by itself, and where its links lead."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

# Attributes whose address is fetched without a click; `a href` is not among them.
LOADED = {"src", "srcset", "poster", "data", "background", "xlink:href"}
STYLES = re.compile(r"""url\(\s*["']?([^"')]+)|@import\s+["']([^"']+)""")


class Page(HTMLParser):
    """loads: addresses fetched on opening; links: (address, text) of each `a`; text: what is shown, without scripts."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.loads: list[str] = []
        self.links: list[tuple[str, str]] = []
        self.scripts: list[str] = []
        self.text = ""
        self._inside: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.loads += [value for name, value in values.items() if name in LOADED]
        if tag in ("link", "image", "use") and "href" in values:
            self.loads.append(values["href"])
        if tag == "base":
            self.loads.append(values.get("href", ""))
        self._style(values.get("style", ""))
        if tag == "a" and "href" in values:
            self.links.append((values["href"], ""))
        if tag in ("script", "style", "a"):
            self._inside.append(tag)
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        if self._inside and self._inside[-1] == tag:
            self._inside.pop()

    def handle_data(self, data: str) -> None:
        inside = self._inside[-1] if self._inside else ""
        if inside == "script":
            self.scripts[-1] += data
            return
        if inside == "style":
            self._style(data)
            return
        self.text += data
        if inside == "a":
            address, text = self.links[-1]
            self.links[-1] = (address, text + data)

    def _style(self, text: str) -> None:
        self.loads += [first or second for first, second in STYLES.findall(text)]

    @property
    def outside(self) -> list[str]:
        """Loaded addresses that name a host, with or without a scheme; data: and blob: hold their content themselves."""
        return [address for address in self.loads if urlsplit(address).netloc]

    def target(self, address: str) -> Path:
        """The file that a relative address leads to."""
        return (self.path.parent / unquote(urlsplit(address).path)).resolve()
