"""What all charts share: colours, fonts, and an SVG that is the same bytes for the same numbers."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

# Okabe and Ito, "Color universal design" (2008): told apart by colour-blind readers too.
COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#5b5b5b"]
MARKERS = ["o", "s", "^", "D", "v", "P", "X"]
TEXT = "#333333"
MUTED = "#777777"


def assign(names: Sequence[str], choices: Sequence[str]) -> dict[str, str]:
    """A choice for each name, in order of first appearance; they come round again after the last."""
    return {name: choices[index % len(choices)] for index, name in enumerate(dict.fromkeys(names))}


@contextmanager
def style() -> Iterator[None]:
    """Drawing settings; text stays text in the SVG (searchable, and it follows the page's colours)."""
    import matplotlib

    settings: dict[Any, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": "trilemma",
        "font.family": "DejaVu Sans",
        "font.size": 9,
        "axes.titlesize": 10,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.facecolor": "none",
        "axes.grid": True,
        "grid.color": "#999999",
        "grid.alpha": 0.25,
        "grid.linewidth": 0.6,
        "legend.frameon": False,
        "text.hinting": "none",
        **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), TEXT),
    }
    with matplotlib.rc_context(settings):
        yield


def new(width: float, height: float) -> Figure:
    """A figure of `width` x `height` inches at 72 dots per inch: one pixel of a renderer is one point of the SVG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=72, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def svg(figure: Figure) -> str:
    """The figure without date, version or random ids."""
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines()) + "\n"


def plain_ticks(axis: Axis, low: float, high: float) -> None:
    """Plain numbers on a logarithmic axis from `low` to `high`: at 1, 2, 5 of each decade, or at the decades if many."""
    from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high / low < 2000 else (1.0,)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
