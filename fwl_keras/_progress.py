"""A progress bar, where one is wanted."""

from collections.abc import Iterable, Sequence


def track(items: Sequence, description: str, *, shown: bool, transient: bool = False) -> Iterable:
    """Return items to go through, whose bar moves as that is done.

    Args:
        items: what to go through.
        description: a word or two before the bar.
        shown: whether to draw it.
        transient: whether it is gone at the end.
    """
    if not shown:
        return items
    # Here and not above: without a bar nothing needs Rich.
    from rich import progress

    return progress.track(items, description, transient=transient)
