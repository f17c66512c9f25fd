"""A benchmark's results as a table, as JSON and as Markdown."""

import json
import statistics
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from benchmarks.common import write_json
from benchmarks.environment import environment
from benchmarks.rivals.counts import row_operations
from benchmarks.rivals.models import MAIN, MORE, ROWS, SIZES, THIRD, Row
from benchmarks.rivals.workspace import Workspace
from fwl_keras.files import replace_file
from fwl_keras.runs.config import RunConfig

# Groups of rows that make a table, by its title.
_TABLES = {
    "": (MAIN, MORE),
    "Other sizes of the body": (SIZES,),
    "Trained on two thirds of the training documents, read on the other third": (THIRD,),
}


def collect(workspace: Workspace, command: str) -> dict:
    """Gather everything that was measured so far.

    Args:
        workspace: the benchmark.
        command: the command that measures it.

    Returns:
        `command`, `corpus`, `unit`, `config`, `environment`, and `rows`: for each that was
        measured its title, settings, by seed and split its perplexity, its multiply-adds per
        token, and its cost.
    """
    return {
        "command": command,
        "corpus": workspace.text.corpus.name,
        "unit": f"perplexity per {workspace.unit}",
        "config": common_config(workspace.config),
        "environment": environment(),
        "rows": [found for row in ROWS.values() if (found := _row(workspace, row))],
        "searches": {
            row.search: search
            for row in ROWS.values()
            if (search := workspace.read_json("searches", row.search))
        },
    }


def common_config(config: RunConfig) -> dict:
    """Return what all models of a benchmark have in common.

    Args:
        config: the benchmark's configuration.
    """
    # Where the text and other models were on this machine is nobody's concern.
    own = ("corpus", "seed", "fast_weights", "initial_model", "trained_part")
    return {n: value for n, value in json.loads(config.to_json()).items() if n not in own}


def _row(workspace: Workspace, row: Row) -> dict | None:
    pattern = f"{row.name}-*.json"
    cells = [
        json.loads(path.read_text("utf-8")) for path in (workspace.path / "cells").glob(pattern)
    ]
    if not cells:
        return None
    cells.sort(key=lambda cell: cell["seed"])
    return {
        "name": row.name,
        "title": row.title,
        "group": row.group,
        "settings": cells[0]["settings"],
        "seeds": [cell["seed"] for cell in cells],
        "perplexity": {
            split: [cell["splits"][split]["perplexity"] for cell in cells]
            for split in cells[0]["splits"]
        },
        "operations": row_operations(workspace, row, cells[0]["settings"]),
        "cost": workspace.read_json("costs", row.name),
    }


def summary(values: list[float | None]) -> str:
    """Return a mean, with the values' standard deviation where there are several.

    Args:
        values: one number a seed; None where there was none.

    Returns:
        For example "171.3", "171.3 ± 0.4", or "diverges".
    """
    if any(value is None for value in values):
        return "diverges"
    mean = statistics.fmean(values)
    text = f"{mean:,.1f}" if mean < 1e5 else f"{mean:.1e}"
    return text if len(values) == 1 else f"{text} ± {statistics.stdev(values):.1f}"


def table_lines(result: dict, groups: tuple[str, ...]) -> tuple[list[str], list[list[str]]]:
    """Return head and lines of the table of some groups of rows.

    Args:
        result: what `collect` returned.
        groups: groups of rows.

    Returns:
        The columns' names, and a list of texts for each row; no column in which nothing stands.
    """
    rows = [row for row in result["rows"] if row["group"] in groups]
    splits = list(dict.fromkeys(split for row in rows for split in row["perplexity"]))
    names = {"valid": "valid", "test": "test", "third": "the other third"}
    head = ["", *(names[split] for split in splits), "seeds"]
    head += ["million operations", "seconds", "MB"]
    lines = []
    for row in rows:
        cost = row["cost"] or {}
        operations = row["operations"]
        seconds, memory = cost.get("seconds"), cost.get("megabytes")
        lines.append(
            [
                row["title"],
                *(
                    summary(row["perplexity"][split]) if split in row["perplexity"] else ""
                    for split in splits
                ),
                str(len(row["seeds"])),
                "" if operations is None else f"{operations / 1e6:.2f}",
                "" if seconds is None else f"{seconds:.2f}",
                "" if memory is None else f"{memory:,.0f}",
            ]
        )
    filled = [i for i in range(len(head)) if any(line[i] for line in lines)]
    return [head[i] for i in filled], [[line[i] for i in filled] for line in lines]


def rich_tables(result: dict) -> list[Table]:
    """Return all tables that have a row, for a terminal."""
    tables = []
    for title, (head, lines) in _tables(result).items():
        table = Table(title=title or f"{result['corpus']}, {result['unit']}")
        for i, name in enumerate(head):
            table.add_column(name, justify="right" if i else "left", overflow="fold")
        for line in lines:
            table.add_row(*line)
        tables.append(table)
    return tables


def _tables(result):
    """Return by title head and lines of the tables that have a row."""
    tables = {title: table_lines(result, groups) for title, groups in _TABLES.items()}
    return {title: (head, lines) for title, (head, lines) in tables.items() if lines}


def _markdown_table(head, lines):
    rule = ["---"] + ["---:"] * (len(head) - 1)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, rule, *lines)) + "\n"


