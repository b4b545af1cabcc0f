"""Curves of training and of the bound, as SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pipeline.reporting.figure import COLOURS, assign, new, plain_ticks, style, svg

Curve = Sequence[tuple[float, float]]


def losses(columns: Mapping[str, Curve]) -> list[str]:
    """Names of the parts of a loss in a training curve: the quantities that are validated too, as valid/<name>."""
    return [name for name in columns if f"valid/{name}" in columns]


def training_curves(runs: Mapping[str, Mapping[str, Curve]]) -> str:
    """One panel per run, since losses of different objectives share no axis: each part of the loss, trained and validated."""
    from matplotlib.ticker import MaxNLocator

    across = min(3, len(runs))
    down = -(-len(runs) // across)
    with style():
        figure = new(3.8 * across, 2.5 * down + 0.2)
        panels = figure.subplots(down, across, squeeze=False)
        for axes in panels.flat[len(runs) :]:
            axes.set_axis_off()
        for axes, (run, columns) in zip(panels.flat, runs.items(), strict=False):
            names = losses(columns)
            for name, colour in assign(names, COLOURS).items():
                axes.plot(*zip(*columns[name], strict=True), color=colour, linewidth=1.3, label=name)
                validated = columns[f"valid/{name}"]
                axes.plot(
                    *zip(*validated, strict=True), "o--", color=colour, linewidth=1, markersize=4, label=f"{name}, validation"
                )
            values = [value for name in names for key in (name, f"valid/{name}") for _, value in columns[key]]
            if min(values) > 0:
                axes.set_yscale("log")
                plain_ticks(axes.yaxis, min(values), max(values))
            axes.set_title(run)
            axes.set_xlabel("step")
            axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
            axes.legend(fontsize=8)
        figure.tight_layout()
        return svg(figure)


def bound_curves(runs: Mapping[str, tuple[str, Mapping[str, Curve]]]) -> str:
    """bits/dim per unit of time over t, with a band of one standard error; runs -> (family, columns).

    The area under a curve is the diffusion term.
    """
    colours = assign(list(runs), COLOURS)
    with style():
        figure = new(7.6, 3.2)
        axes = figure.subplots()
        for run, (family, columns) in runs.items():
            time, density = zip(*columns["bits_per_dim"], strict=True)
            error = [value for _, value in columns["standard_error"]]
            low = [value - spread for value, spread in zip(density, error, strict=True)]
            high = [value + spread for value, spread in zip(density, error, strict=True)]
            axes.fill_between(time, low, high, color=colours[run], alpha=0.25, linewidth=0)
            label = run if run == family else f"{run} ({family})"
            axes.plot(time, density, color=colours[run], linewidth=1.5, label=label)
        axes.set_xlabel("time t  (0 data, 1 noise)")
        axes.set_ylabel("bits/dim per unit of time")
        axes.set_xlim(0, 1)
        axes.legend()
        figure.tight_layout()
        return svg(figure)
