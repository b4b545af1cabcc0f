"""The chart of the trilemma: speed against quality, and speed against diversity, with a key of numbered samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pipeline.reporting.figure import COLOURS, MARKERS, MUTED, assign, new, plain_ticks, style, svg
from pipeline.reporting.labels import Box, gap, nearest, place

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Row = Mapping[str, Any]
Look = Mapping[str, Any]


def trilemma(samples: Sequence[Row], baselines: Sequence[Row], distance: str) -> str:
    """SVG with two panels, images/s against FD and against recall, 95 % intervals as bars, and a key.

    samples: rows of reports/compare.json; `distance` is "fd" or "fid". Colour is the family, the marker the kind of sampler;
    filled is who is on the Pareto front, hollow who is dominated. Numbers run through the front first, the fastest first.
    Baselines are dashed lines, named on the right.
    """
    colours = assign([row["family"] for row in samples], COLOURS)
    markers = assign([row["kind"] for row in samples], MARKERS)
    ranked = sorted(samples, key=lambda row: (not row["front"], -row["images_per_second"]))
    looks = {
        row["sample"]: {
            "marker": markers[row["kind"]],
            "color": colours[row["family"]],
            "markerfacecolor": colours[row["family"]] if row["front"] else "white",
        }
        for row in samples
    }
    with style():
        figure = new(13.5, max(5.6, 1.6 + 0.2 * len(samples)))
        quality, diversity, key = figure.subplots(1, 3, width_ratios=[1, 1, 0.52])
        figure.subplots_adjust(left=0.05, right=0.995, bottom=0.19, top=0.93, wspace=0.4)
        quality.set_title("Quality against speed")
        quality.set_ylabel(f"{distance.upper()}  (lower is better)")
        diversity.set_title("Diversity against speed")
        diversity.set_ylabel("recall  (higher is better)")
        for axes in (quality, diversity):
            _speed_axis(axes, samples)
        _distance_axis(quality, samples, baselines, distance)
        _recall_axis(diversity, samples)
        for axes, column in ((quality, distance), (diversity, "recall")):
            _baselines(axes, baselines, column)
            for row in samples:
                _interval(axes, row, column, colours[row["family"]])
                axes.plot(
                    row["images_per_second"], row[column], linestyle="", markersize=7, markeredgewidth=1.4, zorder=4,
                    **looks[row["sample"]],
                )  # fmt: skip
        _better(quality, (0.86, 0.13), (0.97, 0.03))
        _better(diversity, (0.86, 0.87), (0.97, 0.97))
        figure.draw_without_rendering()  # positions are final from here on
        _numbers(figure, quality, ranked, distance, Box(0.8, 0.0, 1.0, 0.17))
        _numbers(figure, diversity, ranked, "recall", Box(0.8, 0.83, 1.0, 1.0))
        _key(key, ranked, looks)
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


def _recall_axis(axes: Axes, samples: Sequence[Row]) -> None:
    """Where the samples are: those of one table often differ by less than a tenth."""
    values = [row[f"recall{end}"] for row in samples for end in ("", "_low", "_high")]
    found = [value for value in values if value is not None]
    margin = max(0.02, 0.12 * (max(found) - min(found)))
    axes.set_ylim(min(found) - margin, max(found) + margin)


def _interval(axes: Axes, row: Row, column: str, colour: str) -> None:
    ends = row[f"{column}_low"], row[f"{column}_high"]
    if None not in ends:
        axes.vlines(row["images_per_second"], *ends, color=colour, linewidth=1.2, zorder=3)
        axes.plot([row["images_per_second"]] * 2, ends, "_", color=colour, markersize=6, zorder=3)


def _better(axes: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    """An arrow into the good corner, in shares of the panel."""
    arrow = {"arrowstyle": "-|>", "color": MUTED, "linewidth": 1.2}
    axes.annotate(
        "better", end, start, xycoords="axes fraction", textcoords="axes fraction", arrowprops=arrow, color=MUTED,
        ha="center", va="center",
    )  # fmt: skip


def _baselines(axes: Axes, baselines: Sequence[Row], key: str) -> None:
    """Dashed lines with their names in the right margin; names of lines too close for two lines of text share one.

    Names of baselines beyond the axis stand at its end, with an arrow.
    """
    bottom, top = axes.get_ylim()
    groups: list[tuple[float, list[str]]] = []
    for row in sorted(baselines, key=lambda row: row[key]):
        name = row["sample"] if bottom <= row[key] <= top else f"{'↓' if row[key] < bottom else '↑'} {row['sample']}"
        if bottom <= row[key] <= top:
            axes.axhline(row[key], color=MUTED, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
        height = axes.transData.transform((1, min(max(row[key], bottom), top)))[1]
        if groups and height - groups[-1][0] < 12:
            groups[-1][1].append(name)
        else:
            groups.append((height, [name]))
    for height, names in groups:
        where = axes.transAxes.inverted().transform((0, height))[1]
        axes.text(1.015, where, "\n".join(reversed(names)), transform=axes.transAxes, va="center", color=MUTED, fontsize=8)


def _numbers(figure: Figure, axes: Axes, ranked: Sequence[Row], key: str, kept: Box) -> None:
    """Writes each sample's number beside its point; `kept`, in shares of the panel, stays free."""
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    points = [tuple(axes.transData.transform((row["images_per_second"], row[key]))) for row in ranked]
    frame = axes.get_window_extent(renderer)
    taken = [
        Box(
            frame.x0 + kept.left * frame.width, frame.y0 + kept.bottom * frame.height,
            frame.x0 + kept.right * frame.width, frame.y0 + kept.top * frame.height,
        ),
        *(Box(x - 5, y - 5, x + 5, y + 5) for x, y in points),
    ]  # fmt: skip
    for row, (x, _) in zip(ranked, points, strict=True):
        if row[f"{key}_low"] is not None:
            low, high = (axes.transData.transform((1, row[f"{key}_{end}"]))[1] for end in ("low", "high"))
            taken.append(Box(x - 2, low, x + 2, high))
    sizes = [(7.0 + 5.0 * (number > 9), 10.0) for number in range(1, len(ranked) + 1)]
    boxes = place(points, sizes, taken, Box(frame.x0, frame.y0, frame.x1, frame.y1))
    to_axes = axes.transAxes.inverted()
    for number, (row, point, box) in enumerate(zip(ranked, points, boxes, strict=True), start=1):
        x, y = to_axes.transform(((box.left + box.right) / 2, (box.bottom + box.top) / 2))
        weight = "bold" if row["front"] else "normal"
        axes.text(
            x, y, str(number), fontsize=8.5, transform=axes.transAxes, ha="center", va="center", zorder=5, fontweight=weight
        )
        if gap(point, box) > 8:
            (x0, y0), (x1, y1) = to_axes.transform(point), to_axes.transform(nearest(point, box))
            axes.plot([x0, x1], [y0, y1], color=MUTED, linewidth=0.7, transform=axes.transAxes, zorder=2)


