"""Pictures of runs, as PNG files."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

# Readable in black and white print and by the colour-blind.
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#000000")
_DPI = 150


def plot_run(metrics: Sequence[Mapping], path: str | Path) -> None:
    """Draw a run's learning curve, in training and, where measured, on held-out text.

    Args:
        metrics: lines of `metrics.jsonl`, with `step`, `perplexity` and maybe `val_perplexity`.
        path: PNG file to write.
    """
    curves = {"training": [(line["step"], line["perplexity"]) for line in metrics]}
    held_out = [
        (line["step"], line["val_perplexity"]) for line in metrics if "val_perplexity" in line
    ]
    if held_out:
        curves["held-out text"] = held_out
    plot_learning_curves(curves, path)


def plot_learning_curves(
    curves: Mapping[str, Sequence[tuple[int, float]]],
    path: str | Path,
    *,
    title: str = "Learning curve",
) -> None:
    """Draw perplexities against training steps, both axes for numbers of every size.

    Args:
        curves: by label, pairs of a step and a perplexity per token.
        path: PNG file to write.
        title: stands above.
    """
    figure, axes = new_axes(title)
    for (label, points), color in zip(curves.items(), COLORS, strict=False):
        if points:
            steps, values = zip(*points, strict=True)
            marker = "o" if len(points) < 30 else None
            axes.plot(steps, values, label=label, color=color, marker=marker, markersize=3.5)
    axes.set_yscale("log")
    # Ticks like 200 and 300, not only powers of ten, which a curve may miss altogether.
    plain_ticks(axes.yaxis, (1, 2, 3, 5))
    axes.set_xlabel("training step")
    axes.set_ylabel("perplexity per token")
    axes.legend(frameon=False)
    save_figure(figure, path)


def plot_gain(
    gain: Mapping[str, np.ndarray],
    path: str | Path,
    *,
    window: int | None = None,
    title: str = "Gain of fast weights",
) -> None:
    """Draw how much better one model predicts than another, against position in the document.

    Args:
        gain: what `gain_by_position` returned.
        path: PNG file to write.
        window: tokens in a window, marked by a line: beyond it the models start afresh.
        title: stands above.
    """
    figure, axes = new_axes(title)
    axes.axhline(0.0, color="0.4", linewidth=0.8)
    axes.fill_between(
        gain["position"], gain["low"], gain["high"], color=COLORS[0], alpha=0.2, linewidth=0
    )
    axes.plot(gain["position"], gain["mean"], color=COLORS[0], marker="o", markersize=3.5)
    axes.set_xscale("log")
    plain_ticks(axes.xaxis, (1, 2, 5))
    axes.set_xlabel("position in the document (tokens)")
    axes.set_ylabel("gain (nats per token)")
    if window is not None:
        axes.axvline(window, color="0.4", linewidth=0.8, linestyle="--")
        axes.annotate(
            f"windows of {window} tokens,\neach read on its own",
            (window, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(4, -2),
            textcoords="offset points",
            fontsize=8,
            verticalalignment="top",
            color="0.3",
        )
    save_figure(figure, path)


def new_axes(title: str) -> tuple[Figure, Axes]:
    """Make a figure of one pair of axes.

    Args:
        title: stands above.
    """
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    # The object interface: pyplot would keep figures and a backend for the whole process.
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_title(title, fontsize=11)
    style_axes(axes)
    return figure, axes


def style_axes(axes: Axes) -> None:
    """Draw a faint grid, and no frame."""
    axes.grid(color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def plain_ticks(axis: Axis, steps: tuple[int, ...] | None = None) -> None:
    """Write the numbers of a logarithmic axis as 2,000 and 0.5, never as powers of ten.

    Args:
        axis: the x or the y axis.
        steps: ticks within every factor of ten, e.g. 1, 2 and 5; None: as Matplotlib chooses.
    """
    if steps is not None:
        axis.set_major_locator(LogLocator(base=10, subs=steps))
    plain = FuncFormatter(lambda value, _: f"{value:,.0f}" if value >= 1 else f"{value:g}")
    axis.set_major_formatter(plain)
    axis.set_minor_formatter(NullFormatter())


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write a figure to a PNG file, whatever the file's name."""
    figure.savefig(path, dpi=_DPI, format="png")