def gain(result: dict, better: str, rivals: Sequence[str], split: str) -> list[float] | None:
    """Return by how many percent one row is lower than the best of others, for each seed.

    Args:
        result: what `collect` returned.
        better: name of a row.
        rivals: names of the rows that it is compared with; with each seed the lowest that has it.
        split: `"valid"`, `"test"` or `"third"`.

    Returns:
        The percents, or None where nothing can be compared.
    """
    rows = {row["name"]: row for row in result["rows"]}

    def by_seed(name):
        row = rows.get(name, {"seeds": [], "perplexity": {}})
        pairs = zip(row["seeds"], row["perplexity"].get(split, []), strict=False)
        return {seed: value for seed, value in pairs if value is not None}

    percents = []
    for seed, value in by_seed(better).items():
        others = [found[seed] for found in map(by_seed, rivals) if seed in found]
        if others:
            percents.append(100 * (1 - value / min(others)))
    return percents or None


# What is said in words: a sentence, the row that it praises, and rows of which the best counts.
_COMPARISONS = (
    ("Fast weights, in windows, against the baseline", "fast_weights.windows", ("baseline.plain",)),
    ("Fast weights, carried, against the baseline", "fast_weights.carried", ("baseline.plain",)),
    (
        "Fast weights, carried, against the best dynamic evaluation of the baseline",
        "fast_weights.carried",
        ("baseline.sgd", "baseline.rms", "baseline.block"),
    ),
    (
        "The same with step sizes and decays scaled on validation text",
        "fast_weights.carried_scaled",
        ("baseline.sgd", "baseline.rms", "baseline.block"),
    ),
    (
        "Tuned on documents, carried, against the best dynamic evaluation of the baseline",
        "documents.carried",
        ("baseline.sgd", "baseline.rms", "baseline.block"),
    ),
    (
        "The same with step sizes fixed until then",
        "fixed_documents.carried",
        ("baseline.sgd", "baseline.rms", "baseline.block"),
    ),
    (
        "Tuned on documents against a baseline with as many steps",
        "documents.carried",
        ("more_baseline.rms",),
    ),
    (
        "Trained with fast weights against fast weights at test time only, carried",
        "fast_weights.carried",
        ("baseline.test_time",),
    ),
    (
        "Learned step sizes against fixed ones, in windows",
        "fast_weights.windows",
        ("fixed_steps.windows",),
    ),
    (
        "Learned step sizes against fixed ones, carried",
        "fast_weights.carried",
        ("fixed_steps.carried",),
    ),
    (
        "Segments against one segment (as published), in windows",
        "fast_weights.windows",
        ("one_segment.windows",),
    ),
    (
        "Trained with the state carried against trained in windows, read carried",
        "carried.carried",
        ("fast_weights.carried",),
    ),
    (
        "With a larger body, carried, against its dynamic evaluation",
        "larger_fast_weights.carried",
        ("larger_baseline.rms",),
    ),
    (
        "With a larger body, tuned on documents, carried, against its dynamic evaluation",
        "larger_documents.carried",
        ("larger_baseline.rms",),
    ),
)


def comparisons(result: dict) -> list[str]:
    """Return what the figures say, a line for each comparison of which both sides are there.

    Args:
        result: what `collect` returned.
    """
    lines = []
    for what, better, rivals in _COMPARISONS:
        gains = gain(result, better, rivals, "test")
        if gains:
            each = ", ".join(f"{percent:+.1f} %" for percent in (-one for one in gains))
            lines.append(f"{what}: {each}")
    return lines


def write(result: dict, json_file: Path, markdown_file: Path, pictures: dict[str, Path]) -> None:
    """Write the results.

    Args:
        result: what `collect` returned.
        json_file: file to write.
        markdown_file: file to write.
        pictures: by title, pictures beside the Markdown file.
    """
    write_json(json_file, result)
    page = markdown(result, {title: path.name for title, path in pictures.items()})
    replace_file(markdown_file, lambda file: file.write_text(page, "utf-8"))


def markdown(result: dict, pictures: dict[str, str]) -> str:
    """Return the results as a page.

    Args:
        result: what `collect` returned.
        pictures: by title, names of files beside the page.
    """
    config, about = result["config"], result["environment"]
    where = ", ".join(f"{name} {value}" for name, value in about.items() if name != "machine")
    tables = {title: _markdown_table(*table) for title, table in _tables(result).items()}
    parts = [
        f"# {result['corpus']}: fast weights and dynamic evaluation\n",
        f"`{result['command']}`, on {about['machine']} ({where}). {result['unit'].capitalize()}; "
        f"body of {config['layers']} layers of width {config['width']}, vocabulary of "
        f"{config['vocab_size']:,}, {config['steps']:,} steps of {config['batch_size']} x "
        f"{config['length']} tokens.\n",
        tables.pop("", ""),
        "Perplexity on test documents, seed by seed:\n",
        *(f"* {line}" for line in comparisons(result)),
        "\n*Million operations*: multiply-adds of matrix products per token, counted (dynamic "
        "evaluation reads what is before a piece in its window again after every step; without "
        "that it would be three times plain reading, and the context older than the weights). "
        "*Seconds* relative to plain reading of the same body with "
        "documents side by side. *MB*: memory for loading and reading.\n",
    ]
    for title, table in tables.items():
        parts += [f"## {title}\n", table]
    searched = [row for row in result["rows"] if row["settings"]]
    if searched:
        parts.append("## Settings found\n")
        parts += [f"* {row['title']}: {_settings(row['settings'])}" for row in searched]
        parts.append("")
    for title, name in pictures.items():
        parts.append(f"## {title}\n\n![{title}]({name})\n")
    for title, lines in result.get("extremes", {}).items():
        parts += [f"## {title}\n", *(f"* {line}" for line in lines), ""]
    return "\n".join(parts)


def _settings(settings: dict) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in settings.items())