def _key(axes: Axes, ranked: Sequence[Row], looks: Mapping[str, Look]) -> None:
    """Number, marker and name of every sample, the front first."""
    axes.set_axis_off()
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    step = min(0.05, 1 / (len(ranked) + 3.5))
    height, headed = 1.0, set[bool]()
    for number, row in enumerate(ranked, start=1):
        if row["front"] not in headed:
            height -= 0.5 * step if headed else 0.0
            headed.add(row["front"])
            words = "On the front" if row["front"] else "Dominated"
            axes.text(0.0, height, words, fontweight="bold", va="center")
            height -= step
        axes.plot(0.09, height, linestyle="", markersize=6, markeredgewidth=1.4, **looks[row["sample"]])
        axes.text(0.05, height, str(number), va="center", ha="right", fontsize=8.5)
        axes.text(0.14, height, row["sample"], va="center", fontsize=8.5)
        height -= step


def _legend(figure: Figure, colours: Mapping[str, str], markers: Mapping[str, str]) -> None:
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], color=colour, linewidth=5, label=f"family {name}") for name, colour in colours.items()]
    handles += [
        Line2D([], [], color=MUTED, marker=marker, linestyle="", markersize=7, label=f"sampler {name}")
        for name, marker in markers.items()
    ]
    handles += [
        Line2D(
            [], [], color=MUTED, marker="o", markerfacecolor=face, linestyle="", markersize=7, markeredgewidth=1.4, label=label
        )
        for face, label in ((MUTED, "on the front"), ("white", "dominated"))
    ]
    handles.append(Line2D([], [], color=MUTED, linewidth=1, linestyle=(0, (4, 3)), label="baseline"))
    figure.legend(handles=handles, loc="lower center", ncols=min(len(handles), 7), columnspacing=2.2, handletextpad=0.6)
