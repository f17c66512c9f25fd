"""Pictures of runs, as PNG files."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

# Readable in black and white print and by the colour-blind.
_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#000000")
_DPI = 150


def plot_run(metrics: Sequence[Mapping], path: str | Path) -> None:
    """Draws a run's learning curve, in training and, where measured, on held-out text.

    Args:
        metrics: Lines of `metrics.jsonl`, with `step`, `perplexity` and maybe `val_perplexity`.
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
    """Draws perplexities against training steps, both axes for numbers of every size.

    Args:
        curves: By label, pairs of a step and a perplexity per token.
        path: PNG file to write.
        title: Stands above.
    """
    figure, axes = _axes(title)
    for (label, points), color in zip(curves.items(), _COLORS, strict=False):
        if points:
            steps, values = zip(*points, strict=True)
            marker = "o" if len(points) < 30 else None
            axes.plot(steps, values, label=label, color=color, marker=marker, markersize=3.5)
    axes.set_yscale("log")
    # Ticks like 200 and 300, not only powers of ten, which a curve may miss altogether.
    axes.yaxis.set_major_locator(LogLocator(base=10, subs=(1, 2, 3, 5)))
    axes.yaxis.set_major_formatter(_plain_numbers())
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("training step")
    axes.set_ylabel("perplexity per token")
    axes.legend(frameon=False)
    _save(figure, path)


def plot_gain(
    gain: Mapping[str, np.ndarray],
    path: str | Path,
    *,
    window: int | None = None,
    title: str = "Gain of fast weights",
) -> None:
    """Draws how much better one model predicts than another, against position in the document.

    Args:
        gain: What `gain_by_position` returned.
        path: PNG file to write.
        window: Tokens in a window, marked by a line: beyond it the models start afresh.
        title: Stands above.
    """
    figure, axes = _axes(title)
    axes.axhline(0.0, color="0.4", linewidth=0.8)
    axes.fill_between(
        gain["position"], gain["low"], gain["high"], color=_COLORS[0], alpha=0.2, linewidth=0
    )
    axes.plot(gain["position"], gain["mean"], color=_COLORS[0], marker="o", markersize=3.5)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(base=10, subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(_plain_numbers())
    axes.xaxis.set_minor_formatter(NullFormatter())
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
    _save(figure, path)


def plot_gains(
    gains: Mapping[str, Mapping[str, Mapping[str, np.ndarray]]],
    path: str | Path,
    *,
    title: str = "Improvement over the baseline",
) -> None:
    """Draws gains against several properties of tokens side by side, as the paper's Figure 2.

    Args:
        gains: By what the axis shows, by the model's label, what `gain_by` returned. Where values
            begin with 0 the axis does, too.
        path: PNG file to write.
        title: Stands above.
    """
    figure = Figure(figsize=(4.2 * len(gains), 3.9), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=11)
    all_axes = figure.subplots(1, len(gains), sharey=True, squeeze=False)[0]
    for axes, (what, curves) in zip(all_axes, gains.items(), strict=True):
        _style(axes)
        axes.axhline(0.0, color="0.4", linewidth=0.8)
        for (label, gain), color in zip(curves.items(), _COLORS, strict=False):
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
        axes.xaxis.set_major_formatter(_plain_numbers())
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel(what)
    all_axes[0].set_ylabel("lower loss (nats per token)")
    all_axes[0].legend(frameon=False, fontsize=9)
    _save(figure, path)


def plot_effort(
    points: Mapping[str, Sequence[tuple[float, float]]],
    path: str | Path,
    *,
    unit: str = "token",
    title: str = "What operations buy",
) -> None:
    """Draws perplexities against operations per token.

    Args:
        points: By label, pairs of multiply-adds per token and a perplexity.
        path: PNG file to write.
        unit: What perplexities are per.
        title: Stands above.
    """
    figure, axes = _axes(title)
    for i, (label, pairs) in enumerate(points.items()):
        operations, perplexities = zip(*sorted(pairs), strict=True)
        axes.plot(
            [one / 1e6 for one in operations],
            perplexities,
            color=_COLORS[i % len(_COLORS)],
            marker="osD^v*"[i % 6],
            markersize=5,
            label=label,
        )
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(base=10, subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(_plain_numbers())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("million multiply-adds per token")
    axes.set_ylabel(f"perplexity per {unit}")
    axes.legend(frameon=False, fontsize=9)
    _save(figure, path)


def plot_sizes(
    points: Mapping[str, Sequence[tuple[int, float]]],
    path: str | Path,
    *,
    title: str = "Gain against the size of the model",
) -> None:
    """Draws how much lower perplexities are than the baseline's of the same size.

    Args:
        points: By label, pairs of a number of parameters and percent.
        path: PNG file to write.
        title: Stands above.
    """
    figure, axes = _axes(title)
    for (label, pairs), color in zip(points.items(), _COLORS, strict=False):
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
    _save(figure, path)


def _axes(title: str):
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    # The object interface: pyplot would keep figures and a backend for the whole process.
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_title(title, fontsize=11)
    _style(axes)
    return figure, axes


def _style(axes) -> None:
    axes.grid(color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _plain_numbers() -> FuncFormatter:
    return FuncFormatter(lambda value, _: f"{value:,.0f}" if value >= 1 else f"{value:g}")


def _save(figure: Figure, path: str | Path) -> None:
    figure.savefig(path, dpi=_DPI, format="png")
