"""Pictures of runs, as PNG files."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

# Readable in black and white print and by the colour-blind.
_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")
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


def gain_by_position(
    gain: np.ndarray,
    positions: np.ndarray,
    documents: np.ndarray,
    *,
    bins_per_doubling: float = 1,
    min_documents: int = 5,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """Averages a gain over bins of positions that grow like their position does.

    The error is a bootstrap over documents: tokens of one document are no independent samples.

    Args:
        gain: float [N, T], a gain per token; NaN where there is no token.
        positions: int [N, T], place of each token in its document, from 1.
        documents: int [N], the document of each window.
        bins_per_doubling: Bins between a position and twice that position.
        min_documents: A bin with fewer documents is left out.
        resamples: Samples of the bootstrap.
        seed: Its seed.

    Returns:
        `position` (the bin's geometric middle), `mean`, `low` and `high` (95 % interval) and
        `tokens`, each of shape [bins].

    Raises:
        ValueError: No bin has enough documents.
    """
    there = np.isfinite(gain)
    bins = np.floor(np.log2(np.maximum(positions, 1)) * bins_per_doubling + 1e-9).astype(int)
    count_bins, count_documents = int(bins[there].max(initial=0)) + 1, int(documents.max()) + 1
    # One cell for each document and bin, to be resampled by documents.
    cells = (np.broadcast_to(documents[:, np.newaxis], gain.shape) * count_bins + bins)[there]
    shape = count_documents, count_bins
    sums = np.bincount(cells, gain[there], count_documents * count_bins).reshape(shape)
    tokens = np.bincount(cells, minlength=count_documents * count_bins).reshape(shape)
    kept = (tokens > 0).sum(axis=0) >= min_documents
    if not kept.any():
        raise ValueError(
            f"documents has too few documents for min_documents={min_documents} in any bin; give "
            "more documents or a smaller min_documents"
        )
    sums, tokens = sums[:, kept], tokens[:, kept]
    # How often each document is drawn, sample by sample: [resamples, documents].
    drawn = np.random.default_rng(seed).multinomial(
        count_documents, np.full(count_documents, 1 / count_documents), size=resamples
    )
    with np.errstate(invalid="ignore"):
        means = (drawn @ sums) / (drawn @ tokens)
    low, high = np.nanpercentile(means, [2.5, 97.5], axis=0)
    edges = 2.0 ** (np.arange(count_bins + 1) / bins_per_doubling)
    return {
        "position": np.sqrt(edges[:-1] * edges[1:])[kept],
        "mean": sums.sum(axis=0) / tokens.sum(axis=0),
        "low": low,
        "high": high,
        "tokens": tokens.sum(axis=0),
    }


def _axes(title: str):
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    # The object interface: pyplot would keep figures and a backend for the whole process.
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_title(title, fontsize=11)
    axes.grid(color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _plain_numbers() -> FuncFormatter:
    return FuncFormatter(lambda value, _: f"{value:,.0f}" if value >= 1 else f"{value:g}")


def _save(figure: Figure, path: str | Path) -> None:
    figure.savefig(path, dpi=_DPI, format="png")
