"""Texts read with a run's model, however long, with one progress bar for all of them."""

import contextlib
from collections.abc import Callable, Iterator

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn


@contextlib.contextmanager
def reading_bar(console: Console, total: int) -> Iterator[Callable[[int], None]]:
    """Draws a bar that is gone when everything is read.

    Args:
        console: Where to draw.
        total: Tokens to read.

    Yields:
        A function to be told how many more tokens were read.
    """
    columns = (
        TextColumn("reading"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.completed:,.0f} tokens"),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=total)
        yield lambda count: progress.advance(task, count)


def windows_of(ids: np.ndarray, length: int) -> Iterator[np.ndarray]:
    """Yields token ids in the windows that the model would go through them in anyway.

    Args:
        ids: int32 [T].
        length: The model's `context_length`.
    """
    for start in range(0, len(ids), length):
        yield ids[start : start + length]
