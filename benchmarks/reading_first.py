"""Reading before answering: what is remembered of a text once its words are out of sight.

1. The second half of held-out documents, after the first half was read 0, 1, 2 or 3 times, or the
   first half of another document was.
2. A few-shot task made from the corpus: phrases of held-out text with random endings are shown k
   times, among other text; then the model is given the beginning, and must write the ending. With
   fast weights in a new context of the body (nothing but the fast weights can know), and in the
   same context (attention can, too); without fast weights in the same context.

    fwl-keras quickstart --to runs/quickstart
    python -m benchmarks.reading_first runs/quickstart          # about 10 minutes
"""

import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks.common import held_out_ids, make_parser, quickstart_models, write_json
from fwl_keras.evaluation.bootstrap import bootstrap_interval
from fwl_keras.evaluation.plots import save_figure, style_axes
from fwl_keras.files import replace_file
from fwl_keras.runs.directory import RunDirectory
from fwl_keras.runs.quickstart import BASELINE, FAST

PASSES = (1, 2, 3)
SHOTS = (0, 1, 2, 4, 8)
HALF, ROWS, RESAMPLES = 2048, 8, 2000
# A phrase's beginning, its random ending, and the text before each time it is shown, in tokens.
BEGINNING, ENDING, FILLER = 8, 4, 12


