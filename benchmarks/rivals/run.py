"""A benchmark from beginning to end, or as much of it as is missing."""

import fnmatch
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from benchmarks.rivals import figures, report
from benchmarks.rivals.cells import measure_cell
from benchmarks.rivals.costs import measure_cost
from benchmarks.rivals.models import MAIN, MORE, ROWS, SIZES, THIRD, Row
from benchmarks.rivals.pictures import plot_effort, plot_gains, plot_sizes
from benchmarks.rivals.published import adopt
from benchmarks.rivals.workspace import Workspace
from fwl_keras._arguments import require_count
from fwl_keras.files import replace_file
from fwl_keras.runs.config import RunConfig


def run_benchmark(
    path: str | Path,
    config: RunConfig,
    console: Console | None = None,
    *,
    seeds: int = 3,
    rows: Sequence[str] = (),
    costs: bool = True,
    results: str | Path | None = None,
    command: str = "python -m benchmarks.rivals",
) -> dict:
    """Measure what is missing of a benchmark's table, and write all that there is.

    Everything is kept as soon as it is known: interrupted, the same call goes on.

    Args:
        path: the benchmark's directory; one that is there already must have the same `config`.
        config: what all models have in common; its seed is not used.
        console: where to report; by default nowhere.
        seeds: seeds of the main rows.
        rows: patterns of rows' names to measure, such as `"baseline.*"`; none: all rows.
        costs: whether to measure seconds and memory, too (on an idle machine, please).
        results: directory of the results; None for `path`. What was published there is not
            measured again, even if the benchmark's own directory is new.
        command: what to name as the command in the results.

    Returns:
        What the JSON file holds.

    Raises:
        ValueError: if there is something else in one of the directories, no row has such a name, or
            the corpus has no test documents.
    """
    console = console or Console(quiet=True)
    chosen = choose_rows(rows)
    require_count("seeds", seeds)
    workspace = Workspace.open(path, config.replace(seed=0), console)
    for split in ("valid", "test"):
        if not workspace.documents_ids(split):
            raise ValueError(
                f"`corpus`={config.corpus!r} has no text in its {split} split; give a corpus "
                "of more documents."
            )
    directory = Path(results or path)
    published = adopt(workspace, _results_file(workspace, directory))
    tasks = order(chosen, seeds)
    for number, (row, seed) in enumerate(tasks, start=1):
        console.print(f"[bold]{number} of {len(tasks)}[/bold]: {row.title}, seed {seed}")
        cell = measure_cell(workspace, row, seed, console)
        for split, found in cell["splits"].items():
            console.print(f"  {split}: {report.summary([found['perplexity']])}")
    if costs:
        for row in chosen:
            console.print(f"Cost of: {row.title}")
            settings = workspace.read_json("cells", f"{row.name}-0")["settings"]
            measure_cost(workspace, row, settings)
    return _report(workspace, directory, published, console, command)


def choose_rows(patterns: Sequence[str]) -> list[Row]:
    """Return the rows whose names match one of some patterns, in the table's order.

    Args:
        patterns: such as `"baseline.*"`; none: all rows.

    Raises:
        ValueError: if a pattern matches no row.
    """
    for pattern in patterns:
        if not fnmatch.filter(ROWS, pattern):
            raise ValueError(f"No row is called {pattern!r}; there are {', '.join(ROWS)}.")
    return [
        row
        for name, row in ROWS.items()
        if not patterns or any(fnmatch.fnmatch(name, pattern) for pattern in patterns)
    ]


def order(rows: Sequence[Row], seeds: int) -> list[tuple[Row, int]]:
    """Return what is to be measured, what matters most first.

    Args:
        rows: rows.
        seeds: seeds of the main ones.

    Returns:
        Pairs of a row and a seed.
    """
    main = [row for row in rows if row.group == MAIN]
    more = [row for row in rows if row.group == MORE]
    last = [row for row in rows if row.group in (THIRD, SIZES)]
    return [
        *((row, 0) for row in main),
        *((row, seed) for seed in range(1, seeds) for row in main),
        *((row, 0) for row in [*more, *last]),
    ]


def _results_file(workspace: Workspace, directory: Path) -> Path:
    return directory / f"{workspace.path.resolve().name}.json"


def _report(
    workspace: Workspace, directory: Path, published: dict, console: Console, command: str
) -> dict:
    result = report.collect(workspace, command)
    directory.mkdir(parents=True, exist_ok=True)
    page = _results_file(workspace, directory)
    pictures, files = {}, {}
    for title, (kind, find, draw) in _PICTURES.items():
        # What was published stays where the losses that it came from are not here.
        shown = _updated(published.get("pictures", {}).get(title, {}), find(workspace))
        if shown:
            pictures[title] = shown
            files[title] = directory / f"{page.stem}-{kind}.png"
            replace_file(files[title], lambda file, d=draw, s=shown: d(workspace, s, file))
    result["pictures"] = pictures
    result["extremes"] = figures.extremes(workspace) or published.get("extremes", {})
    report.write(result, page, page.with_suffix(".md"), files)
    for table in report.rich_tables(result):
        console.print(table)
    for line in report.comparisons(result):
        console.print(line, soft_wrap=True)
    measured = len(result["rows"])
    console.print(
        f"{measured} of {len(ROWS)} rows are measured; the table, {len(files)} pictures and all "
        f"figures are in {page.with_suffix('.md')} and {page}.",
        soft_wrap=True,
    )
    return result


def _updated(old, new):
    """Merge dicts of dicts, with the newer one's entries at every level."""
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return new
    return {**old, **{key: _updated(old.get(key), value) for key, value in new.items()}}


def _draw_gains(where: str):
    title = f"Improvement over the baseline, {where} (bands: 95 %)"
    return lambda workspace, shown, file: plot_gains(shown, file, title=title)


# By title: what the file is called after, what is shown, and how it is drawn.
_PICTURES = {
    "Where the gain comes from": ("gains", figures.gains, _draw_gains("test documents")),
    "Where the gain comes from: trained on two thirds of the training documents": (
        "gains-third",
        lambda workspace: figures.gains(workspace, third=True),
        _draw_gains("a third of the training documents"),
    ),
    "What operations buy": (
        "effort",
        figures.efforts,
        lambda workspace, shown, file: plot_effort(shown, file, unit=workspace.unit),
    ),
    "Gain against the size of the model": (
        "sizes",
        figures.sizes,
        lambda workspace, shown, file: plot_sizes(shown, file),
    ),
}
