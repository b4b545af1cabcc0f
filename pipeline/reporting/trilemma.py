"""The chart of the trilemma: speed against quality, and speed against diversity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pipeline.reporting.figure import COLOURS, MARKERS, MUTED, assign, new, plain_ticks, style, svg
from pipeline.reporting.labels import Box, gap, nearest, place

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Row = Mapping[str, Any]


def trilemma(samples: Sequence[Row], baselines: Sequence[Row], distance: str) -> str:
    """SVG with two panels: images/s against FD (95 % interval) and against recall. Colour is the family, marker the sampler.

    samples: rows of reports/compare.json; `distance` is "fd" or "fid". Baselines are dashed lines, named on the right.
    """
    colours = assign([row["family"] for row in samples], COLOURS)
    markers = assign([row["sampler"] for row in samples], MARKERS)
    with style():
        figure = new(11.5, 5.6)
        panels = figure.subplots(1, 2)
        figure.subplots_adjust(left=0.06, right=0.90, bottom=0.19, top=0.93, wspace=0.42)
        quality, diversity = panels
        _speed_axis(quality, samples)
        _speed_axis(diversity, samples)
        quality.set_title("Quality against speed")
        quality.set_ylabel(f"{distance.upper()}  (lower is better)")
        _distance_axis(quality, samples, baselines, distance)
        diversity.set_title("Diversity against speed")
        diversity.set_ylabel("recall  (higher is better)")
        diversity.set_ylim(-0.04, 1.04)
        for axes, key in ((quality, distance), (diversity, "recall")):
            _baselines(axes, baselines, key)
            for row in samples:
                axes.plot(
                    row["images_per_second"], row[key], markers[row["sampler"]], color=colours[row["family"]],
                    markersize=7, markeredgecolor="white", markeredgewidth=0.8, zorder=4,
                )  # fmt: skip
        for row in samples:
            if row[f"{distance}_low"] is not None:
                ends = row[f"{distance}_low"], row[f"{distance}_high"]
                quality.vlines(row["images_per_second"], *ends, color=colours[row["family"]], linewidth=1.6, zorder=3)
                quality.plot([row["images_per_second"]] * 2, ends, "_", color=colours[row["family"]], markersize=7, zorder=3)
        figure.draw_without_rendering()  # positions are final from here on
        _names(figure, quality, samples, distance, f"{distance}_low", f"{distance}_high")
        _names(figure, diversity, samples, "recall", None, None)
        _legend(figure, colours, markers)
        return svg(figure)


def _speed_axis(axes: Axes, samples: Sequence[Row]) -> None:
    speeds = [row["images_per_second"] for row in samples]
    low, high = min(speeds) / 2, max(speeds) * 2.5  # room for names at the right
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    plain_ticks(axes.xaxis, low, high)
    axes.set_xlabel("images per second  (faster to the right)")


def _distance_axis(axes: Axes, samples: Sequence[Row], baselines: Sequence[Row], distance: str) -> None:
    """Logarithmic, since a baseline of noise lies decades above any model; linear if an estimate is not positive.

    An interval may reach below zero: on the logarithmic axis its bar then runs to the lower edge.
    """
    estimates = [row[distance] for row in [*samples, *baselines]]
    if min(estimates) <= 0:
        return
    ends = [row[f"{distance}_{end}"] for row in samples for end in ("low", "high")]
    positive = estimates + [end for end in ends if end is not None and end > 0]
    low, high = min(positive) / 1.4, max(positive) * 1.4
    axes.set_yscale("log")
    axes.set_ylim(low, high)
    plain_ticks(axes.yaxis, low, high)


def _baselines(axes: Axes, baselines: Sequence[Row], key: str) -> None:
    """Dashed lines with their names in the right margin; names of lines too close for two lines of text share one."""
    groups: list[tuple[float, list[str]]] = []
    for row in sorted(baselines, key=lambda row: row[key]):
        axes.axhline(row[key], color=MUTED, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
        height = axes.transData.transform((1, row[key]))[1]
        if groups and height - groups[-1][0] < 12:
            groups[-1][1].append(row["sample"])
        else:
            groups.append((height, [row["sample"]]))
    for height, names in groups:
        where = axes.transAxes.inverted().transform((0, height))[1]
        axes.text(1.015, where, "\n".join(reversed(names)), transform=axes.transAxes, va="center", color=MUTED, fontsize=8)


def _names(figure: Figure, axes: Axes, samples: Sequence[Row], key: str, low: str | None, high: str | None) -> None:
    """Writes each sample's name beside its point, with a thin line to it where the name had to move away."""
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    points = [tuple(axes.transData.transform((row["images_per_second"], row[key]))) for row in samples]
    sizes, taken = [], [Box(x - 5, y - 5, x + 5, y + 5) for x, y in points]
    for row, (x, _) in zip(samples, points, strict=True):
        text = axes.text(0, 0, row["sample"], fontsize=8.5, transform=None)
        extent = text.get_window_extent(renderer)
        text.remove()
        sizes.append((extent.width + 2, extent.height + 2))
        if low is not None and high is not None and row[low] is not None:
            bottom, top = (axes.transData.transform((row["images_per_second"], row[end]))[1] for end in (low, high))
            taken.append(Box(x - 2, bottom, x + 2, top))
    frame = axes.get_window_extent(renderer)
    boxes = place(points, sizes, taken, Box(frame.x0, frame.y0, frame.x1, frame.y1))
    to_axes = axes.transAxes.inverted()
    for row, point, box in zip(samples, points, boxes, strict=True):
        x, y = to_axes.transform(((box.left + box.right) / 2, (box.bottom + box.top) / 2))
        axes.text(x, y, row["sample"], fontsize=8.5, transform=axes.transAxes, ha="center", va="center", zorder=5)
        if gap(point, box) > 12:
            (x0, y0), (x1, y1) = to_axes.transform(point), to_axes.transform(nearest(point, box))
            axes.plot([x0, x1], [y0, y1], color=MUTED, linewidth=0.7, transform=axes.transAxes, zorder=2)


def _legend(figure: Figure, colours: Mapping[str, str], markers: Mapping[str, str]) -> None:
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], color=colour, linewidth=5, label=f"family {name}") for name, colour in colours.items()]
    handles += [
        Line2D([], [], color=MUTED, marker=marker, linestyle="", markersize=7, label=f"sampler {name}")
        for name, marker in markers.items()
    ]
    handles.append(Line2D([], [], color=MUTED, linewidth=1, linestyle=(0, (4, 3)), label="baseline"))
    figure.legend(handles=handles, loc="lower center", ncols=min(len(handles), 7), columnspacing=2.2, handletextpad=0.6)