def halves(documents: list[np.ndarray]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return both halves, at most HALF tokens each, of documents that are long enough."""
    long = [ids[: 2 * HALF] for ids in documents if ids.size >= HALF]
    return [(ids[: ids.size // 2], ids[ids.size // 2 :]) for ids in long]


def second_halves(lm, pairs, progress) -> dict[str, np.ndarray]:
    """Return the mean loss of each document's second half, by what was read before."""
    names = ["unread", *(f"read {n}x" for n in PASSES), "another document read"]
    found = {name: [] for name in names}
    task = progress.add_task("second halves", total=-(-len(pairs) // ROWS) * len(names))
    for start in range(0, len(pairs), ROWS):
        batch = pairs[start : start + ROWS]
        first, second = (list(part) for part in zip(*batch, strict=True))
        others = [pairs[(start + i + ROWS) % len(pairs)][0] for i in range(len(batch))]
        states = {"unread": lambda: None, names[-1]: lambda others=others: lm.read(others)}
        for n in PASSES:
            states[f"read {n}x"] = lambda n=n, first=first: lm.read(first, passes=n)
        for name in names:
            log_probabilities = lm.score(second, state=states[name]()).log_probabilities
            # The first token has nothing to be predicted from where nothing was read.
            found[name].append(-np.nanmean(log_probabilities[:, 1:], axis=1))
            progress.advance(task)
    return {name: np.concatenate(losses) for name, losses in found.items()}


def make_tasks(documents, count: int, rng) -> list[dict]:
    """Make phrases with random endings, and the text that is shown between them."""
    text = np.concatenate(documents)
    cut = lambda n: (lambda i: text[i : i + n])(rng.integers(text.size - n))  # noqa: E731
    tasks = []
    for _ in range(count):
        beginning = cut(BEGINNING)
        # Tokens as frequent as they are in text, in an order that no text has.
        ending = text[rng.integers(text.size, size=ENDING)]
        fillers = [cut(FILLER) for _ in range(max(SHOTS) + 1)]
        tasks.append({"beginning": beginning, "ending": ending, "fillers": fillers})
    return tasks


def shown(task: dict, shots: int) -> np.ndarray:
    """Return the phrase `shots` times, each after other text, and more text at the end."""
    phrase = np.concatenate([task["beginning"], task["ending"]])
    parts = [part for i in range(shots) for part in (task["fillers"][i], phrase)]
    return np.concatenate([*parts, task["fillers"][shots]])


def accuracy(lm, tasks, shots: int, passes: int, same_context: bool) -> float:
    """Return the part of the endings' tokens that greedy generation writes in their places."""
    right = 0
    for start in range(0, len(tasks), ROWS * 4):
        batch = tasks[start : start + ROWS * 4]
        texts = [shown(task, shots) for task in batch]
        prompts = [task["beginning"] for task in batch]
        state = None
        if same_context:
            state = lm.read(texts, passes=passes - 1) if passes > 1 else None
            prompts = [np.concatenate(pair) for pair in zip(texts, prompts, strict=True)]
        else:
            state = lm.read(texts, passes=passes)
        length = max(map(len, prompts)) + ENDING
        ids = lm.generate(prompts, length, state=state, stop_token_ids=None)["token_ids"]
        endings = np.array([task["ending"] for task in batch])
        right += (ids[:, -ENDING:] == endings).sum()
    return float(right / (len(tasks) * ENDING))


def few_shots(models, tasks, progress) -> dict[str, list[float]]:
    """Return the accuracy by way of asking, for every number of shots."""
    ways = {f"fast weights, new context, read {n}x": (FAST, n, False) for n in PASSES}
    ways["fast weights, same context"] = (FAST, 1, True)
    ways["no fast weights, same context"] = (BASELINE, 1, True)
    task = progress.add_task("few shots", total=len(ways) * len(SHOTS))
    found = {}
    for way, (name, passes, same_context) in ways.items():
        found[way] = []
        for shots in SHOTS:
            found[way].append(accuracy(models[name], tasks, shots, passes, same_context))
            progress.advance(task)
    return found


def interval(change: np.ndarray) -> tuple[float, float]:
    """Return the 95 % interval of a mean change, bootstrapped over documents."""
    low, high = bootstrap_interval(change, np.ones(len(change)), resamples=RESAMPLES)
    return float(low), float(high)


def draw(halves_found, shots_found, path: Path) -> None:
    """Draw both parts side by side."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    unread = halves_found["unread"]
    names = [name for name in halves_found if name != "unread"]
    gains = [(unread - halves_found[name]) for name in names]
    middle = np.array([gain.mean() for gain in gains])
    errors = np.abs(np.array([interval(gain) for gain in gains]).T - middle)
    left.bar(names, middle, yerr=errors, color="#0072b2", width=0.6, capsize=3)
    left.axhline(0, color="0.4", linewidth=0.8)
    left.set_ylabel("gain on the second half (nats per token)")
    left.set_title("Second halves of documents, first half read before", fontsize=11)
    left.tick_params(axis="x", labelsize=8)
    for (name, values), color in zip(
        shots_found.items(), ("#9ecae1", "#4292c6", "#084594", "#009e73", "#d55e00"), strict=True
    ):
        right.plot(SHOTS, values, marker="o", markersize=4, color=color, label=name)
    right.set_xlabel("times shown")
    right.set_ylabel("tokens of the ending that are right")
    right.set_ylim(bottom=0)
    right.set_xticks(SHOTS)
    right.set_title("Completing a phrase that was shown", fontsize=11)
    right.legend(frameon=False, fontsize=8)
    for axes in (left, right):
        style_axes(axes)
        axes.grid(visible=False, axis="x")
    replace_file(path, lambda beside: save_figure(figure, beside))


def main() -> None:
    """Measure both, print the tables, keep figures and picture."""
    parser = make_parser(__file__, __doc__)
    parser.add_argument("quickstart", type=Path, help="a finished quickstart")
    parser.add_argument("--documents", type=int, default=40, help="documents at most")
    parser.add_argument("--tasks", type=int, default=128, help="phrases to complete")
    args = parser.parse_args()

    models = quickstart_models(args.quickstart)
    documents = held_out_ids(RunDirectory.open(args.quickstart / FAST))
    pairs = halves(documents)[: args.documents]
    tasks = make_tasks(documents, args.tasks, np.random.default_rng(0))
    with Progress(transient=True) as progress:
        halves_found = second_halves(models[FAST], pairs, progress)
        shots_found = few_shots(models, tasks, progress)

    unread = halves_found["unread"]
    rows = {}
    for name, losses in halves_found.items():
        low, high = interval(unread - losses)
        rows[name] = {
            "perplexity": float(np.exp(losses.mean())),
            "gain": float((unread - losses).mean()),
            "gain_low": low,
            "gain_high": high,
        }
    results = {
        "command": f"{args.command} runs/quickstart",
        "unit": "means over documents of nats per token; 95 % bootstrap over documents",
        "documents": len(pairs),
        "second_halves": rows,
        "tasks": len(tasks),
        "shots": SHOTS,
        "few_shots": shots_found,
    }
    write_json(args.results, results)
    picture = args.results.with_suffix(".png")
    draw(halves_found, shots_found, picture)

    console = Console()
    table = Table("before the second half", "perplexity", "gain", "95 %")
    for name, row in rows.items():
        bounds = f"{row['gain_low']:+.3f} to {row['gain_high']:+.3f}"
        table.add_row(name, f"{row['perplexity']:.2f}", f"{row['gain']:+.3f}", bounds)
    console.print(table)
    table = Table("tokens of the ending that are right", *(f"k = {k}" for k in SHOTS))
    for name, values in shots_found.items():
        table.add_row(name, *(f"{100 * value:.1f} %" for value in values))
    console.print(table)
    print(
        f"Reading the first half changes the second half's loss by {-rows['read 1x']['gain']:+.3f} "
        f"nats a token ({len(pairs)} documents). Figures in {args.results}, picture in {picture}."
    )


if __name__ == "__main__":
    main()
