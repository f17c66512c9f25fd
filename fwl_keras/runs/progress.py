"""Texts gone through window by window, however long, with one progress bar for all of them."""

import contextlib
from collections.abc import Callable, Iterator

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn


@contextlib.contextmanager
def windows_with_bar(
    console: Console | None, total: int
) -> Iterator[Callable[[np.ndarray, int], Iterator[np.ndarray]]]:
    """Draw a bar that is gone when everything is read.

    Args:
        console: where to draw; None: nowhere.
        total: tokens to read.

    Yields:
        A function that goes through token ids int32 [T] in the windows of a length, those that the
        model would go through them in anyway; the bar moves when the next one is asked for.
    """
    columns = (
        TextColumn("reading"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.completed:,.0f} tokens"),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    console = console or Console(quiet=True)
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=total)

        def windows(ids: np.ndarray, length: int) -> Iterator[np.ndarray]:
            for start in range(0, len(ids), length):
                window = ids[start : start + length]
                yield window
                progress.advance(task, len(window))

        yield windows
