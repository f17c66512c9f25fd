"""What the command shows: an error in one line, a warning in words, a sentence as it is."""

import contextlib
import errno
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import typer
from rich.console import Console
from rich.markup import escape

from fwl_keras.backend.import_keras import BackendError, import_keras

_WAYS_OUT = {
    errno.ENOSPC: "make room on the disk",
    errno.EDQUOT: "make room on the disk",
    errno.EACCES: "make it writable, or give another directory",
    errno.EPERM: "make it writable, or give another directory",
    errno.EROFS: "make it writable, or give another directory",
}


def say(console: Console, line: str) -> None:
    """Print a sentence that may have any path in it: not broken, not coloured.

    Args:
        console: where to print.
        line: the sentence.
    """
    console.print(line, soft_wrap=True, markup=False, highlight=False)


def fail(message: str) -> None:
    """Print one line, with a red word before it, and leave with status 2.

    Args:
        message: what is wrong, and what helps.
    """
    line = " ".join(message.split())
    Console(stderr=True).print(f"[red]Error:[/red] {escape(line)}", soft_wrap=True, highlight=False)
    raise typer.Exit(2)


@contextlib.contextmanager
def reported(
    console: Console, debug: bool, goes_on: str = "", directory: Path | None = None
) -> Iterator[None]:
    """Turn a user's error into one line and an interruption into advice.

    Args:
        console: where to print the advice.
        debug: whether errors are to be raised as they are.
        goes_on: the command that goes on with what was begun.
        directory: what was begun is in here; None: nothing is kept.
    """
    try:
        with _warnings_in_words():
            yield
    except BrokenPipeError:
        # Whoever reads the output has enough of it, like `head`; Typer ends quietly.
        raise
    except (ValueError, BackendError, OSError) as error:
        if debug:
            raise
        begun = directory is not None and os.path.isdir(directory)
        is_of_disk = isinstance(error, OSError)
        fail(_disk_error(error, goes_on if begun else "") if is_of_disk else str(error))
    except KeyboardInterrupt:
        if directory is None:
            advice = ""
        elif directory.is_dir() and any(directory.iterdir()):
            advice = f" Continue with: {goes_on}"
        else:
            advice = " Nothing was trained yet, and nothing was written."
        say(console, f"\nInterrupted.{advice}")
        raise typer.Exit(130) from None


@contextlib.contextmanager
def _warnings_in_words() -> Iterator[None]:
    """Show a warning as one line, once, without the place in the program that it came from."""
    shown = set()

    def show(message, category, filename, lineno, file=None, line=None):
        words = " ".join(str(message).split())
        if issubclass(category, RuntimeWarning) and words not in shown:
            shown.add(words)
            print(f"Warning: {words}", file=sys.stderr)

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield


def _disk_error(error: OSError, goes_on: str) -> str:
    """Say what went wrong with which file, and what to do."""
    if error.errno is None or error.filename is None:
        return str(error)
    way_out = _WAYS_OUT.get(error.errno, "look at that file")
    go_on = f", then continue with `{goes_on}`" if goes_on else ""
    return f"`{error.filename}`: {error.strerror}; {way_out}{go_on}."


@contextlib.contextmanager
def quiet_frameworks() -> Iterator[None]:
    """Keep TensorFlow's notes about the processor off the screen while it is imported.

    Some are written before it looks at `TF_CPP_MIN_LOG_LEVEL`, straight to the file descriptor.
    A user who sets that variable sees everything.

    Raises:
        BackendError: if there is no backend to compute with.
    """
    if "TF_CPP_MIN_LOG_LEVEL" in os.environ:
        _import_backend()
        yield
        return
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    sys.stderr.flush()
    screen = os.dup(2)
    try:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        _import_backend()
        yield
    finally:
        os.dup2(screen, 2)
        os.close(screen)


def _import_backend() -> None:
    import_keras()
    from fwl_keras.layers._checks import require_backend

    require_backend()
