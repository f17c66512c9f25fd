"""A benchmark's pictures, as PNG files."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from fwl_keras.evaluation.plots import COLORS, new_axes, plain_ticks, save_figure, style_axes


def plot_gains(
    gains: Mapping[str, Mapping[str, Mapping[str, np.ndarray]]],
    path: str | Path,
    *,
    title: str = "Improvement over the baseline",
) -> None:
    """Draw gains against several properties of tokens side by side, as the paper's Figure 2.

    Args:
        gains: by what the axis shows, by the model's label, what `gain_by` returned. Where values
            begin with 0 the axis does, too.
        path: PNG file to write.
        title: stands above.
    """
    figure = Figure(figsize=(4.2 * len(gains), 3.9), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=11)
    all_axes = figure.subplots(1, len(gains), sharey=True, squeeze=False)[0]
    for axes, (what, curves) in zip(all_axes, gains.items(), strict=True):
        style_axes(axes)
        axes.axhline(0.0, color="0.4", linewidth=0.8)
        for (label, gain), color in zip(curves.items(), COLORS, strict=False):
            axes.fill_between(
                gain["value"], gain["low"], gain["high"], color=color, alpha=0.2, linewidth=0
            )
            axes.plot(
                gain["value"], gain["mean"], color=color, marker="o", markersize=3.5, label=label
            )
        if any(gain["from"][0] == 0 for gain in curves.values()):
            axes.set_xscale("symlog", linthresh=1.0)
        else:
            axes.set_xscale("log")
        plain_ticks(axes.xaxis)
        axes.set_xlabel(what)
    all_axes[0].set_ylabel("lower loss (nats per token)")
    all_axes[0].legend(frameon=False, fontsize=9)
    save_figure(figure, path)


def plot_effort(
    points: Mapping[str, Sequence[tuple[float, float]]],
    path: str | Path,
    *,
    unit: str = "token",
    title: str = "What operations buy",
) -> None:
    """Draw perplexities against operations per token.

    Args:
        points: by label, pairs of multiply-adds per token and a perplexity.
        path: PNG file to write.
        unit: what perplexities are per.
        title: stands above.
    """
    figure, axes = new_axes(title)
    for i, (label, pairs) in enumerate(points.items()):
        operations, perplexities = zip(*sorted(pairs), strict=True)
        axes.plot(
            [one / 1e6 for one in operations],
            perplexities,
            color=COLORS[i % len(COLORS)],
            marker="osD^v*"[i % 6],
            markersize=5,
            label=label,
        )
    axes.set_xscale("log")
    plain_ticks(axes.xaxis, (1, 2, 5))
    axes.set_xlabel("million multiply-adds per token")
    axes.set_ylabel(f"perplexity per {unit}")
    axes.legend(frameon=False, fontsize=9)
    save_figure(figure, path)


def plot_sizes(
    points: Mapping[str, Sequence[tuple[int, float]]],
    path: str | Path,
    *,
    title: str = "Gain against the size of the model",
) -> None:
    """Draw how much lower perplexities are than the baseline's of the same size.

    Args:
        points: by label, pairs of a number of parameters and percent.
        path: PNG file to write.
        title: stands above.
    """
    figure, axes = new_axes(title)
    for (label, pairs), color in zip(points.items(), COLORS, strict=False):
        sizes, percents = zip(*sorted(pairs), strict=True)
        axes.plot(sizes, percents, color=color, marker="o", markersize=4, label=label)
    axes.set_xscale("log")
    # There are few sizes: each has its own mark.
    ticks = sorted({size for pairs in points.values() for size, _ in pairs})
    axes.set_xticks(ticks, [f"{size / 1e6:.3g}" for size in ticks])
    axes.minorticks_off()
    axes.set_ylim(bottom=min(0.0, *(percent for pairs in points.values() for _, percent in pairs)))
    axes.set_xlabel("parameters (millions)")
    axes.set_ylabel("lower perplexity (percent)")
    axes.legend(frameon=False)
    save_figure(figure, path)
